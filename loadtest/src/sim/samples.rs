//! How a run looked along its way: who held how much, which links were busy, how many copies had left the origin.
//!
//! Samples are taken at equal distances of virtual time. When there are too many, every other one is dropped and the
//! distance doubled, so that a run of unknown length costs a known amount of memory. Looking changes nothing: the
//! trace of a run is the same with and without.

use std::time::Duration;

use shoal_proto::Instant;

use super::flows::LinkIx;
use super::scenario::Scenario;
use super::world::{ORIGIN, World};
use crate::report::{BytesBySource, Copies, LinkUse, Links, Progress, ProgressRow};

/// Samples of one run; a page draws as many.
const SAMPLES_MAX: usize = 600;
/// Samples up to the bound, at first.
const SAMPLES_TO_BOUND: u32 = 400;
/// Agents that are looked at; of more than these every so-many-th.
const AGENTS_MAX: usize = 10_000;
/// So many agents, or zones, have a picture of their links each.
const LINKS_DRAWN: usize = 12;

/// What was seen at one moment. Shares are whole per cent, agent by agent.
#[derive(Debug)]
struct Sample {
    at: Instant,
    held: Vec<u8>,
    sends: Vec<u8>,
    takes: Vec<u8>,
    origin_sends: f64,
    origin_takes: f64,
    origin_bytes: f64,
    upstream_bytes: f64,
    cross_zone_bytes: f64,
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Samples {
    every: Duration,
    due: Instant,
    taken: Vec<Sample>,
    /// The members that are looked at.
    agents: Vec<u32>,
}

/// The parts of a report that are drawn.
#[derive(Clone, Debug, Default)]
pub struct Drawn {
    pub bytes_by_source: BytesBySource,
    pub copies: Copies,
    pub links: Links,
    pub progress: Progress,
}

impl Samples {
    pub(super) fn new(scenario: &Scenario, now: Instant) -> Self {
        let apart = scenario.agents.div_ceil(AGENTS_MAX).max(1);
        let agents = u32::try_from(scenario.agents).unwrap_or(u32::MAX);
        Self {
            every: (scenario.bound() / SAMPLES_TO_BOUND).max(Duration::from_micros(1)),
            due: now,
            taken: Vec::new(),
            agents: (1..=agents).step_by(apart).collect(),
        }
    }

    fn add(&mut self, sample: Sample) {
        self.taken.push(sample);
        if self.taken.len() >= SAMPLES_MAX {
            let mut keep = false;
            self.taken.retain(|_| {
                keep = !keep;
                keep
            });
            self.every *= 2;
        }
    }
}

impl World {
    /// Looks at every moment that is due before `next`, when nothing happens.
    pub(super) fn look_until(&mut self, next: Instant) {
        while self.samples.due < next {
            let at = self.samples.due;
            self.look(at);
            self.samples.due = at + self.samples.every;
        }
    }

    fn look(&mut self, at: Instant) {
        let pieces = self.info.geometry.piece_count().get();
        let agents = || self.samples.agents.iter();
        let held = |at: &u32| percent(self.members[*at as usize].held_count.into(), pieces.into());
        let busy = |at: &u32, link: LinkIx| {
            percent(
                self.flows.carried(link),
                self.members[*at as usize].bytes_per_sec,
            )
        };
        let origin = &self.members[ORIGIN as usize];
        let sample = Sample {
            at,
            held: agents().map(held).collect(),
            sends: agents()
                .map(|at| busy(at, self.members[*at as usize].up))
                .collect(),
            takes: agents()
                .map(|at| busy(at, self.members[*at as usize].down))
                .collect(),
            origin_sends: self.flows.carried(origin.up),
            origin_takes: self.upstream_rate(),
            origin_bytes: self.tally.origin_bytes,
            upstream_bytes: self.upstream_bytes(),
            cross_zone_bytes: self.tally.cross_zone_bytes,
        };
        self.samples.add(sample);
    }

    /// Bytes per second that come from upstream: all of its rate until the blob is there.
    fn upstream_rate(&self) -> f64 {
        let whole = self.info.geometry.piece_count().get();
        let reads = self.opened && self.members[ORIGIN as usize].held_count < whole;
        let rate = self.scenario.upstream.filter(|_| reads);
        rate.map_or(0.0, |rate| rate.bytes_per_sec())
    }

    /// Bytes that have come from upstream, in whole pieces.
    fn upstream_bytes(&self) -> f64 {
        let held = self.members[ORIGIN as usize].held_count;
        let bytes = f64::from(held) * f64::from(self.info.geometry.piece_bytes());
        bytes.min(self.info.geometry.blob_bytes() as f64)
    }

