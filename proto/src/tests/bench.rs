//! One node, a virtual clock, and the words that tests say to it by hand.
//!
//! Not here: any law (`pair`), more than one node (`crowd`).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::wire::{PeerMessage, Refusal, RefusalCode};
use crate::*;

pub(super) const MIB: u64 = 1 << 20;

pub(super) struct Bench {
    pub(super) node: Node,
    pub(super) now: Instant,
    pub(super) info: BlobInfo,
}

pub(super) fn peer(n: u8) -> PeerId {
    PeerId::from_key([n; 32])
}

pub(super) fn addr(n: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7000 + u16::from(n)))
}

impl Bench {
    pub(super) fn new(role: Role, pieces: u64) -> Self {
        let now = Instant::from_nanos(1);
        let info = BlobInfo {
            digest: Digest::of(DigestAlgorithm::Sha256, b"pair"),
            geometry: Geometry::try_new(pieces * MIB, 1 << 20).unwrap(),
            piece_hash: PieceHashAlgorithm::Blake3,
            guard: None,
            origin: peer(99),
            signature: [0; 64],
        };
        let mut node = Node::new(NodeOptions::new(peer(1), role, Zone::default(), 7), now);
        node.handle(Input::TrackerUp, now);
        Self { node, now, info }
    }

    /// An agent that wants the blob and knows its shape, and peers that hold all of it.
    pub(super) fn leeching(pieces: u64, holders: &[u8]) -> Self {
        let mut bench = Self::new(Role::Agent, pieces);
        bench.want();
        for n in holders {
            bench.connect(*n, Role::Agent);
            bench.says(
                *n,
                PeerMessage::Interest {
                    digest: bench.info.digest,
                },
            );
            bench.says(*n, PeerMessage::Info { info: bench.info });
        }
        bench.drain();
        bench
    }

    pub(super) fn want(&mut self) {
        let range = Some(ByteRange {
            start: 0,
            end: u64::MAX,
        });
        self.input(Input::Wanted {
            digest: self.info.digest,
            reader: ReaderId(1),
            range,
        });
    }

    pub(super) fn connect(&mut self, n: u8, role: Role) {
        self.connect_from(Zone::default(), n, role);
    }

    pub(super) fn connect_from(&mut self, zone: Zone, n: u8, role: Role) {
        self.input(Input::Connected {
            peer: peer(n),
            role,
            zone,
            addr: addr(n),
        });
    }

    pub(super) fn says(&mut self, n: u8, message: PeerMessage) {
        self.input(Input::PeerSaid {
            peer: peer(n),
            message,
        });
    }

    pub(super) fn holds_all(&mut self, n: u8) {
        let bitfield = Bitfield::full(self.info.geometry.piece_count()).encode();
        self.says(
            n,
            PeerMessage::Holds {
                digest: self.info.digest,
                bitfield,
            },
        );
    }

    pub(super) fn input(&mut self, input: Input) {
        self.node.handle(input, self.now);
    }

    pub(super) fn drain(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.node.poll_action()).collect()
    }

    pub(super) fn pass(&mut self, span: Duration) -> Vec<Action> {
        let until = self.now + span;
        while let Some(at) = self.node.next_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
        }
        self.now = until;
        self.drain()
    }
}

pub(super) fn fetches(actions: &[Action]) -> Vec<(TransferId, PeerId, u32)> {
    let fetch = |action: &Action| match action {
        Action::Fetch {
            transfer,
            peer,
            piece,
            ..
        } => Some((*transfer, *peer, piece.get())),
        _ => None,
    };
    actions.iter().filter_map(fetch).collect()
}

pub(super) fn refusal(code: RefusalCode, retry_after: Duration) -> FetchFailure {
    FetchFailure::Refused(Refusal {
        retry_after,
        ..Refusal::new(code)
    })
}
