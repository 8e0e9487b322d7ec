//! One state for each peer of this process, over all swarms: what its link does, how fast it is, whether it is
//! banned.
//!
//! Not here: what a peer holds of one blob (`swarm::neighbours`), and whom to dial (`node::links`). Peers are
//! found by [`PeerIx`], a slot that is reused only after [`PeerBook::forget`].

use std::net::SocketAddr;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::swarm::SwarmIx;
use crate::{Digest, Instant, PeerId, Role, Zone, limits};

/// A peer's place in the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerIx(u32);

/// What the link with a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// The last dial failed: not before this moment.
    BackingOff { until: Instant },
    /// We asked for a link.
    Dialing,
    /// No link, and nothing against one.
    Known,
    /// The link is up.
    Live,
}

/// A measured rate: an average that forgets, so that yesterday's congestion does not condemn a peer.
///
/// What is averaged is the time that a byte took. Two pieces on one link may end in the same moment, the first late and the
/// second at no time at all: together that is what they took, whereas an average of bytes per second would take the second
/// for millions of times the link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    /// `None` until something was measured; then within the bounds below.
    secs_per_byte: Option<f64>,
}

impl Rate {
    /// Weight of the newest sample.
    const NEWEST: f64 = 0.3;
    /// No link is faster than a byte in this time.
    const SECS_PER_BYTE_MIN: f64 = 1e-12;
    /// None is worth telling from one that is this slow; times of pieces stay far from what a clock can count.
    const SECS_PER_BYTE_MAX: f64 = 1.0;

    /// Takes in that `bytes` took `span`.
    pub(crate) fn sample(&mut self, bytes: u64, span: Duration) {
        let sample = (span.as_secs_f64() / bytes.max(1) as f64)
            .clamp(Self::SECS_PER_BYTE_MIN, Self::SECS_PER_BYTE_MAX);
        self.secs_per_byte = Some(match self.secs_per_byte {
            None => sample,
            Some(known) => known + Self::NEWEST * (sample - known),
        });
    }

    /// Takes in that nothing came in a time in which something should have.
    pub(crate) fn punish(&mut self, at_most_bytes_per_sec: f64) {
        let at_least = 1.0 / at_most_bytes_per_sec.max(1.0);
        let punished = self.secs_per_byte.map_or(at_least, |known| 2.0 * known);
        self.secs_per_byte = Some(punished.max(at_least).min(Self::SECS_PER_BYTE_MAX));
    }

    /// Bytes per second; `None` until something was measured.
    pub(crate) fn bytes_per_sec(self) -> Option<f64> {
        self.secs_per_byte.map(f64::recip)
    }
}

/// All that this process knows of one peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) role: Role,
    pub(crate) zone: Zone,
    pub(crate) addr: Option<SocketAddr>,
    pub(crate) link: LinkState,
    /// Dials that failed in a row.
    pub(crate) dial_failures: u32,
    pub(crate) banned_until: Option<Instant>,
    /// It had no slot when we last asked: not asked again before this moment, unless it says that it has one.
    pub(crate) busy_until: Option<Instant>,
    /// It let a fetch starve, or leaves: not asked before this moment, whatever it says.
    pub(crate) avoided_until: Option<Instant>,
    /// It said that it has a slot: until when that is believed.
    free_until: Option<Instant>,
    /// Times in a row that it let a fetch starve.
    pub(crate) stalls: u32,
    /// What it sends us.
    pub(crate) download: Rate,
    /// What it takes from us.
    pub(crate) upload: Rate,
    /// From our question to its no; `None` until it said one.
    rtt: Option<Duration>,
    /// The bytes of each fetch under way from it, in the order of asking, which is that of sending.
    under_way: Vec<u64>,
    /// A fetch from it takes far longer than fetches do: while it lasts it is no source, and not asked.
    pub(crate) late: bool,
    /// When the piece that comes now began to be its turn: when it was asked for, or when the one before it was complete.
    pub(crate) began: Instant,
    /// When its last piece was complete.
    pub(crate) last_fetched: Instant,
    /// When a piece last went either way; the link budget evicts the oldest.
    pub(crate) last_useful: Instant,
    /// Swarms in which it is a neighbour, in the order of joining.
    pub(crate) swarms: Vec<SwarmIx>,
    /// Swarms it named that we take no part in yet, oldest first.
    pub(crate) interests: Vec<Digest>,
}

impl Peer {
    /// May be asked and served.
    pub(crate) fn is_live(&self) -> bool {
        self.link == LinkState::Live
    }

    /// Fetches under way from it.
    pub(crate) fn in_flight(&self) -> usize {
        self.under_way.len()
    }

