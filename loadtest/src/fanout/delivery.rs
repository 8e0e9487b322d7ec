//! One client: pulls an image as containerd does, and checks it.
//!
//! What for: when the first and the last byte came, and whether they were right. Not here: who waits for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use shoal_proto::Digest;
use tokio::sync::Semaphore;

use crate::cluster::client::{Client, WrongBytes, blobs_of};
use crate::cluster::trial::{REPOSITORY, TAG};

/// Layers that containerd has under way at once (`max_concurrent_downloads`).
const LAYERS_AT_ONCE: usize = 3;

/// Bytes that have come so far, for those who watch.
pub(super) type Progress = Arc<AtomicU64>;

/// What became of one client's pull.
#[derive(Debug, Clone, Default)]
pub(super) struct Delivery {
    /// From its start to the first byte of a layer, and to the last of all.
    pub(super) first_byte: Option<Duration>,
    pub(super) whole: Option<Duration>,
    pub(super) wrong_bytes: u64,
    pub(super) failure: Option<String>,
}

/// Pulls everything; a failure is told in what comes back.
pub(super) async fn deliver(client: Client, preheat: bool, progress: Progress) -> Delivery {
    let started = Instant::now();
    let pulled = if preheat {
        fetch(&client).await.map(|()| None)
    } else {
        pull(&client, started, &progress).await
    };
    match pulled {
        Ok(first_byte) => Delivery {
            first_byte,
            whole: Some(started.elapsed()),
            ..Delivery::default()
        },
        Err(error) => Delivery {
            wrong_bytes: error
                .downcast_ref::<WrongBytes>()
                .map_or(0, |wrong| wrong.bytes),
            failure: Some(format!("{error:#}")),
            ..Delivery::default()
        },
    }
}

async fn pull(client: &Client, started: Instant, progress: &Progress) -> Result<Option<Duration>> {
    let blobs = blobs(client).await?;
    let turns = Semaphore::new(LAYERS_AT_ONCE);
    let layers = blobs.iter().enumerate().map(async |(at, digest)| {
        let _turn = turns.acquire().await.context("turns end with the pull")?;
        let first = layer(client, digest, started, progress).await?;
        // The configuration is small and comes first; what a node waits for is its layers.
        Ok::<_, anyhow::Error>(first.filter(|_| at > 0))
    });
    let first_bytes = try_join_all(layers).await?;
    Ok(first_bytes.into_iter().flatten().min())
}

async fn blobs(client: &Client) -> Result<Vec<Digest>> {
    let manifest = client.resolve(REPOSITORY, TAG).await?;
    blobs_of(&client.manifest(REPOSITORY, &manifest).await?)
}

async fn layer(
    client: &Client,
    digest: &Digest,
    started: Instant,
    progress: &Progress,
) -> Result<Option<Duration>> {
    let mut blob = client.open(REPOSITORY, digest, 0).await?;
    let mut first = None;
    while let Some(bytes) = blob.next().await? {
        first.get_or_insert_with(|| started.elapsed());
        progress.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    blob.finish()?;
    Ok(first)
}

/// Lets the agent fetch everything, and takes nothing of it.
async fn fetch(client: &Client) -> Result<()> {
    for digest in blobs(client).await? {
        let answer = client.preheat(REPOSITORY, &digest).await?;
        ensure!(
            answer.is_success(),
            "preheat of {}: {answer}",
            digest.short()
        );
    }
    Ok(())
}
