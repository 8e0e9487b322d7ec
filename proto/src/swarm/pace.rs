//! How fast pieces come, and from how many sources at once: the figures by which stragglers are known.
//!
//! Not here: rates of single peers (`node::peers`). One pace for the whole process, because all its fetches share
//! one downlink.
//!
//! Two times are kept of each piece: its span, from question to end, and its turn, from when nothing was before it at
//! its source to its end. Spans tell when to be impatient; turns tell what a source gives.
//!
//! How many sources at once is learned, not configured. A piece whose turn took `T` while `k` sources were sending says
//! that `k` of them bring `k / T`; the smallest `k` that brings nearly the best of all is the one to keep. Where the
//! downlink is the limit, that is as few as we serve ourselves: more would only take upload slots from others. Where every source is slow, it
//! grows until the downlink is full.

use std::time::Duration;

use crate::{Instant, limits};

const SAMPLES: usize = 32;
const LEVELS: usize = limits::SOURCES_MAX;
/// A level must bring this share of the best one to be good enough.
const NEARLY: f64 = 0.9;
/// What was measured longer ago says nothing any more.
const LEVEL_LIFE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Level {
    /// What a turn took while so many sources were sending, in seconds per byte: an average of what pieces took, since
    /// two that end together would make one of what they reached worth nothing.
    turn: f64,
    seen: Instant,
}

/// The latest of a kind of time, in seconds per byte.
#[derive(Debug, Default)]
struct Recent {
    ring: [f64; SAMPLES],
    samples: usize,
    median: f64,
    p90: f64,
}

impl Recent {
    fn add(&mut self, secs_per_byte: f64) {
        self.ring[self.samples % SAMPLES] = secs_per_byte;
        self.samples += 1;
        let count = self.samples.min(SAMPLES);
        let mut sorted = self.ring;
        let sorted = &mut sorted[..count];
        sorted.sort_unstable_by(f64::total_cmp);
        self.median = sorted[count / 2];
        self.p90 = sorted[(count * 9 / 10).min(count - 1)];
    }
}

/// Recent piece times, and the number of sources that suits them.
#[derive(Debug)]
pub(crate) struct Pace {
    spans: Recent,
    turns: Recent,
    levels: [Level; LEVELS + 1],
    window: usize,
    decisions: u32,
    /// When the last piece was complete.
    last: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            spans: Recent::default(),
            turns: Recent::default(),
            levels: [Level {
                turn: f64::INFINITY,
                seen: now,
            }; LEVELS + 1],
            window: limits::SOURCES_START,
            decisions: 0,
            last: now,
        }
    }

    /// A piece of `bytes` took `span` from question to end, and `turn` of it was its own, while so many sources were
    /// sending.
    pub(crate) fn fetched(
        &mut self,
        bytes: u64,
        span: Duration,
        turn: Duration,
        sources: usize,
        now: Instant,
    ) {
        self.last = now;
        let per_byte = |time: Duration| time.as_secs_f64().max(1e-6) / bytes.max(1) as f64;
        self.spans.add(per_byte(span));
        self.turns.add(per_byte(turn));
        self.learn_window(per_byte(turn), sources, now);
    }

    fn learn_window(&mut self, turn: f64, sources: usize, now: Instant) {
        let alive = |level: &Level| now.saturating_duration_since(level.seen) < LEVEL_LIFE;
        let level = &mut self.levels[sources.clamp(1, LEVELS)];
        level.turn = if level.turn.is_finite() && alive(level) {
            level.turn + 0.2 * (turn - level.turn)
        } else {
            turn
        };
        level.seen = now;
        let bytes_per_sec = |sources: usize, level: &Level| sources as f64 / level.turn;
        let alive = || {
            self.levels
                .iter()
                .enumerate()
                .filter(|(_, level)| alive(level))
        };
        let best = alive()
            .map(|(sources, level)| bytes_per_sec(sources, level))
            .fold(0.0, f64::max);
        let enough = alive()
            .find(|(sources, level)| bytes_per_sec(*sources, level) >= NEARLY * best)
            .map(|(sources, _)| sources);
        self.window = enough
            .unwrap_or(limits::SOURCES_START)
            .clamp(limits::SOURCES_MIN, LEVELS);
    }

    /// Sources to keep. Now and then one more, to learn whether it would bring more.
    ///
    /// Never more than what brings as much as we give: `upload_bytes_per_sec` is what one of our own uploads usually
    /// reaches. In a crowd that shares its links, more sources of ours are fewer of somebody else's, and all end later.
    pub(crate) fn window(&mut self, upload_bytes_per_sec: Option<f64>) -> usize {
        self.decisions = self.decisions.wrapping_add(1);
        let probe = usize::from(self.decisions.is_multiple_of(limits::EXPLORE_ONE_IN));
        let fair = match (upload_bytes_per_sec, self.usual_bytes_per_sec()) {
            (Some(given), Some(taken)) => share(limits::UPLOAD_SLOTS as f64 * given / taken),
            (None, _) | (_, None) => LEVELS,
        };
        (self.window + probe).min(fair)
    }

    /// The same, without the learning.
    pub(crate) fn kept(&self) -> usize {
        self.window
    }

    /// What one source usually gives, bytes per second; `None` until a piece came.
    pub(crate) fn usual_bytes_per_sec(&self) -> Option<f64> {
        (self.turns.median > 0.0).then(|| 1.0 / self.turns.median)
    }

    /// The time, from question to end, that half of the recent pieces of this size took.
    pub(crate) fn median(&self, bytes: u64) -> Option<Duration> {
        (self.spans.samples > 0).then(|| Duration::from_secs_f64(self.spans.median * bytes as f64))
    }

    /// How long news of a piece of this size may wait for more: an eighth of a piece time, within bounds.
    pub(crate) fn news_delay(&self, bytes: u64) -> Duration {
        let eighth = self.median(bytes).unwrap_or_default() / 8;
        eighth.clamp(limits::NEWS_DELAY_MIN, limits::NEWS_DELAY_MAX)
    }

    /// When the last piece came, from whomever.
    pub(crate) fn last_fetched(&self) -> Instant {
        self.last
    }

    /// Past this, a source whose turn has brought nothing is no longer counted on, while others bring pieces: another is
    /// asked for other pieces. That costs nothing if it comes after all, so it is far less than the time after which its
    /// piece is asked twice.
    pub(crate) fn count_on_for(&self, bytes: u64) -> Duration {
        if self.turns.samples < limits::HEDGE_SAMPLES_MIN as usize {
            return limits::HEDGE_UNKNOWN;
        }
        let patience = f64::from(limits::COUNT_ON_TURNS) * self.turns.p90;
        Duration::from_secs_f64(patience * bytes as f64).max(limits::COUNT_ON_MIN)
    }

    /// Past this, a piece is asked for elsewhere as well (D8).
    pub(crate) fn hedge_after(&self, bytes: u64) -> Duration {
        if self.spans.samples < limits::HEDGE_SAMPLES_MIN as usize {
            return limits::HEDGE_UNKNOWN;
        }
        Duration::from_secs_f64(2.0 * self.spans.p90 * bytes as f64).max(limits::HEDGE_MIN)
    }
}

