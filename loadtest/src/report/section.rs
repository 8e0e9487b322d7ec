//! The parts of a report that are drawn: figures over time, agent by agent, link by link.
//!
//! Whoever measures may hand in as much as it has; `bounded` merges neighbours and thins samples until a page can
//! draw it. Not here: how it is drawn.

use serde::{Deserialize, Serialize};

/// Rows of the heat map; more agents than that share rows.
pub(super) const ROWS_MAX: usize = 200;
/// Samples of anything over time.
pub(super) const SAMPLES_MAX: usize = 600;
/// Links that are drawn each on its own.
pub(super) const LINKS_MAX: usize = 24;
/// A name longer than this does not fit beside its row.
const NAME_MAX: usize = 60;

/// Bytes that arrived, by where they came from. The first three are what agents gave their clients or took in; the
/// last is what the origin took in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BytesBySource {
    pub cache: u64,
    pub peer: u64,
    pub origin: u64,
    pub upstream: u64,
}

/// How many copies of the blob had left the origin, left upstream, and crossed between zones, at each moment. A list
/// that is empty is unknown; the others are as long as `at_s`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Copies {
    pub at_s: Vec<f64>,
    pub origin: Vec<f64>,
    pub upstream: Vec<f64>,
    pub cross_zone: Vec<f64>,
}

/// What went over links, at each moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Links {
    pub at_s: Vec<f64>,
    pub rows: Vec<LinkUse>,
}

/// One link, or the mean of many; lists as long as the times they belong to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkUse {
    pub name: String,
    /// What it can carry each way, if it is limited.
    pub bits_per_sec: Option<f64>,
    pub tx_bits_per_sec: Vec<f64>,
    pub rx_bits_per_sec: Vec<f64>,
}

/// How much of the blob each agent held, at each moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    pub at_s: Vec<f64>,
    /// From top to bottom.
    pub rows: Vec<ProgressRow>,
}

/// One agent, or the mean of neighbours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressRow {
    pub name: String,
    /// Whole per cent held; as long as the times they belong to.
    pub percent: Vec<u8>,
}

impl Copies {
    #[must_use]
    pub(super) fn bounded(mut self) -> Self {
        let len = self.at_s.len();
        let step = step(len);
        for list in [&mut self.origin, &mut self.upstream, &mut self.cross_zone] {
            if list.len() == len {
                thin(list, step);
            } else {
                list.clear();
            }
        }
        thin(&mut self.at_s, step);
        self
    }
}

impl Links {
    #[must_use]
    pub(super) fn bounded(mut self) -> Self {
        let len = self.at_s.len();
        self.rows
            .retain(|row| row.tx_bits_per_sec.len() == len && row.rx_bits_per_sec.len() == len);
        self.rows.truncate(LINKS_MAX);
        let step = step(len);
        for row in &mut self.rows {
            cut(&mut row.name);
            thin(&mut row.tx_bits_per_sec, step);
            thin(&mut row.rx_bits_per_sec, step);
        }
        thin(&mut self.at_s, step);
        self
    }
}

impl Progress {
    #[must_use]
    pub(super) fn bounded(mut self) -> Self {
        let len = self.at_s.len();
        self.rows.retain(|row| row.percent.len() == len);
        let step = step(len);
        for row in &mut self.rows {
            cut(&mut row.name);
            thin(&mut row.percent, step);
            for percent in &mut row.percent {
                *percent = (*percent).min(100);
            }
        }
        thin(&mut self.at_s, step);
        let together = self.rows.len().div_ceil(ROWS_MAX).max(1);
        if together > 1 {
            self.rows = self.rows.chunks(together).map(mean).collect();
        }
        self
    }
}

/// Rows of neighbours as one.
fn mean(rows: &[ProgressRow]) -> ProgressRow {
    let len = rows.first().map_or(0, |row| row.percent.len());
    let at = |at: usize| {
        let sum: usize = rows.iter().map(|row| usize::from(row.percent[at])).sum();
        u8::try_from(sum / rows.len()).unwrap_or(100)
    };
    let name = match rows {
        [only] => only.name.clone(),
        [first, .., last] => format!("{} … {}", first.name, last.name),
        [] => String::new(),
    };
    ProgressRow {
        name,
        percent: (0..len).map(at).collect(),
    }
}

/// Every how many samples one is kept.
fn step(len: usize) -> usize {
    len.div_ceil(SAMPLES_MAX).max(1)
}

/// Keeps the first of every `step`, and the last of all.
fn thin<T: Copy>(list: &mut Vec<T>, step: usize) {
    if step > 1 {
        let last = list.last().copied();
        let mut kept: Vec<T> = list.iter().copied().step_by(step).collect();
        if let (Some(end), Some(last)) = (kept.last_mut(), last) {
            *end = last;
        }
        *list = kept;
    }
}

fn cut(name: &mut String) {
    if let Some((at, _)) = name.char_indices().nth(NAME_MAX) {
        name.truncate(at);
    }
}
