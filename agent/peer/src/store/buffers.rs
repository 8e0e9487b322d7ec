//! Buffers that bytes are read into, used again when nobody has a share of the bytes any more: a fresh one of this size costs
//! its page faults, and one that was used a moment ago is still in cache. Not here: how many may be out at once, which is
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
    len: usize,
    home: Arc<Buffers>,
}

impl Buffers {
    pub(super) fn take(self: &Arc<Self>) -> Buffer {
        let spare = self.spare().pop();
        Buffer {
            bytes: spare.unwrap_or_else(|| vec![0; SERVE_STEP_BYTES].into()),
            len: 0,
            home: Arc::clone(self),
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// Its first bytes, to be written over; what it is from then on. At most [`SERVE_STEP_BYTES`].
    pub(super) fn first_mut(&mut self, len: usize) -> &mut [u8] {
        self.len = len.min(self.bytes.len());
        &mut self.bytes[..self.len]
    }

    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
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
        let mut buffer = buffers.take();
        buffer.first_mut(3).copy_from_slice(b"abc");
        let bytes = buffer.into_bytes();
        let share = bytes.slice(1..);
        drop(bytes);
        assert!(buffers.spare().is_empty());
        assert_eq!(share, b"bc"[..]);
        drop(share);
        assert_eq!(buffers.spare().len(), 1);
        drop(buffers.take());
        assert_eq!(buffers.spare().len(), 1);
    }

    #[test]
    fn no_more_buffers_are_kept_than_is_counted() {
        let buffers = Arc::new(Buffers::default());
        let all: Vec<Buffer> = (0..2 * SPARE_BUFFERS_MAX).map(|_| buffers.take()).collect();
        drop(all);
        assert_eq!(buffers.spare().len(), SPARE_BUFFERS_MAX);
    }
}
