//! What is to happen, in the order of virtual time; at one moment, in the order of planning.
//!
//! Not here: what the events mean. Invariant: the order depends on nothing but the calls, so that a run can be repeated.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use shoal_proto::Instant;

/// Events by time. The heap moves small keys; the events stay where they are.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    slots: Vec<Option<E>>,
    free: Vec<u32>,
    planned: u64,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            planned: 0,
        }
    }

    pub(super) fn push(&mut self, at: Instant, event: E) {
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(event);
            slot
        } else {
            self.slots.push(Some(event));
            u32::try_from(self.slots.len() - 1).expect("memory ends before 2^32 events wait")
        };
        self.planned += 1;
        self.heap.push(Reverse((at, self.planned, slot)));
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<E> {
        let Reverse((_, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.slots[slot as usize].take()
    }

    /// How many were ever planned.
    pub(super) fn planned(&self) -> u64 {
        self.planned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_order_of_planning() {
        let mut queue = Queue::new();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.push(Instant::from_nanos(at), event);
        }
        assert_eq!(queue.next_at(), Some(Instant::from_nanos(1)));
        let order: String = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, "abcd");
    }
}
