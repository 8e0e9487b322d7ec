//! Buffers that bytes are read into, used again when nobody has a share of the bytes any more: a fresh one of this size costs
//! its page faults, and one that was used a moment ago is still in cache. What is shorter has memory of its own length: a
//! buffer is accounted for by the bytes in it, and must not hold more. Not here: how many may be out at once, which is
//! bounded where bytes are read (a byte budget, the links' send windows).

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use shoal_proto::limits::{SERVE_STEP_BYTES, SPARE_BUFFERS_MAX};

/// Those that wait to be used again: at most [`SPARE_BUFFERS_MAX`], of [`SERVE_STEP_BYTES`] each.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    spare: Mutex<Vec<Box<[u8]>>>,
}

/// One in use; its memory goes back on drop.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    home: Arc<Buffers>,
}

impl Buffers {
    /// One of this length.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let spare = (len == SERVE_STEP_BYTES)
            .then(|| self.spare().pop())
            .flatten();
        Buffer {
            bytes: spare.unwrap_or_else(|| vec![0; len].into()),
            home: Arc::clone(self),
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// To be written over: what was read before may still be there.
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() < SERVE_STEP_BYTES {
            return;
        }
        let mut spare = self.home.spare();
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_only_when_the_last_share_of_its_bytes_is_gone() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take(SERVE_STEP_BYTES);
        buffer.as_mut()[..3].copy_from_slice(b"abc");
        let bytes = buffer.into_bytes();
        let share = bytes.slice(1..3);
        drop(bytes);
        assert!(buffers.spare().is_empty());
        assert_eq!(share, b"bc"[..]);
        drop(share);
        assert_eq!(buffers.spare().len(), 1);
        drop(buffers.take(SERVE_STEP_BYTES));
        assert_eq!(buffers.spare().len(), 1);
    }

    /// A client that asks for many small ranges and reads none of the answers had a quarter of a mebibyte for each, of which
    /// the read budget knew a few bytes.
    #[test]
    fn a_short_read_holds_no_more_memory_than_its_length() {
        let buffers = Arc::new(Buffers::default());
        drop(buffers.take(SERVE_STEP_BYTES));
        let short = buffers.take(10);
        assert_eq!(short.bytes.len(), 10);
        drop(short);
        assert_eq!(buffers.spare().len(), 1, "only the whole one waits");
    }

    #[test]
    fn no_more_buffers_are_kept_than_is_counted() {
        let buffers = Arc::new(Buffers::default());
        let all: Vec<Buffer> = (0..2 * SPARE_BUFFERS_MAX)
            .map(|_| buffers.take(SERVE_STEP_BYTES))
            .collect();
        drop(all);
        assert_eq!(buffers.spare().len(), SPARE_BUFFERS_MAX);
    }
}
