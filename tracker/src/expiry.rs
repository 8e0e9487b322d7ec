//! A timing wheel over whatever time the caller tells: virtual in the simulator, real in the tracker.
//!
//! For: many deadlines that are nearly all moved before they come, at constant cost each. Not for: exact timing; a
//! key comes out up to one tick late, never early. The wheel never reads a clock.
//!
//! Invariant: a key that was armed comes out of [`Wheel::expired`] exactly once for each [`Wheel::arm`], at the first
//! call whose `now` has reached its tick. Whether the deadline was meanwhile moved is the caller's to know (soft
//! state keeps "last seen" with the entry, and arms again when the entry proves alive).

use std::time::Duration;

use shoal_proto::Instant;

/// Slots in one turn of the wheel. A deadline further away than a turn waits in its slot for its round.
const SLOTS: usize = 256;

/// Keys with deadlines, in slots of one tick.
#[derive(Debug)]
pub(crate) struct Wheel<K> {
    tick: Duration,
    slots: Vec<Vec<(u64, K)>>,
    /// The first tick that has not been handled.
    next_tick: u64,
    armed: usize,
}

impl<K> Wheel<K> {
    /// A wheel of the given tick, empty. A tick of zero is taken as one nanosecond.
    #[must_use]
    pub(crate) fn new(tick: Duration) -> Self {
        Self {
            tick: tick.max(Duration::from_nanos(1)),
            slots: std::iter::repeat_with(Vec::new).take(SLOTS).collect(),
            next_tick: 0,
            armed: 0,
        }
    }

    /// Makes `key` come out once `deadline` has been reached.
    pub(crate) fn arm(&mut self, key: K, deadline: Instant) {
        // Rounded up, so that nothing comes out early.
        let tick = self.tick_at_or_after(deadline).max(self.next_tick);
        self.slots[slot_of(tick)].push((tick, key));
        self.armed += 1;
    }

    /// When [`Wheel::expired`] is worth calling next; `None` while nothing is armed.
    #[must_use]
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        if self.armed == 0 {
            return None;
        }
        // Within one turn every slot is met once; entries of later rounds make this a lower bound.
        (0..SLOTS as u64)
            .map(|ahead| self.next_tick + ahead)
            .find(|&tick| !self.slots[slot_of(tick)].is_empty())
            .map(|tick| self.instant_of(tick))
    }

    /// Takes out every key whose deadline has been reached.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<K> {
        let mut out = Vec::new();
        let reached = now.as_nanos() / self.tick_nanos();
        if reached < self.next_tick {
            return out;
        }
        // After a long pause one full turn visits every slot; more would visit them again for nothing.
        let turns = (reached - self.next_tick + 1).min(SLOTS as u64);
        for ahead in 0..turns {
            let slot = &mut self.slots[slot_of(self.next_tick + ahead)];
            let mut at = 0;
            while at < slot.len() {
                if slot[at].0 <= reached {
                    out.push(slot.swap_remove(at).1);
                } else {
                    at += 1;
                }
            }
        }
        self.next_tick = reached + 1;
        self.armed -= out.len();
        out
    }

    fn tick_nanos(&self) -> u64 {
        u64::try_from(self.tick.as_nanos()).unwrap_or(u64::MAX)
    }

    fn tick_at_or_after(&self, deadline: Instant) -> u64 {
        deadline.as_nanos().div_ceil(self.tick_nanos())
    }

    fn instant_of(&self, tick: u64) -> Instant {
        Instant::from_nanos(tick.saturating_mul(self.tick_nanos()))
    }
}

fn slot_of(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).expect("a remainder of SLOTS is below SLOTS")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn empty_wheel_has_no_timeout() {
        let mut wheel = Wheel::<u8>::new(TICK);
        assert_eq!(wheel.next_timeout(), None);
        assert!(wheel.expired(at(1_000_000)).is_empty());
    }

    #[test]
    fn key_comes_out_once_and_never_early() {
        let mut wheel = Wheel::new(TICK);
        wheel.arm('a', at(250));
        assert!(wheel.expired(at(249)).is_empty());
        assert_eq!(wheel.next_timeout(), Some(at(300)));
        assert_eq!(wheel.expired(at(300)), vec!['a']);
        assert!(wheel.expired(at(10_000)).is_empty());
        assert_eq!(wheel.armed, 0);
    }

    #[test]
    fn deadline_beyond_one_turn_waits_for_its_round() {
        let mut wheel = Wheel::new(TICK);
        let far = 100 * SLOTS as u64 * 3;
        wheel.arm('z', at(far));
        for step in 1..far / 100 {
            assert!(
                wheel.expired(at(step * 100)).is_empty(),
                "early at step {step}"
            );
        }
        assert_eq!(wheel.expired(at(far)), vec!['z']);
    }

    #[test]
    fn long_pause_loses_nothing() {
        let mut wheel = Wheel::new(TICK);
        for key in 0..1_000u64 {
            wheel.arm(key, at(key * 70));
        }
        let mut out = wheel.expired(at(1_000 * 70));
        out.sort_unstable();
        assert_eq!(out, (0..1_000).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_list(
            deadlines in proptest::collection::vec(0u64..100_000, 0..200),
            steps in proptest::collection::vec(1u64..20_000, 1..40),
        ) {
            let mut wheel = Wheel::new(TICK);
            for (key, deadline) in deadlines.iter().enumerate() {
                wheel.arm(key, at(*deadline));
            }
            let mut left: Vec<(usize, u64)> = deadlines.iter().copied().enumerate().collect();
            let mut now = 0;
            for step in steps {
                now += step;
                let mut got = wheel.expired(at(now));
                got.sort_unstable();
                let reached = now / 100 * 100;
                let want: Vec<usize> = left.iter().filter(|(_, d)| d.div_ceil(100) * 100 <= reached).map(|(k, _)| *k).collect();
                left.retain(|(_, d)| d.div_ceil(100) * 100 > reached);
                prop_assert_eq!(got, want);
                prop_assert_eq!(wheel.armed, left.len());
            }
        }
    }
}
