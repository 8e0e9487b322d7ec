//! Requests: one [`Ask`] on a stream of its own.
//!
//! Not here: what is answered ([`Answer`](super::Answer)). A caller's credential travels in a [`Source`] to an origin and
//! nowhere else; it has no readable `Debug` and is wiped on drop.

use core::fmt;

use bytes::Bytes;
use prost::Message;

use super::schema::{self, ask};
use super::{DecodeError, ListAsk, bounded, encode_frame};
use crate::Digest;
use crate::limits::{
    ACCEPT_BYTES_MAX, ACCEPT_RANGES_MAX, AUTHORIZATION_BYTES_MAX, REFERENCE_BYTES_MAX,
    REGISTRY_NAME_BYTES_MAX, REPOSITORY_NAME_BYTES_MAX,
};

/// Bytes that must not be seen: not in logs, not on disk.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Hides these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one call that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a blob or a manifest comes from, in the words of the registry API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Host, with the port when it is not the usual one: `docker.io`, `127.0.0.1:5000`.
    pub registry: String,
    /// `library/busybox`.
    pub repository: String,
    /// The caller's own Authorization header.
    pub authorization: Option<Secret>,
}

impl Source {
    pub(super) fn to_wire(&self) -> schema::Source {
        let authorization = self
            .authorization
            .as_ref()
            .map(|secret| String::from_utf8_lossy(secret.expose()).into_owned());
        schema::Source {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            authorization: authorization.unwrap_or_default(),
        }
    }

    pub(super) fn from_wire(wire: Option<schema::Source>) -> Result<Self, DecodeError> {
        let wire = wire.ok_or(DecodeError::Field("source"))?;
        let authorization = bounded(wire.authorization, AUTHORIZATION_BYTES_MAX, "authorization")?;
        Ok(Self {
            registry: bounded(wire.registry, REGISTRY_NAME_BYTES_MAX, "registry")?,
            repository: bounded(wire.repository, REPOSITORY_NAME_BYTES_MAX, "repository")?,
            authorization: (!authorization.is_empty())
                .then(|| Secret::new(authorization.into_bytes())),
        })
    }
}

/// A question about a manifest. To an origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ManifestAsk {
    /// Whose.
    pub source: Source,
    /// A tag or a digest, unchecked.
    pub reference: String,
    /// Media ranges that the client takes; none means all.
    pub accept: Vec<String>,
    /// Without the body.
    pub head: bool,
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Give me this piece.
    Piece {
        /// Which blob.
        digest: Digest,
        /// Which piece, unchecked.
        index: u32,
    },
    /// Bring this blob. To an origin.
    Open {
        /// Which blob.
        digest: Digest,
        /// Where it comes from.
        source: Source,
        /// Only tell its length.
        stat: bool,
    },
    /// Give me this manifest. To an origin.
    Manifest(ManifestAsk),
    /// Tell me what a repository holds. To an origin.
    List(ListAsk),
}

impl Ask {
    /// The frame.
    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Self::Piece { digest, index } => ask::Kind::Piece(schema::PieceAsk {
                digest: digest.encode(),
                index: *index,
            }),
            Self::Open {
                digest,
                source,
                stat,
            } => ask::Kind::Open(schema::OpenAsk {
                digest: digest.encode(),
                source: Some(source.to_wire()),
                stat: *stat,
            }),
            Self::Manifest(ask) => ask::Kind::Manifest(schema::ManifestAsk {
                source: Some(ask.source.to_wire()),
                reference: ask.reference.clone(),
                accept: ask.accept.clone(),
                head: ask.head,
            }),
            Self::List(ask) => ask::Kind::List(ask.to_wire()),
        };
        encode_frame(&schema::Ask { kind: Some(kind) })
    }

    /// Reads a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        Ok(
            match schema::Ask::decode(body)?.kind.ok_or(DecodeError::Kind)? {
                ask::Kind::Piece(m) => Self::Piece {
                    digest: Digest::decode(&m.digest)?,
                    index: m.index,
                },
                ask::Kind::Open(m) => Self::Open {
                    digest: Digest::decode(&m.digest)?,
                    source: Source::from_wire(m.source)?,
                    stat: m.stat,
                },
                ask::Kind::Manifest(m) => {
                    if m.accept.len() > ACCEPT_RANGES_MAX
                        || m.accept.iter().map(String::len).sum::<usize>() > ACCEPT_BYTES_MAX
                    {
                        return Err(DecodeError::Field("accept"));
                    }
                    Self::Manifest(ManifestAsk {
                        source: Source::from_wire(m.source)?,
                        reference: bounded(m.reference, REFERENCE_BYTES_MAX, "reference")?,
                        accept: m.accept,
                        head: m.head,
                    })
                }
                ask::Kind::List(m) => Self::List(ListAsk::from_wire(m)?),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source() -> Source {
        Source {
            registry: "docker.io".into(),
            repository: "library/busybox".into(),
            authorization: Some(Secret::new(b"Bearer canary".to_vec())),
        }
    }

    #[test]
    fn asks_come_back_and_hide_their_credential() {
        let digest = Digest::Sha256([9; 32]);
        let manifest = ManifestAsk {
            source: source(),
            reference: "v1".into(),
            accept: vec!["*/*".into()],
            head: true,
        };
        for ask in [
            Ask::Piece { digest, index: 7 },
            Ask::Open {
                digest,
                source: source(),
                stat: true,
            },
            Ask::Open {
                digest,
                source: Source {
                    authorization: None,
                    ..source()
                },
                stat: false,
            },
            Ask::Manifest(manifest),
        ] {
            assert_eq!(Ask::decode(&ask.encode()[4..]).as_ref(), Ok(&ask));
            assert!(!format!("{ask:?}").contains("canary"));
        }
    }

    #[test]
    fn ask_over_a_limit_is_refused_whole() {
        let digest = Digest::Sha256([9; 32]);
        let long = Source {
            repository: "r".repeat(REPOSITORY_NAME_BYTES_MAX + 1),
            ..source()
        };
        assert!(
            Ask::decode(
                &Ask::Open {
                    digest,
                    source: long,
                    stat: false
                }
                .encode()[4..]
            )
            .is_err()
        );
        let many = ManifestAsk {
            source: source(),
            reference: "v1".into(),
            accept: vec![String::new(); ACCEPT_RANGES_MAX + 1],
            head: false,
        };
        assert!(Ask::decode(&Ask::Manifest(many).encode()[4..]).is_err());
    }

    proptest! {
        #[test]
        fn decoding_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Ask::decode(&bytes);
        }
    }
}
