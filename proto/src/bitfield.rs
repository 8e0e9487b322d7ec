//! Which pieces of a blob somebody holds.
//!
//! Not here: who, or what to do about it. Invariants: bits past the piece count are clear; the count is kept, not
//! computed. Words are 64 bits with piece 0 as the least significant bit of the first, so that the wire form is the
//! words in little-endian order.

use bytes::Bytes;
use thiserror::Error;

use crate::geometry::{PieceCount, PieceIndex};

/// A set of pieces of one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitfield {
    words: Vec<u64>,
    pieces: u32,
    held: u32,
}

/// Why bytes are not the bitfield of a blob.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BitfieldError {
    /// Longer or shorter than the blob's pieces need.
    #[error("bitfield of {got} bytes for {pieces} pieces")]
    Length {
        /// Bytes given.
        got: usize,
        /// Pieces of the blob.
        pieces: u32,
    },
    /// A piece that the blob does not have.
    #[error("bitfield names a piece past the end of the blob")]
    PastTheEnd,
}

impl Bitfield {
    /// No piece.
    pub fn new(pieces: PieceCount) -> Self {
        Self {
            words: vec![0; pieces.get().div_ceil(64) as usize],
            pieces: pieces.get(),
            held: 0,
        }
    }

    /// Every piece.
    pub fn full(pieces: PieceCount) -> Self {
        let mut words = vec![u64::MAX; pieces.get().div_ceil(64) as usize];
        if let (Some(last), rest @ 1..) = (words.last_mut(), pieces.get() % 64) {
            *last = (1 << rest) - 1;
        }
        Self {
            words,
            pieces: pieces.get(),
            held: pieces.get(),
        }
    }

    /// Adds a piece; tells whether it is new. A piece of another, longer blob is ignored.
    pub fn set(&mut self, piece: PieceIndex) -> bool {
        let bit = 1 << (piece.get() % 64);
        match self.words.get_mut(piece.index() / 64) {
            Some(word) if piece.get() < self.pieces && *word & bit == 0 => {
                *word |= bit;
                self.held += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes a piece away; tells whether it was there.
    pub fn clear(&mut self, piece: PieceIndex) -> bool {
        let bit = 1 << (piece.get() % 64);
        match self.words.get_mut(piece.index() / 64) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                self.held -= 1;
                true
            }
            _ => false,
        }
    }

    /// Is the piece in the set?
    pub fn contains(&self, piece: PieceIndex) -> bool {
        self.words
            .get(piece.index() / 64)
            .is_some_and(|word| word >> (piece.get() % 64) & 1 == 1)
    }

    /// How many pieces are in the set.
    pub const fn count(&self) -> u32 {
        self.held
    }

    /// How many pieces the blob has.
    pub const fn piece_count(&self) -> PieceCount {
        PieceCount(self.pieces)
    }

    /// All of them. True for a blob without pieces.
    pub const fn is_full(&self) -> bool {
        self.held == self.pieces
    }

    /// None of them.
    pub const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// The words, for set algebra over many bitfields at once.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The pieces in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        bits(self.words.iter().copied())
    }

    /// The pieces not in the set, in order.
    pub fn iter_missing(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        let pieces = self.pieces;
        bits(self.words.iter().map(|word| !word)).take_while(move |piece| piece.get() < pieces)
    }

    /// The wire form: bit i of byte i/8, least significant first, unused bits clear.
    pub fn encode(&self) -> Bytes {
        let mut out: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        out.truncate(byte_len(self.pieces));
        out.into()
    }

    /// Reads the wire form for a blob of so many pieces. The length must fit exactly, before anything is allocated.
    pub fn decode(bytes: &[u8], pieces: PieceCount) -> Result<Self, BitfieldError> {
        if bytes.len() != byte_len(pieces.get()) {
            return Err(BitfieldError::Length {
                got: bytes.len(),
                pieces: pieces.get(),
            });
        }
        let words: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            })
            .collect();
        let unused = pieces.get() % 64;
        if unused != 0 && words.last().is_some_and(|last| last >> unused != 0) {
            return Err(BitfieldError::PastTheEnd);
        }
        let held = words.iter().map(|word| word.count_ones()).sum();
        Ok(Self {
            words,
            pieces: pieces.get(),
            held,
        })
    }
}

const fn byte_len(pieces: u32) -> usize {
    pieces.div_ceil(8) as usize
}

fn bits(words: impl Iterator<Item = u64>) -> impl Iterator<Item = PieceIndex> {
    (0u32..)
        .step_by(64)
        .zip(words)
        .flat_map(|(base, mut word)| {
            core::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(PieceIndex(base + bit))
            })
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set(pieces in 0u32..300, steps in prop::collection::vec((any::<bool>(), 0u32..320), 0..200)) {
            let mut field = Bitfield::new(PieceCount(pieces));
            let mut model = BTreeSet::new();
            for (add, number) in steps {
                let piece = PieceIndex(number);
                if add {
                    prop_assert_eq!(field.set(piece), number < pieces && model.insert(number));
                } else {
                    prop_assert_eq!(field.clear(piece), model.remove(&number));
                }
                prop_assert_eq!(field.contains(piece), model.contains(&number));
            }
            prop_assert_eq!(field.count() as usize, model.len());
            prop_assert_eq!(field.is_full(), model.len() == pieces as usize);
            prop_assert_eq!(field.iter().map(PieceIndex::get).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            let missing: Vec<u32> = (0..pieces).filter(|n| !model.contains(n)).collect();
            prop_assert_eq!(field.iter_missing().map(PieceIndex::get).collect::<Vec<_>>(), missing);
            prop_assert_eq!(Bitfield::decode(&field.encode(), PieceCount(pieces)), Ok(field));
        }

        #[test]
        fn decoding_anything_keeps_the_unused_bits_clear(bytes in prop::collection::vec(any::<u8>(), 0..40), pieces in 0u32..320) {
            if let Ok(field) = Bitfield::decode(&bytes, PieceCount(pieces)) {
                prop_assert!(field.iter().all(|piece| piece.get() < pieces));
                prop_assert_eq!(&field.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn full_is_full_at_every_boundary() {
        for pieces in [0, 1, 7, 8, 9, 63, 64, 65, 128, 1280] {
            let full = Bitfield::full(PieceCount(pieces));
            assert!(
                full.is_full() && full.iter().count() == pieces as usize,
                "{pieces}"
            );
            assert_eq!(full.iter_missing().count(), 0);
            assert_eq!(
                Bitfield::decode(&full.encode(), PieceCount(pieces)),
                Ok(full)
            );
        }
        assert!(Bitfield::decode(&[0b1000_0000], PieceCount(7)).is_err());
        assert!(Bitfield::decode(&[0, 0], PieceCount(7)).is_err());
    }
}
