//! The handle that the mirror and the origin hold: commands to the driver, bounded, and the calls that need no driver.
//!
//! A complete blob is read without the driver. Everything else is a command, answered by a `oneshot`. A handle
//! may be cloned freely; it outlives the driver, and then says so.
//!
//! Not here: bytes (see [`BlobReader`]), and how an origin is asked (see `exchange::origins`).

mod error;

use std::fmt;
use std::sync::Arc;

use shoal_link::{Identity, Link};
use shoal_proto::wire::Source;
use shoal_proto::{
    Bitfield, BlobInfo, ByteRange, Digest, OriginAddress, OriginKey, PeerId, PieceIndex,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use error::{ManifestError, OpenError, SeedError};

use crate::cursor::{Cursor, Seat};
use crate::driver::report::Command;
use crate::exchange::budget::ByteBudget;
use crate::exchange::origins;
use crate::options::{ListAnswer, ListAsk, ManifestAnswer, ManifestAsk, OpenAnswer, Seeder};
use crate::pool;
use crate::reader::BlobReader;
use crate::status::Status;
use crate::store::{Store, StoreError};
use crate::view::{BlobView, Phase};

/// A member of swarms, from outside.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// What every clone of a handle holds.
pub(crate) struct Shared {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    pub(crate) seeder: Option<Arc<dyn Seeder>>,
    /// Rung by readers that moved or left.
    pub(crate) bell: Arc<Notify>,
    pub(crate) origins: watch::Receiver<Vec<OriginAddress>>,
    pub(crate) tracker: watch::Receiver<bool>,
    pub(crate) read_budget: ByteBudget,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("me", &self.shared.identity.peer_id())
            .finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Opens a blob for reading; resolves when its length is known, which is long before its last byte.
    ///
    /// `range`: the bytes that will be read, `None` for all. The end may lie behind the blob's end. Dropping the
    /// future or the reader withdraws the wish. Waits as long as the core sees a way: callers bring their own
    /// deadline.
    pub async fn open(
        &self,
        digest: Digest,
        source: Source,
        range: Option<ByteRange>,
    ) -> Result<BlobReader, OpenError> {
        if let Some(reader) = self.open_complete(digest, range)? {
            return Ok(reader);
        }
        self.seed_locally(digest, &source).await?;
        let seat = Seat::new(Arc::clone(&self.shared.bell));
        let wanted = range.unwrap_or(ByteRange {
            start: 0,
            end: u64::MAX,
        });
        let mut view = self
            .follow(digest, source, Some(wanted), Some(seat.cursor()))
            .await?;
        let info = shape_of(&mut view, digest).await?;
        let pin = self.shared.store.pin(&digest);
        let store = self.shared.store.clone();
        let budget = self.shared.read_budget.clone();
        let complaints = self.shared.commands.clone();
        BlobReader::complete(store, pin, info, budget, complaints)
            .following(seat, view)
            .narrowed(range)
    }

    /// Brings a blob without a reader. Resolves when it is committed; dropping the future does not stop it.
    pub async fn preheat(&self, digest: Digest, source: Source) -> Result<BlobInfo, OpenError> {
        if let Some(blob) = self.shared.store.lookup(&digest)
            && blob.complete
        {
            return Ok(blob.info);
        }
        self.seed_locally(digest, &source).await?;
        let mut view = self.follow(digest, source, None, None).await?;
        complete_of(&mut view, digest).await
    }

    /// The length of a blob. Starts no download.
    pub async fn stat(&self, digest: Digest, source: Source) -> Result<u64, OpenError> {
        if let Some(info) = self.shape(digest).await? {
            return Ok(info.geometry.blob_bytes());
        }
        let answer = self.permit(digest, source).await?;
        Ok(answer.blob_bytes)
    }

    /// A blob's shape as far as it is known here, stored or coming. Asks nobody.
    pub async fn shape(&self, digest: Digest) -> Result<Option<BlobInfo>, OpenError> {
        if let Some(blob) = self.shared.store.lookup(&digest) {
            return Ok(Some(blob.info));
        }
        let (reply, shape) = oneshot::channel();
        self.send(Command::Shape { digest, reply }).await?;
        Ok(shape.await.ok().flatten())
    }

    /// Whether a caller may have a blob from this repository, by the word of an origin, which is asked even when the
    /// blob is here. Starts no download.
    pub async fn permit(&self, digest: Digest, source: Source) -> Result<OpenAnswer, OpenError> {
        if let Some(seeder) = &self.shared.seeder {
            let answer = seeder.open(self.me(), digest, source, true).await;
            return answer.map_err(OpenError::Refused);
        }
        origins::stat(self, digest, source).await
    }

    /// A manifest, from the origin that owns the repository; from the next one when that one fails.
    pub async fn manifest(&self, ask: ManifestAsk) -> Result<ManifestAnswer, ManifestError> {
        if let Some(seeder) = &self.shared.seeder {
            let answer = seeder.manifest(self.me(), ask).await;
            return answer.map_err(ManifestError::Refused);
        }
        origins::manifest(self, ask).await
    }

    /// What a repository holds, from the origin that owns it; from the next one when that one fails.
    pub async fn list(&self, ask: ListAsk) -> Result<ListAnswer, ManifestError> {
        if let Some(seeder) = &self.shared.seeder {
            let answer = seeder.list(self.me(), ask).await;
            return answer.map_err(ManifestError::Refused);
        }
        origins::list(self, ask).await
    }

    /// Origin: a blob whose pieces will come from upstream, by [`Handle::ingested`]. Makes room in the store.
    pub async fn seed(&self, info: BlobInfo) -> Result<(), SeedError> {
        let store = self.shared.store.clone();
        let (evicted, known) = pool::run(move || {
            let evicted = store.create(&info)?;
            Ok::<_, StoreError>((evicted, store.lookup(&info.digest)))
        })
        .await?;
        for digest in evicted {
            self.tell(Command::Evicted { digest }).await;
        }
        let (held, complete) = known.map_or_else(
            || (Bitfield::new(info.geometry.piece_count()), false),
            |blob| (blob.held, blob.complete),
        );
        let command = Command::Seed {
            info,
            held,
            complete,
        };
        self.send(command)
            .await
            .map_err(|_| SeedError::ShuttingDown)
    }

    /// Origin: a piece is verified and stored.
    pub async fn ingested(&self, digest: Digest, piece: PieceIndex) {
        self.tell(Command::Ingested { digest, piece }).await;
    }

    /// Origin: the blob was committed by the caller. Not needed where the driver commits, which it does by itself
    /// when the last piece was ingested.
    pub async fn completed(&self, digest: Digest) {
        self.tell(Command::Completed { digest }).await;
    }

    /// Origin: upstream's bytes add up to another digest. The store is emptied of it, the peers are told.
    pub async fn poisoned(&self, digest: Digest) {
        self.tell(Command::Poisoned { digest }).await;
    }

    /// The store gave a blob up.
    pub async fn evicted(&self, digest: Digest) {
        self.tell(Command::Evicted { digest }).await;
    }

    /// What this member holds and does.
    pub async fn status(&self) -> Option<Status> {
        let (reply, status) = oneshot::channel();
        self.send(Command::Status { reply }).await.ok()?;
        status.await.ok()
    }

    /// The store, which may be read without the driver.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Our own name.
    pub fn me(&self) -> PeerId {
        self.shared.identity.peer_id()
    }

    /// The key with which an origin signs blobs and pieces.
    pub fn key(&self) -> OriginKey {
        self.shared.identity.origin_key()
    }

    /// Whether a tracker answers at the moment; for readiness.
    pub fn tracker_connected(&self) -> bool {
        *self.shared.tracker.borrow()
    }

    /// The live origins, as the tracker last told them.
    pub fn origins(&self) -> Vec<OriginAddress> {
        self.shared.origins.borrow().clone()
    }

    /// A link with this peer; dialed if there is none and its address is known.
    pub(crate) async fn connect(&self, peer: PeerId) -> Option<Link> {
        let (reply, link) = oneshot::channel();
        self.send(Command::Connect { peer, reply }).await.ok()?;
        link.await.ok().flatten()
    }

    #[expect(
        clippy::result_large_err,
        reason = "an open that fails is rare, and its reason is read at once"
    )]
    fn open_complete(
        &self,
        digest: Digest,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, OpenError> {
        let store = &self.shared.store;
        let pin = store.pin(&digest);
        let Some(blob) = store.lookup(&digest).filter(|blob| blob.complete) else {
            return Ok(None);
        };
        store.touch(&digest);
        let budget = self.shared.read_budget.clone();
        let complaints = self.shared.commands.clone();
        BlobReader::complete(store.clone(), pin, blob.info, budget, complaints)
            .narrowed(range)
            .map(Some)
    }

    /// At an origin, a missing blob comes from upstream, whoever asks for it.
    async fn seed_locally(&self, digest: Digest, source: &Source) -> Result<(), OpenError> {
        let Some(seeder) = &self.shared.seeder else {
            return Ok(());
        };
        let opened = seeder.open(self.me(), digest, source.clone(), false).await;
        opened.map(drop).map_err(OpenError::Refused)
    }

    async fn follow(
        &self,
        digest: Digest,
        source: Source,
        range: Option<ByteRange>,
        cursor: Option<Arc<Cursor>>,
    ) -> Result<watch::Receiver<BlobView>, OpenError> {
        let (reply, view) = oneshot::channel();
        let command = Command::Open {
            digest,
            source,
            range,
            cursor,
            reply,
        };
        self.send(command).await?;
        view.await.map_err(|_| OpenError::ShuttingDown)
    }

    async fn send(&self, command: Command) -> Result<(), OpenError> {
        let sent = self.shared.commands.send(command).await;
        sent.map_err(|_| OpenError::ShuttingDown)
    }

    /// For facts that do not matter any more once the driver is gone.
    async fn tell(&self, command: Command) {
        if self.send(command).await.is_err() {
            tracing::debug!("the driver is gone; nothing to tell it");
        }
    }
}

