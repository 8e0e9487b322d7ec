//! What came of a run, in one form for all of them: `simulate` and `fanout` fill it, `report` draws it, `compare` holds
//! two against each other.
//!
//! The figures that people quote come first, each a key of its own, null where it does not apply; [`KEYS`] says what
//! each means. Then come the sections that are drawn: all optional, all bounded ([`Report::bounded`]), so that a report on
//! 10,000 agents is still a page that opens.
//!
//! Not here: how a figure is measured. Invariant: whatever is read from a file has passed [`Report::bounded`], and is
//! otherwise believed in nothing: it is text from elsewhere.

pub mod compare;
pub mod draw;
mod file;
mod gate;
mod keys;
mod machine;
mod output;
mod page;
mod section;
mod settings;
mod written;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::file::{ReadError, read};
pub use self::gate::{Gate, GateResult};
pub use self::keys::{Better, KEYS, Key, Unit};
pub use self::machine::{Machine, Versions};
pub use self::output::ReportArgs;
pub use self::section::{BytesBySource, Copies, LinkUse, Links, Progress, ProgressRow};

/// What the first key of every report says; a change of meaning gets another number.
pub const FORMAT: &str = "shoal-report/1";

/// Agents whose seconds a report holds at most: what `simulate` takes.
const AGENTS_MAX: usize = 100_000;
/// Settings, extra figures, gates and notes that a report holds at most.
const LINES_MAX: usize = 256;

/// A measured run whose machine was busier than this measured the machine, not the links.
const BUSY_MAX: f64 = 0.92;

/// What made a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Real processes on shaped links.
    Fanout,
    /// The core in virtual time.
    #[default]
    Simulate,
}

impl Kind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::Simulate => "simulate",
        }
    }
}

/// One run. Times are seconds from the run's start, or from an agent's wish where [`KEYS`] says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub format: String,
    pub kind: Kind,

    pub agents: u64,
    pub zones: u64,
    pub blob_bytes: u64,
    pub piece_bytes: Option<u64>,
    pub pieces: Option<u64>,
    pub link_bits_per_sec: Option<f64>,
    pub seed: Option<u64>,
    pub makespan_s: Option<f64>,
    pub bound_s: Option<f64>,
    pub makespan_over_bound: Option<f64>,
    pub p50_s: Option<f64>,
    pub p99_s: Option<f64>,
    pub max_s: Option<f64>,
    pub ttfb_p50_s: Option<f64>,
    pub ttfb_p99_s: Option<f64>,
    pub origin_copies: Option<f64>,
    pub upstream_copies: Option<f64>,
    pub cross_zone_copies: Option<f64>,
    pub duplicate_ratio: Option<f64>,
    pub cpu_s_per_gib: Option<f64>,
    pub rss_max_bytes: Option<u64>,
    pub failed_agents: Option<u64>,
    pub wrong_bytes: Option<u64>,
    pub cpu_busy_ratio: Option<f64>,
    pub goodput_bits_per_sec: Option<f64>,
    pub makespan_over_goodput_bound: Option<f64>,

    /// What was promised, and whether it held.
    pub gates: Vec<GateResult>,
    /// What a reader has to know before believing a figure, as "the machine was busy".
    pub notes: Vec<String>,
    /// Names the run exactly, where it can be repeated exactly.
    pub trace: Option<String>,
    /// How long the run took on the wall.
    pub wall_s: Option<f64>,
    /// When it was made, RFC 3339, UTC.
    pub made_at: Option<String>,
    /// The words of the command line, the program's bare name first.
    pub command: Vec<String>,
    /// Every option of the command and what it was, defaults among them.
    pub settings: BTreeMap<String, String>,
    pub versions: Versions,
    pub machine: Machine,
    /// Figures that only one kind of run has; a gate may name them as well.
    pub extra: BTreeMap<String, Value>,

    pub bytes_by_source: Option<BytesBySource>,
    pub copies: Option<Copies>,
    pub links: Option<Links>,
    pub progress: Option<Progress>,
    /// Seconds that each agent took, of those that were to finish; null: it did not.
    pub agent_s: Vec<Option<f64>>,
}

