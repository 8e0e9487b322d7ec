//! What the core wants the tracker to know and the tracker was not told yet.
//!
//! Of one swarm, only the latest change counts, so that the queue is bounded by the number of swarms and the driver
//! never waits. A full announce replaces what was queued before it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_proto::limits::SWARMS_PER_ANNOUNCE_MAX;
use shoal_proto::{Digest, SwarmChange};
use tokio::sync::Notify;

/// Changes on their way to the tracker.
#[derive(Debug, Default)]
pub(crate) struct AnnounceQueue {
    /// Never held across an await.
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    swarms: BTreeMap<Digest, SwarmChange>,
    full: bool,
}

/// As much as one announce carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) swarms: Vec<SwarmChange>,
    /// The first batch of a full announce; those that follow add to it.
    pub(super) full: bool,
}

impl AnnounceQueue {
    pub(crate) fn push(&self, swarms: Vec<SwarmChange>, full: bool) {
        {
            let mut waiting = self.lock();
            if full {
                waiting.swarms.clear();
                waiting.full = true;
            }
            for mut change in swarms {
                let before = waiting.swarms.get(&change.digest);
                // A wish for peers stands until it was told.
                change.wants_peers |= before.is_some_and(|before| before.wants_peers);
                waiting.swarms.insert(change.digest, change);
            }
        }
        self.bell.notify_one();
    }

    /// Waits until there is something to tell. Cancel safe.
    pub(super) async fn wait(&self) {
        loop {
            if !self.is_empty() {
                return;
            }
            self.bell.notified().await;
        }
    }

    /// Waits until a blob wants peers. Cancel safe.
    pub(super) async fn urgent(&self) {
        loop {
            if self.lock().swarms.values().any(|change| change.wants_peers) {
                return;
            }
            self.bell.notified().await;
        }
    }

    /// Takes what one announce carries; `None` when there is nothing to tell.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut waiting = self.lock();
        if waiting.swarms.is_empty() && !waiting.full {
            return None;
        }
        let full = std::mem::take(&mut waiting.full);
        let rest = match waiting.swarms.keys().nth(SWARMS_PER_ANNOUNCE_MAX).copied() {
            Some(next) => waiting.swarms.split_off(&next),
            None => BTreeMap::new(),
        };
        let batch = std::mem::replace(&mut waiting.swarms, rest);
        Some(Batch {
            swarms: batch.into_values().collect(),
            full,
        })
    }

    /// Forgets everything: the next tracker is told everything anew.
    pub(super) fn clear(&self) {
        *self.lock() = Waiting::default();
    }

    fn is_empty(&self) -> bool {
        let waiting = self.lock();
        waiting.swarms.is_empty() && !waiting.full
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::SwarmState;

    use super::*;

    fn change(number: u16, held: u32, wants_peers: bool) -> SwarmChange {
        let mut hash = [0; 32];
        hash[..2].copy_from_slice(&number.to_be_bytes());
        SwarmChange {
            digest: Digest::Sha256(hash),
            state: SwarmState::Leeching,
            held,
            wants_peers,
            info: None,
            stuck: Vec::new(),
        }
    }

    #[test]
    fn latest_change_of_a_swarm_counts_and_its_wish_for_peers_stands() {
        let queue = AnnounceQueue::default();
        queue.push(vec![change(1, 3, true)], false);
        queue.push(vec![change(1, 4, false), change(2, 0, false)], false);
        let batch = queue.take().unwrap();
        assert_eq!(batch.swarms, [change(1, 4, true), change(2, 0, false)]);
        assert!(!batch.full);
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn full_announce_replaces_what_waited_and_is_full_also_when_empty() {
        let queue = AnnounceQueue::default();
        queue.push(vec![change(1, 3, true)], false);
        queue.push(Vec::new(), true);
        let batch = queue.take().unwrap();
        assert!(batch.full && batch.swarms.is_empty(), "{batch:?}");
    }

    #[test]
    fn many_swarms_go_out_in_announces_of_bounded_size_of_which_only_the_first_is_full() {
        let queue = AnnounceQueue::default();
        let many = u16::try_from(SWARMS_PER_ANNOUNCE_MAX).unwrap() + 1;
        queue.push((0..many).map(|n| change(n, 0, false)).collect(), true);
        let first = queue.take().unwrap();
        let second = queue.take().unwrap();
        assert_eq!(
            (first.swarms.len(), first.full),
            (SWARMS_PER_ANNOUNCE_MAX, true)
        );
        assert_eq!((second.swarms.len(), second.full), (1, false));
        assert_eq!(queue.take(), None);
    }
}
