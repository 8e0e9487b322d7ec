//! Who is who: peers, their roles, their zones.
//!
//! Not here: what makes a peer a member ([`membership`](crate::Membership)), or its address, which changes.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::ZONE_BYTES_MAX;

/// What precedes the key in the libp2p text form: an identity multihash (0x00, length 0x24) of the protobuf
/// `PublicKey { type: Ed25519, data: 32 bytes }`. Source: libp2p specs, peer-ids.
const LIBP2P_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The name of a process: its Ed25519 public key. It is what TLS proves and what signatures are checked with, so a
/// name in hand is a key in hand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

/// Why something does not name anybody or any place.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum IdError {
    /// Not 32 bytes, or not the text form of an Ed25519 libp2p PeerId.
    #[error("malformed PeerId: expected an Ed25519 libp2p PeerId (12D3Koo…)")]
    Peer,
    /// A role that this version does not know.
    #[error("unknown role {0}")]
    Role(i32),
    /// Too long or with a character that is not a letter, a digit, or one of `. _ / -`.
    #[error("malformed zone: at most {ZONE_BYTES_MAX} letters, digits or . _ / -")]
    Zone,
}

impl PeerId {
    /// The peer with this Ed25519 public key.
    pub const fn from_key(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Reads the wire form, the 32 bytes of the key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::Peer)
    }

    /// The key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The last eight characters of the text form: for logs and people.
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len().saturating_sub(8)..].to_owned()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&LIBP2P_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for PeerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 38];
        if text.len() > 64 || bs58::decode(text).onto(&mut bytes) != Ok(38) {
            return Err(IdError::Peer);
        }
        match bytes.split_first_chunk() {
            Some((&LIBP2P_PREFIX, key)) => Self::from_bytes(key),
            _ => Err(IdError::Peer),
        }
    }
}

/// What a process is, and thereby what it may say. Proven by its membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The mirror on a node, and a peer.
    Agent,
    /// The seeder before upstream: signs shapes and proofs, answers for manifests.
    Origin,
    /// The introducer.
    Tracker,
}

impl Role {
    /// Its name, for logs and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Origin => "origin",
            Self::Tracker => "tracker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a process stands, as the operator names it: a zone, a rack. Traffic between two of them is dear. Empty when
/// the operator did not say. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Arc<str>);

impl Zone {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The operator did not say.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self(Arc::from(""))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl FromStr for Zone {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'-');
        if text.len() > ZONE_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(IdError::Zone);
        }
        Ok(Self(Arc::from(text)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zones_are_short_and_plain() {
        for good in ["", "eu-west-1a", "dc1/rack.07", &"z".repeat(ZONE_BYTES_MAX)] {
            assert_eq!(good.parse::<Zone>().unwrap().as_str(), good);
        }
        for bad in ["a b", "zone\n", "ü", "\"", &"z".repeat(ZONE_BYTES_MAX + 1)] {
            assert_eq!(bad.parse::<Zone>(), Err(IdError::Zone), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_form_is_libp2ps_and_comes_back(key: [u8; 32]) {
            let peer = PeerId::from_key(key);
            let text = peer.to_string();
            prop_assert!(text.starts_with("12D3Koo"), "{}", text);
            prop_assert_eq!(text.parse::<PeerId>(), Ok(peer));
            prop_assert!(text.ends_with(&peer.short()));
        }

        #[test]
        fn parsing_anything_never_panics(text in ".{0,100}") {
            if let Ok(peer) = text.parse::<PeerId>() {
                prop_assert_eq!(peer.to_string(), text);
            }
        }
    }
}
