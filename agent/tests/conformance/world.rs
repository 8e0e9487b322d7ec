//! A real agent (listener, member, core, store) whose origin is a registry in memory behind a gate.
//!
//! The seeder hashes, signs and stores pieces as an origin does; everything that the mirror is asked goes through the
//! same store, driver and readers as in a cluster. What is not here is the network between two members.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shoal_agent::Agent;
use shoal_agent::config::{Config, ListenEntry, RawConfig};
use shoal_daemon::config::{ByteSize, Span};
use shoal_peer::{
    Audience, Handle, ListAnswer, ListAsk, ManifestAnswer, ManifestAsk, OpenAnswer, Seeder,
};
use shoal_proto::wire::{Listed, Refusal, RefusalCode, Source};
use shoal_proto::{
    BlobInfo, Digest, DigestAlgorithm, Geometry, Guard, PeerId, PieceHasher, PieceProof,
};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::DEADLINE;

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The registry of every image here, as a query.
pub(crate) const NS: &str = "ns=registry.test";

/// Everything here ends, or the test fails.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what)
        .await
        .expect("this ends within a minute")
}

/// Bytes that do not repeat, so that a byte in the wrong place shows.
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

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(DigestAlgorithm::Sha256, bytes)
}

/// `registry.test` is asked about each caller: which credential may read which repository.
#[derive(Default)]
pub(crate) struct Door {
    pub(crate) readers: BTreeSet<(String, String)>,
    /// How long a yes may be remembered.
    pub(crate) hold: Duration,
}

/// What a caller without a credential is told.
pub(crate) const CHALLENGE: &str =
    "Bearer realm=\"https://auth.test/token\",service=\"registry.test\"";

/// What the registry in memory has, and how it behaves.
#[derive(Default)]
pub(crate) struct Upstream {
    blobs: Mutex<HashMap<Digest, Bytes>>,
    manifests: Mutex<HashMap<String, (String, Bytes)>>,
    /// What every question is answered with, instead.
    refusal: Mutex<Option<Refusal>>,
    /// Who is let in, where callers are asked about.
    pub(crate) door: Mutex<Option<Door>>,
    /// Every manifest's bytes are wrong.
    pub(crate) forge: std::sync::atomic::AtomicBool,
    /// Each piece takes a permit, where there is a gate.
    gate: Mutex<Option<Arc<Semaphore>>>,
    begun: Mutex<HashMap<Digest, BlobInfo>>,
    pub(crate) opened: AtomicUsize,
    manifest_asks: Mutex<Vec<ManifestAsk>>,
    list_asks: Mutex<Vec<ListAsk>>,
    /// As registries were before the referrers API.
    pub(crate) knows_no_referrers: std::sync::atomic::AtomicBool,
    handle: OnceLock<Handle>,
    tasks: TaskTracker,
}

impl Upstream {
    pub(crate) fn blob(&self, bytes: &Bytes) -> Digest {
        self.blob_named(DigestAlgorithm::Sha256, bytes)
    }

    pub(crate) fn blob_named(&self, algorithm: DigestAlgorithm, bytes: &Bytes) -> Digest {
        let digest = Digest::of(algorithm, bytes);
        self.blobs.lock().unwrap().insert(digest, bytes.clone());
        digest
    }

    /// A manifest under its digest and a tag.
    pub(crate) fn manifest(&self, tag: &str, media_type: &str, body: &str) -> Digest {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let digest = sha256(&body);
        let mut manifests = self.manifests.lock().unwrap();
        for name in [tag.to_owned(), digest.to_string()] {
            manifests.insert(name, (media_type.to_owned(), body.clone()));
        }
        digest
    }

    pub(crate) fn refuse(&self, refusal: Option<Refusal>) {
        *self.refusal.lock().unwrap() = refusal;
    }

    /// From now on, pieces come as permits are added.
    pub(crate) fn hold_back(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.gate.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }

    /// From now on callers are asked about; each of these may read its repository.
    pub(crate) fn guard(&self, hold: Duration, readers: &[(&str, &str)]) {
        let readers = readers
            .iter()
            .map(|(repository, credential)| ((*repository).to_owned(), (*credential).to_owned()))
            .collect();
        *self.door.lock().unwrap() = Some(Door { readers, hold });
    }

