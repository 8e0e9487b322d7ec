//! What a peer and a tracker say to each other.
//!
//! Not here: whom a tracker names, and why. A peer's address comes from its connection; only origins may advertise another,
//! which the tracker, not this module, enforces.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::schema::{self, from_tracker, to_tracker};
use super::{DecodeError, encode_frame, span_to_wire};
use crate::limits::{HANDOUT_PEERS_MAX, ORIGINS_MAX, STUCK_PEERS_MAX, SWARMS_PER_ANNOUNCE_MAX};
use crate::membership::{role_from_wire, role_to_wire};
use crate::{BlobInfo, Digest, PeerId, Role, SignedMembership, Zone};

/// Where a process can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// `None`: the host at which you reach me.
    pub ip: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
}

impl PeerAddress {
    /// The address, with `host` for a process beside the one that told it.
    pub fn resolve(&self, host: IpAddr) -> SocketAddr {
        SocketAddr::new(self.ip.unwrap_or(host), self.port)
    }

    fn to_wire(self) -> schema::PeerAddress {
        let ip = match self.ip {
            None => Bytes::new(),
            Some(IpAddr::V4(ip)) => Bytes::copy_from_slice(&ip.octets()),
            Some(IpAddr::V6(ip)) => Bytes::copy_from_slice(&ip.octets()),
        };
        schema::PeerAddress {
            ip,
            port: self.port.into(),
        }
    }

    fn from_wire(wire: &schema::PeerAddress) -> Result<Self, DecodeError> {
        let ip = match wire.ip.len() {
            0 => None,
            4 => wire.ip[..]
                .try_into()
                .ok()
                .map(|octets: [u8; 4]| IpAddr::from(octets)),
            16 => wire.ip[..]
                .try_into()
                .ok()
                .map(|octets: [u8; 16]| IpAddr::from(octets)),
            _ => return Err(DecodeError::Field("ip")),
        };
        match u16::try_from(wire.port) {
            Ok(port @ 1..) => Ok(Self { ip, port }),
            _ => Err(DecodeError::Field("port")),
        }
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(addr: SocketAddr) -> Self {
        Self {
            ip: Some(addr.ip()),
            port: addr.port(),
        }
    }
}

/// How far a peer is with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SwarmState {
    /// Still wants pieces.
    Leeching,
    /// Takes part no more.
    Left,
    /// Holds every piece.
    Seeding,
}

/// One blob in an announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmAnnounce {
    /// Which blob.
    pub digest: Digest,
    /// How far.
    pub state: SwarmState,
    /// Pieces held.
    pub held: u32,
    /// Answer with a handout.
    pub wants_peers: bool,
    /// The shape, once known. Its signature is not checked yet.
    pub blob: Option<BlobInfo>,
    /// Neighbours that do not help; at most [`STUCK_PEERS_MAX`].
    pub stuck: Vec<PeerId>,
}

/// What a peer tells a tracker: what changed, or everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announce {
    /// Counts the announces of one connection.
    pub seq: u64,
    /// Everything: what is not named is not held.
    pub full: bool,
    /// At most [`SWARMS_PER_ANNOUNCE_MAX`].
    pub swarms: Vec<SwarmAnnounce>,
    /// Measured; 0 when unknown.
    pub upload_bytes_per_sec: u64,
    /// Pieces being sent now.
    pub uploads: u32,
    /// Origins only: where to reach me, when it is not where I come from.
    pub advertise: Option<PeerAddress>,
}

/// From a peer to a tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToTracker {
    /// What I take part in.
    Announce(Announce),
}

impl ToTracker {
    /// The frame.
    pub fn encode(&self) -> Bytes {
        let Self::Announce(announce) = self;
        let wire = schema::Announce {
            seq: announce.seq,
            full: announce.full,
            swarms: announce.swarms.iter().map(SwarmAnnounce::to_wire).collect(),
            upload_bytes_per_sec: announce.upload_bytes_per_sec,
            uploads: announce.uploads,
            advertise: announce.advertise.map(PeerAddress::to_wire),
        };
        encode_frame(&schema::ToTracker {
            kind: Some(to_tracker::Kind::Announce(wire)),
        })
    }

    /// Reads a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let to_tracker::Kind::Announce(wire) = schema::ToTracker::decode(body)?
            .kind
            .ok_or(DecodeError::Kind)?;
        if wire.swarms.len() > SWARMS_PER_ANNOUNCE_MAX {
            return Err(DecodeError::Field("swarms"));
        }
        Ok(Self::Announce(Announce {
            seq: wire.seq,
            full: wire.full,
            swarms: wire
                .swarms
                .iter()
                .map(SwarmAnnounce::from_wire)
                .collect::<Result<_, _>>()?,
            upload_bytes_per_sec: wire.upload_bytes_per_sec,
            uploads: wire.uploads,
            advertise: wire
                .advertise
                .as_ref()
                .map(PeerAddress::from_wire)
                .transpose()?,
        }))
    }
}

