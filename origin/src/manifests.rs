//! Manifests for the cluster: by digest for good, by tag with an age.
//!
//! For: what design D11 says. A tag is asked of its registry at most once in `freshness`, by one coalesced HEAD; the
//! body is fetched by digest, and only when the digest is new; when the registry cannot be asked, the last known
//! digest is given for a bounded time, marked as stale. Not for: who may have it (that is `policy`; what is not for
//! everyone goes through `private`), or the routes of HTTP.
//!
//! Invariants: a tag's digest comes only from its registry; a body is believed only after its digest was checked, by
//! the fetch and again by the store on each read; a denial or an absence is never answered with an old copy.

mod accept;
mod private;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_peer::store::{Store, StoreError};
use shoal_peer::{Audience, ManifestAnswer, ManifestAsk, pool};
use shoal_proto::Digest;
use shoal_proto::wire::{Refusal, RefusalCode};
use tokio_util::task::TaskTracker;

use self::accept::is_accepted;
use self::private::Private;
use crate::clock::WallClock;
use crate::coalesce::CoalesceLimits;
use crate::flight::Flights;
use crate::names::{Reference, Repository};
use crate::policy::{Policy, Right};
use crate::upstream::manifest::FetchedManifest;
use crate::upstream::{UpstreamError, Upstreams};

/// Manifests and tags that may be asked for at once, and askers for one of them.
const LIMITS: CoalesceLimits = CoalesceLimits {
    keys_max: 4096,
    waiters_max: 20_000,
};
/// Tags remembered in memory; the store remembers all.
const TAGS_MAX: usize = 16_384;
/// With an old copy at hand, nobody waits longer than this for a new one.
const STALE_PATIENCE: Duration = Duration::from_secs(5);
/// Within this an answer is given or refused: below the deadline of those that ask.
const ANSWER_DEADLINE: Duration = Duration::from_secs(21);

/// What a tag named when its registry last said so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct TagRecord {
    digest: Digest,
    confirmed_unix_ms: u64,
}

/// An answer before it is cut to what was asked.
#[derive(Clone, Debug)]
struct Found {
    manifest: FetchedManifest,
    age: Duration,
    stale: bool,
    audience: Audience,
}

/// How long answers hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freshness {
    /// A tag is asked of its registry at most this often.
    pub(crate) fresh_for: Duration,
    /// How old a digest may be while the registry cannot be asked.
    pub(crate) stale_if_error: Duration,
}

/// Answers for manifests.
#[derive(Clone, Debug)]
pub(crate) struct Manifests {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upstreams: Arc<Upstreams>,
    policy: Policy,
    private: Arc<Private>,
    store: Store,
    freshness: Freshness,
    clock: WallClock,
    tags: Mutex<BTreeMap<(Repository, String), TagRecord>>,
    by_tag: Arc<Flights<(Repository, String), FetchedManifest>>,
    by_digest: Arc<Flights<(Repository, Digest), FetchedManifest>>,
    tasks: TaskTracker,
}

