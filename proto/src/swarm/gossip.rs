//! What neighbours and we tell each other: interest, shape, pieces held.
//!
//! A Have costs a message to each neighbour, so it goes at once only where it is waited for: to neighbours that
//! have nothing left to ask us for, and to a few neighbours when the piece is one that hardly anybody has. All
//! other news waits a few milliseconds and goes together. A neighbour is never told of a piece that it holds.
//! An origin hears of our pieces later still: it needs to know only that there are second copies.
//!
//! Across zones, news of a piece goes at once to one neighbour of each other zone, by whoever had the piece from an
//! origin; everybody else tells of it when it is old enough that the other zones should have it, in case that was lost.
//! Whoever holds everything tells it soon, at a moment of its own. So each zone takes little more than one copy.
//!
//! Not here: what an origin tells agents of its own pieces (`offers`).

use bytes::Bytes;

use crate::node::context::Context;
use crate::node::peers::PeerIx;
use crate::swarm::neighbours::Neighbour;
use crate::swarm::pieces::Pieces;
use crate::wire::PeerMessage;
use crate::{Bitfield, BlobInfo, Digest, Instant, PieceIndex, Role, limits};

use super::{Stage, Swarm};

impl Swarm {
    /// A peer takes part, or may: from now on it is a neighbour.
    pub(crate) fn join(&mut self, peer: PeerIx, cx: &mut Context) {
        if self.stage == Stage::Gone || !cx.peers.get(peer).is_live() {
            return;
        }
        let (ix, at) = (self.ix, cx.peers.get_mut(peer));
        if !at.swarms.contains(&ix) {
            at.swarms.push(ix);
        }
        let is_origin = at.role == Role::Origin;
        let near = is_origin || at.zone == cx.options.zone;
        let neighbour = self.neighbours.ensure(peer, is_origin, near);
        if let Some(pieces) = self.pieces.as_mut() {
            neighbour.settle(pieces.geometry(), pieces);
        }
        if !(neighbour.told_interest || cx.is_origin() && is_origin) {
            neighbour.told_interest = true;
            cx.say(
                peer,
                PeerMessage::Interest {
                    digest: self.digest,
                },
            );
            self.introduce(peer, cx);
        }
    }

    /// Tells a neighbour the shape and everything that we hold.
    fn introduce(&mut self, peer: PeerIx, cx: &mut Context) {
        let (Some(info), Some(pieces)) = (self.info, self.pieces.as_ref()) else {
            return;
        };
        let Some(neighbour) = self.neighbours.get_mut(peer) else {
            return;
        };
        if !neighbour.knows_info {
            neighbour.knows_info = true;
            cx.say(peer, PeerMessage::Info { info });
        }
        if cx.is_origin() || pieces.held_count() == 0 {
            return;
        }
        neighbour.told = pieces.log_len();
        neighbour.owing = neighbour
            .holds
            .as_ref()
            .map_or(0, |holds| new_to(pieces, holds));
        cx.say(
            peer,
            PeerMessage::Holds {
                digest: self.digest,
                bitfield: pieces.held().encode(),
            },
        );
    }

    /// The shape has just become known: whoever takes part learns it from us.
    pub(super) fn share_shape(&mut self, cx: &mut Context) {
        let peers: Vec<PeerIx> = self
            .neighbours
            .iter()
            .map(|neighbour| neighbour.peer)
            .collect();
        for peer in peers {
            self.introduce(peer, cx);
        }
    }

    pub(crate) fn said_interest(&mut self, peer: PeerIx, cx: &mut Context) {
        let known = self
            .neighbours
            .get(peer)
            .is_some_and(|neighbour| neighbour.interested);
        self.join(peer, cx);
        if let Some(neighbour) = self.neighbours.get_mut(peer) {
            neighbour.interested = true;
            if known {
                // It has forgotten what it was told, or its link is a new one.
                neighbour.knows_info = false;
                self.introduce(peer, cx);
            }
        }
    }

    pub(crate) fn said_info(
        &mut self,
        peer: PeerIx,
        info: &BlobInfo,
        cx: &mut Context,
        now: Instant,
    ) {
        self.join(peer, cx);
        if self.info.is_some_and(|ours| ours.geometry != info.geometry) {
            // Two origins cut the blob differently: nothing of theirs fits ours.
            self.lost(peer, cx);
            return;
        }
        if let Some(neighbour) = self.neighbours.get_mut(peer) {
            neighbour.knows_info = true;
        }
        self.learn(info, cx, now);
    }