impl SwarmAnnounce {
    fn to_wire(&self) -> schema::SwarmAnnounce {
        let state = match self.state {
            SwarmState::Leeching => schema::SwarmState::Leeching,
            SwarmState::Left => schema::SwarmState::Left,
            SwarmState::Seeding => schema::SwarmState::Seeding,
        };
        schema::SwarmAnnounce {
            digest: self.digest.encode(),
            state: state.into(),
            held: self.held,
            wants_peers: self.wants_peers,
            blob: self.blob.as_ref().map(BlobInfo::to_wire),
            stuck: self
                .stuck
                .iter()
                .map(|peer| Bytes::copy_from_slice(peer.as_bytes()))
                .collect(),
        }
    }

    fn from_wire(wire: &schema::SwarmAnnounce) -> Result<Self, DecodeError> {
        if wire.stuck.len() > STUCK_PEERS_MAX {
            return Err(DecodeError::Field("stuck"));
        }
        let state = match schema::SwarmState::try_from(wire.state) {
            Ok(schema::SwarmState::Leeching) => SwarmState::Leeching,
            Ok(schema::SwarmState::Left) => SwarmState::Left,
            Ok(schema::SwarmState::Seeding) => SwarmState::Seeding,
            Ok(schema::SwarmState::Unspecified) | Err(_) => {
                return Err(DecodeError::Field("state"));
            }
        };
        Ok(Self {
            digest: Digest::decode(&wire.digest)?,
            state,
            held: wire.held,
            wants_peers: wire.wants_peers,
            blob: wire.blob.as_ref().map(BlobInfo::from_wire).transpose()?,
            stuck: wire
                .stuck
                .iter()
                .map(|peer| PeerId::from_bytes(peer))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// A live origin, as a tracker tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What vouches for it. Not checked yet.
    pub membership: SignedMembership,
    /// Where it is.
    pub address: PeerAddress,
}

/// The state of the cluster, as a tracker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// How often to announce when nothing happens.
    pub announce_interval: Duration,
    /// At most [`ORIGINS_MAX`].
    pub origins: Vec<Origin>,
}

/// A peer that a tracker names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// Where.
    pub address: PeerAddress,
    /// Its zone.
    pub zone: Zone,
    /// Agent or origin.
    pub role: Role,
    /// Pieces held when it last announced.
    pub held: u32,
    /// It held all of them.
    pub seeding: bool,
}

/// Whom to try for a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handout {
    /// Which blob.
    pub digest: Digest,
    /// Its shape, when an announcer told it. Its signature is not checked yet.
    pub blob: Option<BlobInfo>,
    /// At most [`HANDOUT_PEERS_MAX`].
    pub peers: Vec<Candidate>,
    /// Somebody besides the origins holds or is getting the blob.
    pub injected: bool,
}

/// From a tracker to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a handout is what is nearly always sent, and none is kept in a list"
)]
pub enum FromTracker {
    /// After the handshake, and whenever it changes.
    Cluster(Cluster),
    /// In answer to an announce, or unasked.
    Handout(Handout),
}

impl FromTracker {
    /// The frame.
    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Self::Cluster(cluster) => from_tracker::Kind::Cluster(schema::Cluster {
                announce_interval_ms: span_to_wire(cluster.announce_interval),
                origins: cluster
                    .origins
                    .iter()
                    .map(|origin| schema::Origin {
                        membership: Some(origin.membership.to_wire()),
                        address: Some(origin.address.to_wire()),
                    })
                    .collect(),
            }),
            Self::Handout(handout) => from_tracker::Kind::Handout(schema::Handout {
                digest: handout.digest.encode(),
                blob: handout.blob.as_ref().map(BlobInfo::to_wire),
                peers: handout.peers.iter().map(Candidate::to_wire).collect(),
                injected: handout.injected,
            }),
        };
        encode_frame(&schema::FromTracker { kind: Some(kind) })
    }

    /// Reads a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        match schema::FromTracker::decode(body)?
            .kind
            .ok_or(DecodeError::Kind)?
        {
            from_tracker::Kind::Cluster(m) if m.origins.len() > ORIGINS_MAX => {
                Err(DecodeError::Field("origins"))
            }
            from_tracker::Kind::Cluster(m) => Ok(Self::Cluster(Cluster {
                announce_interval: Duration::from_millis(m.announce_interval_ms.into()),
                origins: m
                    .origins
                    .into_iter()
                    .map(Origin::from_wire)
                    .collect::<Result<_, _>>()?,
            })),
            from_tracker::Kind::Handout(m) if m.peers.len() > HANDOUT_PEERS_MAX => {
                Err(DecodeError::Field("peers"))
            }
            from_tracker::Kind::Handout(m) => Ok(Self::Handout(Handout {
                digest: Digest::decode(&m.digest)?,
                blob: m.blob.as_ref().map(BlobInfo::from_wire).transpose()?,
                peers: m
                    .peers
                    .iter()
                    .map(Candidate::from_wire)
                    .collect::<Result<_, _>>()?,
                injected: m.injected,
            })),
        }
    }
}