    /// Their bytes.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.under_way.iter().sum()
    }

    /// The bytes of the piece whose turn it is.
    pub(crate) fn coming_bytes(&self) -> u64 {
        self.under_way.first().copied().unwrap_or(0)
    }

    /// Something comes from it that fills our downlink.
    fn is_source(&self) -> bool {
        self.in_flight() > 0 && self.role == Role::Agent && !self.late
    }

    /// Not to be asked before this moment: it has no slot, it is avoided, or what comes from it must come nearer first.
    pub(crate) fn ask_at(&self) -> Option<Instant> {
        self.busy_until
            .max(self.avoided_until)
            .max(self.next_ask_at())
    }

    /// Whether it has been asked for as much as is good for pieces of this length: one that comes, and what is asked for
    /// ahead of its end.
    pub(crate) fn is_asked_enough(&self, piece_bytes: u32) -> bool {
        if self.role == Role::Origin {
            return self.in_flight() >= limits::PIECES_IN_FLIGHT_PER_ORIGIN_MAX;
        }
        let far = self.asked_ahead_bytes(piece_bytes.into()) > f64::from(piece_bytes);
        let enough = if far {
            limits::PIECES_IN_FLIGHT_PER_PEER_MAX
        } else {
            limits::PIECES_IN_FLIGHT_PER_PEER
        };
        self.in_flight() >= enough
    }

    /// The time from a question to its answer.
    pub(crate) fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(limits::RTT_GUESS)
    }

    /// A question was answered with no, which takes no other time.
    pub(crate) fn time_answer(&mut self, span: Duration) {
        let span = span.min(limits::RTT_MAX);
        self.rtt = Some(self.rtt.map_or(span, |known| (known * 7 + span) / 8));
    }

    /// What should still be to come from an agent when it is asked for the next piece, where pieces have this length: the
    /// share of one by which choosing waits for news, or what comes within a round trip.
    fn asked_ahead_bytes(&self, piece_bytes: u64) -> f64 {
        let share = limits::ASKED_AHEAD_SHARE * piece_bytes as f64;
        let rate = self.download.bytes_per_sec().unwrap_or_default();
        share.max(rate * self.rtt().as_secs_f64())
    }

    /// Not asked before `until`, whatever it says in between.
    pub(crate) fn avoid(&mut self, until: Instant) {
        self.avoided_until = self.avoided_until.max(Some(until));
    }

    /// It said not long ago that it has a slot, and was not asked since.
    pub(crate) fn is_free(&self, now: Instant) -> bool {
        self.free_until.is_some_and(|until| until > now)
    }

    /// While pieces come: when the next should be asked for, so that it is chosen by the latest news and still asked
    /// for in time. `None`: at once.
    fn next_ask_at(&self) -> Option<Instant> {
        if self.role == Role::Origin {
            return None;
        }
        let ahead = self.asked_ahead_bytes(self.coming_bytes());
        let surplus = self.queued_bytes() as f64 - ahead;
        let rate = self.download.bytes_per_sec()?;
        (surplus > 0.0).then(|| self.began + Duration::from_secs_f64(surplus / rate))
    }

    /// It has a slot now. Believed of an agent that had to refuse us, once for each no; never of one that let us wait.
    pub(crate) fn said_free(&mut self, now: Instant) {
        let dependable = self.role == Role::Agent && self.stalls == 0 && !self.late;
        if dependable && self.busy_until.take().is_some() {
            self.free_until = Some(now + limits::FREE_BELIEVED);
        }
    }

    /// The link is gone, or new: what was said on it holds no more.
    pub(crate) fn forget_words(&mut self) {
        self.interests.clear();
        self.busy_until = None;
        self.avoided_until = None;
        self.free_until = None;
    }

    /// Remembers a swarm it named that we know nothing of.
    pub(crate) fn remember_interest(&mut self, digest: Digest) {
        if self.interests.contains(&digest) {
            return;
        }
        if self.interests.len() >= limits::INTERESTS_PER_PEER_MAX {
            self.interests.remove(0);
        }
        self.interests.push(digest);
    }
}

/// Every peer that was ever named to us and is still worth remembering.
#[derive(Debug, Default)]
pub(crate) struct PeerBook {
    slots: Vec<Option<Peer>>,
    free: Vec<PeerIx>,
    by_id: FxHashMap<PeerId, PeerIx>,
    live: usize,
    dialing: usize,
    sources: usize,
}

impl PeerBook {
    /// Peers with a link.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Peers with a link or about to have one.
    pub(crate) fn linked(&self) -> usize {
        self.live + self.dialing
    }