    pub(crate) fn said_holds(&mut self, peer: PeerIx, bitfield: Bytes, cx: &mut Context) {
        self.join(peer, cx);
        let Some(neighbour) = self.neighbours.get_mut(peer) else {
            return;
        };
        let Some(pieces) = self.pieces.as_mut() else {
            neighbour.keep_early_holds(bitfield);
            return;
        };
        match Bitfield::decode(&bitfield, pieces.geometry().piece_count()) {
            Ok(holds) => {
                neighbour.said_held = holds.count();
                neighbour.replace(holds, pieces);
                neighbour.owing = neighbour
                    .holds
                    .as_ref()
                    .map_or(0, |holds| told_and_new(pieces, neighbour, holds));
            }
            Err(_) => cx.culprits.push(peer),
        }
    }

    pub(crate) fn said_have(&mut self, peer: PeerIx, indexes: &[u32], held: u32, cx: &mut Context) {
        if self.neighbours.get(peer).is_none() {
            self.join(peer, cx);
        }
        if cx.peers.get(peer).role == Role::Origin {
            // What an origin says it holds is an offer: it is there for us now, whatever it said before.
            let origin = cx.peers.get_mut(peer);
            origin.busy_until = None;
            origin.avoided_until = None;
        }
        let Some(neighbour) = self.neighbours.get_mut(peer) else {
            return;
        };
        let Some(pieces) = self.pieces.as_mut() else {
            neighbour.keep_early_have(indexes);
            return;
        };
        neighbour.said_held = held;
        for index in indexes {
            let Some(piece) = pieces.geometry().piece(*index) else {
                cx.culprits.push(peer);
                return;
            };
            neighbour.announced(piece, pieces);
        }
        // It has used up what we told it, or soon will: more news must not wait. An origin has none: it offers.
        if !cx.is_origin()
            && !neighbour.is_origin
            && neighbour.owing <= limits::NEWS_OWING
            && neighbour.near
            && pieces.log_len() > neighbour.told
        {
            tell(neighbour, pieces, pieces.log_len(), self.digest, cx);
        }
    }

    /// It takes no more part.
    pub(crate) fn said_leave(&mut self, peer: PeerIx, cx: &mut Context) {
        self.lost(peer, cx);
        self.forget(peer);
        let ix = self.ix;
        cx.peers.get_mut(peer).swarms.retain(|swarm| *swarm != ix);
    }

    /// A piece has just become ours: who hears of it now, who later.
    pub(super) fn tell_news(
        &mut self,
        piece: PieceIndex,
        brought: bool,
        cx: &mut Context,
        now: Instant,
    ) {
        if cx.is_origin() {
            return;
        }
        let Some(pieces) = self.pieces.as_ref() else {
            return;
        };
        // Whether we are the one who brought it here: nobody near us has it.
        let first_here = pieces.near_holders(piece) <= 1 && brought;
        let rare = pieces.near_holders(piece) <= 1;
        // The whole blob is worth telling an origin at once: it leaves the next agent to us.
        let whole = pieces.held().is_full();
        let mut fast = if rare { limits::FAST_TELLS } else { 0 };
        let (mut waiting, mut origins_waiting, mut abroad_waiting) = (false, false, false);
        let count = self.neighbours.len();
        let start = if count == 0 { 0 } else { cx.rng.usize(..count) };
        for step in 0..count {
            let neighbour = self.neighbours.at_mut((start + step) % count);
            if neighbour.is_origin {
                origins_waiting = true;
                continue;
            }
            if neighbour.has(piece) {
                continue;
            }
            if !neighbour.near {
                abroad_waiting = true;
                continue;
            }
            if neighbour.owing <= limits::NEWS_OWING || fast > 0 {
                fast = fast.saturating_sub(1);
                tell(neighbour, pieces, pieces.log_len(), self.digest, cx);
            } else {
                waiting = true;
            }
        }
        if first_here {
            self.tell_other_zones(piece, cx);
        }
        if waiting && self.flush_at.is_none() {
            self.flush_at = Some(now + cx.pace.news_delay(u64::from(self.piece_bytes())));
        }
        if origins_waiting && whole {
            self.flush_to_origins(cx);
        } else if origins_waiting && self.origin_flush_at.is_none() {
            self.origin_flush_at = Some(now + limits::NEWS_TO_ORIGIN_DELAY);
        }
        if abroad_waiting && self.foreign_flush_at.is_none() {
            self.plan_flush_abroad(cx, now);
        }
    }

    /// What we hold now the other zones may hear of when it has aged.
    fn plan_flush_abroad(&mut self, cx: &mut Context, now: Instant) {
        let piece_time = cx.pace.median(u64::from(self.piece_bytes()));
        let spread = piece_time.unwrap_or_default() * limits::NEWS_ABROAD_PIECES;
        self.foreign_flush_at = Some(now + cx.jitter(spread.max(limits::NEWS_ABROAD_DELAY)));
        self.foreign_news = self.pieces.as_ref().map_or(0, Pieces::log_len);
    }

