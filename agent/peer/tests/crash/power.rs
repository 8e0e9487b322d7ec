//! The power switch that disk and index share: it counts their calls, and goes off in the middle of one of them. Not here:
//! what a call does, or what is left of it.

use std::io;
use std::sync::{Arc, Mutex};

/// What becomes of things that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aftermath {
    /// The process was killed: the kernel still has everything.
    Kept,
    /// The machine lost power, and only what was synced is there.
    Lost,
    /// The machine lost power, and some of what was not synced is there, in parts.
    Torn(u64),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Power(Arc<Mutex<Switch>>);

#[derive(Debug, Default)]
struct Switch {
    calls: u64,
    off_at: Option<u64>,
    /// The next call that is called so fails with this error number, once.
    fault: Option<(&'static str, i32)>,
}

/// How far a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Half,
    Whole,
}

impl Power {
    pub(crate) fn off_at(call: u64) -> Self {
        let power = Self::default();
        power.0.lock().unwrap().off_at = Some(call);
        power
    }

    /// Counts a call that changes something; an error when the power is off or a fault was ordered.
    pub(crate) fn call(&self, name: &'static str) -> io::Result<Reach> {
        let mut switch = self.0.lock().unwrap();
        if let Some((_, number)) = switch.fault.take_if(|(at, _)| *at == name) {
            return Err(io::Error::from_raw_os_error(number));
        }
        switch.calls += 1;
        match switch.off_at {
            Some(off) if switch.calls > off => Err(io::Error::other("the power is off")),
            Some(off) if switch.calls == off => Ok(Reach::Half),
            _ => Ok(Reach::Whole),
        }
    }

    pub(crate) fn calls(&self) -> u64 {
        self.0.lock().unwrap().calls
    }

    pub(crate) fn is_off(&self) -> bool {
        let switch = self.0.lock().unwrap();
        switch.off_at.is_some_and(|off| switch.calls >= off)
    }

    pub(crate) fn fail_next(&self, call: &'static str, error_number: i32) {
        self.0.lock().unwrap().fault = Some((call, error_number));
    }
}

/// A little generator of numbers from a seed, so that each run can be repeated.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(0x9e37_79b9_7f4a_7c15))
    }

    /// Below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % n
    }
}
