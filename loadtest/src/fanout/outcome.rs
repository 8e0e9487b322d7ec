//! What came of a fan-out, as the report that every run has.
//!
//! Invariant: every figure is a pure function of what was measured; a figure that was not measured is absent, not zero.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::delivery::Delivery;
use super::floor::Floor;
use super::scenario::Scenario;
use super::seconds;
use super::transfer::Transfers;
use super::watch::Film;
use crate::cluster::measure::Metrics;
use crate::report::{BytesBySource, Kind, Report, percentile};
use crate::screen::{Screen, table};

/// Bytes that others took, acknowledged.
pub(super) const UPLOADED: &str = "shoal_upload_bytes_total";
const DOWNLOADED: &str = "shoal_download_bytes_total";
/// Bytes that came and were thrown away.
const WASTED: &str = "shoal_wasted_bytes_total";
/// Bytes from another zone.
pub(super) const CROSS_ZONE: (&str, (&str, &str)) = ("shoal_peer_bytes_total", ("zone", "other"));
const GIB: f64 = (1u64 << 30) as f64;
/// What is granted over the upstream's own time before a byte is called late.
const UPSTREAM_GRACE: f64 = 1.05;

/// What everybody had counted at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) origin: Option<Metrics>,
    /// None of an agent that did not answer.
    pub(super) agents: Vec<Option<Metrics>>,
    /// Of all processes.
    pub(super) cpu: Duration,
    pub(super) upstream_bytes: u64,
    /// Of the blob that was asked for most often.
    pub(super) upstream_gets: u64,
}

/// A run, measured.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) image_bytes: u64,
    /// Of the clients that count, and when each began.
    pub(super) deliveries: Vec<Delivery>,
    pub(super) starts: Vec<Duration>,
    pub(super) before: Account,
    pub(super) after: Account,
    pub(super) rss_max: Option<u64>,
    pub(super) busy: f64,
    pub(super) film: Film,
    pub(super) transfers: Option<Transfers>,
    pub(super) floor: Option<Floor>,
}

impl Measured {
    /// The report.
    pub(super) fn report(self, scenario: &Scenario) -> Result<Report> {
        let mut report = Report::new(Kind::Fanout);
        let piece_bytes = scenario.piece_bytes()?;
        report.agents = scenario.agents as u64;
        report.zones = scenario.zones as u64;
        report.blob_bytes = scenario.bytes();
        report.piece_bytes = Some(piece_bytes);
        report.pieces = Some(scenario.bytes().div_ceil(piece_bytes));
        report.link_bits_per_sec = scenario.link.rate().map(|rate| rate.bits_per_sec());
        report.seed = Some(scenario.seed);
        report.cpu_busy_ratio = Some(self.busy);
        report.rss_max_bytes = self.rss_max;
        report.goodput_bits_per_sec = self.transfers.map(|moved| moved.one.bits_per_sec());
        self.fill_times(&mut report);
        self.fill_copies(scenario, &mut report);
        self.fill_costs(scenario, &mut report);
        report.complete();
        if let Some(both) = self.transfers.and_then(|moved| moved.both) {
            let rate = both.bits_per_sec();
            note(&mut report, "duplex_goodput_bits_per_sec", rate);
            if let (Some(makespan), Some(bound)) = (report.makespan_s, report.bound_at(rate)) {
                note(&mut report, "makespan_over_duplex_bound", makespan / bound);
            }
        }
        if let (Some(upstream), Some(makespan)) = (scenario.upstream_time(), report.makespan_s) {
            let late = makespan - seconds(upstream) * UPSTREAM_GRACE;
            note(&mut report, "upstream_s", seconds(upstream));
            note(&mut report, "makespan_past_upstream_s", late);
        }
        if scenario.baseline {
            report
                .notes
                .push("baseline: no Shoal, every client pulls from the upstream".into());
        }
        report.notes.extend(self.failures());
        report.progress = Some(self.film.progress);
        report.links = Some(self.film.links).filter(|links| !links.rows.is_empty());
        report.copies = Some(self.film.copies).filter(|copies| !copies.at_s.is_empty());
        Ok(report)
    }

    fn fill_times(&self, report: &mut Report) {
        let ends = self.deliveries.iter().zip(&self.starts);
        let ends = ends.filter_map(|(delivery, start)| Some(*start + delivery.whole?));
        report.makespan_s = ends.max().map(seconds);
        report.agent_s = self
            .deliveries
            .iter()
            .map(|delivery| delivery.whole.map(seconds))
            .collect();
        let mut first: Vec<f64> = self
            .deliveries
            .iter()
            .filter_map(|delivery| delivery.first_byte.map(seconds))
            .collect();
        first.sort_unstable_by(f64::total_cmp);
        report.ttfb_p50_s = percentile(&first, 50);
        report.ttfb_p99_s = percentile(&first, 99);
        report.wrong_bytes = Some(self.deliveries.iter().map(|it| it.wrong_bytes).sum());
    }

