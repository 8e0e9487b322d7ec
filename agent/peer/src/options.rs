//! What a member of swarms is told at its start, and the one thing an origin adds to it: a [`Seeder`].
//!
//! Not here: parsing of configuration; the daemons turn their files into this.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use shoal_link::{Credentials, Identity};
use shoal_proto::wire::{PeerAddress, Refusal, Source};
use shoal_proto::{Digest, JoinToken, PeerId, Role, Zone};

pub use shoal_proto::wire::{
    Audience, ListAnswer, ListAsk, ManifestAnswer, ManifestAsk, OpenAnswer,
};

/// Who we are, whom we know, and how much we may use.
#[derive(Clone)]
pub struct PeerOptions {
    /// Agent or origin.
    pub role: Role,
    /// Our failure and cost domain.
    pub zone: Zone,
    /// Our key; the same that the endpoint was bound with.
    pub identity: Identity,
    /// Our membership and the cluster keys we accept; the same that the endpoint was bound with.
    pub credentials: Credentials,
    /// With a token and no membership (or one that is about to end), membership is asked of a tracker.
    pub join_token: Option<JoinToken>,
    /// `host:port` of each tracker. Names are resolved anew at each attempt.
    pub trackers: Vec<String>,
    /// Origins only: where peers reach us, when it is not where we come from.
    pub advertise: Option<PeerAddress>,
    /// Bytes of payload that may be in memory at once, over all transfers and readers.
    pub buffer_budget_bytes: usize,
    /// Origins only: what brings blobs and manifests from upstream.
    pub seeder: Option<Arc<dyn Seeder>>,
    /// How long uploads that are under way may go on after the shutdown was asked for.
    pub drain_grace: Duration,
    /// Seed of the decisions that are random on purpose. Different for each process.
    pub seed: u64,
}

impl PeerOptions {
    /// Options with nothing but an identity: no tracker, 64 MiB of buffers, ten seconds to drain.
    pub fn new(role: Role, zone: Zone, identity: Identity, credentials: Credentials) -> Self {
        Self {
            role,
            zone,
            identity,
            credentials,
            join_token: None,
            trackers: Vec::new(),
            advertise: None,
            buffer_budget_bytes: 64 << 20,
            seeder: None,
            drain_grace: Duration::from_secs(10),
            seed: 0,
        }
    }
}

impl fmt::Debug for PeerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerOptions")
            .field("role", &self.role)
            .field("zone", &self.zone)
            .field("trackers", &self.trackers)
            .field("buffer_budget_bytes", &self.buffer_budget_bytes)
            .field("seeder", &self.seeder.is_some())
            .finish_non_exhaustive()
    }
}

/// Brings blobs and manifests from upstream; an origin's own half.
///
/// Calls may come many at once for the same thing: to coalesce them is the seeder's duty (I7). Each must end within
/// [`OPEN_DEADLINE`](shoal_proto::limits::OPEN_DEADLINE); a caller that goes away drops the future.
pub trait Seeder: Send + Sync {
    /// Sees to it that the blob's pieces come (by [`Handle::seed`](crate::Handle::seed) and
    /// [`Handle::ingested`](crate::Handle::ingested)), and tells its shape. With `stat`, only the length is asked, and
    /// whether the caller may have it.
    fn open(
        &self,
        caller: PeerId,
        digest: Digest,
        source: Source,
        stat: bool,
    ) -> BoxFuture<'_, Result<OpenAnswer, Refusal>>;

    /// Answers for a manifest, by tag or by digest.
    fn manifest(
        &self,
        caller: PeerId,
        ask: ManifestAsk,
    ) -> BoxFuture<'_, Result<ManifestAnswer, Refusal>>;

    /// Tells what a repository holds, as upstream lists it now.
    fn list(&self, caller: PeerId, ask: ListAsk) -> BoxFuture<'_, Result<ListAnswer, Refusal>>;
}
