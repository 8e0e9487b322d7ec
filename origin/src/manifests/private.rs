//! Manifests of registries that are asked about each caller (policy `authorize`).
//!
//! The same promises as for all manifests (design D11), with two differences: everything is asked in the caller's own
//! name, and what came is kept in memory alone. Not for: who may have what (that is `policy`).
//!
//! Invariants: a manifest leaves only after its registry said, at most a `hold` ago, that this caller may read this
//! repository, and at some time that this repository has this manifest; it is never on a disk; an old digest of a tag is
//! given only to a caller whose yes still holds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_proto::{Digest, limits};
use tokio_util::task::TaskTracker;

use super::{ANSWER_DEADLINE, Found, Freshness, LIMITS, STALE_PATIENCE, TAGS_MAX, TagRecord};
use crate::clock::WallClock;
use crate::flight::Flights;
use crate::names::{Reference, Repository};
use crate::policy::{Policy, Right};
use crate::upstream::UpstreamError;
use crate::upstream::caller::Caller;
use crate::upstream::manifest::FetchedManifest;

/// What one caller asks: of which repository, and which tag or digest, as text.
type Question = (Repository, String, Caller);

/// Answers in the name of each caller.
#[derive(Debug)]
pub(super) struct Private {
    policy: Policy,
    freshness: Freshness,
    clock: WallClock,
    kept: Mutex<Kept>,
    flights: Arc<Flights<Question, Digest>>,
    tasks: TaskTracker,
}

/// What is in memory.
#[derive(Debug, Default)]
struct Kept {
    manifests: BTreeMap<(String, Digest), FetchedManifest>,
    order: VecDeque<(String, Digest)>,
    bytes: usize,
    tags: BTreeMap<(Repository, String), TagRecord>,
}

