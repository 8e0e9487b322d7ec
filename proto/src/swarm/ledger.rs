//! The injection ledger of an origin: each piece is given away once (D7).
//!
//! A piece is fresh until it is offered; offered until the chosen agent asks; given until a second agent says it
//! holds it; spread from then on. It becomes fresh again when the chosen agent does not ask in time, when the one
//! holder is lost, or when no second copy appears in time. Agents that say they hold it may be lying; so whoever is told
//! that a piece has spread, waits, and asks for it once more, is given it, one agent at a time; and so is, without waiting,
//! whoever is the second to ask for a piece that is said to have spread.
//!
//! Not here: to whom to offer (`offers`), upload slots (`slots`).

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::node::peers::PeerIx;
use crate::{Instant, PieceCount, PieceIndex};

/// Where a piece stands with an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gift {
    /// Not held by us yet.
    Absent,
    /// Held, and in nobody else's hands.
    Fresh,
    /// Being sent to this agent, or sent.
    Given(PeerIx),
    /// This agent was told of it and has not asked yet.
    Offered(PeerIx),
    /// Two agents hold it: the swarm does the rest.
    Spread,
}

/// Who was given what.
#[derive(Debug)]
pub(crate) struct Ledger {
    gifts: Vec<Gift>,
    fresh: BTreeSet<PieceIndex>,
    /// When an offer or a gift must have had its effect.
    deadlines: BTreeSet<(Instant, PieceIndex)>,
    /// The deadline of each piece that counts; others of it in `deadlines` are past history.
    due: Vec<Option<Instant>>,
    offered: usize,
    /// Who was last told of which piece that it was given away, and from when on its asking again is a plea.
    pleas: FxHashMap<PeerIx, (PieceIndex, Instant)>,
    /// Pieces said to have spread that an agent asked for all the same, since they were last given; and which agent.
    doubts: FxHashMap<PieceIndex, PeerIx>,
    /// Pieces sent, counted with repetitions.
    pub(crate) sent: u64,
}

impl Ledger {
    pub(crate) fn new(count: PieceCount) -> Self {
        Self {
            gifts: vec![Gift::Absent; count.get() as usize],
            fresh: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            due: vec![None; count.get() as usize],
            offered: 0,
            pleas: FxHashMap::default(),
            doubts: FxHashMap::default(),
            sent: 0,
        }
    }

    pub(crate) fn gift(&self, piece: PieceIndex) -> Gift {
        self.gifts[piece.index()]
    }

    /// Offers that nobody has taken up yet.
    pub(crate) fn offered(&self) -> usize {
        self.offered
    }

    /// The fresh pieces, in the order of the blob.
    pub(crate) fn fresh(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.fresh.iter().copied()
    }

    fn set(&mut self, piece: PieceIndex, gift: Gift) {
        self.due[piece.index()] = None;
        let was = std::mem::replace(&mut self.gifts[piece.index()], gift);
        if was == Gift::Fresh {
            self.fresh.remove(&piece);
        }
        if gift == Gift::Fresh {
            self.fresh.insert(piece);
        }
        self.offered -= usize::from(matches!(was, Gift::Offered(_)));
        self.offered += usize::from(matches!(gift, Gift::Offered(_)));
    }

    /// We hold it now.
    pub(crate) fn arrived(&mut self, piece: PieceIndex) {
        if self.gift(piece) == Gift::Absent {
            self.set(piece, Gift::Fresh);
        }
    }

    pub(crate) fn offer(&mut self, piece: PieceIndex, to: PeerIx, until: Instant) {
        self.set(piece, Gift::Offered(to));
        self.expect_by(piece, until);
    }

    /// It is being sent: a second copy should be announced by then even if sending it takes too long.
    pub(crate) fn give(&mut self, piece: PieceIndex, to: PeerIx, second_by: Instant) {
        self.sent += 1;
        self.doubts.remove(&piece);
        self.set(piece, Gift::Given(to));
        self.expect_by(piece, second_by);
    }

    /// It has been sent: a second copy should be announced by then.
    pub(crate) fn delivered(&mut self, piece: PieceIndex, to: PeerIx, second_by: Instant) {
        if self.gift(piece) == Gift::Given(to) {
            self.expect_by(piece, second_by);
        }
    }

    /// Sending it was broken off.
    pub(crate) fn broken_off(&mut self, piece: PieceIndex, to: PeerIx) {
        if self.gift(piece) == Gift::Given(to) {
            self.set(piece, Gift::Fresh);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The next piece whose deadline has passed; what to make of it is the caller's.
    pub(crate) fn pop_deadline(&mut self, now: Instant) -> Option<PieceIndex> {
        while let Some(first) = self
            .deadlines
            .first()
            .copied()
            .filter(|first| first.0 <= now)
        {
            self.deadlines.remove(&first);
            if self.due[first.1.index()] == Some(first.0) {
                return Some(first.1);
            }
        }
        None
    }

    /// A piece has one deadline; a later one of it takes the place of an earlier.
    fn expect_by(&mut self, piece: PieceIndex, at: Instant) {
        self.due[piece.index()] = Some(at);
        self.deadlines.insert((at, piece));
    }

    pub(crate) fn spread(&mut self, piece: PieceIndex) {
        self.set(piece, Gift::Spread);
    }

    pub(crate) fn renew(&mut self, piece: PieceIndex) {
        if self.gift(piece) != Gift::Absent {
            self.set(piece, Gift::Fresh);
        }
    }

    /// An agent is gone: what only it had, or was to have, is fresh again.
    pub(crate) fn lost(&mut self, peer: PeerIx, is_held: impl Fn(PieceIndex) -> bool) {
        let orphans: Vec<PieceIndex> = (0u32..)
            .zip(&self.gifts)
            .map(|(index, gift)| (PieceIndex(index), *gift))
            .filter(|(piece, gift)| match gift {
                Gift::Offered(to) => *to == peer,
                Gift::Given(to) => *to == peer && !is_held(*piece),
                Gift::Spread => !is_held(*piece),
                Gift::Absent | Gift::Fresh => false,
            })
            .map(|(piece, _)| piece)
            .collect();
        for piece in orphans {
            self.set(piece, Gift::Fresh);
        }
        self.pleas.remove(&peer);
    }

    /// Whether this agent was told "given away" before, waited as it was told, and asks again.
    pub(crate) fn is_plea(&self, peer: PeerIx, piece: PieceIndex, now: Instant) -> bool {
        self.pleas
            .get(&peer)
            .is_some_and(|(pleaded, from)| *pleaded == piece && *from <= now)
    }

    /// Whether another agent has asked for this piece, which is said to have spread: one may have heard too little of its
    /// neighbours; two that lack it and know of nobody who has it are taken to be right.
    pub(crate) fn is_doubted(&self, piece: PieceIndex, by_other_than: PeerIx) -> bool {
        self.doubts
            .get(&piece)
            .is_some_and(|by| *by != by_other_than)
    }

    /// Remembers that this agent was told "given away".
    pub(crate) fn refused(&mut self, peer: PeerIx, piece: PieceIndex, come_back: Instant) {
        if self.gift(piece) == Gift::Spread {
            self.doubts.entry(piece).or_insert(peer);
        }
        let plea = self.pleas.entry(peer).or_insert((piece, come_back));
        if plea.0 != piece {
            *plea = (piece, come_back);
        }
    }

    pub(crate) fn answered(&mut self, peer: PeerIx, piece: PieceIndex) {
        if self.pleas.get(&peer).is_some_and(|plea| plea.0 == piece) {
            self.pleas.remove(&peer);
        }
    }
}
