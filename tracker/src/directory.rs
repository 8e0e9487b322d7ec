//! The tracker's memory and its decisions: who takes part in which swarm, and whom to name to whom. Sans-IO.
//!
//! For: the server and the simulator alike; every input carries its time, randomness comes from a seed, and the same
//! inputs give the same handouts. Not for: connections, signatures (the server has checked them), or anything that
//! must survive a restart: all of it is soft, and is known again within one announce interval.
//!
//! Order of calls: [`Directory::handle_announce`], [`Directory::peer_lost`] and [`Directory::handle_timeout`] as
//! things happen; after each, [`Directory::poll_push`] until `None`. [`Directory::next_timeout`] says when to come
//! back. Every table has a limit in `shoal_proto::limits`; what does not fit is refused and counted, and grows nothing.

mod naming;
mod options;
pub(crate) mod peers;
pub(crate) mod swarm;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use shoal_proto::wire::{Announce, Handout, SwarmAnnounce, SwarmState};
use shoal_proto::{BlobInfo, Digest, Instant, PeerId, Role, Zone, limits};

pub use self::naming::told_address;
pub use self::options::{Announced, Announcer, DirectoryOptions, DirectorySizes, SwarmView};
use self::peers::{PeerTable, Seen};
use self::swarm::{Part, PeerSlot, Swarm};
use crate::expiry::Wheel;

/// Resolution of expiries.
const TICK: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
enum Expiry {
    Peer(PeerSlot, u64),
    Swarm(Digest),
}

/// Knows who holds what, softly.
#[derive(Debug)]
pub struct Directory {
    options: DirectoryOptions,
    rng: Rng,
    peers: PeerTable,
    swarms: BTreeMap<Digest, Swarm>,
    origins: BTreeMap<PeerId, PeerSlot>,
    members: usize,
    expiries: Wheel<Expiry>,
    pushes: VecDeque<(PeerId, Handout)>,
}

impl Directory {
    /// An empty directory.
    #[must_use]
    pub fn new(options: DirectoryOptions) -> Self {
        Self {
            rng: Rng::with_seed(options.seed),
            options,
            peers: PeerTable::default(),
            swarms: BTreeMap::new(),
            origins: BTreeMap::new(),
            members: 0,
            expiries: Wheel::new(TICK),
            pushes: VecDeque::new(),
        }
    }

    /// A peer has connected, and has not announced anything yet: enough to know an origin as live.
    pub fn handle_connected(&mut self, announcer: &Announcer, now: Instant) -> Announced {
        let mut out = Announced::default();
        if self.see(announcer, &mut out, now).is_none() {
            out.refused = 1;
        }
        out
    }

    /// Takes an announce in, and answers what it asked for. Blob shapes from agents are believed only when an origin
    /// that is live here signed them; the caller has checked the signature.
    pub fn handle_announce(
        &mut self,
        announcer: &Announcer,
        announce: &Announce,
        now: Instant,
    ) -> Announced {
        let mut out = Announced::default();
        let advertised = announce
            .advertise
            .as_ref()
            .filter(|_| announcer.role == Role::Origin);
        let told = match advertised
            .and_then(|address| address.ip.map(|ip| SocketAddr::new(ip, address.port)))
        {
            Some(addr) => Announcer {
                addr,
                ..announcer.clone()
            },
            None => announcer.clone(),
        };
        let Some(slot) = self.see(&told, &mut out, now) else {
            out.refused = u32::try_from(announce.swarms.len())
                .unwrap_or(u32::MAX)
                .max(1);
            return out;
        };
        self.peers
            .measured(slot, announce.upload_bytes_per_sec, announce.uploads);
        if announce.full {
            self.leave_all_but(slot, &announce.swarms, now);
        }
        for change in announce.swarms.iter().take(limits::SWARMS_PER_ANNOUNCE_MAX) {
            self.apply(slot, change, announce.full, &mut out, now);
        }
        out
    }

