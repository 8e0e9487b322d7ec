//! Who belongs to the cluster: memberships, the key that signs them, the token that asks for one.
//!
//! A [`SignedMembership`] is what travels; a [`Membership`] exists only after [`SignedMembership::check`] (or where it is
//! being made). Not here: how a membership is asked for, or when it is renewed. Secrets have no readable `Debug` and are
//! wiped on drop.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use prost::Message;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::limits::{JOIN_SECRET_BYTES_MAX, MEMBERSHIP_BYTES_MAX, VOUCHED_ORIGINS_MAX};
use crate::wire::{DecodeError, schema};
use crate::{PeerId, Role, Zone};

const DOMAIN: &[u8] = b"shoal membership v1\0";
const TOKEN_PREFIX: &str = "shoal1";

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
    body: Bytes,
    signature: [u8; 64],
}

impl SignedMembership {
    /// The membership, if one of these keys signed it and its time is not over.
    pub fn check(
        &self,
        keys: &[ClusterPublicKey],
        now_unix_s: u64,
    ) -> Result<Membership, MembershipError> {
        let statement = [DOMAIN, &self.body].concat();
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

/// The cluster's public key: what makes a membership one of this cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterPublicKey([u8; 32]);

impl fmt::Display for ClusterPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.0).into_string())
    }
}

impl fmt::Debug for ClusterPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterPublicKey({self})")
    }
}

impl FromStr for ClusterPublicKey {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        Ok(Self(decode_32(text).ok_or(TokenError::Key)?))
    }
}

/// The cluster's secret key. Trackers and origins hold it; agents never do.
#[derive(Clone)]
pub struct ClusterKey(SigningKey);

impl ClusterKey {
    /// From 32 random bytes, which the caller draws.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// Reads the form that key files have.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let secret = text
            .trim()
            .strip_prefix("shoal-cluster-key1.")
            .and_then(decode_32)
            .ok_or(TokenError::Key)?;
        Ok(Self::from_secret(&secret))
    }

    /// The form that key files have. A secret.
    pub fn to_text(&self) -> String {
        format!(
            "shoal-cluster-key1.{}",
            bs58::encode(self.0.to_bytes()).into_string()
        )
    }

    /// The public half.
    pub fn public(&self) -> ClusterPublicKey {
        ClusterPublicKey(self.0.verifying_key().to_bytes())
    }

    /// Lets a process in.
    pub fn sign(&self, membership: &Membership) -> SignedMembership {
        let body = schema::MembershipBody {
            peer: Bytes::copy_from_slice(membership.peer.as_bytes()),
            role: role_to_wire(membership.role),
            zone: membership.zone.as_str().to_owned(),
            not_after_unix_s: membership.not_after_unix_s,
        };
        let body: Bytes = body.encode_to_vec().into();
        let signature = self.0.sign(&[DOMAIN, &body].concat()).to_bytes();
        SignedMembership { body, signature }
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", self.public())
    }
}

/// Why a key or a token cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not a cluster key.
    #[error("malformed cluster key")]
    Key,
    /// Not a join token.
    #[error(
        "malformed join token: expected shoal1.<cluster key>.<secret>, as a tracker or origin wrote it"
    )]
    Token,
}

/// What an agent needs to be let in: which cluster, and the secret that shows it was sent.
#[derive(Clone)]
pub struct JoinToken {
    cluster: ClusterPublicKey,
    secret: Vec<u8>,
}

impl JoinToken {
    /// A token for a cluster, from random bytes that the caller draws.
    pub fn new(cluster: ClusterPublicKey, secret: [u8; 32]) -> Self {
        Self {
            cluster,
            secret: secret.to_vec(),
        }
    }

    /// Which cluster.
    pub fn cluster(&self) -> ClusterPublicKey {
        self.cluster
    }

    /// What is shown to a proven tracker, and to nobody else.
    pub fn secret_bytes(&self) -> &[u8] {
        &self.secret
    }

    /// Is this the secret? Takes the same time whatever it differs in.
    pub fn secret_matches(&self, shown: &[u8]) -> bool {
        let difference = Sha256::digest(&self.secret)
            .iter()
            .zip(Sha256::digest(shown).iter())
            .fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
        difference == 0
    }

    /// The form in which it is handed to agents. A secret.
    pub fn to_text(&self) -> String {
        format!(
            "{TOKEN_PREFIX}.{}.{}",
            self.cluster,
            bs58::encode(&self.secret).into_string()
        )
    }
}

impl Drop for JoinToken {
    fn drop(&mut self) {
        self.secret.fill(0);
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({TOKEN_PREFIX}.{}.…)", self.cluster)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let (Some(TOKEN_PREFIX), Some(cluster), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Token);
        };
        if secret.is_empty() || secret.len() > 2 * JOIN_SECRET_BYTES_MAX {
            return Err(TokenError::Token);
        }
        let secret = bs58::decode(secret)
            .into_vec()
            .map_err(|_| TokenError::Token)?;
        let cluster = cluster.parse().map_err(|_| TokenError::Token)?;
        Ok(Self { cluster, secret })
    }
}

/// Base58 as it is written here, or 64 hexadecimal digits, which are all that a Helm template can make.
fn decode_32(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let read = match text.len() {
        64 => hex::decode_to_slice(text, &mut bytes).is_ok(),
        length => length < 64 && bs58::decode(text).onto(&mut bytes) == Ok(32),
    };
    read.then_some(bytes)
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

    #[test]
    fn tokens_and_keys_come_back_and_their_debug_says_nothing() {
        let key = ClusterKey::from_secret(&[1; 32]);
        let token = JoinToken::new(key.public(), [7; 32]);
        let read: JoinToken = token.to_text().parse().unwrap();
        assert_eq!(read.cluster(), key.public());
        assert!(
            read.secret_matches(&[7; 32])
                && !read.secret_matches(&[8; 32])
                && !read.secret_matches(b"")
        );
        let secret = bs58::encode([7; 32]).into_string();
        assert!(!format!("{token:?}").contains(&secret));
        assert_eq!(
            ClusterKey::parse(&key.to_text()).unwrap().public(),
            key.public()
        );
        assert!(!format!("{key:?}").contains(&bs58::encode([1; 32]).into_string()));
    }

    #[test]
    fn keys_are_read_in_hexadecimal_too() {
        let key = ClusterKey::from_secret(&[1; 32]);
        let text = format!("shoal-cluster-key1.{}", hex::encode([1; 32]));
        assert_eq!(ClusterKey::parse(&text).unwrap().public(), key.public());
        let text = format!(
            "shoal1.{}.aSecretOfLettersAndDigits",
            hex::encode(key.public().0)
        );
        assert_eq!(text.parse::<JoinToken>().unwrap().cluster(), key.public());
        assert!(ClusterKey::parse(&format!("shoal-cluster-key1.{}", "x".repeat(64))).is_err());
    }

    proptest! {
        #[test]
        fn parsing_anything_never_panics(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = text.parse::<JoinToken>();
            let _ = ClusterKey::parse(&text);
            if let Ok(signed) = SignedMembership::decode(&bytes) {
                prop_assert!(signed.check(&[ClusterKey::from_secret(&[1; 32]).public()], NOW).is_err());
            }
        }
    }
}
