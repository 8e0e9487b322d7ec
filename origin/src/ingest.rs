//! Blobs as they arrive from upstream: hashed, cut, signed, stored, and given away piece by piece.
//!
//! For: one download for each digest (I7), however many ask; a download goes on to its end when nobody waits for it
//! any more, and after a restart from the first piece that is missing. Not for: how bytes are had from a registry
//! (that is `upstream::pull`), or to whom pieces go (that is the core's).
//!
//! Invariants: what one repository refuses says nothing of another that has the same blob; a piece is told of only when it is stored with its proof; the last piece only when the whole blob's
//! digest was checked and the blob committed (I5), so that no peer completes a blob that its origin has not; what
//! adds up to another digest is given up, everywhere, and is an alarm. At most `downloads` blobs come in at once.

mod intake;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_peer::store::{Store, StoreError, StoredBlob};
use shoal_peer::{Audience, Handle, OpenAnswer, SeedError, pool};
use shoal_proto::{BlobInfo, Digest, Geometry, Guard, OriginKey};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::intake::Intake;
use crate::coalesce::CoalesceLimits;
use crate::flight::{Flights, Lead, Seat, wait};
use crate::names::Repository;
use crate::policy::{Policy, Right, fits};
use crate::upstream::{UpstreamError, Upstreams};

/// Blobs that may be asked for at once, and askers for one of them.
const LIMITS: CoalesceLimits = CoalesceLimits {
    keys_max: 4096,
    waiters_max: 20_000,
};
/// A download waits no longer for its turn: whoever asked must be answered while it still listens.
const TURN_DEADLINE: Duration = Duration::from_secs(10);

/// Whoever asked is answered within this, below its own deadline; the download goes on.
const ANSWER_DEADLINE: Duration = Duration::from_secs(21);

/// A blob as it is asked for: in which repository, in whose name.
type Wish = (Digest, Repository, Right);

/// Downloads of other repositories that may fail before one that waits for them leads its own.
const LEADS_MAX: usize = 16;

/// Brings blobs in.
#[derive(Clone, Debug)]
pub(crate) struct Ingest {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upstreams: Arc<Upstreams>,
    policy: Policy,
    store: Store,
    key: OriginKey,
    /// The swarms' side, which is started after this one.
    handle: Mutex<Option<Handle>>,
    /// One open for each wish: what it comes to is held against that repository and caller alone.
    asks: Arc<Flights<Wish, (BlobInfo, Audience)>>,
    /// One download for each digest, from whichever repository leads.
    opens: Arc<Flights<Digest, BlobInfo>>,
    stats: Arc<Flights<Wish, (u64, Audience)>>,
    downloads: Semaphore,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Why a download ended early.
#[derive(Debug, thiserror::Error)]
enum IngestError {
    #[error("this origin's store failed: {0}")]
    Store(#[from] StoreError),
    #[error("this origin is shutting down")]
    Stopping,
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("upstream's bytes are of another digest")]
    WrongDigest,
}

impl IngestError {
    fn told(&self, registry: &str) -> UpstreamError {
        match self {
            Self::Upstream(error) => error.clone(),
            Self::WrongDigest => UpstreamError::WrongDigest {
                registry: registry.to_owned(),
            },
            Self::Store(_) | Self::Stopping => UpstreamError::Unavailable {
                registry: registry.to_owned(),
                detail: self.to_string(),
            },
        }
    }
}

impl Ingest {
    pub(crate) fn new(
        upstreams: Arc<Upstreams>,
        policy: Policy,
        store: Store,
        key: OriginKey,
        downloads: usize,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let inner = Inner {
            upstreams,
            policy,
            store,
            key,
            handle: Mutex::default(),
            asks: Flights::new("blob", LIMITS),
            opens: Flights::new("download", LIMITS),
            stats: Flights::new("stat", LIMITS),
            downloads: Semaphore::new(downloads),
            tasks,
            shutdown,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Connects it to the swarms, until shutdown: the handle knows the seeder and the seeder the handle, and neither
    /// would ever end. Before and after, every open is refused.
    pub(crate) fn attach(&self, handle: Handle) {
        *self.inner.swarms() = Some(handle);
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            inner.shutdown.cancelled().await;
            inner.swarms().take();
        });
    }

