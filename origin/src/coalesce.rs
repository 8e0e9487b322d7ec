//! One piece of work for each key, however many ask for it. Sans-IO.
//!
//! For: blobs (I7: one upstream fetch for each digest and owning origin), manifests and tags. Not for: doing the work,
//! or waiting; a waiter is whatever the caller gives, and comes back with the answer it is to be told.
//!
//! Invariants: between [`Turn::Lead`] and the matching [`Coalesce::opened`] or [`Coalesce::failed`] nobody else is
//! told to lead the same key; every waiter comes back exactly once; a failure is shared by all that waited for it and
//! by those that come within its hold, and by nobody later. Time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_proto::Instant;

/// Bounds of one coalescer.
#[derive(Clone, Copy, Debug)]
pub struct CoalesceLimits {
    /// Keys being worked on, known or refused, in all.
    pub keys_max: usize,
    /// Waiters for one key.
    pub waiters_max: usize,
}

/// What one that asks is to do.
#[derive(Debug, Eq, PartialEq)]
pub enum Turn<W, V, F> {
    /// Do the work, and report it. The waiter waits like all others.
    Lead,
    /// Somebody does it: the waiter has been kept.
    Wait,
    /// It is under way and this much is known; the waiter is handed back.
    Known(W, V),
    /// It failed a moment ago; the waiter is handed back.
    Refused(W, F),
    /// A limit is reached; the waiter is handed back.
    Full(W),
}

#[derive(Debug)]
enum Entry<W, V, F> {
    Opening(Vec<W>),
    Running(V),
    Failed(F, Instant),
}

/// Who works on what, and who waits for it.
#[derive(Debug)]
pub struct Coalesce<K, W, V, F> {
    limits: CoalesceLimits,
    entries: BTreeMap<K, Entry<W, V, F>>,
}

