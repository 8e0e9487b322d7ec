//! The cluster's key, and the token that asks to be let in.
//!
//! Secrets have no readable `Debug`, and a token's is wiped on drop. Not here: what the key says of a process
//! ([`Membership`]), and who may ask.

use core::fmt;
use core::str::FromStr;

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use prost::Message;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::limits::JOIN_SECRET_BYTES_MAX;
use crate::membership::{role_to_wire, statement};
use crate::wire::schema;
use crate::{Membership, SignedMembership};

const TOKEN_PREFIX: &str = "shoal1";

/// The cluster's public key: what makes a membership one of this cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterPublicKey(pub(crate) [u8; 32]);

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
        let signature = self.0.sign(&statement(&body)).to_bytes();
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
            secret: bs58::encode(secret).into_vec(),
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
            String::from_utf8_lossy(&self.secret)
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
        let plain = secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if secret.is_empty() || secret.len() > JOIN_SECRET_BYTES_MAX || !plain {
            return Err(TokenError::Token);
        }
        let cluster = cluster.parse().map_err(|_| TokenError::Token)?;
        Ok(Self {
            cluster,
            secret: secret.as_bytes().to_vec(),
        })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_and_keys_come_back_and_their_debug_says_nothing() {
        let key = ClusterKey::from_secret(&[1; 32]);
        let token = JoinToken::new(key.public(), [7; 32]);
        let read: JoinToken = token.to_text().parse().unwrap();
        assert_eq!(read.cluster(), key.public());
        assert!(read.secret_matches(token.secret_bytes()));
        assert!(!read.secret_matches(&[8; 32]) && !read.secret_matches(b""));
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
        fn parsing_anything_never_panics(text in ".{0,200}") {
            let _ = text.parse::<JoinToken>();
            let _ = ClusterKey::parse(&text);
        }
    }
}
