//! What can go wrong with an upstream, once, for all that wait for it.
//!
//! For: one value that every waiter can share, and what a peer is told of it. Not for: texts that quote a URL or a
//! header of an upstream: a redirect's URL is signed, and a header may be a secret.

use std::time::Duration;

use shoal_proto::wire::{Refusal, RefusalCode};

/// Whose fault it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blame {
    /// The one that asked.
    Asker,
    /// This origin or its configuration.
    Origin,
    /// The registry outside.
    Upstream,
}

/// Why an upstream did not give what was asked of it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UpstreamError {
    /// The answer breaks the protocol, or contradicts what was known.
    #[error("{registry} gave an answer that cannot be used: {detail}")]
    BadAnswer {
        /// The registry asked.
        registry: String,
        /// What was wrong with it.
        detail: String,
    },
    /// Upstream wants another credential of the caller than it sent, or one at all.
    #[error("{registry} asks the caller for a credential that it accepts")]
    Challenged {
        /// The registry asked.
        registry: String,
        /// Its challenges word for word, one a line.
        challenge: String,
    },
    /// This origin's own credential cannot be used: no file, no entry, a helper that fails.
    #[error("this origin's credential for {registry} cannot be used: {detail}")]
    Credential {
        /// The registry it is for.
        registry: String,
        /// What is wrong, and where to look.
        detail: String,
    },
    /// Upstream does not let us.
    #[error(
        "{registry} denies it (HTTP {status}); make it public there, or list it under `shared` with a credential"
    )]
    Denied {
        /// The registry asked.
        registry: String,
        /// 401 or 403.
        status: u16,
    },
    /// An address that may not be spoken to.
    #[error(
        "{registry} leads to {host}, a private address; set `private_addresses = true` for it if that is meant"
    )]
    ForbiddenAddress {
        /// The registry asked.
        registry: String,
        /// The host it led to.
        host: String,
    },
    /// Too many transfers are running here.
    #[error("too many transfers are running; ask again shortly")]
    Full,
    /// Upstream tells no length.
    #[error("{registry} tells no Content-Length for it, neither on GET nor on HEAD")]
    NoLength {
        /// The registry asked.
        registry: String,
    },
    /// The registry is not among those this origin asks.
    #[error(
        "{registry} is not among the upstreams of this origin; add an [[upstream]] for it if it should be"
    )]
    NotAllowed {
        /// The registry asked for.
        registry: String,
    },
    /// Upstream says there is no such thing.
    #[error("{registry} has no such content")]
    NotFound {
        /// The registry asked.
        registry: String,
    },
    /// Upstream asked us to wait.
    #[error("{registry} limits our rate; next attempt in {} s", retry_after.as_secs())]
    Throttled {
        /// The registry asked.
        registry: String,
        /// For how long.
        retry_after: Duration,
    },
    /// Larger than this origin takes.
    #[error("{registry} offers {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The registry asked.
        registry: String,
        /// What it offers.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// It cannot be reached, or is broken, or too slow.
    #[error("{registry} is not available: {detail}")]
    Unavailable {
        /// The registry asked.
        registry: String,
        /// What happened.
        detail: String,
    },
    /// The bytes are not those the digest names.
    #[error("{registry} sent bytes of another digest")]
    WrongDigest {
        /// The registry asked.
        registry: String,
    },
}