    /// Agents that something is being fetched from, and in time.
    pub(crate) fn sources(&self) -> usize {
        self.sources
    }

    /// A piece is asked of this peer.
    pub(crate) fn begin_fetch(&mut self, ix: PeerIx, bytes: u64, now: Instant) {
        self.change_source(ix, |peer| {
            if peer.in_flight() == 0 {
                peer.began = now;
            }
            peer.under_way.push(bytes);
            peer.busy_until = None;
            peer.free_until = None;
        });
    }

    /// The fetch is over, however it ended.
    pub(crate) fn end_fetch(&mut self, ix: PeerIx, bytes: u64) {
        self.change_source(ix, |peer| {
            if let Some(at) = peer.under_way.iter().position(|other| *other == bytes) {
                peer.under_way.remove(at);
            }
            peer.late &= peer.in_flight() > 0;
        });
    }

    /// A fetch from this peer has become late: another takes its place among the sources at once, not when the fetch
    /// has failed. `false`: a piece came after all.
    pub(crate) fn set_late(&mut self, ix: PeerIx, late: bool) {
        self.change_source(ix, |peer| peer.late = late);
    }

    fn change_source(&mut self, ix: PeerIx, change: impl FnOnce(&mut Peer)) {
        let peer = self.get_mut(ix);
        let was = peer.is_source();
        change(peer);
        let is = peer.is_source();
        self.sources = self.sources + usize::from(is) - usize::from(was);
    }

    pub(crate) fn find(&self, id: &PeerId) -> Option<PeerIx> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn get(&self, ix: PeerIx) -> &Peer {
        self.slots[ix.0 as usize]
            .as_ref()
            .expect("a PeerIx is dropped before its slot is freed")
    }

    pub(crate) fn get_mut(&mut self, ix: PeerIx) -> &mut Peer {
        self.slots[ix.0 as usize]
            .as_mut()
            .expect("a PeerIx is dropped before its slot is freed")
    }

