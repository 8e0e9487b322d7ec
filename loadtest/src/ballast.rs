//! Memory that the machine has at hand, for runs that measure CPU.
//!
//! A virtual machine whose host takes back what is free pays for the first write to a page twenty times what it pays for
//! every later one (2.4 against 0.12 CPU s/GiB where this was written, 5 on another), and the kernel charges it to whoever
//! writes. So as much memory as a run will fill is written beforehand and given back before the run, all but a page in
//! every [`HOLE_BYTES`]: free memory goes back to a host in whole stretches of 2 MiB or more, and these pages keep any from
//! being whole until the run has ended. Where nobody takes memory back, this changes nothing but costs a moment.
//!
//! A long write takes its memory in long stretches, and the ballast, page by page, in the shortest there are: where free
//! memory is in pieces, those go first and do not count.
//!
//! The memory is a file's in memory, not a disk's: nothing of it is ever written back, and nobody but us lets go of it.
//!
//! Not here: what is measured.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use crate::network::machine;

const STEP_BYTES: u64 = 1 << 20;
/// A stretch in which one page is kept: what hosts take at a time. A file that is written in order lies in memory in order,
/// and a mebibyte in each stretch stays whole, which the kernel looks for when a long write comes.
const HOLE_BYTES: u64 = 2 << 20;
const KEPT_BYTES: u64 = 4 << 10;
/// A stretch that a store's write is served from.
const LONG_BYTES: u64 = 512 << 10;
/// So much is written between two looks at what is left.
const LOOK_BYTES: u64 = 64 << 20;
/// Memory that is left alone.
const SPARED_BYTES: u64 = 2 << 30;

/// Until it is dropped, memory that was given back stays with the machine.
#[derive(Debug)]
pub(crate) struct Ballast {
    _kept: File,
}

impl Ballast {
    /// Has twice so much memory at hand in long stretches, since not every one is as long as the kernel would like; or as
    /// much as the machine can spare.
    pub(crate) async fn take_on(bytes: u64) -> Result<Self> {
        let spare = machine::memory_available()?.saturating_sub(SPARED_BYTES);
        tokio::task::spawn_blocking(move || Self::fill(bytes * 2, spare)).await?
    }

    fn fill(bytes: u64, spare: u64) -> Result<Self> {
        let file = memfd_create("ballast", MemfdFlags::CLOEXEC).context("no file in memory")?;
        let file = File::from(file);
        let step = vec![0x5a; usize::try_from(STEP_BYTES)?];
        let long = machine::memory_free_in(LONG_BYTES)?;
        let mut filled = 0;
        while filled + LOOK_BYTES <= spare {
            for _ in 0..LOOK_BYTES / STEP_BYTES {
                file.write_all_at(&step, filled)
                    .context("cannot fill memory beforehand")?;
                filled += STEP_BYTES;
            }
            let taken = long.saturating_sub(machine::memory_free_in(LONG_BYTES)?);
            if taken >= bytes {
                break;
            }
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for at in (0..filled).step_by(usize::try_from(HOLE_BYTES)?) {
            fallocate(&file, hole, at + KEPT_BYTES, HOLE_BYTES - KEPT_BYTES)
                .context("cannot give back memory")?;
        }
        Ok(Self { _kept: file })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn nearly_all_of_the_ballast_is_given_back_and_a_page_in_each_stretch_is_kept() {
        let ballast = Ballast::fill(u64::MAX, 2 * LOOK_BYTES + 1).unwrap();
        let file = ballast._kept.metadata().unwrap();
        let stretches = file.len() / HOLE_BYTES;
        assert_eq!(file.len(), 2 * LOOK_BYTES);
        assert_eq!(file.blocks() * 512, stretches * KEPT_BYTES);
    }
}