impl UpstreamError {
    /// Whose fault it is.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::NotAllowed { .. } => Blame::Asker,
            Self::Credential { .. }
            | Self::ForbiddenAddress { .. }
            | Self::Full
            | Self::TooLarge { .. } => Blame::Origin,
            Self::BadAnswer { .. }
            | Self::Challenged { .. }
            | Self::Denied { .. }
            | Self::NoLength { .. }
            | Self::NotFound { .. }
            | Self::Throttled { .. }
            | Self::Unavailable { .. }
            | Self::WrongDigest { .. } => Blame::Upstream,
        }
    }

    /// When asking again may help; `None` when only a change at upstream or in the configuration will.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } => Some(*retry_after),
            Self::Full => Some(Duration::from_secs(1)),
            Self::Unavailable { .. } => Some(Duration::from_secs(2)),
            Self::BadAnswer { .. } | Self::Credential { .. } => Some(Duration::from_secs(10)),
            Self::Challenged { .. }
            | Self::Denied { .. }
            | Self::ForbiddenAddress { .. }
            | Self::NoLength { .. }
            | Self::NotAllowed { .. }
            | Self::NotFound { .. }
            | Self::TooLarge { .. }
            | Self::WrongDigest { .. } => None,
        }
    }

    /// Whether upstream could not be asked at all, so that the last known answer is better than none.
    #[must_use]
    pub fn allows_stale(&self) -> bool {
        matches!(
            self,
            Self::Credential { .. }
                | Self::Throttled { .. }
                | Self::Unavailable { .. }
                | Self::Full
        )
    }

    /// How long whoever asks again is given the same answer without asking upstream.
    #[must_use]
    pub fn hold(&self) -> Duration {
        match self {
            Self::Denied { .. } | Self::NotFound { .. } | Self::NotAllowed { .. } => {
                Duration::from_secs(10)
            }
            Self::Throttled { retry_after, .. } => (*retry_after).min(Duration::from_secs(10)),
            // Whoever comes again comes with another credential, for which nothing is held.
            Self::Challenged { .. } => Duration::from_secs(5),
            Self::Full => Duration::ZERO,
            Self::Unavailable { .. } => Duration::from_secs(1),
            Self::BadAnswer { .. }
            | Self::Credential { .. }
            | Self::ForbiddenAddress { .. }
            | Self::NoLength { .. }
            | Self::TooLarge { .. } => Duration::from_secs(5),
            // To find it wrong again would cost the whole download again.
            Self::WrongDigest { .. } => Duration::from_secs(60),
        }
    }

    /// What a peer is told. Not the challenge: what is shared here needs no credential of the asker's, and a client
    /// that was asked for one would take it here instead of going upstream.
    #[must_use]
    pub fn to_refusal(&self) -> Refusal {
        let code = match self {
            Self::Challenged { .. }
            | Self::Denied { .. }
            | Self::NotAllowed { .. }
            | Self::ForbiddenAddress { .. } => RefusalCode::Denied,
            // What the digest names is not there, whatever is: to ask again would not bring it.
            Self::NotFound { .. } | Self::WrongDigest { .. } => RefusalCode::NotFound,
            Self::BadAnswer { .. }
            | Self::Credential { .. }
            | Self::Full
            | Self::NoLength { .. }
            | Self::Throttled { .. }
            | Self::TooLarge { .. }
            | Self::Unavailable { .. } => RefusalCode::Unavailable,
        };
        let mut refusal = Refusal::new(code).with_detail(self.to_string());
        refusal.retry_after = self.retry_after().unwrap_or_default();
        refusal
    }

    /// What a peer is told when its caller's own credential was used: upstream's challenge to be relayed; and the same
    /// words for what is not there and for what this caller may not have.
    #[must_use]
    pub fn to_callers_refusal(&self) -> Refusal {
        match self {
            Self::Challenged { challenge, .. } => Refusal {
                challenge: challenge.clone(),
                ..self.to_refusal()
            },
            Self::Denied { registry, .. } | Self::NotFound { registry } => {
                let same = Self::NotFound {
                    registry: registry.clone(),
                };
                same.to_refusal()
            }
            _ => self.to_refusal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::limits;

    use super::*;

    #[test]
    fn a_throttled_upstream_is_never_told_as_a_denial() {
        let error = UpstreamError::Throttled {
            registry: "docker.io".into(),
            retry_after: Duration::from_secs(60),
        };
        let refusal = error.to_refusal();
        assert_eq!(refusal.code, RefusalCode::Unavailable);
        assert_eq!(refusal.retry_after, Duration::from_secs(60));
        assert!(error.allows_stale());
    }

    #[test]
    fn detail_is_cut_at_a_character() {
        let error = UpstreamError::Unavailable {
            registry: "r".into(),
            detail: "ä".repeat(400),
        };
        assert!(error.to_refusal().detail.len() <= limits::REFUSAL_DETAIL_BYTES_MAX);
    }

    #[test]
    fn a_caller_cannot_tell_what_is_forbidden_from_what_is_not_there() {
        let registry = || "r".to_owned();
        let forbidden = UpstreamError::Denied {
            registry: registry(),
            status: 403,
        };
        let absent = UpstreamError::NotFound {
            registry: registry(),
        };
        assert_eq!(forbidden.to_callers_refusal(), absent.to_callers_refusal());
        assert_eq!(absent.to_callers_refusal().code, RefusalCode::NotFound);
    }

    #[test]
    fn a_challenge_is_told_to_the_caller_alone() {
        let error = UpstreamError::Challenged {
            registry: "r".into(),
            challenge: "Bearer realm=\"https://auth.test/\"".into(),
        };
        assert_eq!(error.to_refusal().challenge, "");
        let refusal = error.to_callers_refusal();
        assert_eq!(refusal.code, RefusalCode::Denied);
        assert_eq!(refusal.challenge, "Bearer realm=\"https://auth.test/\"");
    }

    #[test]
    fn a_denial_is_never_answered_with_a_stale_copy() {
        let denied = UpstreamError::Denied {
            registry: "r".into(),
            status: 401,
        };
        assert!(!denied.allows_stale());

        assert!(
            !UpstreamError::NotFound {
                registry: "r".into()
            }
            .allows_stale()
        );
    }
}
