//! What delivering a byte costs at the least, from bare parts: one hash of its piece, one of its blob, one write, one
//! read and its way over HTTP. The QUIC transfer is measured apart, over the links. What an origin does once for all agents
//! is told beside the floor and is no part of it: taking it over HTTP, both hashes, one write.
//!
//! What for: a figure beside the product's that was measured on the same machine in the same minute. What not for: an
//! ideal; each part is done as the product does it, once and with nothing around it.

use std::fs::File;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use futures_util::stream;
use shoal_proto::limits::{READ_BYTES_MAX, WRITE_BATCH_BYTES};
use shoal_proto::{DigestAlgorithm, DigestHasher, PieceHasher};
use tokio::net::TcpListener;

use crate::cluster::client;
use crate::network::room::{Room, cpu_of_this_thread};

/// Enough for a steady figure, little enough to stay in the page cache.
const BYTES: u64 = 256 << 20;
const GIB: f64 = (1u64 << 30) as f64;
const PIECE_BYTES: u64 = 4 << 20;

/// CPU seconds a GiB of each part.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Floor {
    pub(super) piece_hash: f64,
    pub(super) blob_hash: f64,
    pub(super) write: f64,
    /// Reading and sending; what the client takes is not in it.
    pub(super) read_and_serve: f64,
    /// What taking a byte over HTTP costs him who takes it.
    pub(super) take: f64,
}

impl Floor {
    /// What every agent does, but for the transfer.
    pub(super) fn delivery(&self) -> f64 {
        self.store() + self.read_and_serve
    }

    /// What an origin does once, for all agents.
    pub(super) fn intake(&self) -> f64 {
        self.take + self.store()
    }

    fn store(&self) -> f64 {
        self.piece_hash + self.blob_hash + self.write
    }
}

/// Measures the parts one after the other; HTTP over the loopback of the namespace `space`.
pub(super) async fn measure(space: &str, folder: PathBuf) -> Result<Floor> {
    let path = folder.join("blob");
    let file = path.clone();
    let mut floor = tokio::task::spawn_blocking(move || parts(&file)).await??;
    (floor.read_and_serve, floor.take) = serve(space, File::open(&path)?).await?;
    std::fs::remove_file(&path)?;
    Ok(floor)
}

fn parts(path: &PathBuf) -> Result<Floor> {
    let step: Vec<u8> = (0..WRITE_BATCH_BYTES)
        .map(|at| u8::try_from(at * 31 % 251).unwrap_or(0))
        .collect();
    let steps = BYTES / step.len() as u64;
    let per_piece = PIECE_BYTES / step.len() as u64;
    let piece_hash = cost(|| {
        let mut hasher = PieceHasher::new();
        for at in 1..=steps {
            hasher.update(&step);
            if at % per_piece == 0 {
                std::hint::black_box(hasher.finish());
                hasher = PieceHasher::new();
            }
        }
        Ok(())
    })?;
    let blob_hash = cost(|| {
        let mut hasher = DigestHasher::new(DigestAlgorithm::Sha256);
        for _ in 0..steps {
            hasher.update(&step);
        }
        std::hint::black_box(hasher.finish());
        Ok(())
    })?;
    let write = || {
        let file = File::create(path)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BYTES)?;
        for at in 0..steps {
            file.write_all_at(&step, at * step.len() as u64)?;
        }
        file.sync_data()
    };
    // Once for memory that is at hand (see [`crate::ballast`]), and once for the figure.
    write().with_context(|| format!("{}", path.display()))?;
    std::fs::remove_file(path)?;
    let write = cost(write)?;
    Ok(Floor {
        piece_hash,
        blob_hash,
        write,
        read_and_serve: 0.0,
        take: 0.0,
    })
}

/// CPU seconds a GiB of work over [`BYTES`].
fn cost(work: impl FnOnce() -> std::io::Result<()>) -> Result<f64> {
    let before = cpu_of_this_thread()?;
    work()?;
    Ok(per_gib(cpu_of_this_thread()?.saturating_sub(before)))
}

fn per_gib(cpu: Duration) -> f64 {
    cpu.as_secs_f64() / (BYTES as f64 / GIB)
}

/// What both ends of one download cost: him who gives, and him who takes.
async fn serve(space: &str, file: File) -> Result<(f64, f64)> {
    let (server, taker) = (Room::enter(space)?, Room::enter(space)?);
    let listening = server.run(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    });
    let (listener, address) = listening.await??;
    let before = (server.cpu().await?, taker.cpu().await?);
    let serving = server.run(answer(listener, file));
    let taking = taker.run(take(address));
    tokio::select! {
        taken = taking => taken??,
        ended = serving => ended??,
    }
    let after = (server.cpu().await?, taker.cpu().await?);
    Ok((
        per_gib(after.0.saturating_sub(before.0)),
        per_gib(after.1.saturating_sub(before.1)),
    ))
}

fn answer(listener: TcpListener, file: File) -> impl Future<Output = Result<()>> + Send {
    let router = Router::new().fallback(body).with_state(Arc::new(file));
    async move { Ok(axum::serve(listener, router).await?) }
}

async fn body(State(file): State<Arc<File>>) -> Body {
    Body::from_stream(stream::try_unfold(0, move |at| {
        let file = Arc::clone(&file);
        async move {
            if at >= BYTES {
                return Ok::<_, std::io::Error>(None);
            }
            let mut step = vec![0; READ_BYTES_MAX];
            file.read_exact_at(&mut step, at)?;
            Ok(Some((Bytes::from(step), at + READ_BYTES_MAX as u64)))
        }
    }))
}

async fn take(address: SocketAddr) -> Result<()> {
    let mut answer = client::http()
        .get(format!("http://{address}/"))
        .send()
        .await?;
    let mut taken = 0;
    while let Some(bytes) = answer.chunk().await? {
        taken += bytes.len() as u64;
    }
    ensure!(taken == BYTES, "{taken} of {BYTES} bytes came");
    Ok(())
}
