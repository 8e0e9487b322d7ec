//! How a blob is cut: lengths, pieces, byte ranges.
//!
//! The only maker of [`PieceIndex`], so that an index in hand is in range for the blob it came from. Not here: which
//! pieces anybody holds ([`Bitfield`](crate::Bitfield)). Invariant: the pieces of a geometry partition its blob; all
//! have the same length but the last, which has at least one byte; a blob of no bytes has no pieces.

use core::ops::Range;

use thiserror::Error;

use crate::limits::{BLOB_BYTES_MAX, PIECE_BYTES_MAX, PIECE_BYTES_MIN, PIECES_TARGET};

/// The place of a piece in its blob, from zero. Made by a [`Geometry`] or by going through a
/// [`Bitfield`](crate::Bitfield) of the same blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(pub(crate) u32);

impl PieceIndex {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number, to index a slice with.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// How many pieces a blob has; at most [`PIECES_MAX`](crate::limits::PIECES_MAX).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceCount(pub(crate) u32);

impl PieceCount {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Bytes `start..end` of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// How many bytes; zero when `end` is not past `start`.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// No bytes.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Range<u64>> for ByteRange {
    fn from(range: Range<u64>) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// Why a shape is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum GeometryError {
    /// Longer than any blob may be.
    #[error("blob of {0} bytes is longer than {BLOB_BYTES_MAX}")]
    BlobTooLong(u64),
    /// Not a power of two, or out of bounds.
    #[error(
        "piece length {0} is not a power of two between {PIECE_BYTES_MIN} and {PIECE_BYTES_MAX}"
    )]
    PieceLength(u32),
    /// More pieces than a bitfield may have.
    #[error("blob of {0} bytes has too many pieces of {1} bytes")]
    TooManyPieces(u64, u32),
}

/// The shape of a blob: its length and the length of its pieces. Fixed by an origin, signed in
/// [`BlobInfo`](crate::BlobInfo).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    blob_bytes: u64,
    piece_bytes: u32,
}

impl Geometry {
    /// How an origin cuts a blob of this length: pieces of the power of two at or below a
    /// [`PIECES_TARGET`]th of it, within bounds. Small pieces start sooner (the start-up share of a fan-out is
    /// log2 N pieces), large ones cost less each.
    pub fn for_blob(blob_bytes: u64) -> Result<Self, GeometryError> {
        if blob_bytes > BLOB_BYTES_MAX {
            return Err(GeometryError::BlobTooLong(blob_bytes));
        }
        let near = (blob_bytes / PIECES_TARGET)
            .clamp(u64::from(PIECE_BYTES_MIN), u64::from(PIECE_BYTES_MAX));
        let piece_bytes = 1u32 << near.ilog2();
        Self::try_new(blob_bytes, piece_bytes)
    }

    /// The shape that somebody names, checked against the bounds.
    pub fn try_new(blob_bytes: u64, piece_bytes: u32) -> Result<Self, GeometryError> {
        if blob_bytes > BLOB_BYTES_MAX {
            return Err(GeometryError::BlobTooLong(blob_bytes));
        }
        if !piece_bytes.is_power_of_two()
            || !(PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(&piece_bytes)
        {
            return Err(GeometryError::PieceLength(piece_bytes));
        }
        if blob_bytes.div_ceil(u64::from(piece_bytes)) > u64::from(crate::limits::PIECES_MAX) {
            return Err(GeometryError::TooManyPieces(blob_bytes, piece_bytes));
        }
        Ok(Self {
            blob_bytes,
            piece_bytes,
        })
    }

    /// Length of the blob in bytes.
    pub const fn blob_bytes(&self) -> u64 {
        self.blob_bytes
    }

    /// Length of every piece but the last, in bytes.
    pub const fn piece_bytes(&self) -> u32 {
        self.piece_bytes
    }

    /// How many pieces.
    pub fn piece_count(&self) -> PieceCount {
        PieceCount(self.count())
    }

    fn count(&self) -> u32 {
        u32::try_from(self.blob_bytes.div_ceil(u64::from(self.piece_bytes))).unwrap_or(u32::MAX)
    }

    /// The piece of this number, if the blob has it.
    pub fn piece(&self, number: u32) -> Option<PieceIndex> {
        (number < self.count()).then_some(PieceIndex(number))
    }

    /// Where a piece lies.
    pub fn range_of(&self, piece: PieceIndex) -> ByteRange {
        let start = u64::from(piece.0) * u64::from(self.piece_bytes);
        ByteRange {
            start,
            end: (start + u64::from(self.piece_bytes)).min(self.blob_bytes),
        }
    }

    /// How long a piece is, in bytes.
    pub fn len_of(&self, piece: PieceIndex) -> u32 {
        u32::try_from(self.range_of(piece).len()).unwrap_or(self.piece_bytes)
    }

    /// The piece in which a byte lies, if the blob has that byte.
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        if offset >= self.blob_bytes {
            return None;
        }
        self.piece(u32::try_from(offset / u64::from(self.piece_bytes)).ok()?)
    }

