//! What a process shows of itself and what it believes of others: its membership, the cluster's keys, the time.
//!
//! Not here: how a membership is asked for or when it is renewed. A change is seen by the next handshake; links that stand
//! are not broken by it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_proto::{ClusterPublicKey, Membership, MembershipError, PeerId, SignedMembership, Zone};
use thiserror::Error;

/// Seconds since the epoch. An argument, so that tests can forge it.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Shared between an endpoint and whoever renews the membership.
#[derive(Clone)]
pub struct Credentials {
    own: Arc<RwLock<Option<SignedMembership>>>,
    keys: Arc<[ClusterPublicKey]>,
    clock: Clock,
}

impl Credentials {
    /// Believes memberships that one of these keys signed.
    pub fn new(keys: Vec<ClusterPublicKey>, own: Option<SignedMembership>) -> Self {
        let clock = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        };
        Self {
            own: Arc::new(RwLock::new(own)),
            keys: keys.into(),
            clock: Arc::new(clock),
        }
    }

    /// With another idea of the time.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// What we show from now on.
    pub fn set_membership(&self, membership: SignedMembership) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = Some(membership);
    }

    /// What we show; `None` before an agent has joined.
    pub fn membership(&self) -> Option<SignedMembership> {
        self.own
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whom we believe.
    pub fn keys(&self) -> &[ClusterPublicKey] {
        &self.keys
    }

    /// Seconds since the epoch.
    pub fn now_unix_s(&self) -> u64 {
        (self.clock)()
    }

    /// Is this a membership of our cluster, now?
    pub fn check(&self, membership: &SignedMembership) -> Result<Membership, MembershipError> {
        membership.check(&self.keys, self.now_unix_s())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

/// Lets agents in. Trackers have one.
pub trait Admit: Send + Sync {
    /// A membership for the peer that TLS proved, if the secret is right. The secret is not to be kept or logged.
    fn admit(
        &self,
        peer: PeerId,
        zone: &Zone,
        secret: &[u8],
    ) -> Result<SignedMembership, AdmitError>;
}

/// Why an agent is not let in.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AdmitError {
    /// Not the secret of this cluster.
    #[error("wrong join secret")]
    WrongSecret,
}
