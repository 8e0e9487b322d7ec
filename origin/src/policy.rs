//! Who may have what: the policy of each registry, and what it said of each caller.
//!
//! Policies `public` and `shared` ask nobody: what this origin may fetch, everybody in the cluster may have. Policy
//! `authorize` asks the registry about each caller, with the caller's own credential. Not for: the asking itself (that
//! is `upstream`), or what is answered (that is `ingest` and `manifests`).
//!
//! Invariants: a yes is about a repository and a digest in it, never about a digest alone; it holds for the registry's
//! `hold` and no longer, also when the registry cannot be asked. That a digest is in a repository is believed only by
//! the registry's own answer for exactly that path: a manifest proves nothing, since whoever may push one may have
//! written any digest into it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_proto::wire::{Audience, Refusal, Secret};
use shoal_proto::{CallerId, CallerKey, Digest, Guard, Instant, Verdicts, limits};

use crate::names::Repository;
use crate::upstream::caller::Caller;
use crate::upstream::{Registry, UpstreamError, Upstreams};

/// In whose name something is asked for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Right {
    /// A caller's own, at a registry that is asked about each.
    Caller(Caller),
    /// The policy's: whoever is in the cluster may have what comes.
    Everyone,
}

impl Right {
    /// What a peer is told of a failure.
    pub(crate) fn refusal(&self, error: &UpstreamError) -> Refusal {
        match self {
            Self::Caller(_) => error.to_callers_refusal(),
            Self::Everyone => error.to_refusal(),
        }
    }

    /// The mark of blobs that come by it.
    pub(crate) fn guard(&self, repository: &Repository) -> Option<Guard> {
        match self {
            Self::Caller(_) => Some(Guard::of_registry(&repository.registry)),
            Self::Everyone => None,
        }
    }
}

impl Said {
    fn new() -> Self {
        Self {
            readers: Verdicts::new(limits::VERDICTS_MAX),
            belongings: Verdicts::new(limits::BELONGINGS_MAX),
        }
    }

    fn yes(&mut self, repository: &Repository, digest: &Digest, caller: CallerId, until: Instant) {
        let forever = Instant::from_nanos(u64::MAX);
        self.belongings
            .allow((repository.clone(), *digest), forever);
        self.readers.allow((repository.clone(), caller), until);
    }

    fn no(&mut self, repository: &Repository, caller: CallerId) {
        self.readers.withdraw(&(repository.clone(), caller));
    }

    /// For how long a yes still holds.
    fn left(
        &self,
        repository: &Repository,
        digest: &Digest,
        caller: CallerId,
        now: Instant,
    ) -> Option<Duration> {
        let belongs = self.belongings.left(&(repository.clone(), *digest), now);
        belongs.and_then(|_| self.readers.left(&(repository.clone(), caller), now))
    }
}

/// Decides.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upstreams: Arc<Upstreams>,
    key: CallerKey,
    said: Mutex<Said>,
    started: tokio::time::Instant,
}

/// What registries said.
#[derive(Debug)]
struct Said {
    /// This caller may read this repository.
    readers: Verdicts<(Repository, CallerId)>,
    /// This repository has this digest. No time ends it: what was there once is no secret to who may read there.
    belongings: Verdicts<(Repository, Digest)>,
}

