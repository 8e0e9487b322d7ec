//! The one task that owns the directory: events in, messages out.
//!
//! For: giving the sans-IO directory its time and its outlets. Not for: reading from links (that is `server`), or any
//! decision about whom to name.
//!
//! Invariants: nobody else touches the directory; nothing here waits for a peer: one whose outbox is full is let go,
//! and comes back with a full announce.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_proto::wire::{Announce, FromTracker};
use shoal_proto::{Instant, PeerId, Role, SignedMembership, limits};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::directory::{Announced, Announcer, Directory, DirectoryOptions};
use crate::metrics;
use crate::origins::Origins;

/// Swarms and peers that the status names.
const STATUS_ROWS_MAX: usize = 100;

/// One link of a peer; a later link of the same peer has a higher number.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct LinkNumber(pub(crate) u64);

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    Announced {
        link: LinkNumber,
        announcer: Announcer,
        announce: Announce,
    },
    Connected {
        link: LinkNumber,
        announcer: Announcer,
        membership: SignedMembership,
        outbox: mpsc::Sender<FromTracker>,
    },
    Gone {
        link: LinkNumber,
        peer: PeerId,
    },
    StatusAsked {
        reply: oneshot::Sender<Value>,
    },
}

#[derive(Debug)]
struct Line {
    link: LinkNumber,
    addr: SocketAddr,
    /// Dropping it ends the link.
    outbox: mpsc::Sender<FromTracker>,
}

/// Owns the directory.
#[derive(Debug)]
pub(crate) struct Desk {
    directory: Directory,
    origins: Origins,
    lines: BTreeMap<PeerId, Line>,
    announce_interval: Duration,
    /// Everybody is to be told of the origins anew.
    origins_changed: bool,
    started: tokio::time::Instant,
}

impl Desk {
    pub(crate) fn new(options: DirectoryOptions, announce_interval: Duration) -> Self {
        Self {
            directory: Directory::new(options),
            origins: Origins::default(),
            lines: BTreeMap::new(),
            announce_interval,
            origins_changed: false,
            started: tokio::time::Instant::now(),
        }
    }

    /// Handles events until shutdown.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        shutdown: CancellationToken,
    ) {
        loop {
            let due = self
                .directory
                .next_timeout()
                .map(|due| self.started + Duration::from_nanos(due.as_nanos()));
            // Cancel safe: an event that is not taken stays in its queue.
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.recv() => event,
                () = sleep_until(due) => {
                    self.origins_changed |= self.directory.handle_timeout(self.now());
                    self.settle();
                    continue;
                }
            };
            let Some(event) = event else { return };
            self.origins_changed |= self.apply(event);
            self.settle();
        }
    }

    /// True when everybody is to be told of the origins anew.
    fn apply(&mut self, event: Event) -> bool {
        let now = self.now();
        match event {
            Event::Connected {
                link,
                announcer,
                membership,
                outbox,
            } => {
                let addr = announcer.addr;
                let peer = announcer.peer;
                if announcer.role == Role::Origin {
                    self.origins.vouched(peer, membership);
                }
                let announced = self.directory.handle_connected(&announcer, now);
                self.lines.insert(peer, Line { link, addr, outbox });
                let hello =
                    self.origins
                        .cluster(self.directory.origins(), self.announce_interval, addr);
                self.send(peer, hello);
                announced.origins_changed
            }
            Event::Announced {
                link,
                announcer,
                announce,
            } => {
                if self
                    .lines
                    .get(&announcer.peer)
                    .is_none_or(|line| line.link != link)
                {
                    return false; // said before a newer link of the same peer came up
                }
                let started = tokio::time::Instant::now();
                let Announced {
                    handouts,
                    refused,
                    origins_changed,
                } = self.directory.handle_announce(&announcer, &announce, now);
                metrics::announced(refused, started.elapsed());
                for handout in handouts {
                    metrics::handed(handout.peers.len());
                    self.send(announcer.peer, FromTracker::Handout(handout));
                }
                origins_changed
            }
            Event::Gone { link, peer } => {
                if self.lines.get(&peer).is_none_or(|line| line.link != link) {
                    return false;
                }
                self.lines.remove(&peer);
                self.origins.lost(&peer);
                self.directory.peer_lost(peer, now)
            }
            Event::StatusAsked { reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.status());
                false
            }
        }
    }

    fn settle(&mut self) {
        while let Some((peer, handout)) = self.directory.poll_push() {
            metrics::handed(handout.peers.len());
            self.send(peer, FromTracker::Handout(handout));
        }
        // Telling may find that an origin takes no more, which is news again.
        while std::mem::take(&mut self.origins_changed) {
            let told: Vec<(PeerId, SocketAddr)> = self
                .lines
                .iter()
                .map(|(peer, line)| (*peer, line.addr))
                .collect();
            tracing::info!(
                origins = self.directory.origins().count(),
                peers = told.len(),
                "the live origins changed"
            );
            for (peer, addr) in told {
                let cluster =
                    self.origins
                        .cluster(self.directory.origins(), self.announce_interval, addr);
                self.send(peer, cluster);
            }
        }
        metrics::sizes(self.directory.sizes());
    }

    fn send(&mut self, peer: PeerId, message: FromTracker) {
        let Some(line) = self.lines.get(&peer) else {
            return;
        };
        if let Err(error) = line.outbox.try_send(message) {
            metrics::rejected("outbox_full");
            tracing::debug!(peer = %peer.short(), %error, "a peer does not take what it is told");
            // Its `Gone` comes with an old link number, so the directory is told here.
            self.lines.remove(&peer);
            self.origins.lost(&peer);
            let now = self.now();
            self.origins_changed |= self.directory.peer_lost(peer, now);
        }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.started.elapsed()
    }

    fn status(&self) -> Value {
        let sizes = self.directory.sizes();
        let swarms: Vec<Value> = self
            .directory
            .swarms()
            .take(STATUS_ROWS_MAX)
            .map(|swarm| {
                json!({
                    "digest": swarm.digest.to_string(),
                    "blob_bytes": swarm.blob_bytes,
                    "agents": swarm.agents,
                    "seeding": swarm.seeding,
                })
            })
            .collect();
        let peers: Vec<Value> = self
            .directory
            .peers()
            .take(STATUS_ROWS_MAX)
            .map(|(peer, role, zone, addr, swarms)| {
                json!({
                    "peer": peer.to_string(),
                    "role": role.name(),
                    "zone": zone.as_str(),
                    "address": addr.to_string(),
                    "swarms": swarms,
                })
            })
            .collect();
        let origins: Vec<Value> = self
            .directory
            .origins()
            .map(|(peer, addr)| json!({ "peer": peer.to_string(), "address": addr.to_string() }))
            .collect();
        json!({
            "counts": {
                "links": self.lines.len(),
                "members": sizes.members,
                "origins": origins.len(),
                "peers": sizes.peers,
                "swarms": sizes.swarms,
            },
            "origins": origins,
            "peers": peers,
            "swarms": swarms,
            "rows_max": STATUS_ROWS_MAX,
        })
    }
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The way to the desk.
pub(crate) fn channel() -> (mpsc::Sender<Event>, mpsc::Receiver<Event>) {
    mpsc::channel(limits::TRACKER_EVENTS_MAX)
}
