//! What came of a run: counted as it goes, and told in the end, in the keys that every report of Shoal has.
//!
//! Not here: gates (`gate`), pictures.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::member::Member;
use super::samples::Drawn;
use super::world::World;

/// Counted as the run goes.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) origin_bytes: f64,
    pub(super) cross_zone_bytes: f64,
    /// Bytes into each zone, from the origin or from other zones.
    pub(super) zone_bytes: Vec<f64>,
    pub(super) delivered_bytes: f64,
    pub(super) wasted_bytes: f64,
    pub(super) control_bytes: u64,
    pub(super) messages: u64,
    pub(super) tracker_messages: u64,
    pub(super) opens: u64,
    pub(super) lies: u64,
    pub(super) timeouts: u64,
    pub(super) crashed: u64,
    pub(super) steps: u64,
    pub(super) refusals: BTreeMap<&'static str, u64>,
}

/// A report. The first block has the same keys as that of a fan-out of real processes; what does not apply is null.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub agents: usize,
    pub zones: usize,
    pub blob_bytes: u64,
    pub piece_bytes: u32,
    pub pieces: u32,
    pub link_bits_per_sec: f64,
    pub seed: u64,
    pub makespan_s: f64,
    pub bound_s: f64,
    pub makespan_over_bound: f64,
    pub p50_s: f64,
    pub p99_s: f64,
    pub max_s: f64,
    pub ttfb_p50_s: f64,
    pub ttfb_p99_s: f64,
    pub origin_copies: f64,
    pub upstream_copies: Option<f64>,
    /// Copies that went from one zone into another, over all zones.
    pub cross_zone_copies: f64,
    pub duplicate_ratio: f64,
    pub cpu_s_per_gib: Option<f64>,
    pub rss_max_bytes: Option<u64>,
    pub failed_agents: usize,
    pub wrong_bytes: u64,
    pub cpu_busy_ratio: Option<f64>,
    pub goodput_bits_per_sec: Option<f64>,
    pub makespan_over_goodput_bound: Option<f64>,

    /// Agents whose link is not slow: their 99th percentile, and that over the bound.
    pub fast_p99_s: f64,
    pub fast_p99_over_bound: f64,
    pub p99_over_p50: f64,
    /// Copies that came into the zone that took the most, from the origin or from elsewhere.
    pub zone_copies_max: f64,
    pub crashed_agents: u64,
    pub lies_found_out: u64,
    pub timeouts: u64,
    pub refusals: BTreeMap<&'static str, u64>,
    pub control_messages: u64,
    pub control_byte_ratio: f64,
    pub tracker_messages: u64,
    pub opens: u64,
    pub events: u64,
    /// What must hold of any run and did not.
    pub findings: Vec<String>,
    pub trace: String,
    pub wall_s: f64,
    /// Seconds that each agent took, sorted.
    pub agent_s: Vec<f64>,
    /// How it looked along the way.
    #[serde(skip)]
    pub drawn: Drawn,
}

impl World {
    /// The report of a run that is over.
    pub(super) fn outcome(&mut self, wall: Duration) -> Outcome {
        let drawn = self.drawn();
        let (scenario, tally) = (&self.scenario, &self.tally);
        let blob_bytes = scenario.geometry.blob_bytes();
        let copies = |bytes: f64| bytes / (blob_bytes.max(1)) as f64;
        let expected: Vec<&Member> = self
            .members
            .iter()
            .filter(|member| member.must_finish())
            .collect();
        let took = |keep: &dyn Fn(&Member) -> bool| sorted(&expected, keep, |m| m.finished);
        let (all, fast) = (took(&|_| true), took(&|member| !member.nature.slow));
        let first_bytes = sorted(&expected, &|_| true, |member| member.first_byte);
        let last = expected.iter().filter_map(|member| member.finished).max();
        let makespan = last.map_or(f64::INFINITY, |at| at.as_nanos() as f64 / 1e9);
        let bound = scenario.bound().as_secs_f64();
        let moved = tally.delivered_bytes + tally.wasted_bytes;
        Outcome {
            agents: scenario.agents,
            zones: scenario.zones,
            blob_bytes,
            piece_bytes: scenario.geometry.piece_bytes(),
            pieces: scenario.geometry.piece_count().get(),
            link_bits_per_sec: scenario.link.bits_per_sec(),
            seed: scenario.seed,
            makespan_s: makespan,
            bound_s: bound,
            makespan_over_bound: makespan / bound,
            p50_s: percentile(&all, 50),
            p99_s: percentile(&all, 99),
            max_s: percentile(&all, 100),
            ttfb_p50_s: percentile(&first_bytes, 50),
            ttfb_p99_s: percentile(&first_bytes, 99),
            origin_copies: copies(tally.origin_bytes),
            upstream_copies: scenario.upstream.map(|_| f64::from(u8::from(self.opened))),
            cross_zone_copies: copies(tally.cross_zone_bytes),
            duplicate_ratio: tally.wasted_bytes / moved.max(1.0),
            cpu_s_per_gib: None,
            rss_max_bytes: None,
            failed_agents: expected
                .iter()
                .filter(|member| member.finished.is_none())
                .count(),
            wrong_bytes: self.check.wrong_bytes(),
            cpu_busy_ratio: None,
            goodput_bits_per_sec: None,
            makespan_over_goodput_bound: None,
            fast_p99_s: percentile(&fast, 99),
            fast_p99_over_bound: percentile(&fast, 99) / bound,
            p99_over_p50: percentile(&all, 99) / percentile(&all, 50).max(f64::MIN_POSITIVE),
            zone_copies_max: copies(tally.zone_bytes.iter().copied().fold(0.0, f64::max)),
            crashed_agents: tally.crashed,
            lies_found_out: tally.lies,
            timeouts: tally.timeouts,
            refusals: tally.refusals.clone(),
            control_messages: tally.messages,
            control_byte_ratio: tally.control_bytes as f64 / moved.max(1.0),
            tracker_messages: tally.tracker_messages,
            opens: tally.opens,
            events: self.events.planned(),
            findings: self.check.findings().to_vec(),
            trace: format!("{:016x}", self.trace.get()),
            wall_s: wall.as_secs_f64(),
            agent_s: all,
            drawn,
        }
    }
}

/// Seconds from each one's wish to `when`, sorted; those that never got there are left out.
fn sorted(
    members: &[&Member],
    keep: &dyn Fn(&Member) -> bool,
    when: impl Fn(&Member) -> Option<shoal_proto::Instant>,
) -> Vec<f64> {
    let span = |member: &&Member| {
        let wanted = member.wanted_at?;
        Some(
            when(member)?
                .saturating_duration_since(wanted)
                .as_secs_f64(),
        )
    };
    let mut spans: Vec<f64> = members
        .iter()
        .copied()
        .filter(|member| keep(member))
        .filter_map(|m| span(&m))
        .collect();
    spans.sort_unstable_by(f64::total_cmp);
    spans
}

/// The value below which so many per cent lie; infinite when there is none.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            [1, 50, 99, 100].map(|p| percentile(&hundred, p)),
            [1.0, 50.0, 99.0, 100.0]
        );
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(percentile(&[], 50), f64::INFINITY);
    }
}
