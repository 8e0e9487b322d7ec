//! A cluster in one process: its key, its tracker, its members, and an upstream in memory behind a gate.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use shoal_link::{Acceptor, Credentials, Endpoint, EndpointOptions, Identity};
use shoal_peer::store::disk::OsDisk;
use shoal_peer::store::{Store, StoreOptions};
use shoal_peer::{
    Audience, BlobReader, Handle, ListAnswer, ListAsk, ManifestAnswer, ManifestAsk, OpenAnswer,
    PeerOptions, ReadError, Seeder,
};
use shoal_proto::wire::{CloseCode, Listed, Refusal, RefusalCode, Source};
use shoal_proto::{
    BlobInfo, ClusterKey, Digest, DigestAlgorithm, DigestHasher, Geometry, JoinToken, Membership,
    PeerId, PieceHasher, PieceProof, Role, Zone,
};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::introducer::Introducer;
use super::recorder::{Counts, counts};

/// The time of every clock that checks memberships.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const MIB: usize = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(60);

/// Counters belong to the process, so that worlds in one process follow each other.
static TURN: Mutex<()> = Mutex::const_new(());

/// Everything here ends, or the test fails.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    let limited = tokio::time::timeout(DEADLINE, what).await;
    limited.expect("this ends within a minute")
}

/// Asks again and again, as fast as the driver answers, until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(is_so: impl Fn() -> F) {
    let asked = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    soon(asked).await;
}

/// Bytes that do not repeat, so that a piece in the wrong place shows.
pub(crate) fn specimen(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::new(DigestAlgorithm::Sha256);
    hasher.update(bytes);
    hasher.finish()
}

pub(crate) fn source() -> Source {
    Source {
        registry: "registry.test".into(),
        repository: "library/specimen".into(),
        authorization: None,
    }
}

/// An identity with a membership, and an endpoint's options for it.
pub(crate) fn endpoint_options(
    key: &ClusterKey,
    role: Role,
    bind: SocketAddr,
) -> (Identity, Credentials, EndpointOptions) {
    let identity = Identity::generate().unwrap();
    let membership = key.sign(&Membership {
        peer: identity.peer_id(),
        role,
        zone: Zone::default(),
        not_after_unix_s: NOW + 3600,
    });
    let credentials = Credentials::new(vec![key.public()], Some(membership));
    let credentials = credentials.with_clock(Arc::new(|| NOW));
    let options = EndpointOptions::new(bind, identity.clone(), credentials.clone());
    (identity, credentials, options)
}

/// A cluster.
pub(crate) struct World {
    pub(crate) key: ClusterKey,
    pub(crate) token: JoinToken,
    pub(crate) tracker: Option<Introducer>,
    pub(crate) tracker_addr: SocketAddr,
    pub(crate) counts: Counts,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let turn = TURN.lock().await;
        let key = ClusterKey::from_secret(&[1; 32]);
        let token = JoinToken::new(key.public(), [2; 32]);
        let tracker = Introducer::start(&key, &token);
        Self {
            counts: counts(),
            tracker_addr: tracker.addr,
            tracker: Some(tracker),
            key,
            token,
            _turn: turn,
        }
    }

    /// An origin whose upstream holds these blobs.
    pub(crate) fn origin(&self, upstream: Upstream) -> (Member, Arc<Upstream>) {
        let upstream = Arc::new(upstream);
        let seeder: Arc<dyn Seeder> = Arc::clone(&upstream) as Arc<dyn Seeder>;
        let member = self.member(Role::Origin, |options| options.seeder = Some(seeder));
        assert!(upstream.handle.set(member.handle.clone()).is_ok());
        (member, upstream)
    }

    pub(crate) fn agent(&self) -> Member {
        self.member(Role::Agent, |_| {})
    }

    pub(crate) fn member(&self, role: Role, adjust: impl FnOnce(&mut PeerOptions)) -> Member {
        let (identity, credentials, options) =
            endpoint_options(&self.key, role, ([127, 0, 0, 1], 0).into());
        self.start(
            &identity,
            credentials,
            Endpoint::bind(options).unwrap(),
            role,
            adjust,
        )
    }

    /// An agent that has nothing but a token.
    pub(crate) fn stranger(&self, token: JoinToken) -> Member {
        let (identity, _, _) = endpoint_options(&self.key, Role::Agent, ([127, 0, 0, 1], 0).into());
        let credentials = Credentials::new(vec![self.key.public()], None);
        let credentials = credentials.with_clock(Arc::new(|| NOW));
        let options = EndpointOptions::new(
            ([127, 0, 0, 1], 0).into(),
            identity.clone(),
            credentials.clone(),
        );
        let endpoint = Endpoint::bind(options).unwrap();
        self.start(&identity, credentials, endpoint, Role::Agent, |options| {
            options.join_token = Some(token);
        })
    }

    fn start(
        &self,
        identity: &Identity,
        credentials: Credentials,
        endpoint: (Endpoint, Acceptor),
        role: Role,
        adjust: impl FnOnce(&mut PeerOptions),
    ) -> Member {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(dir.path()), Arc::new(OsDisk)).unwrap();
        let mut options = PeerOptions::new(role, Zone::default(), identity.clone(), credentials);
        options.trackers = vec![self.tracker_addr.to_string()];
        options.drain_grace = Duration::from_secs(5);
        options.seed = u64::from(identity.peer_id().as_bytes()[0]);
        adjust(&mut options);
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let outer = endpoint.0.clone();
        let handle = shoal_peer::start(endpoint, store, options, shutdown.clone(), &tasks);
        Member {
            handle,
            dir,
            shutdown,
            tasks,
            endpoint: outer,
        }
    }
}