impl Policy {
    /// `key`: random bytes that are written nowhere.
    pub(crate) fn new(upstreams: Arc<Upstreams>, key: CallerKey) -> Self {
        let inner = Inner {
            upstreams,
            key,
            said: Mutex::new(Said::new()),
            started: tokio::time::Instant::now(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// In whose name content of a registry is asked for.
    pub(crate) fn right(&self, registry: &str, credential: Option<&Secret>) -> Right {
        match self.inner.upstreams.asks_callers(registry) {
            Some(_) => Right::Caller(Caller::new(&self.inner.key, credential)),
            None => Right::Everyone,
        }
    }

    /// Whether a registry is asked about each caller.
    pub(crate) fn asks_callers(&self, registry: &str) -> bool {
        self.inner.upstreams.asks_callers(registry).is_some()
    }

    /// The registry of a repository, to be asked in that name.
    pub(crate) fn registry(
        &self,
        repository: &Repository,
        right: &Right,
    ) -> Result<Arc<Registry>, UpstreamError> {
        let registry = self.inner.upstreams.registry(&repository.registry)?;
        Ok(match right {
            Right::Caller(caller) => Arc::new(registry.asked_by(caller.clone())),
            Right::Everyone => registry,
        })
    }

    /// Who may have a digest of a repository, as far as that is known without asking the registry.
    pub(crate) fn audience(
        &self,
        repository: &Repository,
        digest: &Digest,
        right: &Right,
    ) -> Option<Audience> {
        let Right::Caller(caller) = right else {
            return Some(Audience::Anyone);
        };
        let hold = self
            .said()
            .left(repository, digest, caller.id(), self.now())?;
        Some(Audience::Caller { hold })
    }

    /// The registry has given it, or its head, in that name: so who may have it is known from now on.
    pub(crate) fn given(
        &self,
        repository: &Repository,
        digest: &Digest,
        right: &Right,
    ) -> Audience {
        let Right::Caller(caller) = right else {
            return Audience::Anyone;
        };
        let hold = self.inner.upstreams.asks_callers(&repository.registry);
        let hold = hold.unwrap_or_default();
        let until = self.now() + hold;
        self.said().yes(repository, digest, caller.id(), until);
        Audience::Caller { hold }
    }

    /// The registry has refused a caller: what it said before does not hold any more.
    pub(crate) fn refused(&self, repository: &Repository, right: &Right, error: &UpstreamError) {
        let denied = matches!(
            error,
            UpstreamError::Challenged { .. } | UpstreamError::Denied { .. }
        );
        if let (Right::Caller(caller), true) = (right, denied) {
            self.said().no(repository, caller.id());
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.inner
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.inner.started.elapsed()
    }
}

/// Whether a blob that is guarded so, or not at all, may go to who asks a registry for it in that name.
pub(crate) fn fits(guard: Option<Guard>, repository: &Repository, right: &Right) -> bool {
    guard.is_none() || guard == right.guard(repository)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str) -> Repository {
        Repository::parse("registry.test", name).unwrap()
    }

    #[test]
    fn a_yes_is_about_one_repository_one_digest_and_one_caller_and_ends() {
        let key = CallerKey::new([1; 32]);
        let caller = |text: &str| key.caller(Some(&Secret::new(text.as_bytes().to_vec())));
        let (one, other) = (caller("Basic one"), caller("Basic other"));
        let (ours, theirs) = (repository("a/ours"), repository("a/theirs"));
        let (mine, secret) = (Digest::Sha256([1; 32]), Digest::Sha256([2; 32]));
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let mut said = Said::new();
        said.yes(&ours, &mine, one, at(10));
        said.yes(&theirs, &secret, other, at(10));
        let may = |said: &Said, repository, digest, caller| {
            said.left(repository, digest, caller, at(9)).is_some()
        };
        assert!(may(&said, &ours, &mine, one) && may(&said, &theirs, &secret, other));
        for (repository, digest, caller) in [
            (&ours, &secret, one),
            (&theirs, &secret, one),
            (&ours, &mine, other),
            (&theirs, &mine, other),
        ] {
            assert!(!may(&said, repository, digest, caller));
        }
        assert_eq!(said.left(&ours, &mine, one, at(10)), None);
        said.no(&ours, one);
        assert!(!may(&said, &ours, &mine, one), "a no ends a yes at once");
        assert!(may(&said, &theirs, &secret, other));
    }

    #[test]
    fn a_guarded_blob_fits_only_a_caller_of_its_own_registry() {
        let guard = Guard::of_registry("registry.test");
        let caller = Right::Caller(Caller::new(&CallerKey::new([1; 32]), None));
        let (home, elsewhere) = (
            repository("a"),
            Repository::parse("other.test", "a").unwrap(),
        );
        assert!(fits(Some(guard), &home, &caller));
        assert!(!fits(Some(guard), &elsewhere, &caller));
        assert!(!fits(Some(guard), &home, &Right::Everyone));
        assert!(fits(None, &elsewhere, &Right::Everyone) && fits(None, &home, &caller));
    }
}