    /// One neighbour of each other zone hears of it at once.
    fn tell_other_zones(&mut self, piece: PieceIndex, cx: &mut Context) {
        let mut zones = Vec::new();
        let count = self.neighbours.len();
        let start = if count == 0 { 0 } else { cx.rng.usize(..count) };
        for step in 0..count {
            let neighbour = self.neighbours.at((start + step) % count);
            let zone = &cx.peers.get(neighbour.peer).zone;
            if neighbour.near || neighbour.has(piece) || zones.contains(zone) {
                continue;
            }
            zones.push(zone.clone());
            let message = PeerMessage::Have {
                digest: self.digest,
                indexes: vec![piece.get()],
                held: self.held_count(),
            };
            cx.say(neighbour.peer, message);
        }
    }

    /// The news that could wait goes out.
    pub(super) fn flush_news(&mut self, cx: &mut Context) {
        self.flush_at = None;
        self.flush_to(usize::MAX, cx, |neighbour| {
            !neighbour.is_origin && neighbour.near
        });
    }

    /// Origins hear of what we hold.
    pub(super) fn flush_to_origins(&mut self, cx: &mut Context) {
        self.origin_flush_at = None;
        self.flush_to(usize::MAX, cx, |neighbour| neighbour.is_origin);
    }

    /// The other zones hear of what we have held for long enough.
    pub(super) fn flush_abroad(&mut self, cx: &mut Context, now: Instant) {
        self.foreign_flush_at = None;
        self.flush_to(self.foreign_news, cx, |neighbour| !neighbour.near);
        let held = self.pieces.as_ref().map_or(0, Pieces::log_len);
        if held > self.foreign_news {
            self.plan_flush_abroad(cx, now);
        }
    }

    /// We hold everything: a zone that still waits for a piece, because the one agent that was told of it did not come,
    /// hears of all we have. Not all who hold everything tell it at once, or all who lack it would come for it.
    pub(super) fn plan_last_flush_abroad(&mut self, cx: &mut Context, now: Instant) {
        let piece_time = cx.pace.median(u64::from(self.piece_bytes()));
        let within = piece_time.unwrap_or_default() * limits::NEWS_ABROAD_LAST_PIECES;
        self.foreign_flush_at = Some(now + within.mul_f64(cx.rng.f64()));
        self.foreign_news = self.pieces.as_ref().map_or(0, Pieces::log_len);
    }

    /// Tells the first `news` pieces of our log.
    fn flush_to(&mut self, news: usize, cx: &mut Context, whom: impl Fn(&Neighbour) -> bool) {
        let Some(pieces) = self.pieces.as_ref() else {
            return;
        };
        let news = news.min(pieces.log_len());
        for neighbour in self.neighbours.iter_mut() {
            if news > neighbour.told && whom(neighbour) {
                tell(neighbour, pieces, news, self.digest, cx);
            }
        }
    }

    pub(super) fn piece_bytes(&self) -> u32 {
        self.info
            .map_or(limits::PIECE_BYTES_MIN, |info| info.geometry.piece_bytes())
    }
}

/// Everything in the first `upto` of our log that it has not heard and does not hold. An origin hears of everything:
/// what it offered us it holds, and it has to learn that we do too.
fn tell(neighbour: &mut Neighbour, pieces: &Pieces, upto: usize, digest: Digest, cx: &mut Context) {
    let news = &pieces.log_from(neighbour.told)[..upto.saturating_sub(neighbour.told)];
    let indexes: Vec<u32> = news
        .iter()
        .filter(|piece| neighbour.is_origin || !neighbour.has(**piece))
        .map(|piece| piece.get())
        .collect();
    neighbour.told = upto.max(neighbour.told);
    if indexes.is_empty() {
        return;
    }
    neighbour.owing += u32::try_from(indexes.len()).unwrap_or(u32::MAX);
    for part in indexes.chunks(limits::HAVE_INDEXES_MAX) {
        cx.say(
            neighbour.peer,
            PeerMessage::Have {
                digest,
                indexes: part.to_vec(),
                held: pieces.held_count(),
            },
        );
    }
}

/// Pieces that we hold and it lacks.
fn new_to(pieces: &Pieces, holds: &Bitfield) -> u32 {
    pieces
        .held()
        .words()
        .iter()
        .zip(holds.words())
        .map(|(ours, theirs)| (ours & !theirs).count_ones())
        .sum()
}

/// The same, of those it has heard of.
fn told_and_new(pieces: &Pieces, neighbour: &Neighbour, holds: &Bitfield) -> u32 {
    if neighbour.told == 0 {
        0
    } else {
        new_to(pieces, holds)
    }
}