/// A running member.
pub(crate) struct Member {
    pub(crate) handle: Handle,
    pub(crate) dir: TempDir,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) endpoint: Endpoint,
}

impl Member {
    pub(crate) fn peer(&self) -> PeerId {
        self.handle.me()
    }

    pub(crate) fn holds(&self, digest: &Digest) -> u32 {
        let stored = self.handle.store().lookup(digest);
        stored.map_or(0, |blob| blob.held.count())
    }

    pub(crate) fn is_complete(&self, digest: &Digest) -> bool {
        let stored = self.handle.store().lookup(digest);
        stored.is_some_and(|blob| blob.complete)
    }

    pub(crate) async fn knows_an_origin(&self) {
        until(|| async { !self.handle.origins().is_empty() }).await;
    }

    pub(crate) async fn open(&self, digest: Digest) -> BlobReader {
        soon(self.handle.open(digest, source(), None))
            .await
            .unwrap()
    }

    /// Reads a whole blob.
    pub(crate) async fn pull(&self, digest: Digest) -> Bytes {
        let mut reader = self.open(digest).await;
        soon(read_all(&mut reader)).await.unwrap()
    }

    /// Waits until the blob is committed.
    pub(crate) async fn completes(&self, digest: &Digest) {
        until(|| async { self.is_complete(digest) }).await;
    }

    /// Gone at once: no drain, no word on any stream that was under way.
    pub(crate) async fn kill(&self) {
        soon(self.endpoint.close(CloseCode::Done)).await;
        self.shutdown.cancel();
    }

    /// Goes down in order.
    pub(crate) async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        soon(self.tasks.wait()).await;
    }
}

pub(crate) async fn read_all(reader: &mut BlobReader) -> Result<Bytes, ReadError> {
    let mut bytes = Vec::new();
    while let Some(next) = reader.next().await {
        let next = next?;
        assert!(next.len() <= MIB, "{} bytes at once", next.len());
        bytes.extend_from_slice(&next);
    }
    Ok(bytes.into())
}

/// An upstream in memory, and what brings it: pieces pass the gate one by one.
pub(crate) struct Upstream {
    blobs: HashMap<Digest, Bytes>,
    gate: Arc<Semaphore>,
    handle: OnceLock<Handle>,
    tasks: TaskTracker,
    begun: std::sync::Mutex<HashMap<Digest, BlobInfo>>,
    pub(crate) opened: AtomicU32,
    pub(crate) fetched: AtomicU32,
}

impl Upstream {
    /// With an open gate.
    pub(crate) fn of(blobs: impl IntoIterator<Item = Bytes>) -> Self {
        Self::gated(blobs, Semaphore::MAX_PERMITS)
    }