    /// The pieces that a range touches, in order; none when it is empty or past the end.
    pub fn pieces_of(
        &self,
        range: ByteRange,
    ) -> impl DoubleEndedIterator<Item = PieceIndex> + use<> {
        let last = range.end.min(self.blob_bytes).checked_sub(1);
        let numbers = match (
            self.piece_at(range.start),
            last.and_then(|last| self.piece_at(last)),
        ) {
            (Some(first), Some(last)) if !range.is_empty() => first.0..last.0 + 1,
            _ => 0..0,
        };
        numbers.map(PieceIndex)
    }

    /// All pieces, in order.
    pub fn pieces(
        &self,
    ) -> impl DoubleEndedIterator<Item = PieceIndex> + ExactSizeIterator + use<> {
        (0..self.count()).map(PieceIndex)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn piece_length_is_near_a_1024th_of_the_blob() {
        let cases = [
            (0, 256),
            (1, 256),
            (255 * MIB, 256),
            (511 * MIB, 256),
            (512 * MIB, 512),
            (1023 * MIB, 512),
            (1024 * MIB, 1024),
            (2047 * MIB, 1024),
            (2048 * MIB, 2048),
            (5120 * MIB, 4096),
            (8192 * MIB, 8192),
            (100 * 1024 * MIB, 8192),
        ];
        for (blob, piece_kib) in cases {
            let geometry = Geometry::for_blob(blob).unwrap();
            assert_eq!(geometry.piece_bytes(), piece_kib << 10, "{blob}");
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert_eq!(
            Geometry::for_blob(BLOB_BYTES_MAX + 1),
            Err(GeometryError::BlobTooLong(BLOB_BYTES_MAX + 1))
        );
        for piece in [0, 1, 3 << 20, 1 << 17, 1 << 24, u32::MAX] {
            assert_eq!(
                Geometry::try_new(MIB, piece),
                Err(GeometryError::PieceLength(piece))
            );
        }
        assert!(matches!(
            Geometry::try_new(BLOB_BYTES_MAX, PIECE_BYTES_MIN),
            Err(GeometryError::TooManyPieces(..))
        ));
    }

    #[test]
    fn blob_of_no_bytes_has_no_pieces() {
        let geometry = Geometry::for_blob(0).unwrap();
        assert_eq!(geometry.piece_count().get(), 0);
        assert_eq!(geometry.piece(0), None);
        assert_eq!(geometry.piece_at(0), None);
        assert_eq!(
            geometry.pieces_of(ByteRange { start: 0, end: 9 }).count(),
            0
        );
    }

    proptest! {
        #[test]
        fn pieces_partition_the_blob(blob in 0u64..(1 << 34)) {
            let geometry = Geometry::for_blob(blob).unwrap();
            let mut at = 0;
            for piece in geometry.pieces() {
                let range = geometry.range_of(piece);
                prop_assert_eq!(range.start, at);
                prop_assert!(!range.is_empty());
                prop_assert_eq!(u64::from(geometry.len_of(piece)), range.len());
                prop_assert_eq!(geometry.piece_at(range.start), Some(piece));
                prop_assert_eq!(geometry.piece_at(range.end - 1), Some(piece));
                at = range.end;
            }
            prop_assert_eq!(at, blob);
        }

        #[test]
        fn range_touches_just_the_pieces_that_overlap_it(blob in 1u64..(1 << 26), a: u64, b: u64) {
            let geometry = Geometry::for_blob(blob).unwrap();
            let (start, end) = (a % (blob + 5), b % (blob + 5));
            let got: Vec<_> = geometry.pieces_of(ByteRange { start, end }).collect();
            let want: Vec<_> = geometry.pieces()
                .filter(|&p| { let r = geometry.range_of(p); start < end && r.start < end && start < r.end })
                .collect();
            prop_assert_eq!(got, want);
        }
    }
}