    fn fill_copies(&self, scenario: &Scenario, report: &mut Report) {
        let image = self.image_bytes as f64;
        let upstream = self.after.upstream_bytes - self.before.upstream_bytes;
        report.upstream_copies = Some(upstream as f64 / image);
        note(report, "upstream_gets_max", self.after.upstream_gets as f64);
        let (Some(before), Some(after)) = (&self.before.origin, &self.after.origin) else {
            return;
        };
        let given = after.count(UPLOADED, &[]) - before.count(UPLOADED, &[]);
        report.origin_copies = Some(given as f64 / image);
        report.bytes_by_source = Some(BytesBySource {
            cache: self.of_agents(DOWNLOADED, &[("source", "cache")]),
            peer: self.of_agents(DOWNLOADED, &[("source", "peer")]),
            origin: self.of_agents(DOWNLOADED, &[("source", "origin")]),
            upstream,
        });
        if scenario.zones > 1 {
            let crossed = self.of_agents(CROSS_ZONE.0, &[CROSS_ZONE.1]);
            report.cross_zone_copies = Some(crossed as f64 / image);
        }
        let wasted = self.of_agents(WASTED, &[]);
        let kept = self.of_agents(DOWNLOADED, &[("source", "peer")])
            + self.of_agents(DOWNLOADED, &[("source", "origin")]);
        report.duplicate_ratio = Some(wasted as f64 / (wasted + kept).max(1) as f64);
    }

    fn fill_costs(&self, scenario: &Scenario, report: &mut Report) {
        if scenario.baseline {
            return;
        }
        let delivered = self.image_bytes as f64 * scenario.agents as f64 / GIB;
        let cpu = seconds(self.after.cpu.saturating_sub(self.before.cpu));
        report.cpu_s_per_gib = Some(cpu / delivered);
        let Some(Transfers { one: transfer, .. }) = &self.transfers else {
            return;
        };
        note(report, "transfer_cpu_s_per_gib", transfer.cpu_s_per_gib());
        if let Some(floor) = &self.floor {
            let intake = if scenario.seeded {
                0.0
            } else {
                floor.intake() / scenario.agents as f64
            };
            let sum = transfer.cpu_s_per_gib() + floor.delivery();
            for (key, value) in [
                ("floor_piece_hash_s_per_gib", floor.piece_hash),
                ("floor_blob_hash_s_per_gib", floor.blob_hash),
                ("floor_write_s_per_gib", floor.write),
                ("floor_read_and_serve_s_per_gib", floor.read_and_serve),
                ("floor_intake_s_per_gib", intake),
                ("floor_cpu_s_per_gib", sum),
                ("cpu_over_floor", cpu / delivered / sum),
                (
                    "cpu_over_floor_and_intake",
                    cpu / delivered / (sum + intake),
                ),
            ] {
                note(report, key, value);
            }
        }
    }

    /// A counter's growth, over all agents that answered.
    fn of_agents(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let pairs = self.before.agents.iter().zip(&self.after.agents);
        let grown = pairs.filter_map(|(before, after)| {
            let (before, after) = (before.as_ref()?, after.as_ref()?);
            Some(after.count(name, labels) - before.count(name, labels))
        });
        grown.sum()
    }

    fn failures(&self) -> Vec<String> {
        let failed = self.deliveries.iter().enumerate();
        let line = |(index, delivery): (usize, &Delivery)| {
            let failure = delivery.failure.as_ref()?;
            Some(format!("{}: {failure}", super::scenario::agent(index)))
        };
        failed.filter_map(line).collect()
    }
}

fn note(report: &mut Report, key: &str, value: f64) {
    report.extra.insert(key.to_owned(), Value::from(value));
}