    /// Of which so many pieces come, until [`Upstream::let_through`].
    pub(crate) fn gated(blobs: impl IntoIterator<Item = Bytes>, pieces: usize) -> Self {
        let named = blobs.into_iter().map(|blob| (digest_of(&blob), blob));
        Self {
            blobs: named.collect(),
            gate: Arc::new(Semaphore::new(pieces)),
            handle: OnceLock::new(),
            tasks: TaskTracker::new(),
            begun: std::sync::Mutex::default(),
            opened: AtomicU32::new(0),
            fetched: AtomicU32::new(0),
        }
    }

    pub(crate) fn let_through(&self, pieces: usize) {
        self.gate.add_permits(pieces);
    }

    /// The shape, signed by the origin that this is the upstream of.
    pub(crate) fn info(&self, digest: &Digest) -> Option<BlobInfo> {
        let geometry = Geometry::try_new(self.blobs.get(digest)?.len() as u64, 1 << 20).unwrap();
        Some(BlobInfo::sign(&self.handle.get()?.key(), *digest, geometry))
    }
}

/// Ingests a blob, piece by piece, as the gate allows.
async fn ingest(handle: Handle, gate: Arc<Semaphore>, info: BlobInfo, blob: Bytes) {
    let key = handle.key();
    for piece in info.geometry.pieces() {
        let Ok(pass) = gate.acquire().await else {
            return;
        };
        pass.forget();
        let range = info.geometry.range_of(piece);
        let start = usize::try_from(range.start).unwrap();
        let bytes = blob.slice(start..usize::try_from(range.end).unwrap());
        let mut hasher = PieceHasher::new();
        hasher.update(&bytes);
        let proof = PieceProof::sign(&key, &info, piece, hasher.finish());
        let mut writer = handle.store().writer(&info.digest, piece).unwrap();
        writer.write(&[bytes]).unwrap();
        writer.finish(&proof).unwrap();
        handle.ingested(info.digest, piece).await;
    }
}

impl Seeder for Upstream {
    fn open(
        &self,
        _caller: PeerId,
        digest: Digest,
        _source: Source,
        stat: bool,
    ) -> BoxFuture<'_, Result<OpenAnswer, Refusal>> {
        async move {
            self.opened.fetch_add(1, Ordering::SeqCst);
            let blob = self.blobs.get(&digest).cloned();
            let blob = blob.ok_or_else(|| Refusal::new(RefusalCode::NotFound))?;
            let info = self.info(&digest);
            let blob_bytes = blob.len() as u64;
            if let (false, Some(info), Some(handle)) = (stat, info, self.handle.get()) {
                let first = self.begun.lock().unwrap().insert(digest, info).is_none();
                if first {
                    self.fetched.fetch_add(1, Ordering::SeqCst);
                    handle.seed(info).await.unwrap();
                    let gate = Arc::clone(&self.gate);
                    self.tasks.spawn(ingest(handle.clone(), gate, info, blob));
                }
            }
            Ok(OpenAnswer {
                info,
                blob_bytes,
                audience: Audience::Anyone,
            })
        }
        .boxed()
    }

    fn manifest(
        &self,
        _caller: PeerId,
        ask: ManifestAsk,
    ) -> BoxFuture<'_, Result<ManifestAnswer, Refusal>> {
        async move {
            if ask.reference != "v1" {
                return Err(Refusal::new(RefusalCode::NotFound));
            }
            let body = Bytes::from_static(b"{\"schemaVersion\":2}");
            Ok(ManifestAnswer {
                digest: digest_of(&body),
                media_type: "application/vnd.oci.image.manifest.v1+json".into(),
                length: body.len() as u64,
                body,
                age: Duration::ZERO,
                stale: false,
                audience: Audience::Anyone,
            })
        }
        .boxed()
    }

    /// The first page of the tags says what it was asked with.
    fn list(&self, _caller: PeerId, ask: ListAsk) -> BoxFuture<'_, Result<ListAnswer, Refusal>> {
        async move {
            if ask.listed != Listed::Tags {
                return Err(Refusal::new(RefusalCode::NotFound));
            }
            let body = format!("{} {}", ask.source.repository, ask.query);
            Ok(ListAnswer {
                media_type: "application/json".into(),
                body: body.into(),
                next_query: "last=v1".into(),
                filters_applied: String::new(),
            })
        }
        .boxed()
    }
}
