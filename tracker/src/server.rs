//! Links of peers, and what they say, on their way to the desk.
//!
//! For: accepting, bounding and checking. Not for: the directory itself, or who may come in at all (the link layer and
//! the door decide that).
//!
//! Invariants: a peer's address is the one its connection comes from, with the port it announced; a blob's shape goes
//! on only with a good signature; one peer's announces are paced by not reading faster than its share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use shoal_link::{
    Acceptor, Connected, ControlReceiver, ControlSender, Credentials, Endpoint, EndpointOptions,
    Identity, Link,
};
use shoal_proto::wire::{Announce, CloseCode, FromTracker, ToTracker};
use shoal_proto::{BlobInfo, ClusterPublicKey, Digest, Role, Zone, limits};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::TrackerError;
use crate::admit::Door;
use crate::cluster::{ClusterSecrets, OwnMembership};
use crate::desk::{self, Desk, Event, LinkNumber};
use crate::directory::{Announcer, DirectoryOptions};
use crate::metrics;

/// A peer that does not take a message for this long is let go.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// The desk answers for its status within this.
const STATUS_DEADLINE: Duration = Duration::from_secs(3);

/// What a tracker is made of, in a process of its own or inside an origin.
#[derive(Clone, Debug)]
pub struct TrackerOptions {
    /// Where peers connect.
    pub listen: SocketAddr,
    /// This tracker's key; not that of an origin around it, which is another member.
    pub identity: Identity,
    /// The cluster's key and tokens.
    pub secrets: ClusterSecrets,
    /// Where it stands.
    pub zone: Zone,
    /// How long memberships that it signs are good.
    pub membership_life: Duration,
    /// Cluster keys to accept beside its own.
    pub public_keys: Vec<ClusterPublicKey>,
    /// How often each peer announces.
    pub announce_interval: Duration,
}

/// A tracker that runs.
#[derive(Clone, Debug)]
pub struct Tracker {
    local_addr: SocketAddr,
    events: mpsc::Sender<Event>,
}