/// So many sources, within bounds.
fn share(sources: f64) -> usize {
    let most = f64::from(u16::try_from(LEVELS).unwrap_or(u16::MAX));
    let mut count = limits::SOURCES_MIN;
    while count < LEVELS && (count as f64) + 0.95 < sources.min(most) {
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn run(span_of: impl Fn(usize) -> Duration) -> usize {
        let mut now = Instant::from_nanos(0);
        let mut pace = Pace::new(now);
        for _ in 0..2_000 {
            let sources = pace.window(None);
            now += Duration::from_millis(1);
            let turn = span_of(sources);
            pace.fetched(MIB, 2 * turn, turn, sources, now);
        }
        pace.window
    }

    #[test]
    fn the_window_stays_small_when_the_downlink_is_the_limit() {
        let window = run(|in_flight| Duration::from_millis(10) * u32::try_from(in_flight).unwrap());
        assert_eq!(window, limits::SOURCES_MIN);
    }

    /// One late and one early are two on time. What they reached made an average of 1.3 times the link, and worse where the
    /// second took no time of its own: as many sources as that happened with were taken for the fastest.
    #[test]
    fn pieces_that_come_unevenly_do_not_widen_the_window() {
        let odd = std::cell::Cell::new(false);
        let window = run(|sources| {
            let fair = Duration::from_millis(10) * u32::try_from(sources).unwrap();
            if sources <= limits::SOURCES_MIN {
                return fair;
            }
            odd.set(!odd.get());
            if odd.get() { fair * 3 / 2 } else { fair / 2 }
        });
        assert_eq!(window, limits::SOURCES_MIN);
    }

    #[test]
    fn the_window_grows_when_every_source_is_slow() {
        // Ten slow sources fill the downlink.
        let window =
            run(|in_flight| Duration::from_millis(10) * u32::try_from(in_flight.max(10)).unwrap());
        assert!((9..=11).contains(&window), "{window}");
    }

    #[test]
    fn nobody_takes_more_at_once_than_it_gives() {
        let now = Instant::from_nanos(0);
        let mut pace = Pace::new(now);
        for _ in 0..20 {
            let turn = Duration::from_millis(100);
            pace.fetched(MIB, 2 * turn, turn, 4, now);
        }
        let taken = 10.0 * MIB as f64;
        assert_eq!(
            pace.window(Some(taken)),
            limits::UPLOAD_SLOTS,
            "equal links"
        );
        assert_eq!(pace.window(Some(0.1 * taken)), limits::SOURCES_MIN);
        assert!(
            pace.window(Some(8.0 * taken)) > limits::SOURCES_MIN,
            "slow sources"
        );
    }

    #[test]
    fn a_hedge_waits_for_twice_the_ninetieth_percentile() {
        let now = Instant::from_nanos(0);
        let mut pace = Pace::new(now);
        assert_eq!(pace.hedge_after(MIB), limits::HEDGE_UNKNOWN);
        for tenth in 1..=20 {
            let span = Duration::from_millis(if tenth > 16 { 500 } else { 100 });
            pace.fetched(MIB, span, span / 2, 2, now);
        }
        let threshold = pace.hedge_after(MIB);
        assert!(
            (Duration::from_millis(990)..Duration::from_millis(1010)).contains(&threshold),
            "{threshold:?}"
        );
        assert_eq!(pace.median(MIB).unwrap().as_millis(), 100);
    }
}