    /// The policy's word: as an origin gives it for `public`, or for `authorize`.
    fn admit(&self, source: &Source) -> Result<(Audience, Option<Guard>), Refusal> {
        let door = self.door.lock().unwrap();
        let Some(door) = door.as_ref().filter(|_| source.registry == "registry.test") else {
            return Ok((Audience::Anyone, None));
        };
        let Some(secret) = &source.authorization else {
            return Err(Refusal {
                challenge: CHALLENGE.to_owned(),
                ..Refusal::new(RefusalCode::Denied)
            });
        };
        let credential = String::from_utf8(secret.expose().to_vec()).unwrap();
        if !door
            .readers
            .contains(&(source.repository.clone(), credential))
        {
            return Err(Refusal::new(RefusalCode::NotFound));
        }
        let guard = Guard::of_registry(&source.registry);
        Ok((Audience::Caller { hold: door.hold }, Some(guard)))
    }

    pub(crate) fn asked(&self) -> usize {
        self.opened.load(Ordering::SeqCst) + self.manifest_asks().len() + self.list_asks().len()
    }

    /// What was asked about manifests, in order.
    pub(crate) fn manifest_asks(&self) -> Vec<ManifestAsk> {
        self.manifest_asks.lock().unwrap().clone()
    }

    /// What was asked about lists, in order.
    pub(crate) fn list_asks(&self) -> Vec<ListAsk> {
        self.list_asks.lock().unwrap().clone()
    }

    /// The tags after `last`, at most `n` of them, as the specification has it.
    fn tags(&self, source: &Source, query: &HashMap<String, String>) -> ListAnswer {
        let manifests = self.manifests.lock().unwrap();
        let mut tags: Vec<&String> = manifests.keys().filter(|key| !key.contains(':')).collect();
        tags.sort();
        let last = query.get("last").cloned().unwrap_or_default();
        tags.retain(|tag| **tag > last);
        let count = query.get("n").map(|n| n.parse::<usize>().unwrap());
        let shown = count.unwrap_or(tags.len()).min(tags.len());
        let next_query = match (count, tags[..shown].last()) {
            (Some(count), Some(last)) if shown < tags.len() => format!("n={count}&last={last}"),
            _ => String::new(),
        };
        let body = serde_json::json!({ "name": source.repository, "tags": tags[..shown] });
        ListAnswer {
            media_type: "application/json".into(),
            body: body.to_string().into(),
            next_query,
            filters_applied: String::new(),
        }
    }

    fn referrers(&self, subject: &Digest, query: &HashMap<String, String>) -> ListAnswer {
        let manifests = self.manifests.lock().unwrap();
        let mut found = Vec::new();
        for (name, (media_type, body)) in manifests.iter().filter(|(name, _)| name.contains(':')) {
            let manifest: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
            let kind = manifest["artifactType"].as_str().unwrap_or_default();
            let refers = manifest["subject"]["digest"] == subject.to_string();
            if refers
                && query
                    .get("artifactType")
                    .is_none_or(|wanted| wanted == kind)
            {
                found.push(serde_json::json!({ "mediaType": media_type, "digest": name, "size": body.len(), "artifactType": kind }));
            }
        }
        let body =
            serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": found });
        let filtered = query.contains_key("artifactType");
        ListAnswer {
            media_type: INDEX.into(),
            body: body.to_string().into(),
            next_query: String::new(),
            filters_applied: if filtered {
                "artifactType".into()
            } else {
                String::new()
            },
        }
    }

    async fn begin(&self, handle: &Handle, info: BlobInfo, blob: Bytes) {
        if self
            .begun
            .lock()
            .unwrap()
            .insert(info.digest, info)
            .is_some()
        {
            return;
        }
        handle.seed(info).await.unwrap();
        let gate = self.gate.lock().unwrap().clone();
        self.tasks.spawn(ingest(handle.clone(), gate, info, blob));
    }
}

async fn ingest(handle: Handle, gate: Option<Arc<Semaphore>>, info: BlobInfo, blob: Bytes) {
    for piece in info.geometry.pieces() {
        if let Some(gate) = &gate {
            gate.acquire().await.unwrap().forget();
        }
        let range = info.geometry.range_of(piece);
        let bytes = blob.slice(range.start as usize..range.end as usize);
        let mut hasher = PieceHasher::new();
        hasher.update(&bytes);
        let proof = PieceProof::sign(&handle.key(), &info, piece, hasher.finish());
        let Ok(mut writer) = handle.store().writer(&info.digest, piece) else {
            return;
        };
        writer.write(&[bytes]).unwrap();
        writer.finish(&proof).unwrap();
        handle.ingested(info.digest, piece).await;
    }
}

