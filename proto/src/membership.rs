//! Who belongs to the cluster: memberships, and whose signatures are believed.
//!
//! A [`SignedMembership`] is what travels; a [`Membership`] exists only after [`SignedMembership::check`] (or where it is
//! being made). Not here: the keys that sign ([`ClusterKey`](crate::ClusterKey)), how a membership is asked for, or when it is
//! renewed.

use std::collections::BTreeMap;

use bytes::Bytes;
use ed25519_dalek::{Signature, VerifyingKey};
use prost::Message;
use thiserror::Error;

use crate::limits::{MEMBERSHIP_BYTES_MAX, VOUCHED_ORIGINS_MAX};
use crate::wire::{DecodeError, schema};
use crate::{ClusterPublicKey, PeerId, Role, Zone};

const DOMAIN: &[u8] = b"shoal membership v1\0";

/// What the cluster says of one process. Checked, or about to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Who.
    pub peer: PeerId,
    /// What it may do.
    pub role: Role,
    /// Where it stands.
    pub zone: Zone,
    /// Until when, in seconds since the epoch.
    pub not_after_unix_s: u64,
}

/// Why a membership is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MembershipError {
    /// Its time is over (or one of the two clocks is wrong).
    #[error("membership has expired: renew it, or set this machine's clock")]
    Expired,
    /// Signed by a key that is not this cluster's.
    #[error("membership is of another cluster: check the join token")]
    ForeignCluster,
    /// Not a membership at all.
    #[error("malformed membership")]
    Malformed,
}

/// A membership as it travels: bytes and the cluster key's signature over them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SignedMembership {
    pub(crate) body: Bytes,
    pub(crate) signature: [u8; 64],
}

impl SignedMembership {
    /// The membership, if one of these keys signed it and its time is not over.
    pub fn check(
        &self,
        keys: &[ClusterPublicKey],
        now_unix_s: u64,
    ) -> Result<Membership, MembershipError> {
        let statement = statement(&self.body);
        let signature = Signature::from_bytes(&self.signature);
        let signed_by = |key: &ClusterPublicKey| {
            VerifyingKey::from_bytes(&key.0)
                .is_ok_and(|key| key.verify_strict(&statement, &signature).is_ok())
        };
        if !keys.iter().any(signed_by) {
            return Err(MembershipError::ForeignCluster);
        }
        let membership = self.peek().ok_or(MembershipError::Malformed)?;
        if membership.not_after_unix_s <= now_unix_s {
            return Err(MembershipError::Expired);
        }
        Ok(membership)
    }

    /// What it claims, unchecked: for logs, and for one's own.
    pub fn peek(&self) -> Option<Membership> {
        let body = schema::MembershipBody::decode(self.body.clone()).ok()?;
        Some(Membership {
            peer: PeerId::from_bytes(&body.peer).ok()?,
            role: role_from_wire(body.role).ok()?,
            zone: body.zone.parse().ok()?,
            not_after_unix_s: body.not_after_unix_s,
        })
    }

    /// The wire form.
    pub fn to_wire(&self) -> schema::SignedMembership {
        schema::SignedMembership {
            body: self.body.clone(),
            signature: Bytes::copy_from_slice(&self.signature),
        }
    }

    /// Reads the wire form; nothing is checked but lengths.
    pub fn from_wire(wire: schema::SignedMembership) -> Result<Self, DecodeError> {
        if wire.body.len() > MEMBERSHIP_BYTES_MAX {
            return Err(DecodeError::Field("membership"));
        }
        let signature = wire.signature[..]
            .try_into()
            .map_err(|_| DecodeError::Field("membership signature"))?;
        Ok(Self {
            body: wire.body,
            signature,
        })
    }

    /// The form in which it is kept on disk.
    pub fn encode(&self) -> Bytes {
        self.to_wire().encode_to_vec().into()
    }

    /// Reads the form in which it is kept on disk.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_wire(schema::SignedMembership::decode(bytes)?)
    }
}

/// What the cluster key signs.
pub(crate) fn statement(body: &[u8]) -> Vec<u8> {
    [DOMAIN, body].concat()
}

pub(crate) fn role_to_wire(role: Role) -> i32 {
    schema::Role::from(role).into()
}

pub(crate) fn role_from_wire(role: i32) -> Result<Role, DecodeError> {
    match schema::Role::try_from(role) {
        Ok(schema::Role::Agent) => Ok(Role::Agent),
        Ok(schema::Role::Tracker) => Ok(Role::Tracker),
        Ok(schema::Role::Origin) => Ok(Role::Origin),
        Ok(schema::Role::Unspecified) | Err(_) => Err(DecodeError::Field("role")),
    }
}

