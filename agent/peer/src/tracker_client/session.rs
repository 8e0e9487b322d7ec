//! One link with one tracker, from its handshake to its end.
//!
//! What goes out is spaced by [`ANNOUNCE_GAP_MIN`]: the first change goes at once, those that follow closely go
//! together, and a blob that wants peers waits hardly at all.
//! What comes in is checked before it is reported: origins by their memberships, shapes by their signatures.

use std::net::IpAddr;
use std::time::Duration;

use shoal_link::{Connected, ControlReceiver, ControlSender, Link};
use shoal_proto::limits::{ANNOUNCE_GAP_MIN, ANNOUNCE_GAP_URGENT, SAY_DEADLINE};
use shoal_proto::wire::{
    Announce, CloseCode, Cluster, FromTracker, Handout, SwarmAnnounce, ToTracker,
};
use shoal_proto::{Candidate, OriginAddress, SwarmChange, SwarmState, wire};
use tokio::time::{Instant, sleep_until, timeout};

use super::TrackerClient;
use super::queue::Batch;
use crate::driver::report::TrackerReport;
use crate::metrics;

/// The pause after a renewal that failed.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// A link with a tracker.
pub(super) struct Session {
    address: String,
    link: Link,
    sender: ControlSender,
    receiver: ControlReceiver<FromTracker>,
}

/// What is said so far.
struct Told {
    seq: u64,
    bytes: u64,
    at: Instant,
}

impl Session {
    pub(super) fn new(address: String, connected: Connected) -> Self {
        Self {
            address,
            link: connected.link,
            sender: connected.sender,
            receiver: connected.receiver.reads(),
        }
    }

    /// Runs until the link is gone.
    pub(super) async fn run(self, client: &TrackerClient) {
        let Self {
            address,
            link,
            sender,
            receiver,
        } = self;
        tokio::select! {
            () = hear(client, &link, receiver) => {}
            () = tell(client, sender) => {}
            () = renew(client, &address, &link) => {}
            gone = link.closed() => tracing::debug!(%gone, "the tracker's link ended"),
        }
        link.close(CloseCode::Done);
        client.queue.clear();
    }
}

async fn hear(client: &TrackerClient, link: &Link, mut receiver: ControlReceiver<FromTracker>) {
    let host = link.remote_addr().ip();
    loop {
        match receiver.recv().await {
            Ok(Some(FromTracker::Cluster(cluster))) => {
                let origins = live_origins(client, cluster, host);
                client.report(TrackerReport::Origins(origins)).await;
            }
            Ok(Some(FromTracker::Handout(handout))) => {
                client.report(handed(client, handout, host)).await;
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the tracker cannot be understood");
                return;
            }
        }
    }
}

/// Those origins whose membership holds.
fn live_origins(client: &TrackerClient, cluster: Cluster, host: IpAddr) -> Vec<OriginAddress> {
    let mut origins = Vec::new();
    for origin in cluster.origins {
        match client.trust.vouch(&origin.membership) {
            Ok(membership) => origins.push(OriginAddress {
                peer: membership.peer,
                addr: origin.address.resolve(host),
            }),
            Err(error) => tracing::warn!(%error, "the tracker named an origin that is none"),
        }
    }
    origins
}

fn handed(client: &TrackerClient, handout: Handout, host: IpAddr) -> TrackerReport {
    let digest = handout.digest;
    let info = handout.blob.filter(|info| info.digest == digest);
    let info = info.filter(|info| match client.trust.check_info(info) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, digest = %digest.short(), "ignored a shape that the tracker told");
            false
        }
    });
    let peers = handout.peers.into_iter().map(|peer| Candidate {
        peer: peer.peer,
        addr: peer.address.resolve(host),
        zone: peer.zone,
        role: peer.role,
        held: peer.held,
        seeding: peer.seeding,
    });
    TrackerReport::Handed {
        digest,
        info,
        peers: peers.collect(),
        injected: handout.injected,
    }
}

async fn tell(client: &TrackerClient, mut sender: ControlSender) {
    let mut told = Told {
        seq: 0,
        bytes: client.uploads.bytes(),
        at: Instant::now(),
    };
    loop {
        client.queue.wait().await;
        let Some(batch) = client.queue.take() else {
            continue;
        };
        let announce = announce(client, batch, &mut told);
        let sent = timeout(SAY_DEADLINE, sender.send(&announce)).await;
        let sent = matches!(sent, Ok(Ok(())));
        metrics::announced(sent);
        if !sent {
            return;
        }
        sleep_until(told.at + ANNOUNCE_GAP_URGENT).await;
        tokio::select! {
            () = sleep_until(told.at + ANNOUNCE_GAP_MIN) => {}
            () = client.queue.urgent() => {}
        }
    }
}

fn announce(client: &TrackerClient, batch: Batch, told: &mut Told) -> ToTracker {
    let (now, bytes) = (Instant::now(), client.uploads.bytes());
    let since_ms = (now - told.at).as_millis().max(1);
    let per_sec = u128::from(bytes - told.bytes) * 1000 / since_ms;
    told.seq += 1;
    told.bytes = bytes;
    told.at = now;
    ToTracker::Announce(Announce {
        seq: told.seq,
        full: batch.full,
        swarms: batch.swarms.into_iter().map(swarm).collect(),
        upload_bytes_per_sec: u64::try_from(per_sec).unwrap_or(u64::MAX),
        uploads: client.uploads.now(),
        advertise: client.advertise,
    })
}

fn swarm(change: SwarmChange) -> SwarmAnnounce {
    SwarmAnnounce {
        digest: change.digest,
        state: match change.state {
            SwarmState::Leeching => wire::SwarmState::Leeching,
            SwarmState::Left => wire::SwarmState::Left,
            SwarmState::Seeding => wire::SwarmState::Seeding,
        },
        held: change.held,
        wants_peers: change.wants_peers,
        blob: change.info,
        stuck: change.stuck,
    }
}

/// Renews the membership when two thirds of what is left of it have passed, as long as the link stands.
async fn renew(client: &TrackerClient, address: &str, link: &Link) {
    if client.token.is_none() {
        return std::future::pending().await;
    }
    loop {
        let span = client
            .credentials
            .membership()
            .map_or(RENEW_AGAIN_AFTER, |membership| client.renew_in(&membership));
        sleep_until(Instant::now() + span.max(Duration::from_secs(1))).await;
        if let Err(error) = client.join(address, link.remote_addr()).await {
            tracing::warn!(%error, "the membership could not be renewed");
            sleep_until(Instant::now() + RENEW_AGAIN_AFTER).await;
        }
    }
}
