//! One simulated process: its node, and what the driver around a node would remember.
//!
//! Not here: what happens to it (`happen`), what it does (`act`).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use shoal_proto::{
    Digest, FailReason, Instant, Node, PeerId, PieceIndex, Role, SwarmChange, TransferId, Zone,
};

use super::flows::{FlowId, LinkIx};
use super::scenario::Nature;

/// A fetch that the node waits for.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) transfer: TransferId,
    pub(super) from: u32,
    pub(super) flow: Option<FlowId>,
    /// When its source was last heard of.
    pub(super) heard: Instant,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) node: Node,
    pub(super) id: PeerId,
    pub(super) role: Role,
    pub(super) zone: usize,
    pub(super) zone_name: Zone,
    pub(super) nature: Nature,
    pub(super) crashed: bool,
    pub(super) up: LinkIx,
    pub(super) down: LinkIx,
    pub(super) bytes_per_sec: f64,
    pub(super) fetches: Vec<Fetch>,
    /// Pieces held, and the first one that is not.
    pub(super) held: Vec<bool>,
    pub(super) held_count: u32,
    pub(super) cursor: u32,
    pub(super) wanted_at: Option<Instant>,
    pub(super) first_byte: Option<Instant>,
    pub(super) finished: Option<Instant>,
    pub(super) failed: Option<FailReason>,
    /// Until when it is busy with what it was told.
    pub(super) busy: Instant,
    /// When its node, its watchdog and its announces are looked at next.
    pub(super) timer: Option<Instant>,
    pub(super) watchdog: Option<Instant>,
    pub(super) announce_at: Option<Instant>,
    pub(super) waiting: Waiting,
}

/// What the tracker was not told yet; the latest word on each blob counts.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) swarms: BTreeMap<Digest, SwarmChange>,
    pub(super) full: bool,
    pub(super) told_at: Instant,
    pub(super) seq: u64,
    pub(super) sent_bytes: f64,
    pub(super) told_bytes: f64,
}

impl Waiting {
    pub(super) fn add(&mut self, changes: Vec<SwarmChange>, full: bool) {
        if full {
            self.swarms.clear();
            self.full = true;
        }
        for mut change in changes {
            let before = self.swarms.get(&change.digest);
            change.wants_peers |= before.is_some_and(|before| before.wants_peers);
            self.swarms.insert(change.digest, change);
        }
    }

    /// What it sends, bytes per second, since it was last asked.
    pub(super) fn rate(&mut self, now: Instant) -> u64 {
        let span = now.saturating_duration_since(self.told_at);
        let bytes = self.sent_bytes - self.told_bytes;
        self.told_bytes = self.sent_bytes;
        let per_sec = bytes / span.max(Duration::from_millis(1)).as_secs_f64();
        Duration::try_from_secs_f64(per_sec).map_or(0, |whole| whole.as_secs())
    }
}

impl Member {
    pub(super) fn hold(&mut self, piece: PieceIndex) {
        let news = !std::mem::replace(&mut self.held[piece.index()], true);
        self.held_count += u32::from(news);
        while self.held.get(self.cursor as usize) == Some(&true) {
            self.cursor += 1;
        }
    }

    /// Whether it is expected to have the blob in the end.
    pub(super) fn must_finish(&self) -> bool {
        self.role == Role::Agent && !self.crashed && !self.nature.lies
    }
}

/// The name of member `at`. Its number stands in it, behind bytes that have nothing to do with it.
pub(super) fn name(at: u32) -> PeerId {
    let mut key = [0; 32];
    let mut word = u64::from(at) + 1;
    for part in key.chunks_exact_mut(8) {
        word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word ^= word >> 31;
        part.copy_from_slice(&word.to_le_bytes());
    }
    key[28..].copy_from_slice(&at.to_le_bytes());
    PeerId::from_key(key)
}

pub(super) fn number(peer: &PeerId) -> u32 {
    let bytes = peer.as_bytes();
    u32::from_le_bytes([bytes[28], bytes[29], bytes[30], bytes[31]])
}

pub(super) fn address(at: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + at), 7050))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_has_its_own_name_and_is_found_by_it() {
        let names: std::collections::BTreeSet<PeerId> = (0..10_000).map(name).collect();
        assert_eq!(names.len(), 10_000);
        assert!((0..10_000).all(|at| number(&name(at)) == at));
    }
}
