//! One step of reading a blob: at once where the bytes are in memory, on the blocking pool where the disk must be asked.
//!
//! A change of threads costs more than copying what the page cache holds, and a read that waits would hold up a task that
//! moves packets. Not here: how long a step should be, and what its bytes are counted against.

use bytes::Bytes;
use shoal_proto::Digest;

use crate::pool;
use crate::store::{Store, StoreError};

/// Up to `len` bytes from `at` on; fewer where a step of the store's ends.
///
/// Cancel safe: a dropped call has consumed nothing.
pub(crate) async fn read(
    store: &Store,
    digest: Digest,
    at: u64,
    len: usize,
) -> Result<Bytes, StoreError> {
    if let Some(bytes) = pool::in_place(|| store.read_cached(&digest, at, len))? {
        return Ok(bytes);
    }
    let store = store.clone();
    pool::run(move || store.read(&digest, at, len)).await
}
