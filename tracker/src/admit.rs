//! The door: a join secret in, a membership out.
//!
//! Not for: any role but the agent's. Whoever holds a join token can become an agent and nothing else, in whatever
//! zone it says it is.

use std::time::Duration;

use shoal_link::{Admit, AdmitError};
use shoal_proto::{PeerId, Role, SignedMembership, Zone};

use crate::cluster::{ClusterSecrets, unix_now};

/// Lets agents in by their token.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) secrets: ClusterSecrets,
    /// How long a membership is good.
    pub(crate) life: Duration,
}

impl Admit for Door {
    fn admit(
        &self,
        peer: PeerId,
        zone: &Zone,
        secret: &[u8],
    ) -> Result<SignedMembership, AdmitError> {
        if !self.secrets.lets_in(secret) {
            metrics::counter!("shoal_tracker_joins_total", "result" => "wrong_secret").increment(1);
            tracing::warn!(peer = %peer.short(), "refused a wrong join secret");
            return Err(AdmitError::WrongSecret);
        }
        metrics::counter!("shoal_tracker_joins_total", "result" => "ok").increment(1);
        tracing::info!(peer = %peer.short(), %zone, "let an agent in");
        Ok(self
            .secrets
            .sign(peer, Role::Agent, zone, unix_now() + self.life.as_secs()))
    }
}