impl Tracker {
    /// Binds the port and starts the tasks on `tasks`; they end after `shutdown`.
    ///
    /// # Errors
    /// The port cannot be had.
    pub fn start(
        options: TrackerOptions,
        shutdown: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, TrackerError> {
        let own = OwnMembership {
            peer: options.identity.peer_id(),
            role: Role::Tracker,
            zone: options.zone,
            life: options.membership_life,
        };
        let credentials = options.secrets.credentials(&own, &options.public_keys);
        let door = Door {
            secrets: options.secrets.clone(),
            life: options.membership_life,
        };
        let mut endpoint_options =
            EndpointOptions::new(options.listen, options.identity, credentials.clone());
        endpoint_options.accepts_peers = false;
        endpoint_options.links_max = limits::SERVICE_LINKS_MAX;
        endpoint_options.admit = Some(Arc::new(door));
        let (endpoint, acceptor) = Endpoint::bind(endpoint_options)?;
        let local_addr = endpoint.local_addr().map_err(TrackerError::LocalAddr)?;
        let (events, queue) = desk::channel();
        let directory = DirectoryOptions {
            seed: crate::cluster::random_bytes().map(u64::from_le_bytes)?,
            peer_expiry: options.announce_interval * 3,
            ..DirectoryOptions::default()
        };
        tasks.spawn(Desk::new(directory, options.announce_interval).run(queue, shutdown.clone()));
        tasks.spawn(
            options
                .secrets
                .renew(own, credentials.clone(), shutdown.clone()),
        );
        let hall = Hall {
            events: events.clone(),
            credentials,
            verified: Arc::default(),
            numbers: Arc::default(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        tasks.spawn(hall.accept(endpoint, acceptor));
        tracing::info!(%local_addr, "the tracker listens");
        Ok(Self { local_addr, events })
    }

    /// The port that was bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it knows, as JSON; null when it does not answer.
    pub async fn status(&self) -> Value {
        let (reply, status) = oneshot::channel();
        let ask = async {
            self.events.send(Event::StatusAsked { reply }).await.ok()?;
            status.await.ok()
        };
        tokio::time::timeout(STATUS_DEADLINE, ask)
            .await
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// Whether its tasks still run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.events.is_closed()
    }
}

/// What all links share.
#[derive(Clone, Debug)]
struct Hall {
    events: mpsc::Sender<Event>,
    credentials: Credentials,
    /// Shapes whose signatures were found good: many peers tell the same one.
    verified: Arc<Mutex<BTreeMap<Digest, BlobInfo>>>,
    numbers: Arc<AtomicU64>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Hall {
    async fn accept(self, endpoint: Endpoint, mut acceptor: Acceptor) {
        while let Some(Some(outcome)) = self.shutdown.run_until_cancelled(acceptor.next()).await {
            match outcome {
                Ok(connected) => {
                    metrics::accepted();
                    self.tasks.spawn(self.clone().attend(connected));
                }
                Err(refused) => {
                    metrics::refused(refused.reason);
                    tracing::debug!(from = %refused.from, reason = refused.reason, "refused a connection");
                }
            }
        }
        endpoint.close(CloseCode::Leaving).await;
    }

    /// One link, from its first message to its end.
    async fn attend(self, connected: Connected) {
        let Connected {
            link,
            sender,
            receiver,
        } = connected;
        let Some(addr) = link.peer_addr().filter(|_| link.role() != Role::Tracker) else {
            // Nobody could be sent to a peer that accepts nobody.
            metrics::rejected("no_port");
            link.close(CloseCode::Violation);
            return;
        };
        let announcer = Announcer {
            peer: link.peer(),
            zone: link.zone().clone(),
            addr,
            role: link.role(),
        };
        let number = LinkNumber(self.numbers.fetch_add(1, Ordering::Relaxed));
        let (outbox, messages) = mpsc::channel(limits::TRACKER_OUTBOX_MAX);
        let membership = link.membership().clone();
        let greeting = Event::Connected {
            link: number,
            announcer: announcer.clone(),
            membership,
            outbox,
        };
        if self.events.send(greeting).await.is_err() {
            return;
        }
        let code = tokio::select! {
            () = self.shutdown.cancelled() => CloseCode::Leaving,
            code = tell(sender, messages) => code,
            code = self.listen(&link, receiver.reads(), number, &announcer) => code,
        };
        link.close(code);
        // The desk outlives every link but at shutdown.
        let _ = self
            .events
            .send(Event::Gone {
                link: number,
                peer: announcer.peer,
            })
            .await;
    }

    async fn listen(
        &self,
        link: &Link,
        mut receiver: ControlReceiver<ToTracker>,
        number: LinkNumber,
        announcer: &Announcer,
    ) -> CloseCode {
        let mut bucket = Bucket::new(Instant::now());
        loop {
            let ToTracker::Announce(mut announce) = match receiver.recv().await {
                Ok(Some(message)) => message,
                Ok(None) => return CloseCode::Done,
                Err(error) => {
                    tracing::debug!(peer = %announcer.peer.short(), %error, "a link ends");
                    return CloseCode::Violation;
                }
            };
            let pause = bucket.take(Instant::now());
            if !pause.is_zero() {
                metrics::rejected("paced");
                tokio::time::sleep(pause).await;
            }
            if self.credentials.check(link.membership()).is_err() {
                // It is let in again with a fresh membership.
                return CloseCode::Expired;
            }
            self.keep_proven(&mut announce);
            let event = Event::Announced {
                link: number,
                announcer: announcer.clone(),
                announce,
            };
            if self.events.send(event).await.is_err() {
                return CloseCode::Leaving;
            }
        }
    }

    /// Takes out the shapes that nobody signed.
    fn keep_proven(&self, announce: &mut Announce) {
        for swarm in &mut announce.swarms {
            let Some(info) = swarm.blob else { continue };
            let known = self
                .verified
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&info.digest)
                == Some(&info);
            if known {
                continue;
            }
            if info.digest != swarm.digest || info.verify().is_err() {
                metrics::rejected("unsigned_shape");
                swarm.blob = None;
                continue;
            }
            let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            if verified.len() >= limits::TRACKER_SWARMS_MAX {
                verified.clear();
            }
            verified.insert(info.digest, info);
        }
    }
}

/// Sends what the desk says until it says no more.
async fn tell(mut sender: ControlSender, mut messages: mpsc::Receiver<FromTracker>) -> CloseCode {
    while let Some(message) = messages.recv().await {
        match tokio::time::timeout(SEND_DEADLINE, sender.send(&message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return CloseCode::Done,
            Err(_) => return CloseCode::TooSlow,
        }
    }
    // The desk knows a newer link of this peer, or gave it up.
    CloseCode::Duplicate
}

/// A token bucket: what one peer may say, and how long it has to wait.
#[derive(Debug)]
struct Bucket {
    /// When it will be full again.
    full_at: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one, and answers how long to wait before it may be used.
    fn take(&mut self, now: Instant) -> Duration {
        let each = Duration::from_secs(1) / limits::ANNOUNCES_PER_SEC;
        self.full_at = self.full_at.max(now) + each;
        let burst = each * limits::ANNOUNCE_BURST;
        self.full_at
            .saturating_duration_since(now)
            .saturating_sub(burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_lets_a_burst_pass_and_then_paces() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        for _ in 0..limits::ANNOUNCE_BURST {
            assert_eq!(bucket.take(start), Duration::ZERO);
        }
        let each = Duration::from_secs(1) / limits::ANNOUNCES_PER_SEC;
        assert_eq!(bucket.take(start), each);
        assert_eq!(bucket.take(start), each * 2);
        // After a long silence there is a whole burst again, and not more.
        let later = start + Duration::from_secs(3_600);
        for _ in 0..limits::ANNOUNCE_BURST {
            assert_eq!(bucket.take(later), Duration::ZERO);
        }
        assert_eq!(bucket.take(later), each);
    }
}
