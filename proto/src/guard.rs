//! Who may have what is not for everybody: the mark of a guarded blob, and callers told apart without their secrets.
//!
//! A blob that came through a registry of the policy `authorize` carries that registry's [`Guard`], signed by the origin
//! with its shape, wherever it goes: to trackers, peers and disks. Whoever holds it knows by that alone that a client
//! must be asked about before it is served. Not here: the asking (an origin's), or for how long a yes holds.

use core::fmt;

use crate::wire::{DecodeError, Secret};

const GUARD_DOMAIN: &str = "shoal 2026 guard of a registry";

/// The registry whose word decides who may have a blob, as a mark of fixed length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guard([u8; 16]);

impl Guard {
    /// Of the registry as image references name it.
    pub fn of_registry(registry: &str) -> Self {
        let hash = blake3::derive_key(GUARD_DOMAIN, registry.as_bytes());
        let mut mark = [0; 16];
        mark.copy_from_slice(&hash[..16]);
        Self(mark)
    }

    /// The mark, to be signed, sent and stored.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads a mark; none at all means that the blob is not guarded.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let mark = bytes.try_into().map_err(|_| DecodeError::Field("guard"))?;
        Ok(Some(Self(mark)))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..4]))
    }
}

/// A caller of whom only this is remembered: a keyed hash of its credential, or of its having none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerId([u8; 32]);

impl fmt::Debug for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..4]))
    }
}

/// The key under which credentials are hashed. Made anew at each start and never written, so that a hash that leaks is
/// of no use to guess a password by.
#[derive(Clone)]
pub struct CallerKey([u8; 32]);

impl CallerKey {
    /// From random bytes of the shell.
    pub const fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Who sends this credential.
    pub fn caller(&self, credential: Option<&Secret>) -> CallerId {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        if let Some(credential) = credential {
            // So that an empty credential is not the same as none.
            hasher.update(&[1]).update(credential.expose());
        }
        CallerId(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_differ_by_credential_and_by_the_key_of_the_process() {
        let (one, other) = (CallerKey::new([1; 32]), CallerKey::new([2; 32]));
        let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
        let ids = [
            one.caller(None),
            one.caller(Some(&secret(""))),
            one.caller(Some(&secret("Basic a"))),
            one.caller(Some(&secret("Basic b"))),
            other.caller(Some(&secret("Basic a"))),
        ];
        for (at, id) in ids.iter().enumerate() {
            assert!(!ids[..at].contains(id), "{at}");
        }
        assert_eq!(one.caller(Some(&secret("Basic a"))), ids[2]);
        assert!(!format!("{one:?}").contains("1, 1"));
    }

    #[test]
    fn a_guard_comes_back_and_another_length_is_refused() {
        let guard = Guard::of_registry("registry.example");
        assert_ne!(guard, Guard::of_registry("registry.example:5000"));
        assert_eq!(Guard::decode(guard.as_bytes()), Ok(Some(guard)));
        assert_eq!(Guard::decode(&[]), Ok(None));
        assert!(Guard::decode(&[1; 15]).is_err() && Guard::decode(&[1; 17]).is_err());
    }
}