/// The figures, for people.
pub(super) fn tell(screen: &Screen, report: &Report) {
    let figure = |key: &str| report.figure(key);
    let row = |name: &str, keys: &[&str], unit: &str| {
        let values: Vec<String> = keys
            .iter()
            .filter_map(|key| figure(key))
            .map(|value| format!("{value:.3}"))
            .collect();
        (!values.is_empty()).then(|| vec![name.to_owned(), format!("{}{unit}", values.join(", "))])
    };
    let mbit = |name: &str, key: &str| {
        figure(key).map(|rate| vec![name.to_owned(), format!("{:.1} Mbit/s", rate / 1e6)])
    };
    let rows = [
        row("bound", &["bound_s"], " s"),
        row("makespan", &["makespan_s"], " s"),
        row("makespan over bound", &["makespan_over_bound"], ""),
        mbit("one QUIC transfer", "goodput_bits_per_sec"),
        row(
            "makespan over bound at that",
            &["makespan_over_goodput_bound"],
            "",
        ),
        mbit("the same both ways at once", "duplex_goodput_bits_per_sec"),
        row(
            "makespan over bound at that",
            &["makespan_over_duplex_bound"],
            "",
        ),
        row("p50, p99, max", &["p50_s", "p99_s", "max_s"], " s"),
        row("first byte p50, p99", &["ttfb_p50_s", "ttfb_p99_s"], " s"),
        row("origin copies", &["origin_copies"], ""),
        row("upstream copies", &["upstream_copies"], ""),
        row("cross-zone copies", &["cross_zone_copies"], ""),
        row("duplicates", &["duplicate_ratio"], ""),
        row(
            "past the upstream's time",
            &["makespan_past_upstream_s"],
            " s",
        ),
        row("CPU", &["cpu_s_per_gib"], " s/GiB"),
        row("its floor", &["floor_cpu_s_per_gib"], " s/GiB"),
        row("CPU over floor", &["cpu_over_floor"], ""),
        row("machine busy", &["cpu_busy_ratio"], ""),
        figure("rss_max_bytes").map(|bytes| {
            vec![
                "memory at most".to_owned(),
                format!("{:.0} MiB", bytes / 1048576.0),
            ]
        }),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().flatten().collect();
    screen.say(&table(&rows));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::scenario::layer_sizes;

    fn scenario(agents: usize) -> Scenario {
        Scenario {
            agents,
            link: "100mbit".parse().expect("a rate"),
            mtu: 1500,
            layers: layer_sizes(256 << 20, 1).expect("enough"),
            zones: 1,
            upstream_rate: Some("25mbit".parse().expect("a rate")),
            freeze: 0,
            stagger: Duration::ZERO,
            seeded: false,
            warm: false,
            preheat: false,
            baseline: false,
            floor: false,
            seed: 1,
            keep: false,
        }
    }

    fn agent(peer: u64, origin: u64) -> Option<Metrics> {
        Some(Metrics::parse(&format!(
            "{DOWNLOADED}{{source=\"peer\"}} {peer}\n{DOWNLOADED}{{source=\"origin\"}} {origin}\n{WASTED} 10\n"
        )))
    }

    fn measured() -> Measured {
        let done = |whole| Delivery {
            first_byte: Some(Duration::from_secs(1)),
            whole: Some(Duration::from_secs(whole)),
            ..Delivery::default()
        };
        Measured {
            image_bytes: 1000,
            deliveries: vec![done(20), done(22)],
            starts: vec![Duration::from_secs(5), Duration::ZERO],
            before: Account {
                origin: Some(Metrics::default()),
                agents: vec![agent(0, 0), agent(0, 0)],
                ..Account::default()
            },
            after: Account {
                origin: Some(Metrics::parse(&format!("{UPLOADED} 1100\n"))),
                agents: vec![agent(490, 500), None],
                cpu: Duration::from_secs(2),
                upstream_bytes: 1000,
                upstream_gets: 1,
            },
            rss_max: Some(1),
            busy: 0.5,
            film: Film::default(),
            transfers: None,
            floor: None,
        }
    }

    #[test]
    fn the_makespan_ends_with_the_last_client_wherever_it_began() {
        let report = measured().report(&scenario(2)).expect("a report");
        assert_eq!(report.makespan_s, Some(25.0));
        assert_eq!(report.max_s, Some(22.0), "an agent's own time");
        assert_eq!(report.origin_copies, Some(1.1));
        assert_eq!(report.upstream_copies, Some(1.0));
        assert_eq!(report.failed_agents, Some(0));
        // 1,025 pieces of 256 KiB at 100 Mbit/s.
        let bound = report.bound_s.expect("a bound");
        assert!((bound - 1025.0 * 0.262144 * 0.08).abs() < 1e-9, "{bound}");
    }

    #[test]
    fn who_says_nothing_is_left_out_and_a_failure_is_told() {
        let mut measured = measured();
        measured.deliveries[1] = Delivery {
            failure: Some("cut".into()),
            wrong_bytes: 7,
            ..Delivery::default()
        };
        let report = measured.report(&scenario(2)).expect("a report");
        assert_eq!(report.bytes_by_source.expect("there").origin, 500);
        assert_eq!(report.failed_agents, Some(1));
        assert_eq!(report.wrong_bytes, Some(7));
        assert!(!report.passed());
        assert_eq!(report.notes, ["agent-2: cut"]);
    }
}
