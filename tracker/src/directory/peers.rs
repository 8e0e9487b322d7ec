//! The peers the tracker knows, in a dense table, with what was measured of each.
//!
//! For: slots that are cheap to name and safe to reuse (a generation tells a slot's peers apart). Not for: which
//! swarm knows whom; the only thing kept of swarms is the set a peer takes part in, so that it can leave them all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use shoal_proto::{Digest, Instant, PeerId, Role, Zone, limits};

use super::Announcer;
use super::swarm::PeerSlot;

/// Weight of the cost of one neighbour, so that rates can scale it in whole numbers.
const COST_UNIT: u64 = 256;

#[derive(Debug)]
pub(crate) struct PeerEntry {
    pub(crate) id: PeerId,
    pub(crate) zone: Zone,
    pub(crate) role: Role,
    pub(crate) addr: SocketAddr,
    pub(crate) swarms: BTreeSet<Digest>,
    upload_bytes_per_sec: u64,
    uploads: u32,
    last_seen: Instant,
    generation: u64,
}

/// What came of seeing a peer.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The table is at its limit.
    Full,
    Known {
        slot: PeerSlot,
        moved: bool,
    },
    New {
        slot: PeerSlot,
        generation: u64,
    },
}

#[derive(Debug, Default)]
pub(crate) struct PeerTable {
    slots: Vec<Option<PeerEntry>>,
    free: Vec<PeerSlot>,
    by_id: BTreeMap<PeerId, PeerSlot>,
    generations: u64,
    /// Moving average of the rates told, 0 while none was.
    average_bytes_per_sec: u64,
}

impl PeerTable {
    pub(crate) fn see(&mut self, announcer: &Announcer, now: Instant) -> Seen {
        if let Some(&slot) = self.by_id.get(&announcer.peer) {
            let Some(entry) = self.slots[slot.0 as usize].as_mut() else {
                return Seen::Full;
            };
            let moved = entry.addr != announcer.addr;
            entry.addr = announcer.addr;
            entry.last_seen = now;
            return Seen::Known { slot, moved };
        }
        if self.by_id.len() >= limits::TRACKER_PEERS_MAX {
            return Seen::Full;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            PeerSlot(u32::try_from(self.slots.len() - 1).expect("TRACKER_PEERS_MAX is below 2^32"))
        });
        self.generations += 1;
        self.slots[slot.0 as usize] = Some(PeerEntry {
            id: announcer.peer,
            zone: announcer.zone.clone(),
            role: announcer.role,
            addr: announcer.addr,
            swarms: BTreeSet::new(),
            upload_bytes_per_sec: 0,
            uploads: 0,
            last_seen: now,
            generation: self.generations,
        });
        self.by_id.insert(announcer.peer, slot);
        Seen::New {
            slot,
            generation: self.generations,
        }
    }

    pub(crate) fn remove(&mut self, slot: PeerSlot) {
        if let Some(entry) = self.slots[slot.0 as usize].take() {
            self.by_id.remove(&entry.id);
            self.free.push(slot);
        }
    }

    pub(crate) fn slot_of(&self, peer: &PeerId) -> Option<PeerSlot> {
        self.by_id.get(peer).copied()
    }

    pub(crate) fn get(&self, slot: PeerSlot) -> Option<&PeerEntry> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PeerEntry> {
        self.slots.iter().flatten()
    }

    /// Whom a slot held at that generation, and when it was last seen; `None` when it is another peer's now.
    pub(crate) fn seen_at(&self, slot: PeerSlot, generation: u64) -> Option<(PeerId, Instant)> {
        self.get(slot)
            .filter(|entry| entry.generation == generation)
            .map(|entry| (entry.id, entry.last_seen))
    }

    pub(crate) fn swarms_of(&self, slot: PeerSlot) -> Vec<Digest> {
        self.get(slot)
            .map(|entry| entry.swarms.iter().copied().collect())
            .unwrap_or_default()
    }

    pub(crate) fn joined(&mut self, slot: PeerSlot, digest: Digest) {
        if let Some(entry) = self.slots[slot.0 as usize].as_mut() {
            entry.swarms.insert(digest);
        }
    }

    pub(crate) fn left(&mut self, slot: PeerSlot, digest: &Digest) {
        if let Some(entry) = self.slots[slot.0 as usize].as_mut() {
            entry.swarms.remove(digest);
        }
    }

    /// Takes in what a peer measured of itself.
    pub(crate) fn measured(&mut self, slot: PeerSlot, upload_bytes_per_sec: u64, uploads: u32) {
        if upload_bytes_per_sec > 0 {
            let average = self.average_bytes_per_sec;
            self.average_bytes_per_sec = match average {
                0 => upload_bytes_per_sec,
                _ => average - average / 32 + upload_bytes_per_sec / 32,
            };
        }
        if let Some(entry) = self.slots[slot.0 as usize].as_mut() {
            entry.upload_bytes_per_sec = upload_bytes_per_sec;
            entry.uploads = uploads.min(u32::try_from(limits::UPLOAD_SLOTS).unwrap_or(u32::MAX));
        }
    }

    /// What naming this peer once more costs: its neighbours and uploads, weighed by how much slower than the average
    /// it measured itself. A claim of great speed earns at most twice the neighbours.
    pub(crate) fn cost(&self, slot: PeerSlot, neighbours: usize) -> u64 {
        let Some(entry) = self.get(slot) else {
            return u64::MAX;
        };
        let slowness = match (self.average_bytes_per_sec, entry.upload_bytes_per_sec) {
            (0, _) | (_, 0) => COST_UNIT,
            (average, rate) => {
                (average.saturating_mul(COST_UNIT) / rate).clamp(COST_UNIT / 2, COST_UNIT * 8)
            }
        };
        (neighbours as u64 + 1 + u64::from(entry.uploads)) * slowness
    }
}
