//! One state for each peer that takes part in this swarm with a live link: what it holds, what we told it, what
//! it must not be asked for yet.
//!
//! Not here: its link, rate and role over all swarms (`node::peers`). Kept sorted by [`PeerIx`], so that every
//! walk over it is the same on every machine.

use bytes::Bytes;

use crate::node::peers::PeerIx;
use crate::swarm::pieces::Pieces;
use crate::{Bitfield, Geometry, Instant, PieceIndex, limits};

/// A live peer in this swarm.
#[derive(Debug)]
pub(crate) struct Neighbour {
    pub(crate) peer: PeerIx,
    pub(crate) is_origin: bool,
    /// In our own zone. Origins count as near: what comes from them is nobody's cross-zone traffic.
    pub(crate) near: bool,
    /// It said that it takes part.
    pub(crate) interested: bool,
    /// We said that we take part.
    pub(crate) told_interest: bool,
    /// It told us the shape, or we told it.
    pub(crate) knows_info: bool,
    /// What it holds, once the shape is known.
    pub(crate) holds: Option<Bitfield>,
    /// How many pieces it last said that it holds, and those that we sent it since. It does not tell us which: what we
    /// hold is no news to us.
    pub(crate) said_held: u32,
    /// How much of our log it has heard.
    pub(crate) told: usize,
    /// Pieces that it heard of from us and lacks: none means that it has nothing to ask us for.
    pub(crate) owing: u32,
    /// Origins: pieces offered to it and not asked for yet.
    pub(crate) offers: u32,
    /// Origins: pieces given to it.
    pub(crate) given: u32,
    /// Origins: offers in a row that it did not take up.
    pub(crate) declined: u32,
    /// Origins: until when it is offered more only when nobody else wants it.
    pub(crate) rests_until: Option<Instant>,
    /// Origins: pieces offered to it a second time.
    reoffered: Vec<PieceIndex>,
    early_holds: Option<Bytes>,
    early_have: Vec<u32>,
    /// Pieces it refused, and until when.
    held_off: Vec<(PieceIndex, Instant)>,
}

impl Neighbour {
    fn new(peer: PeerIx, is_origin: bool, near: bool) -> Self {
        Self {
            peer,
            is_origin,
            near,
            interested: false,
            told_interest: false,
            knows_info: false,
            holds: None,
            said_held: 0,
            told: 0,
            owing: 0,
            offers: 0,
            given: 0,
            declined: 0,
            rests_until: None,
            reoffered: Vec::new(),
            early_holds: None,
            early_have: Vec::new(),
            held_off: Vec::new(),
        }
    }

    /// Whether it holds the piece, as far as we know.
    pub(crate) fn has(&self, piece: PieceIndex) -> bool {
        self.holds
            .as_ref()
            .is_some_and(|holds| holds.contains(piece))
    }

    /// How many pieces it holds at least.
    pub(crate) fn held(&self) -> u32 {
        self.said_held
            .max(self.holds.as_ref().map_or(0, Bitfield::count))
    }

    /// Whether it was offered a piece that others were given before.
    pub(crate) fn was_offered(&self, piece: PieceIndex) -> bool {
        self.reoffered.contains(&piece)
    }

    /// Remembers a second offer, so that it is neither repeated nor refused.
    pub(crate) fn remember_offer(&mut self, piece: PieceIndex) {
        if self.reoffered.len() >= limits::HELD_OFF_MAX {
            self.reoffered.remove(0);
        }
        self.reoffered.push(piece);
    }

    /// Not to be asked for this piece until `until`.
    pub(crate) fn hold_off(&mut self, piece: PieceIndex, until: Instant, now: Instant) {
        self.held_off
            .retain(|(held, until)| *held != piece && *until > now);
        if self.held_off.len() >= limits::HELD_OFF_MAX {
            self.held_off.remove(0);
        }
        self.held_off.push((piece, until));
    }

    /// Whether it refused this piece and the time it named has not passed.
    pub(crate) fn is_held_off(&self, piece: PieceIndex, now: Instant) -> bool {
        self.held_off
            .iter()
            .any(|(held, until)| *held == piece && now < *until)
    }

    /// The first moment at which a refused piece may be asked for again.
    pub(crate) fn next_held_off(&self, now: Instant) -> Option<Instant> {
        self.held_off
            .iter()
            .map(|(_, until)| *until)
            .filter(|until| *until > now)
            .min()
    }

