//! Events of the simulated world: what reaches a node, and when something has gone wrong.
//!
//! Not here: what nodes do about it (`act`), the tracker's part (`desk`).

use std::time::Duration;

use shoal_proto::limits::{FETCH_STALLED_AFTER, UPLOAD_STALLED_AFTER};
use shoal_proto::wire::PeerMessage;
use shoal_proto::{FetchFailure, Input, PieceIndex, RequestId, Role, TransferId};

use super::flows::{Ended, Ends};
use super::member;
use super::scenario::{Fault, LINK_IDLE};
use super::world::{Epoch, Event, ORIGIN, Parcel, World};

/// From the last byte of a piece to the core's knowing of it: the rest of the hash and of the write.
const FINISH_TAKES: Duration = Duration::from_micros(100);
/// A link that is as good as cut, bytes per second.
const NOTHING: f64 = 1e-3;

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::AnnounceDue(at) => self.announce_due(at),
            Event::Announced(at, announce) => self.announced(at, &announce),
            Event::Answered(at, transfer, refusal) => {
                let failure = refusal.map_or(FetchFailure::Lost, |no| FetchFailure::Refused(*no));
                self.fetch_failed(at, transfer, failure);
            }
            Event::Asked {
                at,
                by,
                epoch,
                transfer,
                piece,
            } => self.asked(at, by, epoch, transfer, piece),
            Event::DeskDue => self.desk_due(),
            Event::Fault(fault) => self.fault(fault),
            Event::Had {
                at,
                from,
                epoch,
                indexes,
                held,
            } => {
                let digest = self.info.digest;
                let have = PeerMessage::Have {
                    digest,
                    indexes,
                    held,
                };
                self.said(at, from, epoch, have);
            }
            Event::Input(at, input) => {
                if let Input::PeerLost { peer } = &*input {
                    self.drop_fetches(at, member::number(peer), false);
                }
                self.input(at, *input);
            }
            Event::Linked(a, b, epoch) => self.linked(a, b, epoch),
            Event::Said {
                at,
                from,
                epoch,
                message,
            } => self.said(at, from, epoch, *message),
            Event::TimerDue(at) => self.timer_due(at),
            Event::Wants(at) => self.want(at),
            Event::WatchdogDue(at) => self.watchdog_due(at),
        }
    }

    fn said(&mut self, at: u32, from: u32, epoch: Epoch, message: PeerMessage) {
        if self.epoch(at, from) == Some(epoch) {
            let peer = member::name(from);
            self.input(at, Input::PeerSaid { peer, message });
        }
    }

    fn linked(&mut self, a: u32, b: u32, epoch: Epoch) {
        if self.epoch(a, b) != Some(epoch) {
            return;
        }
        for (at, other) in [(a, b), (b, a)] {
            let other = &self.members[other as usize];
            let connected = Input::Connected {
                peer: other.id,
                role: other.role,
                zone: other.zone_name.clone(),
                addr: member::address(member::number(&other.id)),
            };
            self.input(at, connected);
        }
    }

    fn asked(&mut self, at: u32, by: u32, epoch: Epoch, transfer: TransferId, piece: PieceIndex) {
        if self.epoch(at, by) != Some(epoch) || self.members[at as usize].crashed {
            return;
        }
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.requests.insert(request, (by, transfer));
        let asked = Input::Asked {
            request,
            peer: member::name(by),
            digest: self.info.digest,
            index: piece.get(),
        };
        self.input(at, asked);
    }

    fn timer_due(&mut self, at: u32) {
        let now = self.now;
        let member = self.member(at);
        if member.timer.is_none_or(|armed| armed > now) || member.crashed {
            return;
        }
        member.timer = None;
        member.node.handle_timeout(now);
        self.follow(at);
        self.catch_up();
    }

    /// What followed from a timer is handed in.
    fn catch_up(&mut self) {
        if let Some((at, input)) = self.backlog.pop_front() {
            self.input(at, input);
        }
    }

    /// A piece has left its sender entirely.
    pub(super) fn arrived(&mut self, ended: &Ended<Parcel>) {
        let (from, to) = ended.ends;
        let Parcel { request, transfer } = ended.tag;
        self.count_bytes(ended.ends, ended.moved);
        self.input(
            from,
            Input::Served {
                request,
                sent: true,
            },
        );
        let member = self.member(to);
        let place = member
            .fetches
            .iter()
            .position(|fetch| fetch.transfer == transfer);
        let Some(place) = place else { return };
        member.fetches.swap_remove(place);
        let input = if self.members[from as usize].nature.lies {
            self.tally.wasted_bytes += ended.moved;
            self.tally.lies += 1;
            let failure = FetchFailure::Corrupt;
            Input::FetchFailed { transfer, failure }
        } else {
            self.tally.delivered_bytes += ended.moved;
            Input::Fetched { transfer }
        };
        let due = self.now + self.scenario.rtt / 2 + FINISH_TAKES;
        self.events.push(due, Event::Input(to, Box::new(input)));
    }

    pub(super) fn count_bytes(&mut self, ends: Ends, moved: f64) {
        let (from, to) = (
            &self.members[ends.0 as usize],
            &self.members[ends.1 as usize],
        );
        let (crosses, into) = (from.zone != to.zone, to.zone);
        if crosses {
            self.tally.cross_zone_bytes += moved;
        }
        let zone = &mut self.tally.zone_bytes;
        zone.resize(self.scenario.zones, 0.0);
        if crosses || from.role == Role::Origin {
            zone[into] += moved;
        }
        if from.role == Role::Origin {
            self.tally.origin_bytes += moved;
        }
        self.member(ends.0).waiting.sent_bytes += moved;
    }

    fn fetch_failed(&mut self, at: u32, transfer: TransferId, failure: FetchFailure) {
        let member = self.member(at);
        let place = member
            .fetches
            .iter()
            .position(|fetch| fetch.transfer == transfer);
        let Some(place) = place else { return };
        if let Some(flow) = member.fetches.swap_remove(place).flow {
            self.break_off(flow, true);
        }
        self.input(at, Input::FetchFailed { transfer, failure });
    }

    /// Makes sure that somebody looks when the oldest fetch has starved for too long.
    pub(super) fn watch(&mut self, at: u32) {
        let member = self.member(at);
        let oldest = member.fetches.iter().map(|fetch| fetch.heard).min();
        let Some(due) = oldest.map(|heard| heard + FETCH_STALLED_AFTER) else {
            return;
        };
        if member.watchdog.is_none() {
            member.watchdog = Some(due);
            self.events.push(due, Event::WatchdogDue(at));
        }
    }

    /// A fetch of which no byte came for too long has failed.
    fn watchdog_due(&mut self, at: u32) {
        let now = self.now;
        self.member(at).watchdog = None;
        let mut starved = Vec::new();
        for fetch in &mut self.members[at as usize].fetches {
            if fetch.flow.is_some_and(|flow| self.flows.is_moving(flow)) {
                fetch.heard = now;
            } else if fetch.heard + FETCH_STALLED_AFTER <= now {
                starved.push(fetch.transfer);
            }
        }
        for transfer in starved {
            self.tally.timeouts += 1;
            self.fetch_failed(at, transfer, FetchFailure::TimedOut);
        }
        self.watch(at);
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Crash(agent) => self.crash(u32::try_from(agent).unwrap_or(u32::MAX - 1) + 1),
            Fault::OriginBack | Fault::OriginStalls => {
                let origin = &self.members[ORIGIN as usize];
                let rate = if fault == Fault::OriginBack {
                    origin.bytes_per_sec
                } else {
                    NOTHING
                };
                let (up, down) = (origin.up, origin.down);
                self.flows.set_link(up, rate, self.now);
                self.flows.set_link(down, rate, self.now);
            }
            Fault::Noticed(member) => self.noticed(member),
            Fault::TrackerBack => self.tracker_back(),
            Fault::TrackerGone => self.tracker_gone(),
        }
    }

    /// A machine loses power: nobody is told. What others send it stalls, what they await from it never comes, and
    /// its links stand until their idle time is over.
    fn crash(&mut self, at: u32) {
        let now = self.now;
        let member = self.member(at);
        let counted = member.must_finish() && member.finished.is_none() && member.failed.is_none();
        member.crashed = true;
        member.fetches.clear();
        self.left -= usize::from(counted);
        self.tally.crashed += 1;
        for flow in self.flows.of(at) {
            let Some(ended) = self.flows.stop(flow, self.now) else {
                continue;
            };
            self.tally.wasted_bytes += ended.moved;
            self.count_bytes(ended.ends, ended.moved);
            let (sender, receiver) = ended.ends;
            if sender == at {
                for fetch in &mut self.member(receiver).fetches {
                    if fetch.transfer == ended.tag.transfer && fetch.from == at {
                        fetch.flow = None;
                        fetch.heard = now;
                    }
                }
            } else {
                let served = Box::new(Input::Served {
                    request: ended.tag.request,
                    sent: false,
                });
                let due = self.now + UPLOAD_STALLED_AFTER;
                self.events.push(due, Event::Input(sender, served));
            }
        }
        self.events
            .push(now + LINK_IDLE, Event::Fault(Fault::Noticed(at)));
    }

    /// The links of a vanished machine have been idle for too long.
    fn noticed(&mut self, gone: u32) {
        let mut peers: Vec<u32> = self
            .links
            .keys()
            .filter(|(a, b)| *a == gone || *b == gone)
            .map(|(a, b)| if *a == gone { *b } else { *a })
            .collect();
        peers.sort_unstable();
        let peer = member::name(gone);
        for at in peers {
            self.links.remove(&(at.min(gone), at.max(gone)));
            self.drop_fetches(at, gone, false);
            self.input(at, Input::PeerLost { peer });
        }
        self.desk_loses(gone);
    }
}
