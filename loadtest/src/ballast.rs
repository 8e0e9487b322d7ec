//! Memory that the machine has at hand, for runs that measure CPU.
//!
//! A virtual machine whose host takes back what is free pays for the first write to a page twenty times what it pays for
//! every later one (2.4 against 0.12 CPU s/GiB where this was written, 5 on another), and the kernel charges it to whoever
//! writes. So as much memory as a run will fill is written beforehand and given back before the run, all but a page in
//! every [`HOLE_BYTES`]: free memory goes back to a host in whole stretches of 2 MiB or more, and these pages keep any from
//! being whole until the run has ended. Where nobody takes memory back, this changes nothing but costs a moment.
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
/// Memory that is left alone.
const SPARED_BYTES: u64 = 2 << 30;

/// Until it is dropped, memory that was given back stays with the machine.
#[derive(Debug)]
pub(crate) struct Ballast {
    _kept: File,
}

impl Ballast {
    /// Has twice so much memory at hand, since not every free stretch is as long as the kernel would like; or as much as the
    /// machine can spare.
    pub(crate) async fn take_on(bytes: u64) -> Result<Self> {
        tokio::task::spawn_blocking(move || Self::fill(bytes * 2)).await?
    }

    fn fill(bytes: u64) -> Result<Self> {
        let spare = machine::memory_available()?.saturating_sub(SPARED_BYTES);
        let bytes = bytes.min(spare).next_multiple_of(HOLE_BYTES);
        let file = memfd_create("ballast", MemfdFlags::CLOEXEC).context("no file in memory")?;
        let file = File::from(file);
        let step = vec![0x5a; usize::try_from(STEP_BYTES)?];
        for at in (0..bytes).step_by(step.len()) {
            file.write_all_at(&step, at)
                .context("cannot fill memory beforehand")?;
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for at in (0..bytes).step_by(usize::try_from(HOLE_BYTES)?) {
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

    #[tokio::test]
    async fn nearly_all_of_the_ballast_is_given_back_and_a_page_in_each_stretch_is_kept() {
        let ballast = Ballast::take_on(8 << 20).await.unwrap();
        let held = ballast._kept.metadata().unwrap().blocks() * 512;
        assert_eq!(held, 8 * KEPT_BYTES);
    }
}