async fn shape_of(
    view: &mut watch::Receiver<BlobView>,
    digest: Digest,
) -> Result<BlobInfo, OpenError> {
    settled(view, digest, |phase| match phase {
        Phase::Arriving(info) | Phase::Complete(info) => Some(*info),
        Phase::Opening | Phase::Closing | Phase::Failed(_) => None,
    })
    .await
}

async fn complete_of(
    view: &mut watch::Receiver<BlobView>,
    digest: Digest,
) -> Result<BlobInfo, OpenError> {
    settled(view, digest, |phase| match phase {
        Phase::Complete(info) => Some(*info),
        Phase::Arriving(_) | Phase::Opening | Phase::Closing | Phase::Failed(_) => None,
    })
    .await
}

async fn settled(
    view: &mut watch::Receiver<BlobView>,
    digest: Digest,
    enough: impl Fn(&Phase) -> Option<BlobInfo>,
) -> Result<BlobInfo, OpenError> {
    loop {
        let phase = view.borrow_and_update().phase.clone();
        if let Some(info) = enough(&phase) {
            return Ok(info);
        }
        match phase {
            Phase::Failed(reason) => return Err(OpenError::Failed { digest, reason }),
            Phase::Closing => return Err(OpenError::ShuttingDown),
            Phase::Arriving(_) | Phase::Complete(_) | Phase::Opening => {}
        }
        if view.changed().await.is_err() {
            return Err(OpenError::ShuttingDown);
        }
    }
}
