//! How fast pieces come, and how many to ask for at once: the figures by which stragglers are known.
//!
//! Not here: rates of single peers (`node::peers`). One pace for the whole process, because all its fetches share
//! one downlink.
//!
//! How many at once is learned, not configured. By Little's law a piece that took `L` while `k` were in flight
//! says that `k` in flight bring `k / L`; the smallest `k` that brings nearly the best of all is the one to keep.
//! Where the downlink is the limit, that is a few: more would only take upload slots from others. Where every
//! source is slow, it grows until the downlink is full.

use std::time::Duration;

use crate::{Instant, limits};

const SAMPLES: usize = 32;
const LEVELS: usize = limits::PIECES_IN_FLIGHT_MAX;
/// A level must bring this share of the best one to be good enough.
const NEARLY: f64 = 0.9;
/// What was measured longer ago says nothing any more.
const LEVEL_LIFE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Level {
    bytes_per_sec: f64,
    seen: Instant,
}

/// Recent piece times, and the number of fetches that suits them.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Seconds per byte of the last pieces, from question to end.
    recent: [f64; SAMPLES],
    samples: usize,
    median: f64,
    p90: f64,
    levels: [Level; LEVELS + 1],
    window: usize,
    decisions: u32,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            recent: [0.0; SAMPLES],
            samples: 0,
            median: 0.0,
            p90: 0.0,
            levels: [Level {
                bytes_per_sec: 0.0,
                seen: now,
            }; LEVELS + 1],
            window: limits::PIECES_IN_FLIGHT_START,
            decisions: 0,
        }
    }

    /// A piece of `bytes` took `span` from question to end, while `in_flight` were under way.
    pub(crate) fn fetched(&mut self, bytes: u64, span: Duration, in_flight: usize, now: Instant) {
        let secs = span.as_secs_f64().max(1e-6);
        self.recent[self.samples % SAMPLES] = secs / bytes.max(1) as f64;
        self.samples += 1;
        let count = self.samples.min(SAMPLES);
        let mut sorted = self.recent;
        let sorted = &mut sorted[..count];
        sorted.sort_unstable_by(f64::total_cmp);
        self.median = sorted[count / 2];
        self.p90 = sorted[(count * 9 / 10).min(count - 1)];
        self.learn_window(bytes as f64 * in_flight as f64 / secs, in_flight, now);
    }

    fn learn_window(&mut self, bytes_per_sec: f64, in_flight: usize, now: Instant) {
        let level = &mut self.levels[in_flight.clamp(1, LEVELS)];
        let fresh =
            level.bytes_per_sec > 0.0 && now.saturating_duration_since(level.seen) < LEVEL_LIFE;
        level.bytes_per_sec = if fresh {
            level.bytes_per_sec + 0.2 * (bytes_per_sec - level.bytes_per_sec)
        } else {
            bytes_per_sec
        };
        level.seen = now;
        let alive = |level: &Level| now.saturating_duration_since(level.seen) < LEVEL_LIFE;
        let best = self
            .levels
            .iter()
            .filter(|level| alive(level))
            .map(|level| level.bytes_per_sec)
            .fold(0.0, f64::max);
        let enough = self
            .levels
            .iter()
            .position(|level| alive(level) && level.bytes_per_sec >= NEARLY * best);
        self.window = enough
            .unwrap_or(limits::PIECES_IN_FLIGHT_START)
            .clamp(limits::PIECES_IN_FLIGHT_MIN, LEVELS);
    }

    /// Fetches to keep in flight. Now and then one more, to learn whether it would bring more.
    ///
    /// Never more than what brings as much as we give: `upload_bytes_per_sec` is what one of our own uploads usually
    /// reaches. In a crowd that shares its links, more fetches of ours are fewer of somebody else's, and all end later.
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
        (self.median > 0.0).then(|| 1.0 / self.median)
    }

    /// The time that half of the recent pieces of this size took.
    pub(crate) fn median(&self, bytes: u64) -> Option<Duration> {
        (self.samples > 0).then(|| Duration::from_secs_f64(self.median * bytes as f64))
    }

    /// How long news of a piece of this size may wait for more: a quarter of a piece time, within bounds.
    pub(crate) fn news_delay(&self, bytes: u64) -> Duration {
        let quarter = self.median(bytes).unwrap_or_default() / 4;
        quarter.clamp(limits::NEWS_DELAY_MIN, limits::NEWS_DELAY_MAX)
    }

    /// Past this, a piece is asked for elsewhere as well (D8).
    pub(crate) fn hedge_after(&self, bytes: u64) -> Duration {
        if self.samples < limits::HEDGE_SAMPLES_MIN as usize {
            return limits::HEDGE_UNKNOWN;
        }
        Duration::from_secs_f64(2.0 * self.p90 * bytes as f64).max(limits::HEDGE_MIN)
    }
}

/// So many fetches, within bounds.
fn share(fetches: f64) -> usize {
    let most = f64::from(u16::try_from(LEVELS).unwrap_or(u16::MAX));
    let mut count = limits::PIECES_IN_FLIGHT_MIN;
    while count < LEVELS && (count as f64) + 0.5 < fetches.min(most) {
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
            let in_flight = pace.window(None);
            now += Duration::from_millis(1);
            pace.fetched(MIB, span_of(in_flight), in_flight, now);
        }
        pace.window
    }

    #[test]
    fn the_window_stays_small_when_the_downlink_is_the_limit() {
        let window = run(|in_flight| Duration::from_millis(10) * u32::try_from(in_flight).unwrap());
        assert!(window <= limits::PIECES_IN_FLIGHT_START, "{window}");
    }

    #[test]
    fn the_window_grows_when_every_source_is_slow() {
        // Twelve slow sources fill the downlink.
        let window =
            run(|in_flight| Duration::from_millis(10) * u32::try_from(in_flight.max(12)).unwrap());
        assert!((10..=13).contains(&window), "{window}");
    }

    #[test]
    fn nobody_takes_more_at_once_than_it_gives() {
        let now = Instant::from_nanos(0);
        let mut pace = Pace::new(now);
        for _ in 0..20 {
            pace.fetched(MIB, Duration::from_millis(100), 4, now);
        }
        let taken = 10.0 * MIB as f64;
        assert_eq!(
            pace.window(Some(taken)),
            limits::UPLOAD_SLOTS,
            "equal links"
        );
        assert_eq!(pace.window(Some(0.1 * taken)), limits::PIECES_IN_FLIGHT_MIN);
        assert!(
            pace.window(Some(8.0 * taken)) >= limits::PIECES_IN_FLIGHT_START,
            "slow sources"
        );
    }

    #[test]
    fn a_hedge_waits_for_twice_the_ninetieth_percentile() {
        let now = Instant::from_nanos(0);
        let mut pace = Pace::new(now);
        assert_eq!(pace.hedge_after(MIB), limits::HEDGE_UNKNOWN);
        for tenth in 1..=20 {
            pace.fetched(
                MIB,
                Duration::from_millis(if tenth > 16 { 500 } else { 100 }),
                2,
                now,
            );
        }
        let threshold = pace.hedge_after(MIB);
        assert!(
            (Duration::from_millis(990)..Duration::from_millis(1010)).contains(&threshold),
            "{threshold:?}"
        );
        assert_eq!(pace.median(MIB).unwrap().as_millis(), 100);
    }
}