    /// Sees to it that the blob is held or coming, and tells its shape once that is known, and to whom it may go.
    pub(crate) async fn open(
        &self,
        digest: Digest,
        repository: &Repository,
        right: &Right,
    ) -> Result<OpenAnswer, UpstreamError> {
        self.inner.upstreams.check_allowed(&repository.registry)?;
        let wish = (digest, repository.clone(), right.clone());
        let known = self.complete(&digest);
        let (info, audience) = match known.filter(|info| info.guard.is_none()) {
            Some(info) => (info, Audience::Anyone),
            None => {
                let inner = Arc::clone(&self.inner);
                let (asks, tasks, own) = (&self.inner.asks, &self.inner.tasks, wish.clone());
                let ask = asks.fly(&wish, tasks, || inner.open(own, known));
                let late = || UpstreamError::Unavailable {
                    registry: repository.registry.clone(),
                    detail: "no answer in time".into(),
                };
                tokio::time::timeout(ANSWER_DEADLINE, ask)
                    .await
                    .unwrap_or_else(|_| Err(late()))?
            }
        };
        Ok(OpenAnswer {
            info: Some(info),
            blob_bytes: info.geometry.blob_bytes(),
            audience,
        })
    }

    /// The length of a blob, without bringing it, and to whom it may go.
    pub(crate) async fn stat(
        &self,
        digest: Digest,
        repository: &Repository,
        right: &Right,
    ) -> Result<OpenAnswer, UpstreamError> {
        self.inner.upstreams.check_allowed(&repository.registry)?;
        let wish = (digest, repository.clone(), right.clone());
        let stored = self.inner.store.lookup(&digest);
        let info = stored
            .filter(|blob| self.inner.is_ours(blob))
            .map(|blob| blob.info);
        let (blob_bytes, audience) = match &info {
            Some(info) => {
                let audience = self.inner.admit(&wish, info).await?;
                (info.geometry.blob_bytes(), audience)
            }
            None => self.inner.ask_length(&wish).await?,
        };
        Ok(OpenAnswer {
            info,
            blob_bytes,
            audience,
        })
    }

    /// Blobs coming in now.
    pub(crate) fn running(&self) -> usize {
        self.inner.opens.running()
    }

    fn complete(&self, digest: &Digest) -> Option<BlobInfo> {
        let blob = self.inner.store.lookup(digest)?;
        (blob.complete && self.inner.is_ours(&blob)).then_some(blob.info)
    }
}

/// What was fetched in somebody's name at one registry is not given to those that ask another for it: that registry's
/// word alone would not prove that it has the bytes.
fn not_from_here(repository: &Repository) -> UpstreamError {
    UpstreamError::NotFound {
        registry: repository.registry.clone(),
    }
}

impl Inner {
    fn swarms(&self) -> MutexGuard<'_, Option<Handle>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob signed with a key that this origin no longer has is of no use: nobody may vouch for that key any more.
    fn is_ours(&self, blob: &StoredBlob) -> bool {
        blob.info.origin == self.key.peer_id()
    }

    /// Upstream's word on a blob in a repository, by HEAD: its length, and that it may be read in that name.
    async fn ask_length(self: &Arc<Self>, wish: &Wish) -> Result<(u64, Audience), UpstreamError> {
        let (inner, (digest, repository, right)) = (Arc::clone(self), wish.clone());
        let work = || async move {
            let registry = inner.policy.registry(&repository, &right)?;
            let asked = registry.stat(&repository.name, &digest).await;
            let blob_bytes =
                asked.inspect_err(|error| inner.policy.refused(&repository, &right, error))?;
            Ok((blob_bytes, inner.policy.given(&repository, &digest, &right)))
        };
        self.stats.fly(wish, &self.tasks, work).await
    }

