//! What peers say to each other on the control stream, and the handshake before it.
//!
//! Not here: requests, which have a stream each ([`Ask`](super::Ask)). A bitfield's length is checked where the blob's
//! geometry is known, in the core; here it is capped.

use bytes::Bytes;
use prost::Message;

use super::schema::{self, peer_message::Kind};
use super::{DecodeError, bounded, encode_frame};
use crate::limits::{HAVE_INDEXES_MAX, JOIN_SECRET_BYTES_MAX, PIECES_MAX, SOFTWARE_BYTES_MAX};
use crate::{BlobInfo, Digest, SignedMembership, Zone};

/// The first message of either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who the sender is; absent only with a join secret.
    pub membership: Option<SignedMembership>,
    /// UDP port on which the sender accepts peers; 0 when it does not.
    pub peer_port: u16,
    /// Name and version, for people.
    pub software: String,
    /// Instead of a membership: lets an agent in, at a tracker.
    pub join_secret: Option<super::Secret>,
    /// Where an agent that joins says it stands.
    pub zone: Zone,
}

impl Hello {
    /// The frame.
    pub fn encode(&self) -> Bytes {
        encode_frame(&schema::Hello {
            membership: self.membership.as_ref().map(SignedMembership::to_wire),
            peer_port: self.peer_port.into(),
            software: self.software.clone(),
            join_secret: self
                .join_secret
                .as_ref()
                .map(|secret| secret.expose().to_vec().into())
                .unwrap_or_default(),
            zone: self.zone.as_str().to_owned(),
        })
    }

    /// Reads a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let wire = schema::Hello::decode(body)?;
        if wire.join_secret.len() > JOIN_SECRET_BYTES_MAX {
            return Err(DecodeError::Field("join_secret"));
        }
        Ok(Self {
            membership: wire
                .membership
                .map(SignedMembership::from_wire)
                .transpose()?,
            peer_port: u16::try_from(wire.peer_port)
                .map_err(|_| DecodeError::Field("peer_port"))?,
            software: bounded(wire.software, SOFTWARE_BYTES_MAX, "software")?,
            join_secret: (!wire.join_secret.is_empty())
                .then(|| super::Secret::new(wire.join_secret.to_vec())),
            zone: wire.zone.parse()?,
        })
    }
}

/// The acceptor's second message: the dialer is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Welcome {
    /// The membership of an agent that has just joined.
    pub membership: Option<SignedMembership>,
}

impl Welcome {
    /// The frame.
    pub fn encode(&self) -> Bytes {
        encode_frame(&schema::Welcome {
            membership: self.membership.as_ref().map(SignedMembership::to_wire),
        })
    }

    /// Reads a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let wire = schema::Welcome::decode(body)?;
        Ok(Self {
            membership: wire
                .membership
                .map(SignedMembership::from_wire)
                .transpose()?,
        })
    }
}

/// What peers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// I take part in this swarm.
    Interest {
        /// Which blob.
        digest: Digest,
    },
    /// The shape of a blob. Its signature is not checked yet.
    Info {
        /// The shape.
        info: BlobInfo,
    },
    /// All that I hold of a blob.
    Holds {
        /// Which blob.
        digest: Digest,
        /// The wire form of a bitfield, read once the geometry is known.
        bitfield: Bytes,
    },
    /// Pieces that I hold since I last said.
    Have {
        /// Which blob.
        digest: Digest,
        /// Which pieces, unchecked; at most [`HAVE_INDEXES_MAX`].
        indexes: Vec<u32>,
        /// How many I hold in all, unchecked.
        held: u32,
    },
    /// I had to refuse you, and have an upload slot now.
    Free {
        /// Which blob you asked for.
        digest: Digest,
    },
    /// I take no more part in this swarm.
    Leave {
        /// Which blob.
        digest: Digest,
    },
    /// An origin takes a blob back: its bytes add up to another digest.
    Gone {
        /// Which blob.
        digest: Digest,
    },
    /// The membership of an origin. Not checked yet.
    Vouch {
        /// The membership.
        membership: SignedMembership,
    },
}

