//! What nodes ask for, carried out in the simulated world.
//!
//! Not here: what comes of it later (`happen`), announces (`desk`).

use std::time::Duration;

use shoal_proto::wire::{PeerMessage, Refusal, RefusalCode};
use shoal_proto::{Action, Digest, Input, PeerId, PieceIndex, RequestId, TransferId};

use super::flows::FlowId;
use super::member::{self, Fetch};
use super::scenario::DIAL_FAILS_AFTER;
use super::world::{Event, ORIGIN, Parcel, READER, World};

/// Checking the last bytes of the whole digest, syncing, renaming.
const COMMIT_TAKES: Duration = Duration::from_millis(1);

/// Bytes of messages on the wire, headers and encryption included.
const MESSAGE_BYTES: usize = 120;
const QUESTION_BYTES: usize = 110;
const HOLDER_BYTES: usize = 34;
const INDEX_BYTES: usize = 2;

impl World {
    pub(super) fn perform(&mut self, at: u32, action: Action) {
        let (what, detail) = describe(&action);
        self.trace.add(self.now, at, what, detail);
        self.check.does(at, &action, self.now);
        match action {
            Action::Announce { swarms, full } => self.announce(at, swarms, full),
            Action::CancelFetch { transfer } => self.cancel(at, transfer),
            Action::Closed { .. } | Action::Learned { .. } => {}
            Action::Commit { digest } => self.commit(at, digest),
            Action::Dial { peer, .. } => self.dial(at, &peer),
            Action::Failed { reason, .. } => {
                let must = self.members[at as usize].must_finish();
                if self.member(at).failed.replace(reason).is_none() && must {
                    self.left -= 1;
                }
            }
            Action::Fetch {
                transfer,
                peer,
                piece,
                ..
            } => self.fetch(at, transfer, &peer, piece),
            Action::Hangup { peer, .. } => self.hang_up(at, member::number(&peer)),
            Action::Hold { piece, .. } => self.hold(at, piece),
            Action::Open { digest, origin } => self.open(at, digest, member::number(&origin)),
            Action::Refuse { request, refusal } => self.refuse(at, request, refusal),
            Action::Say { peer, message } => self.say(at, member::number(&peer), message),
            Action::Serve { request, piece, .. } => self.serve(at, request, piece),
        }
    }

    fn commit(&mut self, at: u32, digest: Digest) {
        let now = self.now;
        let missing = self.info.geometry.piece_count().get() - self.member(at).held_count;
        if missing > 0 {
            let found = format!("{at} commits a blob of which {missing} pieces are missing");
            self.check.find(&found, now);
        }
        let member = self.member(at);
        let first = member.finished.is_none() && member.failed.is_none();
        let must = member.must_finish();
        member.finished.get_or_insert(now);
        if first && must {
            self.left -= 1;
        }
        let input = Box::new(Input::Completed { digest });
        self.events
            .push(now + COMMIT_TAKES, Event::Input(at, input));
    }

    fn dial(&mut self, at: u32, peer: &PeerId) {
        let other = member::number(peer);
        if self.members[other as usize].crashed {
            let input = Box::new(Input::DialFailed { peer: *peer });
            let due = self.now + DIAL_FAILS_AFTER;
            return self.events.push(due, Event::Input(at, input));
        }
        self.link(at, other);
    }

    fn hold(&mut self, at: u32, piece: PieceIndex) {
        let (now, digest) = (self.now, self.info.digest);
        let piece_bytes = u64::from(self.info.geometry.piece_bytes());
        let member = self.member(at);
        let before = member.cursor;
        member.hold(piece);
        if member.cursor > before && at != ORIGIN {
            member.first_byte.get_or_insert(now);
            let input = Input::ReadAdvanced {
                digest,
                reader: READER,
                at: u64::from(member.cursor) * piece_bytes,
            };
            self.backlog.push_back((at, input));
        }
    }

    /// The driver brings the link up itself, and then asks.
    fn open(&mut self, at: u32, digest: Digest, origin: u32) {
        self.tally.opens += 1;
        let mut due = self.arrival_of(at, origin, QUESTION_BYTES) + self.scenario.rtt / 2;
        if self.epoch(at, origin).is_none() {
            self.link(at, origin);
            due += self.scenario.link_setup();
        }
        self.seed();
        let opened = Input::Opened {
            digest,
            origin: member::name(origin),
            result: Ok(self.info),
        };
        self.events.push(due, Event::Input(at, Box::new(opened)));
    }

