//! Who reads a blob, and which pieces they need next.
//!
//! Not here: when an urgent piece is asked for before a rare one (`picker`).

use crate::node::input::ReaderId;
use crate::swarm::pieces::{PieceState, Pieces};
use crate::{ByteRange, PieceIndex, limits};

#[derive(Clone, Copy, Debug)]
struct Reader {
    id: ReaderId,
    /// The bytes still to be read; `None` when nobody waits for any byte in particular.
    rest: Option<ByteRange>,
}

/// The readers of one blob.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    readers: Vec<Reader>,
    any: bool,
}

impl Readers {
    pub(crate) fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    /// Whether there ever was one.
    pub(crate) fn were_any(&self) -> bool {
        self.any
    }

    pub(crate) fn join(&mut self, id: ReaderId, rest: Option<ByteRange>) {
        self.any = true;
        self.leave(id);
        self.readers.push(Reader { id, rest });
    }

    pub(crate) fn leave(&mut self, id: ReaderId) {
        self.readers.retain(|reader| reader.id != id);
    }

    pub(crate) fn advance(&mut self, id: ReaderId, at: u64) {
        if let Some(reader) = self.readers.iter_mut().find(|reader| reader.id == id)
            && let Some(rest) = reader.rest.as_mut()
        {
            rest.start = rest.start.max(at.min(rest.end));
        }
    }

    /// Whether some reader waits for a piece that is not held.
    pub(crate) fn is_waiting(&self, pieces: &Pieces) -> bool {
        self.readers
            .iter()
            .any(|reader| first_missing(reader, pieces).is_some())
    }

    /// Open pieces in the windows under all cursors, the nearest first, into `into`.
    pub(crate) fn urgent(&self, pieces: &Pieces, into: &mut Vec<PieceIndex>) {
        into.clear();
        for reader in &self.readers {
            let Some(range) = reader.rest else { continue };
            let window = pieces
                .geometry()
                .pieces_of(range)
                .take(limits::URGENT_WINDOW);
            into.extend(window.filter(|piece| pieces.state(*piece) == PieceState::Missing));
        }
        if self.readers.len() > 1 {
            into.sort_unstable();
            into.dedup();
        }
    }

    /// Whether the piece lies in some window.
    pub(crate) fn is_urgent(&self, piece: PieceIndex, pieces: &Pieces) -> bool {
        self.readers.iter().any(|reader| {
            reader.rest.is_some_and(|range| {
                pieces
                    .geometry()
                    .pieces_of(range)
                    .take(limits::URGENT_WINDOW)
                    .any(|urgent| urgent == piece)
            })
        })
    }
}

fn first_missing(reader: &Reader, pieces: &Pieces) -> Option<PieceIndex> {
    let range = reader.rest?;
    pieces
        .geometry()
        .pieces_of(range)
        .next()
        .filter(|piece| pieces.state(*piece) != PieceState::Held)
}