impl Report {
    /// An empty report of a run that begins now, on this machine, by this process's command line.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let now = std::time::SystemTime::now();
        Self {
            format: FORMAT.to_owned(),
            kind,
            made_at: Some(humantime::format_rfc3339_seconds(now).to_string()),
            command: settings::command(),
            settings: settings::of_this_process(),
            versions: Versions::here(),
            machine: Machine::here(),
            ..Self::default()
        }
    }

    /// The least that any order of sending takes: `pieces + floor(log2 agents)` piece times at this rate. `None` while
    /// pieces or rate are unknown.
    #[must_use]
    pub fn bound_at(&self, bits_per_sec: f64) -> Option<f64> {
        let (pieces, piece_bytes) = (self.pieces?, self.piece_bytes?);
        let rounds = pieces.saturating_add(u64::from(self.agents.max(1).ilog2()));
        let bound = rounds as f64 * piece_bytes as f64 * 8.0 / bits_per_sec;
        bound.is_finite().then_some(bound)
    }

    /// Fills what follows from `agent_s` and from the figures that are there: percentiles, failures, bounds, ratios.
    /// What is there already stays.
    pub fn complete(&mut self) {
        let took = finished(&self.agent_s);
        let lost = (self.agent_s.len() - took.len()) as u64;
        self.failed_agents = self.failed_agents.or(Some(lost));
        for (figure, percent) in [
            (&mut self.p50_s, 50),
            (&mut self.p99_s, 99),
            (&mut self.max_s, 100),
        ] {
            *figure = figure.or_else(|| percentile(&took, percent));
        }
        let at_link = self.link_bits_per_sec.and_then(|rate| self.bound_at(rate));
        let at_goodput = self
            .goodput_bits_per_sec
            .and_then(|rate| self.bound_at(rate));
        self.bound_s = self.bound_s.or(at_link);
        let over = |bound: Option<f64>| Some(self.makespan_s? / bound.filter(|it| *it > 0.0)?);
        let (over_link, over_goodput) = (over(self.bound_s), over(at_goodput));
        self.makespan_over_bound = self.makespan_over_bound.or(over_link);
        self.makespan_over_goodput_bound = self.makespan_over_goodput_bound.or(over_goodput);
    }

    /// A figure by its key, among those of all runs or among the extra ones.
    #[must_use]
    pub fn figure(&self, key: &str) -> Option<f64> {
        let known = KEYS.iter().find(|known| known.name == key);
        known.map_or_else(
            || self.extra.get(key).and_then(Value::as_f64),
            |known| (known.of)(self),
        )
    }

    /// Checks the gates against the figures and keeps the results.
    pub fn judge(&mut self, gates: &[Gate]) {
        let results: Vec<GateResult> = gates.iter().map(|gate| gate.judge(self)).collect();
        self.gates.extend(results);
    }

    /// Whether the machine was the limit of a run that was to measure links: its times are then neither good nor bad.
    #[must_use]
    pub fn is_bound_by_machine(&self) -> bool {
        self.kind == Kind::Fanout
            && self.link_bits_per_sec.is_some()
            && self.cpu_busy_ratio.is_some_and(|busy| busy > BUSY_MAX)
    }

    /// Whether a gate asks for a time that [`Self::is_bound_by_machine`] makes worthless.
    #[must_use]
    pub fn is_unjudged(&self) -> bool {
        let of_time = |gate: &GateResult| gate.key.starts_with("makespan");
        self.is_bound_by_machine() && self.gates.iter().any(of_time)
    }

    /// Whether everybody finished, no wrong byte was seen, and every gate held and could be judged.
    #[must_use]
    pub fn passed(&self) -> bool {
        let none = |count: Option<u64>| count.unwrap_or(0) == 0;
        none(self.failed_agents)
            && none(self.wrong_bytes)
            && self.gates.iter().all(|gate| gate.held)
            && !self.is_unjudged()
    }

    /// The whole report as one page that loads nothing from anywhere.
    #[must_use]
    pub fn page(&self) -> String {
        page::render(self)
    }

    /// The same, no larger than a page can draw: rows and samples are merged and thinned, the rest is cut.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.gates.truncate(LINES_MAX);
        self.notes.truncate(LINES_MAX);
        self.command.truncate(LINES_MAX);
        self.agent_s.truncate(AGENTS_MAX);
        while self.settings.len() > LINES_MAX {
            self.settings.pop_last();
        }
        while self.extra.len() > LINES_MAX {
            self.extra.pop_last();
        }
        self.copies = self.copies.map(Copies::bounded);
        self.links = self.links.map(Links::bounded);
        self.progress = self.progress.map(Progress::bounded);
        self
    }
}

/// Seconds of those that finished, sorted.
#[must_use]
pub fn finished(agent_s: &[Option<f64>]) -> Vec<f64> {
    let mut took: Vec<f64> = agent_s
        .iter()
        .flatten()
        .copied()
        .filter(|took| took.is_finite())
        .collect();
    took.sort_unstable_by(f64::total_cmp);
    took
}

/// The value below which so many per cent of sorted ones lie, by nearest rank.
#[must_use]
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests;