    /// The origin begins to read the blob from upstream, or has it already.
    fn seed(&mut self) {
        if std::mem::replace(&mut self.opened, true) {
            return;
        }
        let info = self.info;
        let Some(upstream) = self.scenario.upstream else {
            let held = shoal_proto::Bitfield::full(info.geometry.piece_count());
            let origin = self.member(ORIGIN);
            origin.held.fill(true);
            let loaded = Input::Loaded {
                info,
                held,
                complete: true,
            };
            return self.backlog.push_back((ORIGIN, loaded));
        };
        self.backlog.push_back((ORIGIN, Input::Seeded { info }));
        for piece in info.geometry.pieces() {
            let read = info.geometry.range_of(piece).end as f64;
            let due = self.now + Duration::from_secs_f64(read / upstream.bytes_per_sec());
            let digest = info.digest;
            let input = Box::new(Input::Ingested { digest, piece });
            self.events.push(due, Event::Input(ORIGIN, input));
        }
    }

    pub(super) fn say(&mut self, at: u32, to: u32, message: PeerMessage) {
        let Some(epoch) = self.epoch(at, to) else {
            return;
        };
        match message {
            PeerMessage::Have { indexes, held, .. } => {
                let bytes = MESSAGE_BYTES + INDEX_BYTES * indexes.len();
                let due = self.arrival_of(at, to, bytes);
                let had = Event::Had {
                    at: to,
                    from: at,
                    epoch,
                    indexes,
                    held,
                };
                self.events.push(due, had);
            }
            message => {
                let bytes = match &message {
                    PeerMessage::Holds { bitfield, .. } => MESSAGE_BYTES + bitfield.len(),
                    _ => MESSAGE_BYTES,
                };
                let due = self.arrival_of(at, to, bytes);
                let said = Event::Said {
                    at: to,
                    from: at,
                    epoch,
                    message: Box::new(message),
                };
                self.events.push(due, said);
            }
        }
    }

    fn fetch(&mut self, at: u32, transfer: TransferId, peer: &PeerId, piece: PieceIndex) {
        let (now, from) = (self.now, member::number(peer));
        let member = self.member(at);
        member.fetches.push(Fetch {
            transfer,
            from,
            flow: None,
            heard: now,
        });
        self.watch(at);
        if let Some(epoch) = self.epoch(at, from) {
            let due = self.arrival_of(at, from, QUESTION_BYTES);
            let asked = Event::Asked {
                at: from,
                by: at,
                epoch,
                transfer,
                piece,
            };
            self.events.push(due, asked);
        } else {
            self.events.push(now, Event::Answered(at, transfer, None));
        }
    }

    fn cancel(&mut self, at: u32, transfer: TransferId) {
        let member = self.member(at);
        let Some(place) = member
            .fetches
            .iter()
            .position(|fetch| fetch.transfer == transfer)
        else {
            return;
        };
        if let Some(flow) = member.fetches.swap_remove(place).flow {
            self.break_off(flow, true);
        }
    }

    /// Ends a flow before its time; its sender learns of it, if there is still a way.
    pub(super) fn break_off(&mut self, flow: FlowId, tell_sender: bool) {
        let Some(ended) = self.flows.stop(flow, self.now) else {
            return;
        };
        self.tally.wasted_bytes += ended.moved;
        self.count_bytes(ended.ends, ended.moved);
        if tell_sender {
            let served = Box::new(Input::Served {
                request: ended.tag.request,
                sent: false,
            });
            let due = self.now + self.scenario.rtt / 2;
            self.events.push(due, Event::Input(ended.ends.0, served));
        }
    }

    fn refuse(&mut self, at: u32, request: RequestId, refusal: Refusal) {
        let Some((to, transfer)) = self.requests.remove(&request) else {
            return;
        };
        *self
            .tally
            .refusals
            .entry(refusal_name(refusal.code))
            .or_default() += 1;
        let bytes = MESSAGE_BYTES + HOLDER_BYTES * refusal.holders.len();
        let due = self.arrival_of(at, to, bytes);
        self.events
            .push(due, Event::Answered(to, transfer, Some(Box::new(refusal))));
    }