    /// Keeps what it said before the shape was known.
    pub(crate) fn keep_early_holds(&mut self, bitfield: Bytes) {
        self.early_holds = Some(bitfield);
        self.early_have.clear();
    }

    /// Keeps what it said before the shape was known, up to a bound: what is lost is told again on `Interest`.
    pub(crate) fn keep_early_have(&mut self, indexes: &[u32]) {
        let room = limits::HAVE_INDEXES_MAX.saturating_sub(self.early_have.len());
        self.early_have.extend(indexes.iter().take(room));
    }

    /// The shape is known: what it said before can be read. A bitfield that does not fit counts as empty.
    pub(crate) fn settle(&mut self, geometry: Geometry, pieces: &mut Pieces) {
        if self.holds.is_some() {
            return;
        }
        let early = self.early_holds.take();
        let mut holds = early
            .and_then(|bytes| Bitfield::decode(&bytes, geometry.piece_count()).ok())
            .unwrap_or_else(|| Bitfield::new(geometry.piece_count()));
        for index in std::mem::take(&mut self.early_have) {
            if let Some(piece) = geometry.piece(index) {
                holds.set(piece);
            }
        }
        for piece in holds.iter() {
            pieces.add_holder(piece, self.near);
        }
        self.holds = Some(holds);
    }

    /// It says itself that it holds the piece: whatever it refused before counts no more.
    pub(crate) fn announced(&mut self, piece: PieceIndex, pieces: &mut Pieces) {
        self.held_off.retain(|(held, _)| *held != piece);
        self.add(piece, pieces);
    }

    /// It holds one more, it is said. Says whether that is news.
    pub(crate) fn add(&mut self, piece: PieceIndex, pieces: &mut Pieces) -> bool {
        let news = self.holds.as_mut().is_some_and(|holds| holds.set(piece));
        if news {
            pieces.add_holder(piece, self.near);
            if pieces.is_within(piece, self.told) {
                self.owing = self.owing.saturating_sub(1);
            }
        }
        news
    }

    /// It does not hold it after all, or not for us.
    pub(crate) fn remove(&mut self, piece: PieceIndex, pieces: &mut Pieces) {
        if self.has(piece)
            && let Some(holds) = self.holds.as_mut()
        {
            holds.clear(piece);
            pieces.remove_holder(piece, self.near);
        }
    }

    /// It holds exactly these.
    pub(crate) fn replace(&mut self, holds: Bitfield, pieces: &mut Pieces) {
        self.withdraw(pieces);
        for piece in holds.iter() {
            pieces.add_holder(piece, self.near);
        }
        self.holds = Some(holds);
    }

    /// Takes its pieces out of the counts.
    pub(crate) fn withdraw(&mut self, pieces: &mut Pieces) {
        if let Some(holds) = self.holds.take() {
            for piece in holds.iter() {
                pieces.remove_holder(piece, self.near);
            }
        }
    }
}

/// All neighbours of one swarm, sorted by peer.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(Vec<Neighbour>);

impl Neighbours {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Neighbour> {
        self.0.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Neighbour> {
        self.0.iter_mut()
    }

    pub(crate) fn at(&self, at: usize) -> &Neighbour {
        &self.0[at]
    }

    pub(crate) fn at_mut(&mut self, at: usize) -> &mut Neighbour {
        &mut self.0[at]
    }

    pub(crate) fn position(&self, peer: PeerIx) -> Option<usize> {
        self.0
            .binary_search_by_key(&peer, |neighbour| neighbour.peer)
            .ok()
    }

    pub(crate) fn get(&self, peer: PeerIx) -> Option<&Neighbour> {
        self.position(peer).map(|at| &self.0[at])
    }

    pub(crate) fn get_mut(&mut self, peer: PeerIx) -> Option<&mut Neighbour> {
        self.position(peer).map(|at| &mut self.0[at])
    }

    /// Finds the neighbour, or makes it one.
    pub(crate) fn ensure(&mut self, peer: PeerIx, is_origin: bool, near: bool) -> &mut Neighbour {
        let at = match self
            .0
            .binary_search_by_key(&peer, |neighbour| neighbour.peer)
        {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, Neighbour::new(peer, is_origin, near));
                at
            }
        };
        &mut self.0[at]
    }

    pub(crate) fn remove(&mut self, peer: PeerIx) -> Option<Neighbour> {
        self.position(peer).map(|at| self.0.remove(at))
    }
}
