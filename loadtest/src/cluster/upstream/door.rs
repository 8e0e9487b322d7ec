//! Who may read what of a registry: nothing is asked, one credential for all, or each repository's own readers.
//!
//! What for: the policies `shared` and `authorize`. Invariant: with readers, a repository gives only what is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use shoal_proto::Digest;

/// What a registry without a token server says.
pub const CHALLENGE: &str = "Basic realm=\"upstream\"";

#[derive(Debug, Default)]
pub(super) struct Door {
    /// Only callers that send exactly this `Authorization`.
    pub(super) everywhere: Option<String>,
    /// Repositories with readers of their own, by what they send; all others are open.
    readers: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// What each repository has.
    owned: BTreeMap<String, BTreeSet<Digest>>,
}

impl Door {
    pub(super) fn own(&mut self, repository: &str, digest: Digest) {
        let owned = self.owned.entry(repository.to_owned()).or_default();
        owned.insert(digest);
    }

    /// From now on the repository is closed to all but its readers; this is one.
    pub(super) fn let_in(&self, repository: &str, authorization: &str) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let readers = readers.entry(repository.to_owned()).or_default();
        readers.insert(authorization.to_owned());
    }

    /// The refusal, if the caller gets one; no repository is the base of the API. As absent is what it may not read, or what is another repository's.
    pub(super) fn refuses(
        &self,
        repository: &str,
        digest: Option<Digest>,
        given: Option<&HeaderValue>,
    ) -> Option<Response> {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let given = given.and_then(|given| given.to_str().ok());
        if let Some(expected) = &self.everywhere {
            return (given != Some(expected)).then(challenge);
        }
        if readers.is_empty() {
            return None;
        }
        if repository.is_empty() {
            // The base: there clients learn whether to bring a credential at all.
            return given.is_none().then(challenge);
        }
        if let Some(readers) = readers.get(repository) {
            let Some(given) = given else {
                return Some(challenge());
            };
            if !readers.contains(given) {
                return Some(StatusCode::NOT_FOUND.into_response());
            }
        }
        let owned = self.owned.get(repository);
        let has = digest.is_none_or(|digest| owned.is_some_and(|owned| owned.contains(&digest)));
        (!has).then(|| StatusCode::NOT_FOUND.into_response())
    }
}

fn challenge() -> Response {
    ([(WWW_AUTHENTICATE, CHALLENGE)], StatusCode::UNAUTHORIZED).into_response()
}
