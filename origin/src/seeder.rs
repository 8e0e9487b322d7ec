//! The origin's half of the peer machinery: what it answers when a peer asks it for what only upstream has.
//!
//! Not for: pieces; those go out by the same exchange as everybody's.
//!
//! The caller's own credential, where a peer sent one, is used where the registry's policy is `authorize`, to ask that
//! registry about the caller and for nothing else; `public` and `shared` do not look at it.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shoal_peer::{ListAnswer, ListAsk, ManifestAnswer, ManifestAsk, OpenAnswer, Seeder};
use shoal_proto::wire::{Refusal, RefusalCode, Source};
use shoal_proto::{Digest, PeerId};

use crate::ingest::Ingest;
use crate::listings::Listings;
use crate::manifests::Manifests;
use crate::names::Repository;
use crate::policy::Policy;

/// Brings what peers ask for.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamSeeder {
    pub(crate) policy: Policy,
    pub(crate) ingest: Ingest,
    pub(crate) listings: Listings,
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
            let right = self.policy.right(&repository.registry, source.authorization.as_ref());
            let answer = if stat {
                self.ingest.stat(digest, &repository, &right).await
            } else {
                self.ingest.open(digest, &repository, &right).await
            };
            answer.map_err(|error| right.refusal(&error))
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

    fn list(&self, caller: PeerId, ask: ListAsk) -> BoxFuture<'_, Result<ListAnswer, Refusal>> {
        async move {
            tracing::debug!(caller = %caller.short(), listed = ?ask.listed, "a peer asks for a list");
            self.listings.answer(ask).await
        }
        .boxed()
    }
}
