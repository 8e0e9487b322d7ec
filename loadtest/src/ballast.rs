//! Memory that the machine has at hand, for runs that measure CPU.
//!
//! A virtual machine whose host takes back what is free pays for the first write to a page twenty times what it pays for
//! every later one (2.4 against 0.12 CPU s/GiB where this was written), and the kernel charges it to whoever writes. So as
//! much of the page cache as a run will fill is written beforehand, and given back while the run fills it: never so early
//! that the host could take it. Where nobody takes memory back, this changes nothing but costs a moment.
//!
//! Not here: what is measured.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;

use crate::network::machine;

const STEP_BYTES: usize = 1 << 20;
/// Given back before it is asked for: what a run fills between two looks, and what is not its payload.
const AHEAD_BYTES: u64 = 1 << 30;
/// Memory that is left alone.
const SPARED_BYTES: u64 = 2 << 30;
/// Steps in which [`Ballast::ebb`] gives back.
const EBB_STEPS: u32 = 64;

/// A file without a name whose pages are in memory.
#[derive(Debug)]
pub(crate) struct Ballast {
    file: File,
    bytes: u64,
}

impl Ballast {
    /// Fills so much of the page cache and half as much again, since the kernel does not take from what was given back last
    /// alone; or as much as the machine can spare.
    pub(crate) async fn take_on(folder: &Path, bytes: u64) -> Result<Self> {
        let path = folder.join("ballast");
        tokio::task::spawn_blocking(move || Self::fill(&path, bytes * 3 / 2)).await?
    }

    fn fill(path: &Path, bytes: u64) -> Result<Self> {
        let spare = machine::memory_available()?.saturating_sub(SPARED_BYTES) / 2;
        let steps = bytes.min(spare) / STEP_BYTES as u64;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("{}", path.display()))?;
        std::fs::remove_file(path)?;
        let step = vec![0x5a; STEP_BYTES];
        for at in 0..steps {
            file.write_all_at(&step, at * STEP_BYTES as u64)?;
        }
        let bytes = steps * STEP_BYTES as u64;
        Ok(Self { file, bytes })
    }

    /// Gives back what a run that has filled so much needs next.
    pub(crate) fn make_room(&self, filled: u64) -> Result<()> {
        let ahead = filled.saturating_add(AHEAD_BYTES);
        Ok(self.file.set_len(self.bytes.saturating_sub(ahead))?)
    }

    /// Gives back all of it over some time, where nobody can tell how far a run is; ends only with an error.
    pub(crate) async fn ebb(&self, over: Duration) -> Result<Infallible> {
        for step in 1..=EBB_STEPS {
            self.make_room(self.bytes / u64::from(EBB_STEPS) * u64::from(step))?;
            sleep(over / EBB_STEPS).await;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ballast_goes_as_the_run_goes_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = Ballast::take_on(folder.path(), 2 << 20).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(ballast.bytes <= 3 << 20);
        ballast.make_room(0).unwrap();
        let left = ballast.file.metadata().unwrap().len();
        assert_eq!(left, 0, "it is less than goes ahead");
        ballast.make_room(u64::MAX).unwrap();
    }
}
