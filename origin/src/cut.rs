//! A stream of bytes, cut into pieces. Sans-IO.
//!
//! For: the border between what upstream sends (buffers of any length) and what the store takes (pieces). Not for:
//! hashing or keeping them.
//!
//! Invariant: the parts of a piece come in order, each byte once, and the one that ends the piece says so.

use bytes::Bytes;
use shoal_proto::{Geometry, PieceIndex};

/// A run of bytes within one piece.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Part {
    pub(crate) piece: PieceIndex,
    pub(crate) bytes: Bytes,
    /// Whether the piece ends with it.
    pub(crate) ends: bool,
}

/// Cuts what comes, from the start of some piece on.
#[derive(Debug)]
pub(crate) struct Cutter {
    geometry: Geometry,
    at: u64,
    buffer: Bytes,
}

impl Cutter {
    /// Cuts from offset `at` on, which is the start of a piece or the end of the blob.
    pub(crate) fn new(geometry: Geometry, at: u64) -> Self {
        Self {
            geometry,
            at,
            buffer: Bytes::new(),
        }
    }

    /// The next bytes of the blob. What was pushed before must have been taken.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        debug_assert!(
            self.buffer.is_empty(),
            "parts are taken until none is left before more bytes come"
        );
        self.buffer = bytes;
    }

    /// The next part; `None` when more bytes are needed. Bytes behind the end of the blob are dropped.
    pub(crate) fn take(&mut self) -> Option<Part> {
        let piece = self.geometry.piece_at(self.at)?;
        if self.buffer.is_empty() {
            return None;
        }
        let end = self.geometry.range_of(piece).end;
        let room = usize::try_from(end - self.at).unwrap_or(usize::MAX);
        let bytes = self.buffer.split_to(room.min(self.buffer.len()));
        self.at += bytes.len() as u64;
        Some(Part {
            piece,
            bytes,
            ends: self.at == end,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn geometry(blob_bytes: u64) -> Geometry {
        Geometry::try_new(blob_bytes, 1 << 20).unwrap()
    }

    fn cut(blob_bytes: u64, at: u64, buffers: &[usize]) -> Vec<(u32, usize, bool)> {
        let mut cutter = Cutter::new(geometry(blob_bytes), at);
        let mut out = Vec::new();
        for buffer in buffers {
            cutter.push(Bytes::from(vec![0; *buffer]));
            while let Some(part) = cutter.take() {
                out.push((part.piece.get(), part.bytes.len(), part.ends));
            }
        }
        out
    }

    #[test]
    fn boundaries_fall_where_pieces_end() {
        let mib = 1 << 20;
        assert_eq!(cut(MIB, 0, &[mib]), vec![(0, mib, true)]);
        assert_eq!(cut(MIB - 1, 0, &[mib - 1]), vec![(0, mib - 1, true)]);
        assert_eq!(
            cut(MIB + 1, 0, &[mib + 1]),
            vec![(0, mib, true), (1, 1, true)]
        );
        assert_eq!(
            cut(2 * MIB, MIB, &[5, mib - 5]),
            vec![(1, 5, false), (1, mib - 5, true)]
        );
        assert_eq!(cut(0, 0, &[]), vec![]);
        assert_eq!(
            cut(1, 0, &[9]),
            vec![(0, 1, true)],
            "what lies behind the end is dropped"
        );
    }

    proptest! {
        #[test]
        fn every_piece_ends_once_with_all_its_bytes(
            blob_bytes in 1u64..5 * MIB,
            buffers in proptest::collection::vec(1usize..700_000, 1..60),
        ) {
            let geometry = geometry(blob_bytes);
            let mut left = usize::try_from(blob_bytes).unwrap();
            let mut fed = Vec::new();
            for buffer in buffers.iter().cycle() {
                if left == 0 {
                    break;
                }
                fed.push((*buffer).min(left));
                left -= fed[fed.len() - 1];
            }
            let mut lengths = vec![0u64; geometry.piece_count().get() as usize];
            let mut ended = vec![0; lengths.len()];
            for (piece, length, ends) in cut(blob_bytes, 0, &fed) {
                lengths[piece as usize] += length as u64;
                ended[piece as usize] += u32::from(ends);
            }
            for piece in geometry.pieces() {
                prop_assert_eq!(lengths[piece.index()], u64::from(geometry.len_of(piece)));
                prop_assert_eq!(ended[piece.index()], 1);
            }
        }
    }
}