impl From<Role> for schema::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Agent => Self::Agent,
            Role::Origin => Self::Origin,
            Role::Tracker => Self::Tracker,
        }
    }
}

/// The origins whose signatures are believed, because a checked membership said that they are origins. Bounded; when
/// full, the one that expires first makes room.
#[derive(Clone, Debug, Default)]
pub struct VouchedOrigins {
    origins: BTreeMap<PeerId, (u64, SignedMembership)>,
}

impl VouchedOrigins {
    /// Adds an origin. `membership` must have come out of `signed.check`. Tells whether it is new or lives longer now; one
    /// with another role is not added.
    pub fn insert_checked(&mut self, membership: &Membership, signed: SignedMembership) -> bool {
        let until = membership.not_after_unix_s;
        let newer = self
            .origins
            .get(&membership.peer)
            .is_none_or(|(known, _)| *known < until);
        if membership.role != Role::Origin || !newer {
            return false;
        }
        if self.origins.len() >= VOUCHED_ORIGINS_MAX && !self.origins.contains_key(&membership.peer)
        {
            let first = self
                .origins
                .iter()
                .min_by_key(|(_, (until, _))| *until)
                .map(|(peer, _)| *peer);
            first.and_then(|peer| self.origins.remove(&peer));
        }
        self.origins.insert(membership.peer, (until, signed));
        true
    }

    /// Is this peer an origin?
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.origins.contains_key(peer)
    }

    /// What vouches for it, to be passed on.
    pub fn membership_of(&self, peer: &PeerId) -> Option<&SignedMembership> {
        self.origins.get(peer).map(|(_, signed)| signed)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerId, &SignedMembership)> {
        self.origins
            .iter()
            .map(|(peer, (_, signed))| (peer, signed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ClusterKey;

    const NOW: u64 = 1_800_000_000;

    fn member(role: Role, until: u64) -> Membership {
        Membership {
            peer: PeerId::from_key([3; 32]),
            role,
            zone: "z1".parse().unwrap(),
            not_after_unix_s: until,
        }
    }

    #[test]
    fn membership_holds_for_its_cluster_and_its_time() {
        let (ours, theirs) = (
            ClusterKey::from_secret(&[1; 32]),
            ClusterKey::from_secret(&[2; 32]),
        );
        let member = member(Role::Agent, NOW + 10);
        let signed = ours.sign(&member);
        assert_eq!(
            signed.check(&[theirs.public(), ours.public()], NOW),
            Ok(member)
        );
        assert_eq!(
            signed.check(&[theirs.public()], NOW),
            Err(MembershipError::ForeignCluster)
        );
        assert_eq!(signed.check(&[], NOW), Err(MembershipError::ForeignCluster));
        assert_eq!(
            signed.check(&[ours.public()], NOW + 10),
            Err(MembershipError::Expired)
        );
        assert_eq!(SignedMembership::decode(&signed.encode()), Ok(signed));
    }

    #[test]
    fn changed_membership_is_foreign() {
        let key = ClusterKey::from_secret(&[1; 32]);
        let agent = key.sign(&member(Role::Agent, NOW + 10));
        let origin = key.sign(&member(Role::Origin, NOW + 10));
        let mixed = SignedMembership {
            body: origin.body,
            signature: agent.signature,
        };
        assert_eq!(
            mixed.check(&[key.public()], NOW),
            Err(MembershipError::ForeignCluster)
        );
    }

    #[test]
    fn only_origins_are_vouched_and_the_list_is_bounded() {
        let key = ClusterKey::from_secret(&[1; 32]);
        let mut vouched = VouchedOrigins::default();
        let agent = member(Role::Agent, NOW + 10);
        assert!(!vouched.insert_checked(&agent, key.sign(&agent)));
        for n in 0..2 * VOUCHED_ORIGINS_MAX as u64 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            let origin = Membership {
                peer: PeerId::from_key(bytes),
                ..member(Role::Origin, NOW + n)
            };
            assert!(vouched.insert_checked(&origin, key.sign(&origin)));
            assert!(
                !vouched.insert_checked(&origin, key.sign(&origin)),
                "nothing new"
            );
        }
        assert_eq!(vouched.iter().count(), VOUCHED_ORIGINS_MAX);
    }

    proptest! {
        #[test]
        fn parsing_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(signed) = SignedMembership::decode(&bytes) {
                prop_assert!(signed.check(&[ClusterKey::from_secret(&[1; 32]).public()], NOW).is_err());
            }
        }
    }
}
