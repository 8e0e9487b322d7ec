//! One state for each piece of a blob, and counts kept in step.
//!
//! I3: a piece is in exactly one of missing, requested, verifying, held. Hashing happens while the bytes arrive,
//! so the core cannot tell verifying from requested: both are `Requested` here, from `Fetch` to `Fetched`.
//! Only this file changes a piece's state.
//!
//! Not here: who holds what (`neighbours`), only how many do.

use crate::{Bitfield, Geometry, PieceIndex};

/// The state of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceState {
    /// Verified and stored.
    Held,
    /// Wanted from nobody yet.
    Missing,
    /// Asked of somebody, or being verified.
    Requested,
}

/// All pieces of one blob.
#[derive(Debug)]
pub(crate) struct Pieces {
    geometry: Geometry,
    held: Bitfield,
    /// Missing and not requested.
    open: Bitfield,
    open_count: u32,
    /// Neighbours that say they hold the piece.
    holders: Vec<u16>,
    /// Those of them in our own zone, origins included.
    near_holders: Vec<u16>,
    /// The pieces held, in the order in which they came.
    log: Vec<PieceIndex>,
    /// Where in the log a held piece stands.
    place: Vec<u32>,
}

const NO_PLACE: u32 = u32::MAX;

impl Pieces {
    pub(crate) fn new(geometry: Geometry) -> Self {
        let count = geometry.piece_count();
        let len = count.get() as usize;
        Self {
            geometry,
            held: Bitfield::new(count),
            open: Bitfield::full(count),
            open_count: count.get(),
            holders: vec![0; len],
            near_holders: vec![0; len],
            log: Vec::new(),
            place: vec![NO_PLACE; len],
        }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn count(&self) -> u32 {
        self.geometry.piece_count().get()
    }

    pub(crate) fn held(&self) -> &Bitfield {
        &self.held
    }

    pub(crate) fn open(&self) -> &Bitfield {
        &self.open
    }

    pub(crate) fn open_count(&self) -> u32 {
        self.open_count
    }

    pub(crate) fn held_count(&self) -> u32 {
        u32::try_from(self.log.len()).expect("as many as pieces, which are counted in u32")
    }

    pub(crate) fn missing_count(&self) -> u32 {
        self.count() - self.held_count()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.missing_count() == 0
    }

    pub(crate) fn state(&self, piece: PieceIndex) -> PieceState {
        if self.held.contains(piece) {
            PieceState::Held
        } else if self.open.contains(piece) {
            PieceState::Missing
        } else {
            PieceState::Requested
        }
    }

    /// Missing becomes requested.
    pub(crate) fn request(&mut self, piece: PieceIndex) {
        assert!(
            self.state(piece) == PieceState::Missing,
            "I3: only a missing piece is requested"
        );
        self.open.clear(piece);
        self.open_count -= 1;
    }

    /// Requested becomes missing again.
    pub(crate) fn release(&mut self, piece: PieceIndex) {
        if self.state(piece) == PieceState::Requested {
            self.open.set(piece);
            self.open_count += 1;
        }
    }

    /// Whatever it was becomes held. Says whether it is news.
    pub(crate) fn hold(&mut self, piece: PieceIndex) -> bool {
        if self.held.contains(piece) {
            return false;
        }
        if self.open.contains(piece) {
            self.open.clear(piece);
            self.open_count -= 1;
        }
        self.held.set(piece);
        self.place[piece.index()] = self.held_count();
        self.log.push(piece);
        true
    }

    /// The pieces that came after the first `told`.
    pub(crate) fn log_from(&self, told: usize) -> &[PieceIndex] {
        &self.log[told.min(self.log.len())..]
    }

    pub(crate) fn log_len(&self) -> usize {
        self.log.len()
    }

    /// Whether a held piece is among the first `told` of the log.
    pub(crate) fn is_within(&self, piece: PieceIndex, told: usize) -> bool {
        let place = self.place[piece.index()];
        place != NO_PLACE && (place as usize) < told
    }

    /// Neighbours that say they hold it.
    pub(crate) fn holders(&self, piece: PieceIndex) -> u16 {
        self.holders[piece.index()]
    }

    /// Those of them in our own zone.
    pub(crate) fn near_holders(&self, piece: PieceIndex) -> u16 {
        self.near_holders[piece.index()]
    }

    pub(crate) fn add_holder(&mut self, piece: PieceIndex, near: bool) {
        self.holders[piece.index()] = self.holders[piece.index()].saturating_add(1);
        if near {
            self.near_holders[piece.index()] = self.near_holders[piece.index()].saturating_add(1);
        }
    }

    pub(crate) fn remove_holder(&mut self, piece: PieceIndex, near: bool) {
        self.holders[piece.index()] = self.holders[piece.index()].saturating_sub(1);
        if near {
            self.near_holders[piece.index()] = self.near_holders[piece.index()].saturating_sub(1);
        }
    }

    /// Calls `each` for every open piece that `holds` has.
    pub(crate) fn for_each_open_in(&self, holds: &Bitfield, mut each: impl FnMut(PieceIndex)) {
        for (word, (open, theirs)) in self.open.words().iter().zip(holds.words()).enumerate() {
            let mut both = open & theirs;
            while both != 0 {
                let bit = both.trailing_zeros();
                both &= both - 1;
                let index = u32::try_from(word * 64).expect("pieces are counted in u32") + bit;
                if let Some(piece) = self.geometry.piece(index) {
                    each(piece);
                }
            }
        }
    }

    /// Whether `holds` has any open piece.
    pub(crate) fn any_open_in(&self, holds: &Bitfield) -> bool {
        self.open
            .words()
            .iter()
            .zip(holds.words())
            .any(|(open, theirs)| open & theirs != 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn pieces(count: u64) -> Pieces {
        Pieces::new(Geometry::try_new(count * MIB, 1 << 20).unwrap())
    }

    #[test]
    fn a_released_piece_that_is_held_stays_held() {
        let mut pieces = pieces(3);
        let piece = pieces.geometry().piece(1).unwrap();
        pieces.request(piece);
        assert!(pieces.hold(piece));
        pieces.release(piece);
        assert_eq!(pieces.state(piece), PieceState::Held);
        assert!(!pieces.hold(piece), "held twice is no news");
        assert_eq!(pieces.log_from(0), [piece]);
        assert!(pieces.is_within(piece, 1) && !pieces.is_within(piece, 0));
    }

    proptest! {
        /// I3, and every count agrees with the states, whatever happens in whatever order.
        #[test]
        fn every_piece_is_in_exactly_one_state(ops in prop::collection::vec((0u8..3, 0u32..70), 0..300)) {
            let mut pieces = pieces(70);
            for (op, index) in ops {
                let piece = pieces.geometry().piece(index).unwrap();
                match op {
                    0 if pieces.state(piece) == PieceState::Missing => pieces.request(piece),
                    1 => pieces.release(piece),
                    _ => { pieces.hold(piece); }
                }
                let mut seen = [0u32; 3];
                for piece in pieces.geometry().pieces() {
                    seen[pieces.state(piece) as usize] += 1;
                }
                prop_assert_eq!(seen[PieceState::Held as usize], pieces.held_count());
                prop_assert_eq!(seen[PieceState::Missing as usize], pieces.open_count());
                prop_assert_eq!(seen.iter().sum::<u32>(), pieces.count());
                prop_assert_eq!(pieces.held().count(), pieces.held_count());
            }
        }
    }
}