impl Origin {
    fn from_wire(wire: schema::Origin) -> Result<Self, DecodeError> {
        Ok(Self {
            membership: SignedMembership::from_wire(
                wire.membership.ok_or(DecodeError::Field("membership"))?,
            )?,
            address: PeerAddress::from_wire(&wire.address.ok_or(DecodeError::Field("address"))?)?,
        })
    }
}

impl Candidate {
    fn to_wire(&self) -> schema::Candidate {
        schema::Candidate {
            peer: Bytes::copy_from_slice(self.peer.as_bytes()),
            address: Some(self.address.to_wire()),
            zone: self.zone.as_str().to_owned(),
            role: role_to_wire(self.role),
            held: self.held,
            seeding: self.seeding,
        }
    }

    fn from_wire(wire: &schema::Candidate) -> Result<Self, DecodeError> {
        Ok(Self {
            peer: PeerId::from_bytes(&wire.peer)?,
            address: PeerAddress::from_wire(
                wire.address.as_ref().ok_or(DecodeError::Field("address"))?,
            )?,
            zone: wire.zone.parse()?,
            role: role_from_wire(wire.role)?,
            held: wire.held,
            seeding: wire.seeding,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ClusterKey, Membership};

    fn candidate() -> Candidate {
        Candidate {
            peer: PeerId::from_key([2; 32]),
            address: PeerAddress {
                ip: Some([10, 0, 0, 1].into()),
                port: 7050,
            },
            zone: "z".parse().unwrap(),
            role: Role::Agent,
            held: 3,
            seeding: false,
        }
    }

    #[test]
    fn what_is_said_comes_back() {
        let digest = Digest::Sha256([9; 32]);
        let announce = ToTracker::Announce(Announce {
            seq: 4,
            full: true,
            swarms: vec![SwarmAnnounce {
                digest,
                state: SwarmState::Seeding,
                held: 5,
                wants_peers: true,
                blob: None,
                stuck: vec![PeerId::from_key([7; 32])],
            }],
            upload_bytes_per_sec: 1 << 40,
            uploads: 2,
            advertise: Some(PeerAddress { ip: None, port: 1 }),
        });
        assert_eq!(ToTracker::decode(&announce.encode()[4..]), Ok(announce));
        let member = Membership {
            peer: PeerId::from_key([2; 32]),
            role: Role::Origin,
            zone: Zone::default(),
            not_after_unix_s: 5,
        };
        let cluster = FromTracker::Cluster(Cluster {
            announce_interval: Duration::from_secs(30),
            origins: vec![Origin {
                membership: ClusterKey::from_secret(&[1; 32]).sign(&member),
                address: PeerAddress {
                    ip: Some("::1".parse().unwrap()),
                    port: 7051,
                },
            }],
        });
        assert_eq!(FromTracker::decode(&cluster.encode()[4..]), Ok(cluster));
        let handout = FromTracker::Handout(Handout {
            digest,
            blob: None,
            peers: vec![candidate()],
            injected: true,
        });
        assert_eq!(FromTracker::decode(&handout.encode()[4..]), Ok(handout));
    }

    #[test]
    fn list_over_its_limit_is_refused_whole() {
        let digest = Digest::Sha256([9; 32]);
        let peers = vec![candidate(); HANDOUT_PEERS_MAX + 1];
        let handout = FromTracker::Handout(Handout {
            digest,
            blob: None,
            peers,
            injected: true,
        });
        assert!(FromTracker::decode(&handout.encode()[4..]).is_err());
    }

    #[test]
    fn address_without_an_ip_is_the_tellers_host() {
        let address = PeerAddress { ip: None, port: 9 };
        assert_eq!(
            address.resolve([10, 1, 1, 1].into()).to_string(),
            "10.1.1.1:9"
        );
    }

    proptest! {
        #[test]
        fn decoding_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = ToTracker::decode(&bytes);
            let _ = FromTracker::decode(&bytes);
        }
    }
}
