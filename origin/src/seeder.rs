//! The origin's half of the peer machinery: what it answers when a peer asks it for what only upstream has.
//!
//! Not for: pieces; those go out by the same exchange as everybody's.
//!
//! The caller's own credential, where a peer sent one, is not used: policies `public` and `shared` need none. Policy
//! `authorize` would check it here, before anything is answered.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shoal_peer::{ManifestAnswer, ManifestAsk, OpenAnswer, Seeder};
use shoal_proto::wire::{Refusal, RefusalCode, Source};
use shoal_proto::{Digest, PeerId};

use crate::ingest::Ingest;
use crate::manifests::Manifests;
use crate::names::Repository;

/// Brings what peers ask for.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamSeeder {
    pub(crate) ingest: Ingest,
    pub(crate) manifests: Manifests,
}

impl Seeder for UpstreamSeeder {
    fn open(
        &self,
        caller: PeerId,
        digest: Digest,
        source: Source,
        stat: bool,
    ) -> BoxFuture<'_, Result<OpenAnswer, Refusal>> {
        async move {
            let repository = Repository::parse(&source.registry, &source.repository)
                .map_err(|error| Refusal::new(RefusalCode::BadRequest).with_detail(error.to_string()))?;
            tracing::debug!(caller = %caller.short(), digest = %digest.short(), stat, "a peer asks for a blob");
            let answer = if stat {
                self.ingest.stat(digest, &repository).await
            } else {
                let info = self.ingest.open(digest, &repository).await;
                info.map(|info| OpenAnswer { info: Some(info), blob_bytes: info.geometry.blob_bytes() })
            };
            answer.map_err(|error| error.to_refusal())
        }
        .boxed()
    }

    fn manifest(
        &self,
        caller: PeerId,
        ask: ManifestAsk,
    ) -> BoxFuture<'_, Result<ManifestAnswer, Refusal>> {
        async move {
            tracing::debug!(caller = %caller.short(), reference = ask.reference, "a peer asks for a manifest");
            self.manifests.answer(&ask).await
        }
        .boxed()
    }
}