impl PeerMessage {
    /// The frame.
    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Self::Interest { digest } => Kind::Interest(schema::Interest {
                digest: digest.encode(),
            }),
            Self::Info { info } => Kind::Info(schema::Info {
                blob: Some(info.to_wire()),
            }),
            Self::Holds { digest, bitfield } => Kind::Holds(schema::Holds {
                digest: digest.encode(),
                bitfield: bitfield.clone(),
            }),
            Self::Have {
                digest,
                indexes,
                held,
            } => Kind::Have(schema::Have {
                digest: digest.encode(),
                indexes: indexes.clone(),
                held: *held,
            }),
            Self::Free { digest } => Kind::Free(schema::Free {
                digest: digest.encode(),
            }),
            Self::Leave { digest } => Kind::Leave(schema::Leave {
                digest: digest.encode(),
            }),
            Self::Gone { digest } => Kind::Gone(schema::Gone {
                digest: digest.encode(),
            }),
            Self::Vouch { membership } => Kind::Vouch(schema::Vouch {
                origin: Some(membership.to_wire()),
            }),
        };
        encode_frame(&schema::PeerMessage { kind: Some(kind) })
    }

    /// Reads a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        Ok(
            match schema::PeerMessage::decode(body)?
                .kind
                .ok_or(DecodeError::Kind)?
            {
                Kind::Interest(m) => Self::Interest {
                    digest: Digest::decode(&m.digest)?,
                },
                Kind::Info(m) => Self::Info {
                    info: BlobInfo::from_wire(&m.blob.ok_or(DecodeError::Field("blob"))?)?,
                },
                Kind::Holds(m) if m.bitfield.len() > PIECES_MAX as usize / 8 => {
                    return Err(DecodeError::Field("bitfield"));
                }
                Kind::Holds(m) => Self::Holds {
                    digest: Digest::decode(&m.digest)?,
                    bitfield: m.bitfield,
                },
                Kind::Have(m) if m.indexes.len() > HAVE_INDEXES_MAX => {
                    return Err(DecodeError::Field("indexes"));
                }
                Kind::Have(m) => Self::Have {
                    digest: Digest::decode(&m.digest)?,
                    indexes: m.indexes,
                    held: m.held,
                },
                Kind::Free(m) => Self::Free {
                    digest: Digest::decode(&m.digest)?,
                },
                Kind::Leave(m) => Self::Leave {
                    digest: Digest::decode(&m.digest)?,
                },
                Kind::Gone(m) => Self::Gone {
                    digest: Digest::decode(&m.digest)?,
                },
                Kind::Vouch(m) => Self::Vouch {
                    membership: SignedMembership::from_wire(
                        m.origin.ok_or(DecodeError::Field("origin"))?,
                    )?,
                },
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ClusterKey, Geometry, Membership, OriginKey, PeerId, Role};

    fn round_trip(message: &PeerMessage) {
        assert_eq!(
            PeerMessage::decode(&message.encode()[4..]).as_ref(),
            Ok(message)
        );
    }

    fn membership() -> SignedMembership {
        ClusterKey::from_secret(&[1; 32]).sign(&Membership {
            peer: PeerId::from_key([2; 32]),
            role: Role::Origin,
            zone: Zone::default(),
            not_after_unix_s: 5,
        })
    }

    #[test]
    fn every_message_comes_back() {
        let digest = Digest::Sha256([9; 32]);
        let info = BlobInfo::sign(
            &OriginKey::from_secret(&[1; 32]),
            digest,
            Geometry::for_blob(5 << 20).unwrap(),
        );
        round_trip(&PeerMessage::Interest { digest });
        round_trip(&PeerMessage::Info { info });
        round_trip(&PeerMessage::Holds {
            digest,
            bitfield: Bytes::from_static(&[1, 2, 3]),
        });
        round_trip(&PeerMessage::Have {
            digest,
            indexes: vec![0, 7, u32::MAX],
            held: 3,
        });
        round_trip(&PeerMessage::Free { digest });
        round_trip(&PeerMessage::Leave { digest });
        round_trip(&PeerMessage::Gone { digest });
        round_trip(&PeerMessage::Vouch {
            membership: membership(),
        });
    }

    #[test]
    fn handshake_comes_back() {
        let hello = Hello {
            membership: Some(membership()),
            peer_port: 7050,
            software: "shoal 0.1.0".into(),
            join_secret: None,
            zone: "z".parse().unwrap(),
        };
        assert_eq!(Hello::decode(&hello.encode()[4..]), Ok(hello.clone()));
        let join = Hello {
            membership: None,
            join_secret: Some(super::super::Secret::new(vec![1; 32])),
            ..hello
        };
        assert_eq!(Hello::decode(&join.encode()[4..]), Ok(join));
        let welcome = Welcome {
            membership: Some(membership()),
        };
        assert_eq!(Welcome::decode(&welcome.encode()[4..]), Ok(welcome));
    }

    #[test]
    fn message_over_a_limit_is_refused_whole() {
        let digest = Digest::Sha256([9; 32]);
        let have = PeerMessage::Have {
            digest,
            indexes: vec![1; HAVE_INDEXES_MAX + 1],
            held: 1,
        };
        assert!(PeerMessage::decode(&have.encode()[4..]).is_err());
        let holds = PeerMessage::Holds {
            digest,
            bitfield: vec![0; PIECES_MAX as usize / 8 + 1].into(),
        };
        assert!(PeerMessage::decode(&holds.encode()[4..]).is_err());
    }

    proptest! {
        #[test]
        fn decoding_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = PeerMessage::decode(&bytes);
            let _ = Hello::decode(&bytes);
            let _ = Welcome::decode(&bytes);
        }
    }
}