    /// Whether this wish may have what another one brings or brought. Asks upstream where that is not known.
    async fn admit(
        self: &Arc<Self>,
        wish: &Wish,
        info: &BlobInfo,
    ) -> Result<Audience, UpstreamError> {
        let (digest, repository, right) = wish;
        if info.guard.is_none() {
            return Ok(Audience::Anyone);
        }
        let known = match right {
            Right::Caller(_) => self.policy.audience(repository, digest, right),
            Right::Everyone => None,
        };
        // Asked also where the answer will be no, so that a no takes as long as for a blob that is not here.
        let audience = match known {
            Some(audience) => audience,
            None => self.ask_length(wish).await?.1,
        };
        if fits(info.guard, repository, right) {
            Ok(audience)
        } else {
            Err(not_from_here(repository))
        }
    }

    /// Leads the download, or joins the one that runs. When another repository's fails, ours may still have the blob.
    async fn open(
        self: Arc<Self>,
        wish: Wish,
        known: Option<BlobInfo>,
    ) -> Result<(BlobInfo, Audience), UpstreamError> {
        if let Some(info) = known {
            return Ok((info, self.admit(&wish, &info).await?));
        }
        for _ in 0..LEADS_MAX {
            let (receiver, lead) = match self.opens.ask(&wish.0) {
                Seat::Told(answer) => {
                    let info = answer?;
                    return Ok((info, self.admit(&wish, &info).await?));
                }
                Seat::Waiting(receiver, lead) => (receiver, lead),
            };
            let led = lead.is_some();
            if let Some(lead) = lead {
                let bring = Arc::clone(&self).bring(lead, wish.clone());
                self.tasks.spawn(bring);
            }
            match wait(receiver).await {
                Err(error) if !led => {
                    tracing::debug!(digest = %wish.0.short(), %error, "another repository does not give it");
                }
                Err(error) => return Err(error),
                Ok(info) => return Ok((info, self.admit(&wish, &info).await?)),
            }
        }
        Err(UpstreamError::Full)
    }

    /// One download from its turn to its end.
    async fn bring(self: Arc<Self>, lead: Lead<Digest, BlobInfo>, wish: Wish) {
        let result = tokio::select! {
            () = self.shutdown.cancelled() => Err(IngestError::Stopping),
            result = self.download(&lead, &wish) => result,
        };
        let (digest, repository, right) = &wish;
        match result {
            Ok(()) => lead.done(),
            Err(error) => {
                tracing::warn!(digest = %digest.short(), registry = repository.registry, %error, "a blob did not arrive whole");
                let told = error.told(&repository.registry);
                // Before the readers learn of it: one that asks again at once is refused, not told the old shape.
                self.policy.refused(repository, right, &told);
                self.asks.refuse(&wish, &told);
                if matches!(error, IngestError::WrongDigest) {
                    self.alarm(*digest, repository).await;
                }
                lead.fail_once(told);
            }
        }
    }

    async fn download(
        &self,
        lead: &Lead<Digest, BlobInfo>,
        wish: &Wish,
    ) -> Result<(), IngestError> {
        let (digest, repository, right) = (wish.0, &wish.1, &wish.2);
        let guard = right.guard(repository);
        let _turn = self.turn().await?;
        let handle = self.swarms().clone().ok_or(IngestError::Stopping)?;
        let handle = &handle;
        let registry = self.policy.registry(repository, right)?;
        let mut held = self.held(&digest, guard).await?;
        if let Some(here) = held.as_ref().filter(|held| held.complete) {
            // It arrived whole after this asker had looked for it, and before it led.
            lead.opened(here.info);
            return Ok(());
        }
        if let Some(whole) = held.as_ref().filter(|held| held.held.is_full()) {
            // Every piece was stored, and the end was not reached: no byte is needed from upstream.
            return self.conclude(lead, handle, whole.info).await;
        }
        let mut from = held.as_ref().map_or(0, first_missing);
        let mut pull = registry.pull(&repository.name, &digest, from).await?;
        self.policy.given(repository, &digest, right);
        let geometry =
            Geometry::for_blob(pull.blob_bytes()).map_err(|error| UpstreamError::BadAnswer {
                registry: repository.registry.clone(),
                detail: error.to_string(),
            })?;
        if held
            .take_if(|held| held.info.geometry != geometry)
            .is_some()
        {
            // What is here was cut from something else, and the pull began in its middle.
            self.discard(digest).await?;
            from = 0;
            pull = registry.pull(&repository.name, &digest, from).await?;
        }
        let info = BlobInfo::sign_guarded(&self.key, digest, geometry, guard);
        let pin = self.store.pin(&digest);
        handle.seed(info).await.map_err(no_seed)?;
        lead.opened(info);
        tracing::debug!(digest = %digest.short(), from, blob_bytes = geometry.blob_bytes(), "a blob is coming in");

        let mut intake = Intake::new(self, handle, info, held.as_ref(), from);
        while let Some(bytes) = pull.next().await? {
            intake.take(bytes).await?;
        }
        intake.finish().await?;
        drop(pin);
        Ok(())
    }

