//! A caller in whose name a registry is asked, and the registry's words to it.
//!
//! For: policy `authorize`. Not for: answering a challenge; that is the caller's own business, and its secret never
//! stays here longer than its question.
//!
//! Invariants: two callers are the same when their credentials are, and only a keyed hash is compared or printed; a
//! challenge is passed on word for word or not at all.

use std::cmp::Ordering;

use http::{HeaderMap, HeaderValue, header};
use shoal_proto::wire::Secret;
use shoal_proto::{CallerId, CallerKey, limits};

use super::auth::Authorization;

/// Whoever asks, with the credential it sent.
#[derive(Clone)]
pub(crate) struct Caller {
    id: CallerId,
    /// `None`: it sent none, or one that cannot stand in a header.
    header: Option<HeaderValue>,
}

impl Caller {
    pub(crate) fn new(key: &CallerKey, credential: Option<&Secret>) -> Self {
        let header = credential.and_then(|secret| {
            let mut header = HeaderValue::from_bytes(secret.expose()).ok()?;
            header.set_sensitive(true);
            Some(header)
        });
        let id = key.caller(credential.filter(|_| header.is_some()));
        Self { id, header }
    }

    pub(crate) fn id(&self) -> CallerId {
        self.id
    }

    pub(super) fn authorization(&self) -> Option<Authorization> {
        self.header.clone().map(Authorization::of_caller)
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Caller").field(&self.id).finish()
    }
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Caller {}

impl PartialOrd for Caller {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Caller {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

/// All challenges of a 401, one a line; `None` when there is none, or one that is not text or too long to be relayed.
pub(super) fn challenge_of(headers: &HeaderMap) -> Option<String> {
    let lines: Option<Vec<&str>> = headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .map(|line| line.to_str().ok())
        .collect();
    let challenge = lines?.join("\n");
    (!challenge.is_empty() && challenge.len() <= limits::CHALLENGE_BYTES_MAX).then_some(challenge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_told_apart_by_its_credential_and_prints_none_of_it() {
        let key = CallerKey::new([7; 32]);
        let secret = |text: &[u8]| Secret::new(text.to_vec());
        let caller = Caller::new(&key, Some(&secret(b"Bearer canary-canary")));
        assert_eq!(
            caller,
            Caller::new(&key, Some(&secret(b"Bearer canary-canary")))
        );
        assert_ne!(caller, Caller::new(&key, Some(&secret(b"Bearer other"))));
        let shown = format!("{caller:?} {:?}", caller.authorization());
        assert!(!shown.contains("canary"), "{shown}");
        // What cannot be sent on is nobody's credential.
        assert_eq!(
            Caller::new(&key, Some(&secret(b"a\nb"))),
            Caller::new(&key, None)
        );
    }

    #[test]
    fn every_challenge_is_kept_word_for_word() {
        let mut headers = HeaderMap::new();
        assert_eq!(challenge_of(&headers), None);
        let bearer = "Bearer realm=\"https://a.test/t\",service=\"s\",scope=\"repository:x:pull\"";
        for line in [bearer, "Basic realm=\"x\""] {
            headers.append(header::WWW_AUTHENTICATE, line.parse().unwrap());
        }
        let kept = format!("{bearer}\nBasic realm=\"x\"");
        assert_eq!(challenge_of(&headers).as_deref(), Some(kept.as_str()));
        let long = "x".repeat(limits::CHALLENGE_BYTES_MAX);
        headers.append(header::WWW_AUTHENTICATE, long.parse().unwrap());
        assert_eq!(challenge_of(&headers), None);
    }
}
