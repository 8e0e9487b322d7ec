//! The blobs that are wanted here: their readers, their source, and what followers see of them.
//!
//! A table, not a judge: what is wanted, from whom, and when it is given up is the core's. The source holds the
//! caller's credential; it lives here only, until the swarm closes (I8, D12).

use std::collections::HashMap;
use std::sync::Arc;

use shoal_proto::wire::Source;
use shoal_proto::{BlobInfo, Digest, Input, ReaderId};

use crate::cursor::Cursor;
use crate::store::Pin;
use crate::view::{Phase, Viewed};

/// One wanted blob.
pub(super) struct Entry {
    pub(super) viewed: Viewed,
    pub(super) info: Option<BlobInfo>,
    /// Where it comes from and on whose behalf, as the latest reader said.
    pub(super) source: Option<Source>,
    /// While pieces land, the blob is neither evicted nor its file closed.
    pub(super) pin: Option<Pin>,
    readers: Vec<Reader>,
    /// Wishes without a reader; they end with the blob.
    wishes: Vec<ReaderId>,
}

struct Reader {
    id: ReaderId,
    cursor: Arc<Cursor>,
    told: u64,
}

/// All of them.
#[derive(Default)]
pub(super) struct Blobs {
    entries: HashMap<Digest, Entry>,
    next_reader: u64,
}

impl Blobs {
    pub(super) fn get(&self, digest: &Digest) -> Option<&Entry> {
        self.entries.get(digest)
    }

    pub(super) fn get_mut(&mut self, digest: &Digest) -> Option<&mut Entry> {
        self.entries.get_mut(digest)
    }

    /// The entry, made when there is none.
    pub(super) fn entry(&mut self, digest: Digest) -> &mut Entry {
        self.entries.entry(digest).or_insert_with(|| Entry {
            viewed: Viewed::new(),
            info: None,
            source: None,
            pin: None,
            readers: Vec::new(),
            wishes: Vec::new(),
        })
    }

    pub(super) fn forget(&mut self, digest: &Digest) -> Option<Entry> {
        self.entries.remove(digest)
    }

    /// Seats a reader, or notes a wish where nobody reads.
    pub(super) fn seat(&mut self, digest: Digest, cursor: Option<Arc<Cursor>>) -> ReaderId {
        let id = ReaderId(self.next_reader);
        self.next_reader += 1;
        let entry = self.entry(digest);
        match cursor {
            Some(cursor) => entry.readers.push(Reader {
                id,
                cursor,
                told: 0,
            }),
            None => entry.wishes.push(id),
        }
        id
    }

    /// What readers did since the last look.
    pub(super) fn moves(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        for (digest, entry) in &mut self.entries {
            entry.readers.retain_mut(|reader| {
                if reader.cursor.is_gone() {
                    inputs.push(Input::Unwanted {
                        digest: *digest,
                        reader: reader.id,
                    });
                    return false;
                }
                let at = reader.cursor.at();
                if at != reader.told {
                    reader.told = at;
                    inputs.push(Input::ReadAdvanced {
                        digest: *digest,
                        reader: reader.id,
                        at,
                    });
                }
                true
            });
        }
        inputs
    }

    /// The wishes that a completed blob fulfils.
    pub(super) fn fulfil(&mut self, digest: &Digest) -> Vec<Input> {
        let wishes = self
            .entries
            .get_mut(digest)
            .map(|entry| std::mem::take(&mut entry.wishes))
            .unwrap_or_default();
        let unwanted = wishes.into_iter().map(|reader| Input::Unwanted {
            digest: *digest,
            reader,
        });
        unwanted.collect()
    }

    /// Everybody is told that nothing comes any more.
    pub(super) fn close_all(&mut self) {
        for (_, entry) in self.entries.drain() {
            entry.viewed.enter(Phase::Closing);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Digest, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Entry {
    /// Who reads it.
    pub(super) fn readers(&self) -> usize {
        self.readers.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;
    use crate::cursor::Seat;

    #[test]
    fn moves_between_two_looks_are_told_once_and_leaving_is_told_last() {
        let digest = Digest::Sha256([1; 32]);
        let mut blobs = Blobs::default();
        let seat = Seat::new(Arc::new(Notify::new()));
        let id = blobs.seat(digest, Some(seat.cursor()));
        assert!(blobs.moves().is_empty(), "nobody moved");
        seat.advance(10, 4);
        seat.advance(20, 4);
        let told = blobs.moves();
        assert!(
            matches!(told[..], [Input::ReadAdvanced { at: 20, reader, .. }] if reader == id),
            "{told:?}"
        );
        seat.advance(30, 4);
        drop(seat);
        let told = blobs.moves();
        assert!(
            matches!(told[..], [Input::Unwanted { reader, .. }] if reader == id),
            "{told:?}"
        );
        assert_eq!(blobs.get(&digest).unwrap().readers(), 0);
    }

    #[test]
    fn wish_without_a_reader_ends_with_the_blob() {
        let digest = Digest::Sha256([1; 32]);
        let mut blobs = Blobs::default();
        let id = blobs.seat(digest, None);
        assert!(blobs.moves().is_empty());
        let told = blobs.fulfil(&digest);
        assert!(matches!(told[..], [Input::Unwanted { reader, .. }] if reader == id));
        assert!(blobs.fulfil(&digest).is_empty(), "fulfilled twice");
    }
}
