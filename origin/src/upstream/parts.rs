//! A large blob over several connections: parts of it are fetched ahead, and handed out in order.
//!
//! For: registries whose single connections are slow. One connection, the default, is a [`Pull`] and nothing else. Not
//! for: what a byte is worth (that is `ingest`), or resuming (each part is a `Pull`, which does that).
//!
//! Invariants: bytes come in order and without gap or overlap, and each is asked for once; for one blob at most
//! `connections` requests are under way; the parts in memory are bounded for each registry; a part that does not come
//! costs speed and not the download: the rest is then read on one connection.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

use super::Registry;
use super::error::UpstreamError;
use super::pull::{Pull, Stretch};

/// Long enough that asking for it costs little, over a redirect too.
const PART_BYTES: u64 = 16 << 20;
/// Parts of one registry that are in memory, whole or coming: 96 MiB.
pub(crate) const PARTS_MAX: usize = 6;

/// How the blobs of one registry are cut for their way here.
#[derive(Clone, Debug)]
pub(crate) struct PartRules {
    connections: usize,
    part_bytes: u64,
    room: Arc<Semaphore>,
}

impl PartRules {
    pub(crate) fn new(connections: usize) -> Self {
        Self {
            connections,
            part_bytes: PART_BYTES,
            room: Arc::new(Semaphore::new(PARTS_MAX)),
        }
    }

    /// Parts that there is room for.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.room.available_permits()
    }

    #[cfg(test)]
    pub(crate) fn with_part_bytes(self, part_bytes: u64) -> Self {
        Self { part_bytes, ..self }
    }
}

/// A part of the blob, and the room that it takes.
struct Part {
    bytes: VecDeque<Bytes>,
    _room: OwnedSemaphorePermit,
}

/// A blob on its way, as [`Pull`] is one, over as many connections as are wanted.
#[derive(Debug)]
pub(crate) struct Download {
    registry: Registry,
    /// What is still to be handed out.
    rest: Stretch,
    blob_bytes: u64,
    /// What is handed out as it comes.
    stream: Option<Pull>,
    /// What is handed out from memory.
    part: Option<Part>,
    /// What comes behind that, in order.
    ahead: VecDeque<oneshot::Receiver<Result<Part, UpstreamError>>>,
    /// Where what was not asked for yet begins.
    unasked: u64,
    /// They end with the download.
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part({})", self.bytes.len())
    }
}

impl Download {
    /// Resolves once the length is known and bytes are coming. Only a blob that a manifest said to be large is cut.
    pub(crate) async fn open(registry: Registry, mut rest: Stretch) -> Result<Self, UpstreamError> {
        let rules = &registry.parts;
        let left = registry.sizes.of(&rest.repository, &rest.digest);
        let left = left.map_or(0, |bytes| bytes.saturating_sub(rest.from));
        let first = Stretch {
            until: (rules.connections > 1 && left >= 2 * rules.part_bytes)
                .then(|| rest.from + rules.part_bytes),
            ..rest.clone()
        };
        let stream = Pull::open(registry.clone(), first).await?;
        rest.until = None;
        Ok(Self {
            registry,
            rest,
            blob_bytes: stream.blob_bytes(),
            unasked: stream.end(),
            stream: Some(stream),
            part: None,
            ahead: VecDeque::new(),
            tasks: JoinSet::new(),
        })
    }

    /// The length of the whole blob.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.blob_bytes
    }

    /// The next bytes; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            self.look_ahead();
            if let Some(part) = &mut self.part {
                if let Some(bytes) = part.bytes.pop_front() {
                    return Ok(Some(self.handed(bytes)));
                }
                self.part = None;
            } else if let Some(stream) = &mut self.stream {
                if let Some(bytes) = stream.next().await? {
                    return Ok(Some(self.handed(bytes)));
                }
                self.stream = None;
            } else if self.rest.from >= self.blob_bytes {
                return Ok(None);
            } else {
                self.go_on().await?;
            }
        }
    }

    fn handed(&mut self, bytes: Bytes) -> Bytes {
        self.rest.from += bytes.len() as u64;
        bytes
    }

    /// Waits for the next part, or reads on directly where there was no room to ask for it ahead.
    async fn go_on(&mut self) -> Result<(), UpstreamError> {
        let until = match self.ahead.pop_front() {
            Some(part) => match part.await {
                Ok(Ok(part)) => {
                    self.part = Some(part);
                    return Ok(());
                }
                failed => {
                    tracing::debug!(
                        registry = self.registry.name(),
                        error = failed
                            .ok()
                            .and_then(Result::err)
                            .map(tracing::field::display),
                        "a part did not come; the rest is read on one connection"
                    );
                    self.ahead.clear();
                    self.tasks.abort_all();
                    None
                }
            },
            None => self.part_end(self.rest.from),
        };
        let stretch = Stretch {
            until,
            ..self.rest.clone()
        };
        let stream = Pull::open(self.registry.clone(), stretch).await?;
        if stream.blob_bytes() != self.blob_bytes {
            return Err(self.registry.bad_answer("another length than at first"));
        }
        self.unasked = stream.end();
        self.stream = Some(stream);
        Ok(())
    }

    /// Where a part ends that begins there; `None`: with the blob.
    fn part_end(&self, from: u64) -> Option<u64> {
        let end = from + self.registry.parts.part_bytes;
        (end < self.blob_bytes).then_some(end)
    }

    /// Asks for as many parts as there are connections and room for.
    fn look_ahead(&mut self) {
        while self.unasked < self.blob_bytes
            && self.ahead.len() + usize::from(self.stream.is_some())
                < self.registry.parts.connections
        {
            let room = Arc::clone(&self.registry.parts.room);
            let Ok(room) = room.try_acquire_owned() else {
                return;
            };
            let end = self.part_end(self.unasked).unwrap_or(self.blob_bytes);
            let stretch = Stretch {
                from: self.unasked,
                until: Some(end),
                ..self.rest.clone()
            };
            let (answer, part) = oneshot::channel();
            let (registry, blob_bytes) = (self.registry.clone(), self.blob_bytes);
            while self.tasks.try_join_next().is_some() {}
            self.tasks.spawn(async move {
                let fetched = fetch(registry, stretch, blob_bytes).await;
                // Nobody waits any more when the download has ended.
                let _ended = answer.send(fetched.map(|bytes| Part { bytes, _room: room }));
            });
            self.ahead.push_back(part);
            self.unasked = end;
        }
    }
}

/// One part, whole.
async fn fetch(
    registry: Registry,
    stretch: Stretch,
    blob_bytes: u64,
) -> Result<VecDeque<Bytes>, UpstreamError> {
    let end = stretch.until;
    let mut pull = Pull::open(registry.clone(), stretch).await?;
    if pull.blob_bytes() != blob_bytes || Some(pull.end()) != end {
        return Err(registry.bad_answer("something else than the part that was asked for"));
    }
    let mut bytes = VecDeque::new();
    while let Some(more) = pull.next().await? {
        bytes.push_back(more);
    }
    Ok(bytes)
}
