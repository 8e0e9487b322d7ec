//! Memory that a process frees and will need again stays with it.
//!
//! For: daemons that move gigabytes through buffers of 64 KiB to 1 MiB. glibc gives the end of a heap back to the kernel
//! when more than 128 KiB of it are free, and maps every longer allocation by itself; either way each page of the next
//! buffer is a page fault: 50,000 a GiB, and a twentieth of the CPU, where a blob came in at 6,500 bytes a datagram.
//! Not for: how much memory a process may use; that follows from the limits on what it holds.
//!
//! Invariant: at most [`KEPT_BYTES`] of freed memory are kept at the end of a heap; the rest goes back.

use std::hint::black_box;

/// Freed memory that stays at the end of each of the allocator's heaps.
pub const KEPT_BYTES: usize = 2 * MAPPED_BYTES;
/// The shortest allocation that is mapped by itself, and unmapped when it is freed.
const MAPPED_BYTES: usize = 8 << 20;

/// Tells the allocator, once and early. Both bounds grow with the longest mapping that was ever freed, up to 32 MiB: its
/// length is that of the next allocation to be mapped, and twice that is kept (mallopt(3), `M_MMAP_THRESHOLD`). So one is
/// freed, untouched, which costs two system calls. Allocators other than glibc's do not mind.
pub fn keep_freed() {
    drop(black_box(Vec::<u8>::with_capacity(MAPPED_BYTES)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, after_name) = stat.rsplit_once(')').unwrap();
        // State, parent, group, session, terminal, its group, flags; then faults that needed no disk.
        let minor = after_name.split_whitespace().nth(7).unwrap();
        minor.parse().unwrap()
    }

    /// Every batch of packets that came in took its buffers from the kernel, page by page, and gave them back.
    #[test]
    #[cfg_attr(not(target_env = "gnu"), ignore = "another allocator's matter")]
    fn buffers_that_are_freed_and_taken_again_cost_no_page_faults() {
        const PAGES: u64 = 512;
        keep_freed();
        let take = || {
            let buffers = (0..32).map(|_| black_box(vec![1u8; 64 << 10]));
            drop(buffers.collect::<Vec<_>>());
        };
        take();
        let before = page_faults();
        for _ in 0..100 {
            take();
        }
        let faults = page_faults() - before;
        assert!(faults < 2 * PAGES, "{faults} page faults");
    }
}