    async fn conclude(
        &self,
        lead: &Lead<Digest, BlobInfo>,
        handle: &Handle,
        info: BlobInfo,
    ) -> Result<(), IngestError> {
        let _pin = self.store.pin(&info.digest);
        handle.seed(info).await.map_err(no_seed)?;
        lead.opened(info);
        Intake::new(self, handle, info, None, info.geometry.blob_bytes())
            .finish()
            .await
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, IngestError> {
        let turn = tokio::time::timeout(TURN_DEADLINE, self.downloads.acquire()).await;
        match turn {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => Err(IngestError::Stopping),
            Err(_) => Err(UpstreamError::Full.into()),
        }
    }

    /// What is here of it, if it is of use. Bytes that an attempt cut short left here under another guard are not: they
    /// would come to be had by those who may not have them, or be kept from those who may.
    async fn held(
        &self,
        digest: &Digest,
        guard: Option<Guard>,
    ) -> Result<Option<StoredBlob>, IngestError> {
        let Some(blob) = self.store.lookup(digest) else {
            return Ok(None);
        };
        if !self.is_ours(&blob) || (!blob.complete && blob.info.guard != guard) {
            self.discard(*digest).await?;
            let handle = self.swarms().clone();
            if let Some(handle) = handle {
                handle.evicted(*digest).await;
            }
            return Ok(None);
        }
        Ok(Some(blob))
    }

    async fn discard(&self, digest: Digest) -> Result<(), IngestError> {
        let store = self.store.clone();
        Ok(pool::run(move || store.discard(&digest)).await?)
    }

    async fn alarm(&self, digest: Digest, repository: &Repository) {
        metrics::counter!("shoal_verify_failures_total", "where" => "upstream").increment(1);
        tracing::error!(%digest, registry = repository.registry, repository = repository.name, "upstream's bytes are not what their digest names");
        let handle = self.swarms().clone();
        if let Some(handle) = handle {
            handle.poisoned(digest).await;
        }
    }
}

fn no_seed(error: SeedError) -> IngestError {
    match error {
        SeedError::ShuttingDown => IngestError::Stopping,
        SeedError::Store(error) => IngestError::Store(error),
    }
}

fn first_missing(blob: &StoredBlob) -> u64 {
    let geometry = blob.info.geometry;
    let missing = blob.held.iter_missing().next();
    match missing {
        Some(piece) => geometry.range_of(piece).start,
        None => geometry.blob_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Stage, within};
    use crate::upstream::scripted::{Scripted, blob, digest_of, noise};

    /// One of a hundred askers looked for the blob, was held up until it had come in whole, and then led a download of
    /// what was here.
    #[tokio::test]
    async fn late_asker_finds_what_came_in_since_it_looked() {
        let content = noise(3 << 20, 1);
        let sent = content.clone();
        let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::start(dir.path(), scripted.entry()).await;
        let inner = &stage.origin.ingest.inner;
        let repository = Repository {
            registry: scripted.addr.to_string(),
            name: "team/app".into(),
        };
        let wish = (digest_of(&content), repository, Right::Everyone);

        let (first, _) = within(Arc::clone(inner).open(wish.clone(), None))
            .await
            .unwrap();
        within(async {
            while inner.opens.running() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let (second, _) = within(Arc::clone(inner).open(wish, None)).await.unwrap();
        assert_eq!(second, first);
        assert_eq!(scripted.seen().len(), 1);
        stage.stop().await;
    }
}