impl Seeder for Upstream {
    fn open(
        &self,
        _: PeerId,
        digest: Digest,
        source: Source,
        stat: bool,
    ) -> BoxFuture<'_, Result<OpenAnswer, Refusal>> {
        async move {
            self.opened.fetch_add(1, Ordering::SeqCst);
            if let Some(refusal) = self.refusal.lock().unwrap().clone() {
                return Err(refusal);
            }
            let (audience, guard) = self.admit(&source)?;
            let blob = self.blobs.lock().unwrap().get(&digest).cloned();
            let blob = blob.ok_or_else(|| Refusal::new(RefusalCode::NotFound))?;
            let blob_bytes = blob.len() as u64;
            let handle = self.handle.get().expect("the agent has started");
            let geometry = Geometry::try_new(blob_bytes, 1 << 20).unwrap();
            let info = BlobInfo::sign_guarded(&handle.key(), digest, geometry, guard);
            if !stat {
                self.begin(handle, info, blob).await;
            }
            Ok(OpenAnswer {
                info: Some(info),
                blob_bytes,
                audience,
            })
        }
        .boxed()
    }

    fn manifest(
        &self,
        _: PeerId,
        ask: ManifestAsk,
    ) -> BoxFuture<'_, Result<ManifestAnswer, Refusal>> {
        async move {
            self.manifest_asks.lock().unwrap().push(ask.clone());
            if let Some(refusal) = self.refusal.lock().unwrap().clone() {
                return Err(refusal);
            }
            let (audience, _) = self.admit(&ask.source)?;
            let found = self.manifests.lock().unwrap().get(&ask.reference).cloned();
            let (media_type, body) = found.ok_or_else(|| Refusal::new(RefusalCode::NotFound))?;
            let digest = sha256(&body);
            let length = body.len() as u64;
            let sent = if self.forge.load(Ordering::SeqCst) {
                Bytes::from(vec![b'x'; body.len()])
            } else {
                body
            };
            let body = if ask.head { Bytes::new() } else { sent };
            Ok(ManifestAnswer {
                digest,
                media_type,
                length,
                body,
                age: Duration::ZERO,
                stale: false,
                audience,
            })
        }
        .boxed()
    }

    fn list(&self, _: PeerId, ask: ListAsk) -> BoxFuture<'_, Result<ListAnswer, Refusal>> {
        async move {
            self.list_asks.lock().unwrap().push(ask.clone());
            self.admit(&ask.source)?;
            if let Some(refusal) = self.refusal.lock().unwrap().clone() {
                return Err(refusal);
            }
            let query = form_urlencoded::parse(ask.query.as_bytes())
                .into_owned()
                .collect();
            match ask.listed {
                Listed::Tags => Ok(self.tags(&ask.source, &query)),
                Listed::Referrers(_) if self.knows_no_referrers.load(Ordering::SeqCst) => {
                    Err(Refusal::new(RefusalCode::NotFound))
                }
                Listed::Referrers(subject) => Ok(self.referrers(&subject, &query)),
            }
        }
        .boxed()
    }
}

/// An agent that serves.
pub(crate) struct World {
    pub(crate) agent: Agent,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) addr: SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    _dir: TempDir,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut RawConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut raw = RawConfig {
            data_dir: dir.path().join("data"),
            registries: vec!["registry.test".to_owned(), "docker.io".to_owned()],
            ..RawConfig::default()
        };
        raw.registry.listen = any;
        raw.registry.stale_if_error = Span::secs(3600);
        raw.peers.listen = any;
        raw.admin.listen = any;
        raw.store.free_floor = ByteSize::mib(1);
        raw.listen = vec![ListenEntry {
            address: any,
            registry: "registry.test".to_owned(),
        }];
        change(&mut raw);
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let upstream = Arc::new(Upstream::default());
        let config = Config::try_from(raw).unwrap();
        let seeder: Arc<dyn Seeder> = Arc::<Upstream>::clone(&upstream);
        let agent = Agent::start(config, Some(seeder), &shutdown, &tasks)
            .await
            .unwrap();
        upstream.handle.set(agent.handle().clone()).unwrap();
        Self {
            addr: agent.registry_addr(),
            agent,
            upstream,
            shutdown,
            tasks,
            _dir: dir,
        }
    }

    /// Everything ends when it is told to: no task is left behind.
    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        self.upstream.tasks.close();
        self.tasks.close();
        soon(self.tasks.wait()).await;
        self.agent.handle().store().close().unwrap();
    }

    /// Waits until the member says so.
    pub(crate) async fn until_status(&self, is_so: impl Fn(&shoal_peer::Status) -> bool) {
        soon(async {
            loop {
                let status = self.agent.handle().status().await.expect("the driver runs");
                if is_so(&status) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
