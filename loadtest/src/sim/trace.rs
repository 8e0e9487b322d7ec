//! One number for a whole run: two runs with the same one did the same things at the same times.
//!
//! Not for security: it tells changes, not forgeries.

use shoal_proto::Instant;

/// The hash so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace(u64);

impl Trace {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Member `at` did `what`, with these particulars.
    pub(super) fn add(&mut self, now: Instant, at: u32, what: u8, detail: u64) {
        for word in [now.as_nanos(), u64::from(at) << 8 | u64::from(what), detail] {
            self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            self.0 ^= self.0 >> 29;
        }
    }

    pub(super) fn get(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_member_deed_detail_and_order_all_count() {
        let run = |steps: &[(u64, u32, u8, u64)]| {
            let mut trace = Trace::new(1);
            for (now, at, what, detail) in steps {
                trace.add(Instant::from_nanos(*now), *at, *what, *detail);
            }
            trace.get()
        };
        let base = run(&[(1, 2, 3, 4), (5, 6, 7, 8)]);
        assert_eq!(base, run(&[(1, 2, 3, 4), (5, 6, 7, 8)]));
        for other in [
            run(&[(5, 6, 7, 8), (1, 2, 3, 4)]),
            run(&[(1, 2, 3, 4), (5, 6, 7, 9)]),
            run(&[(1, 2, 3, 4), (5, 6, 8, 8)]),
            run(&[(1, 2, 3, 4), (5, 7, 7, 8)]),
            run(&[(1, 2, 3, 4), (6, 6, 7, 8)]),
        ] {
            assert_ne!(base, other);
        }
    }
}
