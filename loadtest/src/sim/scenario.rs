//! What is simulated: how many, how fast, how far apart, and what goes wrong when.
//!
//! Not here: how it goes (`world`). Invariant: everything that is left to chance follows from the seed.

use std::time::Duration;

use shoal_proto::{Geometry, limits};

use super::quantity::{Rate, Share};

/// A run's conditions.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub agents: usize,
    pub zones: usize,
    pub geometry: Geometry,
    /// Of every agent and of the origin, each way.
    pub link: Rate,
    /// Of each zone, each way; `None`: wider than all its members together.
    pub zone_link: Option<Rate>,
    pub rtt: Duration,
    /// What a control message costs the process that receives it.
    pub message_cost: Duration,
    /// From upstream to the origin; `None`: the origin has the blob.
    pub upstream: Option<Rate>,
    pub slow: Share,
    pub slow_by: f64,
    pub liars: Share,
    pub crash: Share,
    /// Agents begin at random within this time.
    pub stagger: Duration,
    /// The tracker is gone for this long, mid-way.
    pub tracker_restart: Option<Duration>,
    /// The origin sends and takes nothing for this long, mid-way.
    pub origin_stall: Option<Duration>,
    pub seed: u64,
}

/// What an agent is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Nature {
    pub(super) slow: bool,
    pub(super) lies: bool,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// This agent is gone for good, without a word.
    Crash(usize),
    /// The others notice that this member is gone.
    Noticed(u32),
    OriginBack,
    OriginStalls,
    TrackerBack,
    TrackerGone,
}

impl Scenario {
    /// The least that any schedule takes: pieces plus the logarithm of the agents, in piece times.
    #[must_use]
    pub fn bound(&self) -> Duration {
        let rounds =
            u64::from(self.geometry.piece_count().get()) + u64::from(self.agents.max(1).ilog2());
        let bytes = rounds as f64 * f64::from(self.geometry.piece_bytes());
        Duration::from_secs_f64(bytes / self.link.bytes_per_sec())
    }

    /// After this much virtual time a run that is not over has failed.
    pub(super) fn limit(&self) -> Duration {
        let upstream = self.upstream.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(self.geometry.blob_bytes() as f64 / rate.bytes_per_sec())
        });
        let slowest = if self.slow.get() > 0.0 {
            self.slow_by
        } else {
            1.0
        };
        (self.bound() + upstream).mul_f64(10.0 * slowest) + self.stagger + Duration::from_secs(60)
    }

    /// What each agent is like: so many of them slow, so many liars; nobody is both while there are enough.
    pub(super) fn natures(&self, rng: &mut fastrand::Rng) -> Vec<Nature> {
        let mut natures = vec![Nature::default(); self.agents];
        let (slow, lies) = (self.slow.of(self.agents), self.liars.of(self.agents));
        let mut order: Vec<usize> = (0..self.agents).collect();
        rng.shuffle(&mut order);
        for at in order.iter().take(slow) {
            natures[*at].slow = true;
        }
        for at in order.iter().rev().take(lies) {
            natures[*at].lies = true;
        }
        natures
    }

    /// What goes wrong, and when.
    pub(super) fn faults(&self, rng: &mut fastrand::Rng) -> Vec<(Duration, Fault)> {
        let bound = self.bound();
        let mut faults: Vec<(Duration, Fault)> = rng
            .choose_multiple(0..self.agents, self.crash.of(self.agents))
            .into_iter()
            .map(|agent| (bound.mul_f64(0.2 + 0.5 * rng.f64()), Fault::Crash(agent)))
            .collect();
        if let Some(span) = self.tracker_restart {
            let gone = bound.mul_f64(0.4);
            faults.push((gone, Fault::TrackerGone));
            faults.push((gone + span, Fault::TrackerBack));
        }
        if let Some(span) = self.origin_stall {
            let stalls = bound.mul_f64(0.3);
            faults.push((stalls, Fault::OriginStalls));
            faults.push((stalls + span, Fault::OriginBack));
        }
        faults
    }

    /// From the wish for a link to both ends knowing each other: QUIC's handshake, two hellos and a welcome.
    pub(super) fn link_setup(&self) -> Duration {
        self.rtt * 5 / 2 + Duration::from_millis(1)
    }
}

/// A peer that vanished is noticed by its link's idle time; nothing else tells of it.
pub(super) const LINK_IDLE: Duration = Duration::from_secs(15);
/// Dialing one that is not there fails after this time.
pub(super) const DIAL_FAILS_AFTER: Duration = limits::HANDSHAKE_DEADLINE;