impl<K: Clone + Ord, W, V: Clone, F: Clone> Coalesce<K, W, V, F> {
    /// Nobody works on anything.
    #[must_use]
    pub fn new(limits: CoalesceLimits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
        }
    }

    /// Somebody wants `key`.
    pub fn ask(&mut self, key: &K, waiter: W, now: Instant) -> Turn<W, V, F> {
        match self.entries.get_mut(key) {
            Some(Entry::Running(value)) => return Turn::Known(waiter, value.clone()),
            Some(Entry::Failed(failure, until)) if now < *until => {
                return Turn::Refused(waiter, failure.clone());
            }
            Some(Entry::Opening(waiters)) => {
                if waiters.len() >= self.limits.waiters_max {
                    return Turn::Full(waiter);
                }
                waiters.push(waiter);
                return Turn::Wait;
            }
            Some(Entry::Failed(..)) | None => {}
        }
        if self.entries.len() >= self.limits.keys_max {
            self.forget_stale(now);
            if self.entries.len() >= self.limits.keys_max && !self.entries.contains_key(key) {
                return Turn::Full(waiter);
            }
        }
        self.entries
            .insert(key.clone(), Entry::Opening(vec![waiter]));
        Turn::Lead
    }

    /// The work has come far enough to answer: all that wait are to be told `value`, and later ones are as well until
    /// [`Coalesce::finished`].
    pub fn opened(&mut self, key: &K, value: V) -> Vec<W> {
        match self.entries.insert(key.clone(), Entry::Running(value)) {
            Some(Entry::Opening(waiters)) => waiters,
            Some(Entry::Running(_) | Entry::Failed(..)) | None => Vec::new(),
        }
    }

    /// The work is done: the next that asks leads again.
    pub fn finished(&mut self, key: &K) -> Vec<W> {
        match self.entries.remove(key) {
            Some(Entry::Opening(waiters)) => waiters,
            Some(Entry::Running(_) | Entry::Failed(..)) | None => Vec::new(),
        }
    }

    /// The work failed: all that wait are to be told, and whoever asks within `hold`.
    pub fn failed(&mut self, key: &K, failure: F, hold: Duration, now: Instant) -> Vec<W> {
        let waiters = self.finished(key);
        if !hold.is_zero() {
            self.entries
                .insert(key.clone(), Entry::Failed(failure, now + hold));
        }
        waiters
    }

    /// Work that was answered before has failed since: whoever asks within `hold` is told so, unless somebody works on
    /// it again or a limit is reached.
    pub fn refuse(&mut self, key: &K, failure: F, hold: Duration, now: Instant) {
        let busy = matches!(
            self.entries.get(key),
            Some(Entry::Opening(_) | Entry::Running(_))
        );
        let full = self.entries.len() >= self.limits.keys_max && !self.entries.contains_key(key);
        if !busy && !full && !hold.is_zero() {
            self.entries
                .insert(key.clone(), Entry::Failed(failure, now + hold));
        }
    }

    /// Keys being worked on.
    #[must_use]
    pub fn running(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| !matches!(entry, Entry::Failed(..)))
            .count()
    }

    /// Waiters over all keys.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.entries
            .values()
            .map(|entry| {
                if let Entry::Opening(waiters) = entry {
                    waiters.len()
                } else {
                    0
                }
            })
            .sum()
    }

    fn forget_stale(&mut self, now: Instant) {
        self.entries
            .retain(|_, entry| !matches!(entry, Entry::Failed(_, until) if *until <= now));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: CoalesceLimits = CoalesceLimits {
        keys_max: 8,
        waiters_max: 100,
    };
    const HOLD: Duration = Duration::from_secs(10);

    type Subject = Coalesce<u8, u32, &'static str, &'static str>;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn first_asker_leads_and_the_rest_wait() {
        let mut subject = Subject::new(LIMITS);
        assert_eq!(subject.ask(&1, 100, at(0)), Turn::Lead);
        for waiter in 101..150 {
            assert_eq!(subject.ask(&1, waiter, at(0)), Turn::Wait);
        }
        assert_eq!(subject.opened(&1, "shape"), (100..150).collect::<Vec<_>>());
        assert_eq!(subject.ask(&1, 150, at(1)), Turn::Known(150, "shape"));
        assert!(subject.finished(&1).is_empty());
        assert_eq!(subject.ask(&1, 151, at(2)), Turn::Lead);
    }

    #[test]
    fn failure_is_shared_by_those_who_waited_and_held_for_a_while() {
        let mut subject = Subject::new(LIMITS);
        subject.ask(&1, 100, at(0));
        subject.ask(&1, 101, at(0));
        assert_eq!(
            subject.failed(&1, "no such blob", HOLD, at(5)),
            vec![100, 101]
        );
        assert_eq!(
            subject.ask(&1, 102, at(14)),
            Turn::Refused(102, "no such blob")
        );
        assert_eq!(subject.ask(&1, 103, at(15)), Turn::Lead);
    }

    #[test]
    fn failure_without_hold_is_not_remembered() {
        let mut subject = Subject::new(LIMITS);
        subject.ask(&1, 100, at(0));
        subject.failed(&1, "cut", Duration::ZERO, at(0));
        assert_eq!(subject.ask(&1, 101, at(0)), Turn::Lead);
    }

    #[test]
    fn late_failure_is_held_and_disturbs_nobody() {
        let mut subject = Subject::new(LIMITS);
        subject.refuse(&1, "wrong", HOLD, at(0));
        assert_eq!(subject.ask(&1, 100, at(9)), Turn::Refused(100, "wrong"));
        assert_eq!(subject.ask(&1, 101, at(10)), Turn::Lead);
        subject.refuse(&1, "wrong", HOLD, at(10));
        assert_eq!(subject.ask(&1, 102, at(10)), Turn::Wait);
        assert_eq!(subject.opened(&1, "shape"), vec![101, 102]);
        subject.refuse(&1, "wrong", HOLD, at(10));
        assert_eq!(subject.ask(&1, 103, at(10)), Turn::Known(103, "shape"));
    }

    #[test]
    fn limits_refuse_and_do_not_grow() {
        let mut subject = Subject::new(CoalesceLimits {
            keys_max: 2,
            waiters_max: 2,
        });
        assert_eq!(subject.ask(&1, 1, at(0)), Turn::Lead);
        assert_eq!(subject.ask(&1, 2, at(0)), Turn::Wait);
        assert_eq!(subject.ask(&1, 3, at(0)), Turn::Full(3));
        assert_eq!(subject.ask(&2, 4, at(0)), Turn::Lead);
        assert_eq!(subject.ask(&3, 5, at(0)), Turn::Full(5));
        subject.failed(&2, "gone", HOLD, at(0));
        subject.refuse(&3, "gone", HOLD, at(0));
        assert_eq!(subject.ask(&3, 6, at(9)), Turn::Full(6));
        assert_eq!(
            subject.ask(&3, 7, at(10)),
            Turn::Lead,
            "what is stale makes room"
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(u8),
        Opened(u8),
        Finished(u8),
        Failed(u8),
        Pass(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..4).prop_map(Step::Ask),
            1 => (0u8..4).prop_map(Step::Opened),
            1 => (0u8..4).prop_map(Step::Finished),
            1 => (0u8..4).prop_map(Step::Failed),
            1 => (0u8..20).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn one_leads_at_a_time_and_every_waiter_comes_back_once(steps in proptest::collection::vec(step(), 1..200)) {
            let mut subject = Subject::new(LIMITS);
            let (mut now, mut next) = (0, 0u32);
            let mut out = std::collections::BTreeSet::new();
            let mut led = [false; 4];
            for step in steps {
                let back = match step {
                    Step::Ask(key) => {
                        next += 1;
                        match subject.ask(&key, next, at(now)) {
                            Turn::Lead => {
                                prop_assert!(!led[usize::from(key)], "two lead one key");
                                led[usize::from(key)] = true;
                                vec![]
                            }
                            Turn::Wait => {
                                prop_assert!(led[usize::from(key)], "waits for nobody");
                                vec![]
                            }
                            Turn::Known(waiter, _) | Turn::Refused(waiter, _) | Turn::Full(waiter) => vec![waiter],
                        }
                    }
                    // Only a leader reports.
                    Step::Opened(key) if led[usize::from(key)] => subject.opened(&key, "shape"),
                    Step::Finished(key) if led[usize::from(key)] => {
                        led[usize::from(key)] = false;
                        subject.finished(&key)
                    }
                    Step::Failed(key) if led[usize::from(key)] => {
                        led[usize::from(key)] = false;
                        subject.failed(&key, "no", HOLD, at(now))
                    }
                    Step::Pass(seconds) => {
                        now += u64::from(seconds);
                        vec![]
                    }
                    Step::Opened(_) | Step::Finished(_) | Step::Failed(_) => vec![],
                };
                for waiter in back {
                    prop_assert!(out.insert(waiter), "waiter {waiter} came back twice");
                }
            }
            for key in 0..4u8 {
                for waiter in subject.finished(&key) {
                    prop_assert!(out.insert(waiter));
                }
            }
            prop_assert_eq!(out.len(), next as usize);
        }
    }
}