    /// The connection of a peer is gone, or the peer is: it is named to nobody any more.
    /// True when the set of live origins changed by it.
    pub fn peer_lost(&mut self, peer: PeerId, now: Instant) -> bool {
        let Some(slot) = self.peers.slot_of(&peer) else {
            return false;
        };
        for digest in self.peers.swarms_of(slot) {
            self.leave(slot, digest, now);
        }
        self.peers.remove(slot);
        self.origins.remove(&peer).is_some()
    }

    /// When [`Directory::handle_timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.expiries.next_timeout()
    }

    /// Drops what has expired. True when the set of live origins changed by it.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let mut origins_changed = false;
        for expiry in self.expiries.expired(now) {
            match expiry {
                Expiry::Peer(slot, generation) => {
                    let Some((peer, last_seen)) = self.peers.seen_at(slot, generation) else {
                        continue;
                    };
                    let deadline = last_seen + self.options.peer_expiry;
                    if deadline <= now {
                        origins_changed |= self.peer_lost(peer, now);
                    } else {
                        self.expiries.arm(expiry, deadline);
                    }
                }
                Expiry::Swarm(digest) => self.expire_swarm(digest, now),
            }
        }
        origins_changed
    }

    /// A handout that nobody asked for, and to whom it goes. At most `limits::PUSHES_WAITING_MAX` wait; what is over
    /// is dropped, since the peer asks again by itself.
    pub fn poll_push(&mut self) -> Option<(PeerId, Handout)> {
        self.pushes.pop_front()
    }

    /// The live origins, and where each is reached.
    pub fn origins(&self) -> impl Iterator<Item = (PeerId, SocketAddr)> + '_ {
        self.origins
            .iter()
            .filter_map(|(peer, slot)| self.peers.get(*slot).map(|entry| (*peer, entry.addr)))
    }

    /// The shape of a blob, when some announcer told it.
    #[must_use]
    pub fn info(&self, digest: &Digest) -> Option<&BlobInfo> {
        self.swarms
            .get(digest)
            .and_then(|swarm| swarm.info.as_ref())
    }

    /// How much is known.
    #[must_use]
    pub fn sizes(&self) -> DirectorySizes {
        DirectorySizes {
            swarms: self.swarms.len(),
            peers: self.peers.len(),
            members: self.members,
        }
    }

    /// Every swarm, by digest.
    pub fn swarms(&self) -> impl Iterator<Item = SwarmView> + '_ {
        self.swarms.iter().map(|(digest, swarm)| SwarmView {
            digest: *digest,
            blob_bytes: swarm.info.as_ref().map(|info| info.geometry.blob_bytes()),
            agents: swarm.agents(),
            seeding: swarm.seeding(),
        })
    }

    /// Every peer: name, role, zone, address, swarms.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, Role, &Zone, SocketAddr, usize)> + '_ {
        self.peers.iter().map(|entry| {
            (
                entry.id,
                entry.role,
                &entry.zone,
                entry.addr,
                entry.swarms.len(),
            )
        })
    }

    fn see(
        &mut self,
        announcer: &Announcer,
        out: &mut Announced,
        now: Instant,
    ) -> Option<PeerSlot> {
        let known = self
            .peers
            .slot_of(&announcer.peer)
            .and_then(|slot| self.peers.get(slot));
        if known.is_some_and(|known| known.zone != announcer.zone || known.role != announcer.role) {
            // It was let in anew as another: what was said of it before does not hold.
            out.origins_changed |= self.peer_lost(announcer.peer, now);
        }
        let slot = match self.peers.see(announcer, now) {
            Seen::Full => return None,
            Seen::New { slot, generation } => {
                self.expiries.arm(
                    Expiry::Peer(slot, generation),
                    now + self.options.peer_expiry,
                );
                out.origins_changed |= announcer.role == Role::Origin;
                slot
            }
            Seen::Known { slot, moved } => {
                out.origins_changed |= moved && announcer.role == Role::Origin;
                slot
            }
        };
        if announcer.role == Role::Origin {
            self.origins.insert(announcer.peer, slot);
        }
        Some(slot)
    }

    fn leave_all_but(&mut self, slot: PeerSlot, kept: &[SwarmAnnounce], now: Instant) {
        let kept: std::collections::BTreeSet<Digest> =
            kept.iter().map(|change| change.digest).collect();
        for digest in self.peers.swarms_of(slot) {
            if !kept.contains(&digest) {
                self.leave(slot, digest, now);
            }
        }
    }

    fn apply(
        &mut self,
        slot: PeerSlot,
        change: &SwarmAnnounce,
        full: bool,
        out: &mut Announced,
        now: Instant,
    ) {
        let part = match change.state {
            SwarmState::Leeching => Part::Leeching,
            SwarmState::Seeding => Part::Seeding,
            SwarmState::Left => return self.leave(slot, change.digest, now),
        };
        let Some(joined) = self.join(slot, change, part) else {
            out.refused += 1;
            return;
        };
        let Some(swarm) = self.swarms.get_mut(&change.digest) else {
            return;
        };
        if full && change.wants_peers {
            // A full announce that wants peers is a fresh start: what it was told before may be lost with it.
            swarm.forget_edges(slot);
        }
        let stuck: Vec<PeerSlot> = change
            .stuck
            .iter()
            .filter_map(|peer| self.peers.slot_of(peer))
            .collect();
        for other in &stuck {
            swarm.unlink(slot, *other);
        }
        if change.wants_peers {
            out.handouts
                .extend(self.handout(slot, change.digest, &stuck));
        } else if joined && part == Part::Seeding {
            self.push_newcomer(slot, change.digest);
        }
    }

    /// `None` when a limit keeps it out; otherwise whether the peer is new in the swarm.
    fn join(&mut self, slot: PeerSlot, change: &SwarmAnnounce, part: Part) -> Option<bool> {
        let entry = self.peers.get(slot)?;
        let known = entry.swarms.contains(&change.digest);
        let full = self.members >= limits::TRACKER_MEMBERS_MAX
            || entry.swarms.len() >= limits::SWARMS_PER_PEER_MAX
            || (self.swarms.len() >= limits::TRACKER_SWARMS_MAX
                && !self.swarms.contains_key(&change.digest));
        if full && !known {
            return None;
        }
        let (role, zone) = (entry.role, entry.zone.clone());
        let swarm = self.swarms.entry(change.digest).or_default();
        if let Some(told) = &change.blob
            && told.digest == change.digest
            && (role == Role::Origin || self.origins.contains_key(&told.origin))
            && swarm.info.as_ref().is_none_or(|info| {
                info.origin != told.origin && !self.origins.contains_key(&info.origin)
            })
        {
            swarm.info = Some(*told);
        }
        let joined = swarm.join(slot, role, &zone, part, change.held);
        if joined {
            self.members += 1;
            self.peers.joined(slot, change.digest);
        }
        Some(joined)
    }

    fn leave(&mut self, slot: PeerSlot, digest: Digest, now: Instant) {
        let Some(swarm) = self.swarms.get_mut(&digest) else {
            return;
        };
        let Some(neighbours) = swarm.leave(slot, now) else {
            return;
        };
        self.members -= 1;
        self.peers.left(slot, &digest);
        if swarm.is_empty() {
            if swarm.info.is_none() {
                self.swarms.remove(&digest);
            } else if !swarm.expiry_armed {
                swarm.expiry_armed = true;
                self.expiries
                    .arm(Expiry::Swarm(digest), now + self.options.blob_memory);
            }
            return;
        }
        for neighbour in neighbours {
            self.push_replacement(neighbour, digest);
        }
    }

    fn expire_swarm(&mut self, digest: Digest, now: Instant) {
        let Some(swarm) = self.swarms.get_mut(&digest) else {
            return;
        };
        match swarm.empty_since {
            None => swarm.expiry_armed = false,
            Some(since) if since + self.options.blob_memory <= now => {
                self.swarms.remove(&digest);
            }
            Some(since) => self
                .expiries
                .arm(Expiry::Swarm(digest), since + self.options.blob_memory),
        }
    }
}
