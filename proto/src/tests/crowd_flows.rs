//! Bytes between the nodes of a [`Crowd`](super::crowd::Crowd): each uplink and each downlink is shared equally by what passes through it. Of the pieces
//! between one pair the first moves and the others wait behind it, as they do on a link.
//!
//! Not here: a true max-min share; what a sender cannot use because its receivers are slow stays unused.

use std::time::Duration;

use crate::{Instant, RequestId, TransferId};

/// A piece on its way.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) request: RequestId,
    pub(super) transfer: TransferId,
    pub(super) bytes: f64,
    pub(super) left: f64,
    rate: f64,
    /// None of its pair is before it.
    moves: bool,
}

/// What one node can send and take, bytes per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) up: f64,
    pub(super) down: f64,
}

/// All pieces on their way.
#[derive(Debug, Default)]
pub(super) struct Flows {
    flows: Vec<Flow>,
    at: Instant,
}

impl Flows {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter()
    }

    /// Lets the bytes move up to `now`.
    pub(super) fn advance(&mut self, now: Instant) {
        let secs = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        for flow in &mut self.flows {
            flow.left = (flow.left - flow.rate * secs).max(0.0);
        }
    }

    pub(super) fn start(
        &mut self,
        ends: (usize, usize),
        request: RequestId,
        transfer: TransferId,
        bytes: u64,
    ) {
        let bytes = bytes as f64;
        self.flows.push(Flow {
            from: ends.0,
            to: ends.1,
            request,
            transfer,
            bytes,
            left: bytes,
            rate: 0.0,
            moves: false,
        });
    }

    /// Takes out what matches; in the order of starting.
    pub(super) fn take(&mut self, which: impl Fn(&Flow) -> bool) -> Vec<Flow> {
        let (out, keep) = std::mem::take(&mut self.flows).into_iter().partition(which);
        self.flows = keep;
        out
    }

    /// Shares the links anew.
    pub(super) fn share(&mut self, links: &[Link]) {
        let mut up = vec![0u32; links.len()];
        let mut down = vec![0u32; links.len()];
        let mut pairs = std::collections::BTreeSet::new();
        for flow in &mut self.flows {
            flow.moves = pairs.insert((flow.from, flow.to));
            up[flow.from] += u32::from(flow.moves);
            down[flow.to] += u32::from(flow.moves);
        }
        for flow in &mut self.flows {
            if !flow.moves {
                flow.rate = 0.0;
                continue;
            }
            let sending = links[flow.from].up / f64::from(up[flow.from]);
            let taking = links[flow.to].down / f64::from(down[flow.to]);
            flow.rate = sending.min(taking);
        }
    }

    /// When the first of them is complete.
    pub(super) fn next_done(&self) -> Option<Instant> {
        self.flows
            .iter()
            .filter(|flow| flow.rate > 0.0)
            .map(|flow| {
                self.at + Duration::from_secs_f64(flow.left / flow.rate) + Duration::from_nanos(1)
            })
            .min()
    }
}
