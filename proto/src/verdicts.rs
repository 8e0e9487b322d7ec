//! Yeses that hold for a while: what an origin or an agent remembers of who may have what. Pure.
//!
//! Only yeses are kept: a no is asked for again, so that whoever is let in later is let in at once. Bounded; what was
//! said longest ago goes first, and is asked for again. Not here: who is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Instant;

/// Yeses by what they are about.
#[derive(Clone, Debug)]
pub struct Verdicts<K> {
    max: usize,
    by_key: BTreeMap<K, (Instant, u64)>,
    by_turn: BTreeMap<u64, K>,
    next_turn: u64,
}

impl<K: Clone + Ord> Verdicts<K> {
    /// None yet, and never more than `max`.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            by_key: BTreeMap::new(),
            by_turn: BTreeMap::new(),
            next_turn: 0,
        }
    }

    /// A yes that holds until then.
    pub fn allow(&mut self, key: K, until: Instant) {
        self.withdraw(&key);
        self.by_turn.insert(self.next_turn, key.clone());
        self.by_key.insert(key, (until, self.next_turn));
        self.next_turn += 1;
        while self.by_key.len() > self.max {
            let Some((_, oldest)) = self.by_turn.pop_first() else {
                return;
            };
            self.by_key.remove(&oldest);
        }
    }

    /// Not any more, whatever was said.
    pub fn withdraw(&mut self, key: &K) {
        if let Some((_, turn)) = self.by_key.remove(key) {
            self.by_turn.remove(&turn);
        }
    }

    /// For how long a yes still holds; `None`: it must be asked for.
    pub fn left(&self, key: &K, now: Instant) -> Option<Duration> {
        let (until, _) = self.by_key.get(key)?;
        (now < *until).then(|| until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_yes_ends_with_its_time_or_when_it_is_withdrawn() {
        let mut verdicts = Verdicts::new(8);
        assert_eq!(verdicts.left(&"a", at(0)), None);
        verdicts.allow("a", at(10));
        verdicts.allow("b", at(10));
        assert_eq!(verdicts.left(&"a", at(4)), Some(Duration::from_secs(6)));
        assert_eq!(verdicts.left(&"a", at(10)), None);
        verdicts.withdraw(&"b");
        assert_eq!(verdicts.left(&"b", at(4)), None);
        verdicts.allow("a", at(20));
        assert_eq!(verdicts.left(&"a", at(10)), Some(Duration::from_secs(10)));
    }

    #[test]
    fn over_the_limit_what_was_said_longest_ago_is_forgotten() {
        let mut verdicts = Verdicts::new(2);
        verdicts.allow(1, at(10));
        verdicts.allow(2, at(10));
        verdicts.allow(1, at(11)); // said again: now 2 is the oldest
        verdicts.allow(3, at(10));
        let known: Vec<i32> = (1..=3)
            .filter(|key| verdicts.left(key, at(0)).is_some())
            .collect();
        assert_eq!(known, [1, 3]);
        assert_eq!((verdicts.by_key.len(), verdicts.by_turn.len()), (2, 2));
    }
}