    /// Every peer, in the order of its slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerIx, &Peer)> {
        (0u32..)
            .zip(&self.slots)
            .filter_map(|(ix, slot)| slot.as_ref().map(|peer| (PeerIx(ix), peer)))
    }

    /// Finds the peer, or makes room for it.
    pub(crate) fn intern(&mut self, id: PeerId, role: Role, zone: &Zone, now: Instant) -> PeerIx {
        if let Some(ix) = self.find(&id) {
            return ix;
        }
        if self.by_id.len() >= limits::KNOWN_PEERS_MAX {
            self.forget_stalest(now);
        }
        let peer = Peer {
            id,
            role,
            zone: zone.clone(),
            addr: None,
            link: LinkState::Known,
            dial_failures: 0,
            banned_until: None,
            busy_until: None,
            avoided_until: None,
            free_until: None,
            stalls: 0,
            download: Rate::default(),
            upload: Rate::default(),
            rtt: None,
            under_way: Vec::new(),
            late: false,
            began: now,
            last_fetched: now,
            last_useful: now,
            swarms: Vec::new(),
            interests: Vec::new(),
        };
        let ix = if let Some(ix) = self.free.pop() {
            self.slots[ix.0 as usize] = Some(peer);
            ix
        } else {
            let ix = PeerIx(
                u32::try_from(self.slots.len()).expect("bounded by KNOWN_PEERS_MAX and the links"),
            );
            self.slots.push(Some(peer));
            ix
        };
        self.by_id.insert(id, ix);
        ix
    }

    /// Changes what the link does; the only writer of `Peer::link`.
    pub(crate) fn set_link(&mut self, ix: PeerIx, link: LinkState) {
        let was = std::mem::replace(&mut self.get_mut(ix).link, link);
        for (state, step) in [(was, -1isize), (link, 1)] {
            match state {
                LinkState::Live => self.live = self.live.saturating_add_signed(step),
                LinkState::Dialing => self.dialing = self.dialing.saturating_add_signed(step),
                LinkState::BackingOff { .. } | LinkState::Known => {}
            }
        }
    }

    /// Makes room: the peer without a link, a swarm or a running ban that was useful longest ago.
    fn forget_stalest(&mut self, now: Instant) {
        let stalest = self
            .iter()
            .filter(|(_, peer)| {
                matches!(peer.link, LinkState::Known | LinkState::BackingOff { .. })
                    && peer.swarms.is_empty()
                    && peer.banned_until.is_none_or(|until| until <= now)
            })
            .min_by_key(|(ix, peer)| (peer.last_useful, *ix))
            .map(|(ix, _)| ix);
        if let Some(ix) = stalest {
            self.forget(ix);
        }
    }

    fn forget(&mut self, ix: PeerIx) {
        if let Some(peer) = self.slots[ix.0 as usize].take() {
            self.by_id.remove(&peer.id);
            self.free.push(ix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer_id(n: u8) -> PeerId {
        PeerId::from_bytes(&[n; 32]).unwrap()
    }

    #[test]
    fn counts_follow_the_link_state() {
        let mut book = PeerBook::default();
        let now = Instant::from_nanos(0);
        let ix = book.intern(peer_id(1), Role::Agent, &Zone::default(), now);
        assert_eq!(
            book.intern(peer_id(1), Role::Agent, &Zone::default(), now),
            ix
        );
        book.set_link(ix, LinkState::Dialing);
        assert_eq!((book.live(), book.linked()), (0, 1));
        book.set_link(ix, LinkState::Live);
        assert_eq!((book.live(), book.linked()), (1, 1));
        book.set_link(ix, LinkState::Known);
        assert_eq!((book.live(), book.linked()), (0, 0));
    }

    #[test]
    fn a_full_book_forgets_the_stalest_and_never_a_banned_one() {
        let mut book = PeerBook::default();
        let start = Instant::from_nanos(0);
        let later = start + Duration::from_secs(1);
        let id = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            PeerId::from_bytes(&bytes).unwrap()
        };
        for n in 0..limits::KNOWN_PEERS_MAX {
            let ix = book.intern(id(n), Role::Agent, &Zone::default(), start);
            if n == 0 {
                book.get_mut(ix).banned_until = Some(later + Duration::from_secs(60));
            }
        }
        book.intern(
            id(limits::KNOWN_PEERS_MAX),
            Role::Agent,
            &Zone::default(),
            later,
        );
        assert!(book.find(&id(0)).is_some(), "banned: must be remembered");
        assert!(book.find(&id(1)).is_none(), "stalest: goes");
    }

    #[test]
    fn a_rate_forgets() {
        let mut rate = Rate::default();
        assert!(rate.bytes_per_sec().is_none());
        rate.sample(1000, Duration::from_secs(1));
        for _ in 0..20 {
            rate.sample(100, Duration::from_secs(1));
        }
        assert!(rate.bytes_per_sec().unwrap() < 110.0);
    }
    /// Two uploads to one peer were acknowledged together: the second read as 1 MiB within a microsecond, the usual rate as
    /// hundreds of GB/s for the next twenty pieces, and every other peer as hopelessly slow beside it.
    #[test]
    fn pieces_that_end_together_do_not_count_as_a_fast_link() {
        let mut rate = Rate::default();
        for _ in 0..10 {
            rate.sample(1 << 20, Duration::from_millis(600));
            rate.sample(1 << 20, Duration::ZERO);
            let reached = rate.bytes_per_sec().unwrap() * 0.3 / f64::from(1 << 20);
            assert!((0.4..2.5).contains(&reached), "{reached} of the link");
        }
    }

    /// A peer that stalls again and again halved its rate each time, until the time of a piece was more than a clock holds.
    #[test]
    fn a_rate_never_gets_so_low_that_a_piece_takes_for_ever() {
        let now = Instant::from_nanos(0);
        let mut book = PeerBook::default();
        let ix = book.intern(peer_id(1), Role::Agent, &Zone::default(), now);
        for _ in 0..2_000 {
            book.get_mut(ix).download.punish(1e5);
        }
        for _ in 0..2 {
            book.begin_fetch(ix, 8 << 20, now);
        }
        assert!(book.get(ix).ask_at().is_some_and(|at| at > now));
    }

    #[test]
    fn an_agent_far_away_is_asked_sooner_and_for_more() {
        const PIECE: u32 = 256 << 10;
        let now = Instant::from_nanos(0);
        let asked = |rtt: Duration| {
            let mut book = PeerBook::default();
            let ix = book.intern(peer_id(1), Role::Agent, &Zone::default(), now);
            let peer = book.get_mut(ix);
            peer.download
                .sample(PIECE.into(), Duration::from_millis(50));
            peer.time_answer(rtt);
            book.begin_fetch(ix, PIECE.into(), now);
            let next = book.get(ix).ask_at();
            book.begin_fetch(ix, PIECE.into(), now);
            (next, book.get(ix).is_asked_enough(PIECE))
        };
        let (near, enough) = asked(Duration::from_millis(1));
        let in_30_ms = now + Duration::from_millis(30);
        assert!(near.unwrap().saturating_duration_since(in_30_ms) < Duration::from_micros(1));
        assert!(enough, "one waits behind another");
        let (far, enough) = asked(Duration::from_millis(70));
        assert_eq!(far, None, "at once");
        assert!(!enough, "two wait");
    }
}
