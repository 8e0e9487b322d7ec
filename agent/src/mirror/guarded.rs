//! What is not for everybody: which registries are asked about each caller, and what origins said of whom.
//!
//! A guarded blob may be on this node because another client of it was let in. Before any byte of it, and before its
//! length, an origin says whether this client may have it from the repository that it names; a yes is remembered for
//! as long as the origin says. Not here: what upstream is asked (the origin's), and challenges (`reply`).
//!
//! Holds: a yes is about a registry, a repository, a digest and a credential, and ends by itself; a credential leaves
//! this node only to an origin, and only for a registry that was found to ask for one; it is remembered as a keyed
//! hash, whose key goes with the process.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use shoal_peer::{Audience, Handle, OpenError};
use shoal_proto::limits::{AUTHORIZATION_BYTES_MAX, VERDICTS_MAX};
use shoal_proto::wire::{Refusal, RefusalCode, Secret, Source};
use shoal_proto::{CallerId, CallerKey, Digest, Guard, Instant, Verdicts};
use tokio::time::{Instant as Deadline, timeout_at};

use super::name::RegistryName;
use super::reply::Failure;
use super::route::Target;

/// A blob of a repository, for one caller.
type Wish = (String, String, Digest, CallerId);

/// What is known of callers and of the registries that ask for them.
#[derive(Debug)]
pub(crate) struct Guarded {
    key: CallerKey,
    /// At most as many as the allow-list has.
    registries: Mutex<BTreeSet<RegistryName>>,
    permits: Mutex<Verdicts<Wish>>,
    started: Deadline,
}

impl Guarded {
    pub(crate) fn new(key: CallerKey) -> Self {
        Self {
            key,
            registries: Mutex::default(),
            permits: Mutex::new(Verdicts::new(VERDICTS_MAX)),
            started: Deadline::now(),
        }
    }

    /// Where the bytes come from; with the caller's own credential, for an origin's eyes only, where it is asked for.
    pub(crate) fn source(&self, target: &Target, headers: &HeaderMap) -> Source {
        let authorization = headers
            .get(AUTHORIZATION)
            .filter(|_| self.asks(&target.registry))
            .map(HeaderValue::as_bytes)
            .filter(|value| value.len() <= AUTHORIZATION_BYTES_MAX)
            .map(|value| Secret::new(value.to_vec()));
        Source {
            registry: target.registry.as_str().to_owned(),
            repository: target.repository.as_str().to_owned(),
            authorization,
        }
    }

    /// An origin answered for one caller alone, or with a challenge: this registry asks.
    pub(crate) fn learn(&self, registry: &RegistryName) {
        if self.registries().insert(registry.clone()) {
            tracing::info!(%registry, "this registry is asked about each caller");
        }
    }

    /// The same, where a failure tells it.
    pub(crate) fn learn_from(&self, registry: &RegistryName, failure: &Failure) {
        if failure.status == StatusCode::UNAUTHORIZED {
            self.learn(registry);
        }
    }

    fn asks(&self, registry: &RegistryName) -> bool {
        self.registries().contains(registry)
    }

    /// Whether a client may have a blob of this repository. Where nobody guards the blob, it may; else an origin is
    /// asked, unless it said yes a moment ago. With an error, the client is told what it would be told of a blob that
    /// does not exist, or upstream's challenge.
    pub(crate) async fn admit(
        &self,
        handle: &Handle,
        registry: &RegistryName,
        digest: Digest,
        source: &Source,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let shape = handle.shape(digest).await;
        let shape = shape.map_err(|error| Failure::of_open(&error))?;
        let free = match shape {
            Some(info) => info.guard.is_none(),
            // Not here, and not on its way: opening it asks an origin.
            None => !self.asks(registry),
        };
        if free {
            return Ok(());
        }
        let wish = self.wish(source, digest);
        if self.permits().left(&wish, self.now()).is_none() {
            let asked = timeout_at(deadline, handle.permit(digest, source.clone())).await;
            let answer = asked
                .map_err(|_| Failure::late())?
                .map_err(|error| Failure::of_open(&error))
                .inspect_err(|failure| self.learn_from(registry, failure))?;
            if let Audience::Caller { hold } = answer.audience {
                self.learn(registry);
                let until = self.now() + hold;
                self.permits().allow(wish, until);
            }
        }
        let home = Guard::of_registry(&source.registry);
        match shape.and_then(|info| info.guard) {
            Some(guard) if guard != home => Err(absent()),
            _ => Ok(()),
        }
    }

    fn wish(&self, source: &Source, digest: Digest) -> Wish {
        let caller = self.key.caller(source.authorization.as_ref());
        (
            source.registry.clone(),
            source.repository.clone(),
            digest,
            caller,
        )
    }

    fn registries(&self) -> MutexGuard<'_, BTreeSet<RegistryName>> {
        self.registries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn permits(&self) -> MutexGuard<'_, Verdicts<Wish>> {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.started.elapsed()
    }
}

/// A blob that came through another registry, in whose name alone it may be given.
fn absent() -> Failure {
    Failure::of_open(&OpenError::Refused(Refusal::new(RefusalCode::NotFound)))
}