    fn serve(&mut self, at: u32, request: RequestId, piece: PieceIndex) {
        let Some((to, transfer)) = self.requests.remove(&request) else {
            return;
        };
        let bytes = f64::from(self.info.geometry.len_of(piece));
        let wanted = |fetch: &&mut Fetch| fetch.transfer == transfer;
        let receiver = &self.members[to as usize];
        if receiver
            .fetches
            .iter()
            .all(|fetch| fetch.transfer != transfer)
        {
            // It gave the stream up meanwhile.
            let served = Input::Served {
                request,
                sent: false,
            };
            let due = self.now + self.scenario.rtt / 2;
            return self.events.push(due, Event::Input(at, Box::new(served)));
        }
        let path = self.path(at, to);
        let parcel = Parcel { request, transfer };
        let flow = self.flows.start((at, to), path, bytes, parcel, self.now);
        let now = self.now;
        if let Some(fetch) = self.member(to).fetches.iter_mut().find(wanted) {
            fetch.flow = Some(flow);
            fetch.heard = now;
        }
    }

    /// Closes a link; everything on it is over at both ends.
    fn hang_up(&mut self, at: u32, other: u32) {
        if self.links.remove(&(at.min(other), at.max(other))).is_none() {
            return;
        }
        self.drop_fetches(at, other, false);
        self.drop_fetches(other, at, false);
        let peer = member::name(at);
        let due = self.now + self.scenario.rtt / 2;
        self.events
            .push(due, Event::Input(other, Box::new(Input::PeerLost { peer })));
    }

    /// What `at` fetches from `from` comes to nothing.
    pub(super) fn drop_fetches(&mut self, at: u32, from: u32, tell_sender: bool) {
        let fetches = std::mem::take(&mut self.member(at).fetches);
        let (gone, kept): (Vec<Fetch>, Vec<Fetch>) =
            fetches.into_iter().partition(|fetch| fetch.from == from);
        self.member(at).fetches = kept;
        for flow in gone.into_iter().filter_map(|fetch| fetch.flow) {
            self.break_off(flow, tell_sender);
        }
    }
}

/// An action in numbers, for the trace.
fn describe(action: &Action) -> (u8, u64) {
    let peer = |peer: &PeerId| u64::from(member::number(peer)) << 32;
    match action {
        Action::Announce { swarms, full } => (0, (swarms.len() as u64) << 1 | u64::from(*full)),
        Action::CancelFetch { transfer } => (1, transfer.get()),
        Action::Closed { .. } => (2, 0),
        Action::Commit { .. } => (3, 0),
        Action::Dial { peer: to, .. } => (4, peer(to)),
        Action::Failed { .. } => (5, 0),
        Action::Fetch {
            peer: from, piece, ..
        } => (6, peer(from) | u64::from(piece.get())),
        Action::Hangup { peer: with, .. } => (7, peer(with)),
        Action::Hold { piece, .. } => (8, piece.get().into()),
        Action::Learned { .. } => (9, 0),
        Action::Open { .. } => (10, 0),
        Action::Refuse { request, .. } => (11, request.0),
        Action::Say { peer: to, message } => (12, peer(to) | said(message)),
        Action::Serve { request, .. } => (13, request.0),
    }
}

fn said(message: &PeerMessage) -> u64 {
    match message {
        PeerMessage::Gone { .. } => 1,
        PeerMessage::Free { .. } => 8,
        PeerMessage::Have { indexes, .. } => indexes.iter().fold(2, |hash, index| {
            (hash * 31 + u64::from(*index)) & 0xffff_ffff
        }),
        PeerMessage::Holds { .. } => 3,
        PeerMessage::Info { .. } => 4,
        PeerMessage::Interest { .. } => 5,
        PeerMessage::Leave { .. } => 6,
        PeerMessage::Vouch { .. } => 7,
    }
}

fn refusal_name(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::Busy => "busy",
        RefusalCode::Injected => "injected",
        RefusalCode::NotHeld => "not_held",
        _ => "other",
    }
}
