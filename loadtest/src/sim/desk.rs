//! The tracker's part: the shipped directory, the announces on their way to it, and what it answers.
//!
//! Announces are batched and spaced as the real tracker client does it. Not here: any decision about whom to name.

use std::time::Duration;

use shoal_proto::limits::{ANNOUNCE_GAP_MIN, ANNOUNCE_GAP_URGENT, TRACKER_BACKOFF_MIN};
use shoal_proto::wire::{Announce, Handout, SwarmAnnounce, SwarmState as WireState};
use shoal_proto::{Candidate, Input, Instant, SwarmChange, SwarmState};
use shoal_tracker::directory::{Announcer, Directory, DirectoryOptions};

use super::member;
use super::world::{Event, ORIGIN, World};

/// Bytes on the wire of an announce or a handout, and of one peer in it.
const TOLD_BYTES: usize = 250;
const NAMED_BYTES: usize = 60;

#[derive(Debug)]
pub(super) struct Desk {
    directory: Directory,
    up: bool,
    busy: Instant,
    timer: Option<Instant>,
    seed: u64,
    restarts: u64,
}

impl Desk {
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        Self {
            directory: directory(seed),
            up: true,
            busy: now,
            timer: None,
            seed,
            restarts: 0,
        }
    }
}

fn directory(seed: u64) -> Directory {
    Directory::new(DirectoryOptions {
        seed,
        ..DirectoryOptions::default()
    })
}

impl World {
    /// A node wants the tracker to know something.
    pub(super) fn announce(&mut self, at: u32, changes: Vec<SwarmChange>, full: bool) {
        let now = self.now;
        let waiting = &mut self.member(at).waiting;
        waiting.add(changes, full);
        let urgent = waiting.swarms.values().any(|change| change.wants_peers);
        let gap = if urgent {
            ANNOUNCE_GAP_URGENT
        } else {
            ANNOUNCE_GAP_MIN
        };
        let due = if waiting.seq == 0 {
            now
        } else {
            now.max(waiting.told_at + gap)
        };
        let member = self.member(at);
        if member.announce_at.is_none_or(|armed| due < armed) {
            member.announce_at = Some(due);
            self.events.push(due, Event::AnnounceDue(at));
        }
    }

    pub(super) fn announce_due(&mut self, at: u32) {
        let (now, up) = (self.now, self.desk.up);
        let member = self.member(at);
        if member.announce_at.is_none_or(|armed| armed > now) || member.crashed {
            return;
        }
        member.announce_at = None;
        let uploads = member.node.status().uploads;
        let waiting = &mut member.waiting;
        let changes = std::mem::take(&mut waiting.swarms);
        let full = std::mem::take(&mut waiting.full);
        if !up {
            return;
        }
        let rate = waiting.rate(now);
        waiting.told_at = now;
        waiting.seq += 1;
        let announce = Announce {
            seq: waiting.seq,
            full,
            swarms: changes.into_values().map(told).collect(),
            upload_bytes_per_sec: rate,
            uploads: u32::try_from(uploads).unwrap_or(u32::MAX),
            advertise: None,
        };
        let due = self.desk_turn(TOLD_BYTES);
        self.events
            .push(due, Event::Announced(at, Box::new(announce)));
    }

    /// When the tracker deals with a message that is said now.
    fn desk_turn(&mut self, bytes: usize) -> Instant {
        self.tally.tracker_messages += 1;
        self.tally.control_bytes += bytes as u64;
        let sent = self.now + self.scenario.rtt / 2;
        self.desk.busy = sent.max(self.desk.busy) + self.scenario.message_cost;
        self.desk.busy
    }

    pub(super) fn announced(&mut self, at: u32, announce: &Announce) {
        if !self.desk.up {
            return;
        }
        let announcer = self.announcer(at);
        let answer = self
            .desk
            .directory
            .handle_announce(&announcer, announce, self.now);
        for handout in answer.handouts {
            self.hand(at, handout);
        }
        self.settle_desk();
    }

    fn announcer(&self, at: u32) -> Announcer {
        let member = &self.members[at as usize];
        Announcer {
            peer: member.id,
            zone: member.zone_name.clone(),
            addr: member::address(at),
            role: member.role,
        }
    }

    /// A member is linked with the tracker.
    pub(super) fn desk_meets(&mut self, at: u32) {
        let announcer = self.announcer(at);
        self.desk.directory.handle_connected(&announcer, self.now);
        self.settle_desk();
    }

    pub(super) fn desk_loses(&mut self, at: u32) {
        self.desk.directory.peer_lost(member::name(at), self.now);
        self.settle_desk();
    }

    pub(super) fn desk_due(&mut self) {
        if self.desk.timer.is_some_and(|due| due <= self.now) {
            self.desk.timer = None;
            self.desk.directory.handle_timeout(self.now);
            self.settle_desk();
        }
    }

    fn settle_desk(&mut self) {
        while let Some((peer, handout)) = self.desk.directory.poll_push() {
            self.hand(member::number(&peer), handout);
        }
        if let Some(due) = self
            .desk
            .directory
            .next_timeout()
            .map(|due| due.max(self.now))
            && self.desk.timer.is_none_or(|armed| due < armed)
        {
            self.desk.timer = Some(due);
            self.events.push(due, Event::DeskDue);
        }
    }

    fn hand(&mut self, at: u32, handout: Handout) {
        let bytes = TOLD_BYTES + NAMED_BYTES * handout.peers.len();
        self.tally.tracker_messages += 1;
        let host = member::address(at).ip();
        let peers = handout.peers.into_iter().map(|peer| Candidate {
            peer: peer.peer,
            addr: peer.address.resolve(host),
            zone: peer.zone,
            role: peer.role,
            held: peer.held,
            seeding: peer.seeding,
        });
        let handed = Input::Handed {
            digest: handout.digest,
            info: handout.blob,
            peers: peers.collect(),
            injected: handout.injected,
        };
        // Said by the tracker, whose uplink is not the limit; the receiver has its turn to wait for.
        let due = self.arrival_of(at, at, bytes);
        self.events.push(due, Event::Input(at, Box::new(handed)));
    }

    pub(super) fn tracker_gone(&mut self) {
        self.desk.up = false;
        for at in 0..self.count() {
            self.member(at).waiting.swarms.clear();
            self.input(at, Input::TrackerDown);
        }
    }

    /// Another tracker, which knows nothing; everybody finds it in its own time.
    pub(super) fn tracker_back(&mut self) {
        self.desk.restarts += 1;
        self.desk.directory = directory(self.desk.seed.wrapping_add(self.desk.restarts));
        self.desk.up = true;
        self.desk.timer = None;
        self.desk_meets(ORIGIN);
        let mut rng = fastrand::Rng::with_seed(self.desk.seed ^ self.desk.restarts);
        for at in 0..self.count() {
            let after = TRACKER_BACKOFF_MIN.mul_f64(4.0 * rng.f64()) + Duration::from_millis(1);
            let up = Box::new(Input::TrackerUp);
            self.events.push(self.now + after, Event::Input(at, up));
        }
    }
}

fn told(change: SwarmChange) -> SwarmAnnounce {
    SwarmAnnounce {
        digest: change.digest,
        state: match change.state {
            SwarmState::Leeching => WireState::Leeching,
            SwarmState::Left => WireState::Left,
            SwarmState::Seeding => WireState::Seeding,
        },
        held: change.held,
        wants_peers: change.wants_peers,
        blob: change.info,
        stuck: change.stuck,
    }
}
