//! A join token that no tracker takes, found out at the start: it will not mend itself, so the agent says so and ends.
//!
//! Joining itself, again and again until a tracker answers, is the member's work (`shoal_peer`). Here one attempt at each
//! tracker tells a wrong token from a tracker that is away.

use shoal_link::{Credentials, DialError, Endpoint, HandshakeError, LinkError};
use shoal_proto::wire::CloseCode;
use shoal_proto::{JoinToken, MembershipError, Zone};

/// Why the cluster does not let this agent in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "cluster.join_token_file: the tracker at {tracker} does not take this token; copy `join-token` from the data folder of a tracker or an origin anew"
    )]
    Secret { tracker: String },
    #[error(
        "cluster.join_token_file: the tracker at {tracker} belongs to another cluster than the token; set `cluster.trackers` to those of the token's cluster, or copy its `join-token`"
    )]
    Cluster { tracker: String },
}

/// What one attempt takes.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) endpoint: Endpoint,
    pub(super) credentials: Credentials,
    pub(super) token: Option<JoinToken>,
    pub(super) zone: Zone,
    pub(super) trackers: Vec<String>,
}

impl Joining {
    /// Resolves only when a tracker refuses the token.
    pub(super) async fn refusal(&self) -> Refused {
        for tracker in &self.trackers {
            let Ok(addrs) = tokio::net::lookup_host(tracker).await else {
                continue;
            };
            for addr in addrs {
                let Some(token) = &self.token else { continue };
                match self.endpoint.join(addr, token, self.zone.clone()).await {
                    Ok(membership) => {
                        self.credentials.set_membership(membership);
                        return std::future::pending().await;
                    }
                    Err(error) => {
                        if let Some(refused) = judge(&error, tracker) {
                            return refused;
                        }
                    }
                }
            }
        }
        std::future::pending().await
    }
}

fn judge(error: &DialError, tracker: &str) -> Option<Refused> {
    let tracker = tracker.to_owned();
    match error {
        DialError::Handshake {
            source: HandshakeError::Membership(MembershipError::ForeignCluster),
            ..
        } => Some(Refused::Cluster { tracker }),
        DialError::Handshake {
            source: HandshakeError::Link(LinkError::Closed(CloseCode::NotAMember)),
            ..
        } => Some(Refused::Secret { tracker }),
        _ => None,
    }
}
