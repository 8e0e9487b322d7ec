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
use shoal_peer::{Handle, OpenAnswer, SeedError, pool};
use shoal_proto::{BlobInfo, Digest, Geometry, OriginKey};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::intake::Intake;
use crate::coalesce::CoalesceLimits;
use crate::flight::{Flights, Lead, Seat, wait};
use crate::names::Repository;
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
    store: Store,
    key: OriginKey,
    /// The swarms' side, which is started after this one.
    handle: Mutex<Option<Handle>>,
    /// One open for each digest and repository: what it comes to is held against that repository alone.
    asks: Arc<Flights<(Digest, Repository), BlobInfo>>,
    /// One download for each digest, from whichever repository leads.
    opens: Arc<Flights<Digest, BlobInfo>>,
    stats: Arc<Flights<(Digest, Repository), u64>>,
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
        store: Store,
        key: OriginKey,
        downloads: usize,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let inner = Inner {
            upstreams,
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

    /// Sees to it that the blob is held or coming, and tells its shape once that is known.
    pub(crate) async fn open(
        &self,
        digest: Digest,
        repository: &Repository,
    ) -> Result<BlobInfo, UpstreamError> {
        self.inner.upstreams.check_allowed(&repository.registry)?;
        if let Some(info) = self.complete(&digest) {
            return Ok(info);
        }
        let (inner, key) = (Arc::clone(&self.inner), (digest, repository.clone()));
        let (asks, tasks, own) = (&self.inner.asks, &self.inner.tasks, repository.clone());
        let ask = asks.fly(&key, tasks, || inner.open(digest, own));
        let late = || UpstreamError::Unavailable {
            registry: repository.registry.clone(),
            detail: "no answer in time".into(),
        };
        tokio::time::timeout(ANSWER_DEADLINE, ask)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    /// The length of a blob, without bringing it.
    pub(crate) async fn stat(
        &self,
        digest: Digest,
        repository: &Repository,
    ) -> Result<OpenAnswer, UpstreamError> {
        self.inner.upstreams.check_allowed(&repository.registry)?;
        if let Some(blob) = self
            .inner
            .store
            .lookup(&digest)
            .filter(|blob| self.is_ours(blob))
        {
            return Ok(OpenAnswer {
                blob_bytes: blob.info.geometry.blob_bytes(),
                info: Some(blob.info),
            });
        }
        let (inner, repository) = (Arc::clone(&self.inner), repository.clone());
        let key = (digest, repository.clone());
        let work = || async move {
            let registry = inner.upstreams.registry(&repository.registry)?;
            registry.stat(&repository.name, &digest).await
        };
        let blob_bytes = self.inner.stats.fly(&key, &self.inner.tasks, work).await?;
        Ok(OpenAnswer {
            info: None,
            blob_bytes,
        })
    }

    /// Blobs coming in now.
    pub(crate) fn running(&self) -> usize {
        self.inner.opens.running()
    }

    fn complete(&self, digest: &Digest) -> Option<BlobInfo> {
        let blob = self.inner.store.lookup(digest)?;
        (blob.complete && self.is_ours(&blob)).then_some(blob.info)
    }

    /// A blob signed with a key that this origin no longer has is of no use: nobody may vouch for that key any more.
    fn is_ours(&self, blob: &StoredBlob) -> bool {
        blob.info.origin == self.inner.key.peer_id()
    }
}

impl Inner {
    fn swarms(&self) -> MutexGuard<'_, Option<Handle>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leads the download, or joins the one that runs. When another repository's fails, ours may still have the blob.
    async fn open(
        self: Arc<Self>,
        digest: Digest,
        repository: Repository,
    ) -> Result<BlobInfo, UpstreamError> {
        for _ in 0..LEADS_MAX {
            let (receiver, lead) = match self.opens.ask(&digest) {
                Seat::Told(answer) => return answer,
                Seat::Waiting(receiver, lead) => (receiver, lead),
            };
            let led = lead.is_some();
            if let Some(lead) = lead {
                let bring = Arc::clone(&self).bring(lead, digest, repository.clone());
                self.tasks.spawn(bring);
            }
            match wait(receiver).await {
                Err(error) if !led => {
                    tracing::debug!(digest = %digest.short(), %error, "another repository does not give it");
                }
                answer => return answer,
            }
        }
        Err(UpstreamError::Full)
    }

    /// One download from its turn to its end.
    async fn bring(
        self: Arc<Self>,
        lead: Lead<Digest, BlobInfo>,
        digest: Digest,
        repository: Repository,
    ) {
        let result = tokio::select! {
            () = self.shutdown.cancelled() => Err(IngestError::Stopping),
            result = self.download(&lead, digest, &repository) => result,
        };
        match result {
            Ok(()) => lead.done(),
            Err(error) => {
                tracing::warn!(digest = %digest.short(), registry = repository.registry, %error, "a blob did not arrive whole");
                let told = error.told(&repository.registry);
                // Before the readers learn of it: one that asks again at once is refused, not told the old shape.
                self.asks.refuse(&(digest, repository.clone()), &told);
                if matches!(error, IngestError::WrongDigest) {
                    self.alarm(digest, &repository).await;
                }
                lead.fail_once(told);
            }
        }
    }

    async fn download(
        &self,
        lead: &Lead<Digest, BlobInfo>,
        digest: Digest,
        repository: &Repository,
    ) -> Result<(), IngestError> {
        let _turn = self.turn().await?;
        let handle = self.swarms().clone().ok_or(IngestError::Stopping)?;
        let handle = &handle;
        let registry = self.upstreams.registry(&repository.registry)?;
        let mut held = self.held(&digest).await?;
        if let Some(whole) = held.as_ref().filter(|held| held.held.is_full()) {
            // Every piece was stored, and the end was not reached: no byte is needed from upstream.
            return self.conclude(lead, handle, whole.info).await;
        }
        let mut from = held.as_ref().map_or(0, first_missing);
        let mut pull = registry.pull(&repository.name, &digest, from).await?;
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
        let info = BlobInfo::sign(&self.key, digest, geometry);
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

    /// What is left of an earlier attempt, if it is of use.
    async fn held(&self, digest: &Digest) -> Result<Option<StoredBlob>, IngestError> {
        let Some(blob) = self.store.lookup(digest) else {
            return Ok(None);
        };
        if blob.info.origin == self.key.peer_id() && !blob.complete {
            return Ok(Some(blob));
        }
        if blob.info.origin != self.key.peer_id() {
            self.discard(*digest).await?;
        }
        Ok(None)
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