impl Manifests {
    pub(crate) fn new(
        upstreams: Arc<Upstreams>,
        policy: Policy,
        store: Store,
        freshness: Freshness,
        clock: WallClock,
        tasks: TaskTracker,
    ) -> Self {
        let private = Private::new(policy.clone(), freshness, clock.clone(), tasks.clone());
        let inner = Inner {
            upstreams,
            policy,
            private,
            store,
            freshness,
            clock,
            tags: Mutex::default(),
            by_tag: Flights::new("tag", LIMITS),
            by_digest: Flights::new("manifest", LIMITS),
            tasks,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Answers within the deadline, with a manifest that the asker accepts or with a refusal.
    pub(crate) async fn answer(&self, ask: &ManifestAsk) -> Result<ManifestAnswer, Refusal> {
        let bad = |detail: String| Refusal::new(RefusalCode::BadRequest).with_detail(detail);
        let repository = Repository::parse(&ask.source.registry, &ask.source.repository)
            .map_err(|error| bad(error.to_string()))?;
        let reference = Reference::parse(&ask.reference).map_err(|error| bad(error.to_string()))?;
        let credential = ask.source.authorization.as_ref();
        let right = self.inner.policy.right(&repository.registry, credential);
        let find = async {
            self.inner.upstreams.check_allowed(&repository.registry)?;
            match (&right, reference) {
                (Right::Caller(caller), reference) => {
                    let private = &self.inner.private;
                    private.answer(repository.clone(), reference, caller).await
                }
                (Right::Everyone, Reference::Digest(digest)) => {
                    Inner::digest(&self.inner, repository.clone(), digest).await
                }
                (Right::Everyone, Reference::Tag(tag)) => {
                    Inner::tag(&self.inner, repository.clone(), tag).await
                }
            }
        };
        let late = || UpstreamError::Unavailable {
            registry: repository.registry.clone(),
            detail: "no answer in time".into(),
        };
        let found = tokio::time::timeout(ANSWER_DEADLINE, find)
            .await
            .unwrap_or_else(|_| Err(late()));
        let Found {
            manifest,
            age,
            stale,
            audience,
        } = found.map_err(|error| right.refusal(&error))?;
        if right == Right::Everyone
            && let Ok(registry) = self.inner.upstreams.registry(&repository.registry)
        {
            registry.foresee(&repository.name, &manifest.body);
        }
        if !is_accepted(&ask.accept, &manifest.media_type) {
            let detail = format!(
                "it is of type {}, which the Accept lines do not cover",
                manifest.media_type
            );
            return Err(Refusal::new(RefusalCode::NotFound).with_detail(detail));
        }
        let length = manifest.body.len() as u64;
        let body = if ask.head {
            bytes::Bytes::new()
        } else {
            manifest.body
        };
        Ok(ManifestAnswer {
            digest: manifest.digest,
            media_type: manifest.media_type,
            length,
            body,
            age,
            stale,
            audience,
        })
    }
}

impl Inner {
    async fn digest(
        this: &Arc<Self>,
        repository: Repository,
        digest: Digest,
    ) -> Result<Found, UpstreamError> {
        let manifest = Self::body(this, &repository, digest).await?;
        Ok(Found {
            manifest,
            age: Duration::ZERO,
            stale: false,
            audience: Audience::Anyone,
        })
    }

    async fn tag(
        this: &Arc<Self>,
        repository: Repository,
        tag: String,
    ) -> Result<Found, UpstreamError> {
        let key = (repository, tag);
        let last = this.last(&key).await;
        if let Some((manifest, age)) = &last
            && *age < this.freshness.fresh_for
        {
            return Ok(Found {
                manifest: manifest.clone(),
                age: *age,
                stale: false,
                audience: Audience::Anyone,
            });
        }
        let (inner, job) = (Arc::clone(this), key.clone());
        let refresh = this.by_tag.fly(
            &key,
            &this.tasks,
            || async move { inner.refresh(&job).await },
        );
        let patience = if last.is_some() {
            STALE_PATIENCE
        } else {
            ANSWER_DEADLINE
        };
        let refreshed = tokio::time::timeout(patience, refresh).await;
        let error = match refreshed {
            Ok(Ok(manifest)) => {
                return Ok(Found {
                    manifest,
                    age: Duration::ZERO,
                    stale: false,
                    audience: Audience::Anyone,
                });
            }
            Ok(Err(error)) => error,
            Err(_) => UpstreamError::Unavailable {
                registry: key.0.registry.clone(),
                detail: "no answer in time".into(),
            },
        };
        match last {
            Some((manifest, age))
                if error.allows_stale() && age <= this.freshness.stale_if_error =>
            {
                tracing::warn!(registry = key.0.registry, repository = key.0.name, tag = key.1, ?age, %error, "answering with the last known digest");
                Ok(Found {
                    manifest,
                    age,
                    stale: true,
                    audience: Audience::Anyone,
                })
            }
            _ => Err(error),
        }
    }

    /// Asks the registry what the tag names now, and fetches the body when it is new.
    async fn refresh(
        self: &Arc<Self>,
        key: &(Repository, String),
    ) -> Result<FetchedManifest, UpstreamError> {
        let (repository, tag) = key;
        // Whoever asked just before may have been answered between our look at what is known and our turn.
        if let Some((manifest, age)) = self.last(key).await
            && age < self.freshness.fresh_for
        {
            return Ok(manifest);
        }
        let registry = self.upstreams.registry(&repository.registry)?;
        let manifest = match registry.resolve(&repository.name, tag).await? {
            Some(digest) => Self::body(self, repository, digest).await?,
            None => {
                let manifest = registry.manifest(&repository.name, tag, None).await?;
                self.keep(manifest.clone()).await;
                manifest
            }
        };
        self.remember(key, manifest.digest).await;
        Ok(manifest)
    }

    /// A manifest by digest, from the store or from upstream.
    async fn body(
        this: &Arc<Self>,
        repository: &Repository,
        digest: Digest,
    ) -> Result<FetchedManifest, UpstreamError> {
        if let Some(manifest) = this.stored(digest).await {
            return Ok(manifest);
        }
        let key = (repository.clone(), digest);
        let (inner, repository) = (Arc::clone(this), repository.clone());
        let fetch = || async move {
            // Whoever asked just before may have had it between our look at the store and our turn.
            if let Some(manifest) = inner.stored(digest).await {
                return Ok(manifest);
            }
            let registry = inner.upstreams.registry(&repository.registry)?;
            let manifest = registry
                .manifest(&repository.name, &digest.to_string(), Some(digest))
                .await?;
            inner.keep(manifest.clone()).await;
            Ok(manifest)
        };
        this.by_digest.fly(&key, &this.tasks, fetch).await
    }

    /// What the tag was last known to name, and how long ago that was asked.
    async fn last(&self, key: &(Repository, String)) -> Option<(FetchedManifest, Duration)> {
        let record = self.recall(key).await?;
        let manifest = self.stored(record.digest).await?;
        Some((manifest, self.age(record)))
    }

    async fn stored(&self, digest: Digest) -> Option<FetchedManifest> {
        let store = self.store.clone();
        let (media_type, body) = pool::run(move || store.manifest(&digest)).await?;
        Some(FetchedManifest {
            digest,
            media_type,
            body,
        })
    }

    /// Keeps a body; a disk in trouble costs a later fetch, not this answer.
    async fn keep(&self, manifest: FetchedManifest) {
        let store = self.store.clone();
        let kept = pool::run(move || {
            store.put_manifest(&manifest.digest, &manifest.media_type, &manifest.body)
        })
        .await;
        report(kept);
    }

    async fn recall(&self, key: &(Repository, String)) -> Option<TagRecord> {
        if let Some(record) = self
            .tags
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
        {
            return Some(*record);
        }
        let (store, name) = (self.store.clone(), store_key(key));
        let record = pool::run(move || store.tag(&name))
            .await
            .as_deref()
            .and_then(parse_record)?;
        self.note(key, record);
        Some(record)
    }

    async fn remember(&self, key: &(Repository, String), digest: Digest) {
        let record = TagRecord {
            digest,
            confirmed_unix_ms: self.clock.unix_ms(),
        };
        self.note(key, record);
        let (store, name, value) = (
            self.store.clone(),
            store_key(key),
            format!("{digest} {}", record.confirmed_unix_ms),
        );
        report(pool::run(move || store.put_tag(&name, &value)).await);
    }

    fn note(&self, key: &(Repository, String), record: TagRecord) {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.len() >= TAGS_MAX && !tags.contains_key(key) {
            tags.pop_first();
        }
        tags.insert(key.clone(), record);
    }

    fn age(&self, record: TagRecord) -> Duration {
        Duration::from_millis(
            self.clock
                .unix_ms()
                .saturating_sub(record.confirmed_unix_ms),
        )
    }
}

fn report(kept: Result<(), StoreError>) {
    if let Err(error) = kept {
        tracing::warn!(%error, "a manifest is not kept");
    }
}

fn store_key(key: &(Repository, String)) -> String {
    format!("{}/{}:{}", key.0.registry, key.0.name, key.1)
}

fn parse_record(text: &str) -> Option<TagRecord> {
    let (digest, confirmed) = text.split_once(' ')?;
    Some(TagRecord {
        digest: digest.parse().ok()?,
        confirmed_unix_ms: confirmed.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_records_come_back_from_the_store_and_junk_does_not() {
        let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        assert_eq!(
            parse_record(&format!("{digest} 17")),
            Some(TagRecord {
                digest,
                confirmed_unix_ms: 17
            })
        );
        for junk in [
            "",
            "x",
            "sha256:a 1",
            &format!("{digest} x"),
            &format!("{digest}"),
        ] {
            assert_eq!(parse_record(junk), None, "{junk}");
        }
    }
}