impl Private {
    pub(super) fn new(
        policy: Policy,
        freshness: Freshness,
        clock: WallClock,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            policy,
            freshness,
            clock,
            kept: Mutex::default(),
            flights: Flights::new("private manifest", LIMITS),
            tasks,
        })
    }

    pub(super) async fn answer(
        self: &Arc<Self>,
        repository: Repository,
        reference: Reference,
        caller: &Caller,
    ) -> Result<Found, UpstreamError> {
        match reference {
            Reference::Digest(digest) => {
                if let Some(found) = self.known(&repository, digest, caller, Duration::ZERO) {
                    return Ok(found);
                }
                let question = (repository, digest.to_string(), caller.clone());
                self.fetch(&question).await
            }
            Reference::Tag(tag) => self.tag(repository, tag, caller).await,
        }
    }

    async fn tag(
        self: &Arc<Self>,
        repository: Repository,
        tag: String,
        caller: &Caller,
    ) -> Result<Found, UpstreamError> {
        let record = self
            .kept()
            .tags
            .get(&(repository.clone(), tag.clone()))
            .copied();
        let last = record.and_then(|record| {
            let age = self.age(record);
            self.known(&repository, record.digest, caller, age)
        });
        if let Some(found) = last
            .as_ref()
            .filter(|found| found.age < self.freshness.fresh_for)
        {
            return Ok(found.clone());
        }
        let question = (repository, tag, caller.clone());
        let patience = match last {
            Some(_) => STALE_PATIENCE,
            None => ANSWER_DEADLINE,
        };
        let asked = tokio::time::timeout(patience, self.fetch(&question)).await;
        let error = match asked {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error,
            Err(_) => UpstreamError::Unavailable {
                registry: question.0.registry.clone(),
                detail: "no answer in time".into(),
            },
        };
        match last {
            Some(found) if error.allows_stale() && found.age <= self.freshness.stale_if_error => {
                tracing::warn!(registry = question.0.registry, repository = question.0.name, tag = question.1, age = ?found.age, %error, "answering with the last known digest");
                Ok(Found {
                    stale: true,
                    ..found
                })
            }
            _ => Err(error),
        }
    }

    /// What is in memory and may go to this caller without asking.
    fn known(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        age: Duration,
    ) -> Option<Found> {
        let right = Right::Caller(caller.clone());
        let audience = self.policy.audience(repository, &digest, &right)?;
        let manifest = self.kept().manifest(&repository.registry, &digest)?;
        Some(Found {
            manifest,
            age,
            stale: false,
            audience,
        })
    }

    /// Asks upstream, once for all that ask the same in the same name, and takes the answer from memory.
    async fn fetch(self: &Arc<Self>, question: &Question) -> Result<Found, UpstreamError> {
        let (this, own) = (Arc::clone(self), question.clone());
        let work = || async move { this.ask(own).await };
        let digest = self.flights.fly(question, &self.tasks, work).await?;
        let (repository, _, caller) = question;
        let registry = repository.registry.clone();
        let manifest = self.kept().manifest(&registry, &digest);
        // Only a flood of others, or one that is too large to be kept, gets in between.
        let manifest = manifest.ok_or(UpstreamError::Full)?;
        let right = Right::Caller(caller.clone());
        Ok(Found {
            manifest,
            age: Duration::ZERO,
            stale: false,
            audience: self.policy.given(repository, &digest, &right),
        })
    }

    /// One question to upstream in its caller's name: a HEAD for the digest, and a GET when its bytes are not here.
    async fn ask(&self, question: Question) -> Result<Digest, UpstreamError> {
        let (repository, reference, caller) = question;
        let right = Right::Caller(caller);
        let refused = |error: &UpstreamError| self.policy.refused(&repository, &right, error);
        let registry = self.policy.registry(&repository, &right)?;
        let by_digest = reference.parse::<Digest>().ok();
        let here = |digest: &Digest| self.kept().manifest(&repository.registry, digest).is_some();
        let told = match by_digest {
            // Its bytes are needed: the GET asks for the right as well.
            Some(digest) if !here(&digest) => None,
            _ => registry
                .resolve(&repository.name, &reference)
                .await
                .inspect_err(refused)?,
        };
        let digest = match told {
            Some(digest) if by_digest.is_some_and(|expected| expected != digest) => {
                return Err(UpstreamError::WrongDigest {
                    registry: repository.registry.clone(),
                });
            }
            Some(digest) if here(&digest) => digest,
            _ => {
                let expected = told.or(by_digest);
                let path = expected.map_or_else(|| reference.clone(), |digest| digest.to_string());
                let fetched = registry
                    .manifest(&repository.name, &path, expected)
                    .await
                    .inspect_err(refused)?;
                let digest = fetched.digest;
                self.kept().keep(repository.registry.clone(), fetched);
                digest
            }
        };
        self.policy.given(&repository, &digest, &right);
        if by_digest.is_none() {
            let confirmed_unix_ms = self.clock.unix_ms();
            self.kept().note(
                (repository, reference),
                TagRecord {
                    digest,
                    confirmed_unix_ms,
                },
            );
        }
        Ok(digest)
    }

    fn age(&self, record: TagRecord) -> Duration {
        let now = self.clock.unix_ms();
        Duration::from_millis(now.saturating_sub(record.confirmed_unix_ms))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn manifest(&self, registry: &str, digest: &Digest) -> Option<FetchedManifest> {
        self.manifests.get(&(registry.to_owned(), *digest)).cloned()
    }

    /// Keeps one; what came first goes first.
    fn keep(&mut self, registry: String, manifest: FetchedManifest) {
        let key = (registry, manifest.digest);
        let bytes = manifest.body.len();
        if self.manifests.insert(key.clone(), manifest).is_some() {
            return;
        }
        self.bytes += bytes;
        self.order.push_back(key);
        while self.order.len() > limits::PRIVATE_MANIFESTS_MAX
            || self.bytes > limits::PRIVATE_MANIFESTS_BYTES_MAX
        {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(gone) = self.manifests.remove(&oldest) {
                self.bytes -= gone.body.len();
            }
        }
    }

    fn note(&mut self, key: (Repository, String), record: TagRecord) {
        if self.tags.len() >= TAGS_MAX && !self.tags.contains_key(&key) {
            self.tags.pop_first();
        }
        self.tags.insert(key, record);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn memory_is_bounded_by_number_and_by_bytes() {
        let manifest = |number: u32, bytes: usize| FetchedManifest {
            digest: {
                let mut hash = [0; 32];
                hash[..4].copy_from_slice(&number.to_be_bytes());
                Digest::Sha256(hash)
            },
            media_type: "x".into(),
            body: Bytes::from(vec![0; bytes]),
        };
        let mut kept = Kept::default();
        for number in 0..=u32::try_from(limits::PRIVATE_MANIFESTS_MAX).unwrap() {
            kept.keep("r".into(), manifest(number, 1));
        }
        assert_eq!(kept.manifests.len(), limits::PRIVATE_MANIFESTS_MAX);
        assert!(kept.manifest("r", &manifest(0, 1).digest).is_none());
        kept.keep("r".into(), manifest(1, 1)); // known: nothing counts twice
        let large = limits::MANIFEST_BYTES_MAX;
        for number in 0..64 {
            kept.keep("large".into(), manifest(number, large));
        }
        assert!(kept.bytes <= limits::PRIVATE_MANIFESTS_BYTES_MAX);
        let sum: usize = kept.manifests.values().map(|kept| kept.body.len()).sum();
        assert_eq!((kept.bytes, kept.order.len()), (sum, kept.manifests.len()));
    }
}