    /// What is drawn of a run that is over.
    pub(super) fn drawn(&mut self) -> Drawn {
        self.look(self.now);
        let blob_bytes = self.scenario.geometry.blob_bytes();
        let copies = |bytes: fn(&Sample) -> f64| {
            let list = self.samples.taken.iter().map(bytes);
            list.map(|bytes| rounded(bytes / blob_bytes.max(1) as f64, 1e4))
                .collect()
        };
        let arrived = self.tally.delivered_bytes + self.tally.wasted_bytes;
        let upstream = self.scenario.upstream.filter(|_| self.opened);
        Drawn {
            bytes_by_source: BytesBySource {
                cache: 0,
                peer: whole(arrived - self.tally.origin_bytes),
                origin: whole(self.tally.origin_bytes),
                upstream: upstream.map_or(0, |_| blob_bytes),
            },
            copies: Copies {
                at_s: self.times(),
                origin: copies(|sample| sample.origin_bytes),
                upstream: upstream
                    .map_or_else(Vec::new, |_| copies(|sample| sample.upstream_bytes)),
                cross_zone: if self.scenario.zones > 1 {
                    copies(|sample| sample.cross_zone_bytes)
                } else {
                    Vec::new()
                },
            },
            links: self.drawn_links(),
            progress: self.drawn_progress(),
        }
    }

    fn times(&self) -> Vec<f64> {
        let secs = |sample: &Sample| rounded(sample.at.as_nanos() as f64 / 1e9, 1e6);
        self.samples.taken.iter().map(secs).collect()
    }

    /// Places in the samples, the first to finish first; those that never did last.
    fn by_finish(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples.agents.len()).collect();
        let finished = |place: &usize| {
            let member = &self.members[self.samples.agents[*place] as usize];
            (member.finished.is_none(), member.finished)
        };
        order.sort_by_key(finished);
        order
    }

    fn drawn_progress(&self) -> Progress {
        let row = |place: usize| ProgressRow {
            name: format!("agent {}", self.samples.agents[place]),
            percent: self.samples.taken.iter().map(|s| s.held[place]).collect(),
        };
        Progress {
            at_s: self.times(),
            rows: self.by_finish().into_iter().map(row).collect(),
        }
    }

    /// The origin, all agents as one, and then each agent, or each zone, or a few agents, whichever can be drawn.
    fn drawn_links(&self) -> Links {
        let order = self.by_finish();
        let number = |place: usize| self.samples.agents[place];
        let mut rows = vec![self.origin_links(), self.mean_links("agents, mean", &order)];
        if order.len() <= LINKS_DRAWN {
            for place in 0..order.len() {
                let name = format!("agent {}", number(place));
                rows.push(self.mean_links(&name, &[place]));
            }
        } else {
            let zones = self.scenario.zones;
            if (2..=LINKS_DRAWN).contains(&zones) {
                for zone in 0..zones {
                    let lives = |place: &usize| self.members[number(*place) as usize].zone == zone;
                    let there: Vec<usize> = order.iter().copied().filter(lives).collect();
                    rows.push(self.mean_links(&format!("zone {zone}, mean"), &there));
                }
            }
            let last = order.len() - 1;
            for (place, what) in [(0, "first"), (last / 2, "median"), (last, "last")] {
                let place = order[place];
                let name = format!("agent {}, {what} to finish", number(place));
                rows.push(self.mean_links(&name, &[place]));
            }
        }
        Links {
            at_s: self.times(),
            rows,
        }
    }

    fn origin_links(&self) -> LinkUse {
        let of = |bytes: fn(&Sample) -> f64| {
            let list = self.samples.taken.iter().map(bytes);
            list.map(|bytes| (bytes * 8.0).round()).collect()
        };
        LinkUse {
            name: "origin".to_owned(),
            bits_per_sec: Some(self.scenario.link.bits_per_sec()),
            tx_bits_per_sec: of(|sample| sample.origin_sends),
            rx_bits_per_sec: of(|sample| sample.origin_takes),
        }
    }

    /// The mean over some agents, each by its own link's rate, told at the usual rate.
    fn mean_links(&self, name: &str, places: &[usize]) -> LinkUse {
        let bits = self.scenario.link.bits_per_sec();
        let mean = |of: fn(&Sample) -> &Vec<u8>| {
            let at = |sample: &Sample| {
                let sum: f64 = places.iter().map(|at| f64::from(of(sample)[*at])).sum();
                (sum / 100.0 / places.len().max(1) as f64 * bits).round()
            };
            self.samples.taken.iter().map(at).collect()
        };
        LinkUse {
            name: name.to_owned(),
            bits_per_sec: Some(bits),
            tx_bits_per_sec: mean(|sample| &sample.sends),
            rx_bits_per_sec: mean(|sample| &sample.takes),
        }
    }
}

fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "held between 0 and 100"
)]
fn percent(part: f64, whole: f64) -> u8 {
    (100.0 * part / whole.max(f64::MIN_POSITIVE))
        .round()
        .clamp(0.0, 100.0) as u8
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes of one run, never negative, far below 2^53"
)]
fn whole(bytes: f64) -> u64 {
    bytes.max(0.0).round() as u64
}
