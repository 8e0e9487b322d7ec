//! A tracker of a few lines: it lets agents in, names every member of a swarm to every other, and the origins to all.
//! The real one lives in a crate that this one may not depend on.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_link::{Acceptor, Admit, AdmitError, ControlSender, Endpoint, EndpointOptions, Link};
use shoal_proto::wire::{
    Announce, Candidate, CloseCode, Cluster, FromTracker, Handout, Origin, PeerAddress, SwarmState,
    ToTracker,
};
use shoal_proto::{
    BlobInfo, ClusterKey, Digest, JoinToken, Membership, PeerId, Role, SignedMembership, Zone,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::world::{NOW, endpoint_options};

/// Swaps the right secret for an agent's membership.
struct Door {
    key: ClusterKey,
    token: JoinToken,
    life_s: u64,
}

impl Admit for Door {
    fn admit(
        &self,
        peer: PeerId,
        zone: &Zone,
        secret: &[u8],
    ) -> Result<SignedMembership, AdmitError> {
        if !self.token.secret_matches(secret) {
            return Err(AdmitError::WrongSecret);
        }
        Ok(self.key.sign(&Membership {
            peer,
            role: Role::Agent,
            zone: zone.clone(),
            not_after_unix_s: NOW + self.life_s,
        }))
    }
}

#[derive(Clone, Copy)]
struct Member {
    addr: SocketAddr,
    role: Role,
    held: u32,
    seeding: bool,
}

#[derive(Default)]
struct Swarm {
    info: Option<BlobInfo>,
    members: BTreeMap<PeerId, Member>,
}

#[derive(Default)]
struct Books {
    swarms: HashMap<Digest, Swarm>,
    origins: BTreeMap<PeerId, (SignedMembership, SocketAddr)>,
    desks: HashMap<PeerId, mpsc::Sender<FromTracker>>,
}

/// A running tracker.
pub(crate) struct Introducer {
    pub(crate) addr: SocketAddr,
    endpoint: Endpoint,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Introducer {
    pub(crate) fn start(key: &ClusterKey, token: &JoinToken) -> Self {
        Self::start_at(key, token, ([127, 0, 0, 1], 0).into())
    }

    pub(crate) fn start_at(key: &ClusterKey, token: &JoinToken, bind: SocketAddr) -> Self {
        let mut options: EndpointOptions = endpoint_options(key, Role::Tracker, bind).2;
        options.accepts_peers = false;
        options.admit = Some(Arc::new(Door {
            key: key.clone(),
            token: token.clone(),
            life_s: 3600,
        }));
        let (endpoint, acceptor) = Endpoint::bind(options).unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let books = Arc::new(Mutex::new(Books::default()));
        let serving = serve(acceptor, books, tasks.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(serving));
        Self {
            addr: endpoint.local_addr().unwrap(),
            endpoint,
            stop,
            tasks,
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.endpoint.close(CloseCode::Leaving).await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn serve(mut acceptor: Acceptor, books: Arc<Mutex<Books>>, tasks: TaskTracker) {
    while let Some(incoming) = acceptor.next().await {
        let Ok(connected) = incoming else { continue };
        let (desk, said) = mpsc::channel(1024);
        let books = Arc::clone(&books);
        arrive(&mut books.lock().unwrap(), &connected.link, desk);
        tasks.spawn(speak(connected.sender, said));
        let mut receiver = connected.receiver.reads::<ToTracker>();
        let link = connected.link;
        tasks.spawn(async move {
            while let Ok(Some(ToTracker::Announce(announce))) = receiver.recv().await {
                note(&mut books.lock().unwrap(), &link, announce);
            }
            leave(&mut books.lock().unwrap(), &link.peer());
        });
    }
}

async fn speak(mut sender: ControlSender, mut said: mpsc::Receiver<FromTracker>) {
    while let Some(message) = said.recv().await {
        if sender.send(&message).await.is_err() {
            return;
        }
    }
}

fn arrive(books: &mut Books, link: &Link, desk: mpsc::Sender<FromTracker>) {
    books.desks.insert(link.peer(), desk);
    if let (Role::Origin, Some(addr)) = (link.role(), link.peer_addr()) {
        let origin = (link.membership().clone(), addr);
        books.origins.insert(link.peer(), origin);
    }
    let origins = books.origins.values().map(|(membership, addr)| Origin {
        membership: membership.clone(),
        address: PeerAddress::from(*addr),
    });
    let cluster = FromTracker::Cluster(Cluster {
        announce_interval: Duration::from_secs(30),
        origins: origins.collect(),
    });
    for desk in books.desks.values() {
        let _ = desk.try_send(cluster.clone());
    }
}

fn note(books: &mut Books, link: &Link, announce: Announce) {
    let peer = link.peer();
    for told in announce.swarms {
        let swarm = books.swarms.entry(told.digest).or_default();
        swarm.info = swarm.info.or(told.blob);
        let new = match (told.state, link.peer_addr()) {
            (SwarmState::Left, _) | (_, None) => {
                swarm.members.remove(&peer);
                false
            }
            (state, Some(addr)) => {
                let member = Member {
                    addr,
                    role: link.role(),
                    held: told.held,
                    seeding: state == SwarmState::Seeding,
                };
                swarm.members.insert(peer, member).is_none()
            }
        };
        let others: Vec<PeerId> = swarm
            .members
            .keys()
            .copied()
            .filter(|p| *p != peer)
            .collect();
        if told.wants_peers {
            hand_out(books, told.digest, peer);
        }
        for other in others.into_iter().filter(|_| new) {
            hand_out(books, told.digest, other);
        }
    }
}

fn hand_out(books: &Books, digest: Digest, to: PeerId) {
    let (Some(swarm), Some(desk)) = (books.swarms.get(&digest), books.desks.get(&to)) else {
        return;
    };
    let others = swarm.members.iter().filter(|(peer, _)| **peer != to);
    let mut peers: Vec<Candidate> = others
        .map(|(peer, member)| candidate(*peer, *member))
        .collect();
    for (peer, (_, addr)) in &books.origins {
        if !swarm.members.contains_key(peer) {
            let member = Member {
                addr: *addr,
                role: Role::Origin,
                held: 0,
                seeding: false,
            };
            peers.push(candidate(*peer, member));
        }
    }
    let injected = peers.iter().any(|peer| peer.role == Role::Agent);
    let handout = Handout {
        digest,
        blob: swarm.info,
        peers,
        injected,
    };
    let _ = desk.try_send(FromTracker::Handout(handout));
}

fn candidate(peer: PeerId, member: Member) -> Candidate {
    Candidate {
        peer,
        address: PeerAddress::from(member.addr),
        zone: Zone::default(),
        role: member.role,
        held: member.held,
        seeding: member.seeding,
    }
}

fn leave(books: &mut Books, peer: &PeerId) {
    books.desks.remove(peer);
    for swarm in books.swarms.values_mut() {
        swarm.members.remove(peer);
    }
}
