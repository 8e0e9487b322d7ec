//! Which piece next, and of whom.
//!
//! In this order: what an origin offers (a first copy, which nobody else will be offered); the window under each
//! reader's cursor; what nobody in our zone has; the rarest piece of the source that should finish first, ties at random.
//! A source that is much slower than usual, or in another zone, is asked only for what nobody else has. Where nobody is
//! known to hold what is missing, an origin is asked on the off chance.
//!
//! Whom: a window of sources, each with one piece on its way and, in time, one more: first whoever has just sent a piece,
//! then whoever says that it has a slot, then whoever should be done first. Past the window only those that send
//! already are asked for their next piece, origins for what they offer, and one other zone at a time for what nobody here
//! has: a whole zone waits for that.
//!
//! Never: a piece that is held or requested (I3), a peer that is busy until later, a piece that this peer refused
//! until later.
//!
//! Not here: the fetch itself (`pipeline`).

use crate::node::context::Context;
use crate::node::peers::Peer;
use crate::swarm::neighbours::Neighbour;
use crate::swarm::pieces::{PieceState, Pieces};
use crate::{Instant, PieceIndex, limits};

use super::{Stage, Swarm};

/// How much may be asked for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Of anybody.
    Any,
    /// Only of those who are sending already, of origins, and of another zone what nobody here has.
    Known,
    None,
}

/// A neighbour that could be asked.
#[derive(Clone, Copy, Debug)]
struct Source {
    at: usize,
    /// Lower goes first.
    rank: u8,
    finish_secs: f64,
    /// Only for what nobody else has.
    last_resort: bool,
    near: bool,
    /// Asked for nothing but what nobody near has.
    import_only: bool,
}

impl Swarm {
    /// Starts one fetch, if there is anything worth it. `window` is the number of sources to keep.
    pub(crate) fn ask_one(&mut self, window: usize, cx: &mut Context, now: Instant) -> bool {
        if self.stage != Stage::Leeching || cx.is_origin() || !self.is_wanted() {
            return false;
        }
        let room = self.room(window, cx);
        if room == Room::None
            || self
                .pieces
                .as_ref()
                .is_none_or(|pieces| pieces.open_count() == 0)
        {
            return false;
        }
        let Some((at, piece)) = self.pick(room, cx, now) else {
            return false;
        };
        self.fetch(at, piece, false, cx, now);
        true
    }

    fn room(&self, window: usize, cx: &Context) -> Room {
        if cx.in_flight >= limits::PIECES_IN_FLIGHT_MAX {
            Room::None
        } else if cx.peers.sources() < window || self.transfers.is_empty() {
            // A second blob does not wait for the first to be done.
            Room::Any
        } else {
            Room::Known
        }
    }

    fn pick(&self, room: Room, cx: &mut Context, now: Instant) -> Option<(usize, PieceIndex)> {
        let all = self.sources(room, cx, now);
        let mut sources = all.clone();
        sources.retain(|source| !source.import_only);
        let pieces = self.pieces.as_ref()?;
        for source in &sources {
            let neighbour = self.neighbours.at(source.at);
            if neighbour.is_origin
                && let Some(piece) = first_offered(neighbour, pieces, now)
            {
                return Some((source.at, piece));
            }
        }
        if let Some(choice) = self.pick_urgent(&sources, cx, now) {
            return Some(choice);
        }
        if let Some(choice) = self.pick_import(&all, cx, now) {
            return Some(choice);
        }
        for strict in [true, false] {
            if !strict && !self.transfers.is_empty() {
                break;
            }
            for source in &sources {
                let neighbour = self.neighbours.at(source.at);
                if let Some(piece) = rarest(neighbour, pieces, *source, strict, &mut cx.rng, now) {
                    return Some((source.at, piece));
                }
            }
        }
        self.plea(cx, now)
    }

    /// Everybody who may be asked for something, best first.
    fn sources(&self, room: Room, cx: &mut Context, now: Instant) -> Vec<Source> {
        let Some(pieces) = self.pieces.as_ref() else {
            return Vec::new();
        };
        let bytes = f64::from(self.piece_bytes());
        let usual = cx.pace.usual_bytes_per_sec();
        // Where few stand together each has much to bring, and does that with the sources that it has.
        let near = || self.neighbours.iter().filter(|other| other.near);
        let imports = room == Room::Known && near().count() >= limits::FEW_AGENTS;
        let mut sources: Vec<Source> = Vec::with_capacity(self.neighbours.len());
        for (at, neighbour) in self.neighbours.iter().enumerate() {
            let peer = cx.peers.get(neighbour.peer);
            let known = neighbour.is_origin || peer.in_flight() > 0;
            let past_window = room == Room::Known && !known;
            if (past_window && (neighbour.near || !imports))
                || !may_ask(peer, self.piece_bytes(), now)
            {
                continue;
            }
            let useful = neighbour
                .holds
                .as_ref()
                .is_some_and(|holds| pieces.any_open_in(holds));
            if !useful {
                continue;
            }
            let rate = peer.download.bytes_per_sec().or(usual).unwrap_or(1e8);
            let slow = match (peer.download.bytes_per_sec(), usual) {
                (Some(rate), Some(usual)) => {
                    rate < limits::SLOW_SHARE * usual
                        && now.saturating_duration_since(peer.last_fetched) < limits::SLOW_MEMORY
                }
                _ => false,
            };
            let finish = (peer.queued_bytes() as f64 + bytes) / rate + peer.rtt().as_secs_f64();
            // Whoever has just sent us a piece has a slot for us still; who says it has one comes next.
            let rank = match peer {
                _ if neighbour.is_origin => 2,
                peer if peer.in_flight() == 0 && peer.last_fetched == now => 0,
                peer if peer.is_free(now) => 1,
                _ => 2,
            };
            sources.push(Source {
                at,
                rank,
                // Ties are broken at random, or all would ask the same.
                finish_secs: finish * (1.0 + 0.25 * cx.rng.f64()),
                last_resort: slow,
                near: neighbour.near,
                import_only: past_window,
            });
        }
        sources.sort_unstable_by(|a, b| {
            (a.last_resort, !a.near, a.rank)
                .cmp(&(b.last_resort, !b.near, b.rank))
                .then(a.finish_secs.total_cmp(&b.finish_secs))
        });
        if sources.len() > 1 && cx.rng.u32(..limits::EXPLORE_ONE_IN) == 0 {
            let brisk = sources
                .iter()
                .take_while(|source| !source.last_resort && source.near)
                .count();
            if brisk > 1 {
                sources.swap(0, cx.rng.usize(..brisk));
            }
        }
        sources
    }

    /// The first piece under a cursor that some source has. At most a share of what is in flight is urgent, so
    /// that a crowd of readers that all wait for the same piece still trades different ones.
    fn pick_urgent(
        &self,
        sources: &[Source],
        cx: &Context,
        now: Instant,
    ) -> Option<(usize, PieceIndex)> {
        let pieces = self.pieces.as_ref()?;
        let urgent_in_flight = self
            .transfers
            .iter()
            .filter(|transfer| self.readers.is_urgent(transfer.piece, pieces))
            .count();
        let share = (cx.in_flight / limits::URGENT_ONE_IN).max(1);
        if urgent_in_flight >= share && self.neighbours.len() > limits::FEW_NEIGHBOURS {
            return None;
        }
        let mut urgent = Vec::new();
        self.readers.urgent(pieces, &mut urgent);
        urgent.into_iter().find_map(|piece| {
            sources
                .iter()
                .find(|source| {
                    let neighbour = self.neighbours.at(source.at);
                    neighbour.has(piece)
                        && !neighbour.is_held_off(piece, now)
                        && (!source.last_resort || pieces.holders(piece) <= 1)
                        && (source.near || pieces.near_holders(piece) == 0)
                })
                .map(|source| (source.at, piece))
        })
    }

    /// A piece that nobody near is known to have and somebody in another zone told us of: the whole zone waits for it, so
    /// it goes before what is near. One at a time.
    fn pick_import(
        &self,
        sources: &[Source],
        cx: &mut Context,
        now: Instant,
    ) -> Option<(usize, PieceIndex)> {
        let pieces = self.pieces.as_ref()?;
        let importing = self.transfers.iter().any(|transfer| {
            let from = self.neighbours.get(transfer.peer);
            from.is_some_and(|neighbour| !neighbour.near)
        });
        let far = |source: &&Source| !source.near && !source.last_resort;
        if importing {
            return None;
        }
        sources.iter().filter(far).find_map(|source| {
            let neighbour = self.neighbours.at(source.at);
            let piece = rarest(neighbour, pieces, *source, true, &mut cx.rng, now)?;
            Some((source.at, piece))
        })
    }

    /// Nobody is known to hold what is needed: perhaps an origin does, or will say who does.
    fn plea(&self, cx: &mut Context, now: Instant) -> Option<(usize, PieceIndex)> {
        let pieces = self.pieces.as_ref()?;
        let quiet = self.sourcing.since_progress(now);
        let alone = || self.neighbours.iter().all(|neighbour| neighbour.is_origin);
        if quiet < limits::PLEA_ALONE_AFTER || (quiet < limits::PLEA_AFTER && !alone()) {
            return None;
        }
        let pleading = self.transfers.iter().any(|transfer| transfer.plea);
        if pleading || (!self.transfers.is_empty() && !self.readers.is_waiting(pieces)) {
            return None;
        }
        let at = self.neighbours.iter().position(|neighbour| {
            let peer = cx.peers.get(neighbour.peer);
            neighbour.is_origin && may_ask(peer, self.piece_bytes(), now)
        })?;
        let neighbour = self.neighbours.at(at);
        let nowhere = |piece: &PieceIndex| {
            pieces.state(*piece) == PieceState::Missing && pieces.holders(*piece) == 0
        };
        let free = |piece: &PieceIndex| !neighbour.is_held_off(*piece, now);
        // An origin gives it to whoever asks again after a while: so the same piece is asked for until it comes.
        if let Some(piece) = self.plea.filter(nowhere) {
            return free(&piece).then_some((at, piece));
        }
        let mut urgent = Vec::new();
        self.readers.urgent(pieces, &mut urgent);
        let mut choice = urgent
            .into_iter()
            .find(|piece| nowhere(piece) && free(piece));
        // Where many lack the same, they should not all ask for the same.
        if choice.is_none() || cx.rng.bool() {
            for (seen, piece) in (0..).zip(pieces.open().iter().filter(nowhere).filter(free)) {
                if cx.rng.u32(..=seen) == 0 {
                    choice = Some(piece);
                }
            }
        }
        let any = || pieces.open().iter().find(free);
        let piece = choice.or_else(|| self.transfers.is_empty().then(any).flatten())?;
        Some((at, piece))
    }

    /// When somebody may be asked who may not now: a refusal ends, or it is time for a source's next piece.
    pub(super) fn next_ask(&self, cx: &Context, now: Instant) -> Option<Instant> {
        let pieces = self.pieces.as_ref()?;
        if self.stage != Stage::Leeching || cx.is_origin() || pieces.open_count() == 0 {
            return None;
        }
        self.neighbours
            .iter()
            .filter_map(|neighbour| {
                let peer = cx.peers.get(neighbour.peer);
                // Asked enough, it is asked again when a piece of its own has ended, and not by the clock.
                let enough = peer.is_asked_enough(self.piece_bytes());
                let busy = peer.ask_at().filter(|until| !enough && *until > now);
                let useful = || {
                    let holds = neighbour.holds.as_ref();
                    neighbour.is_origin || holds.is_some_and(|holds| pieces.any_open_in(holds))
                };
                let held_off = neighbour.next_held_off(now);
                match (busy.filter(|_| useful()), held_off) {
                    (Some(busy), Some(held_off)) => Some(busy.min(held_off)),
                    (busy, held_off) => busy.or(held_off),
                }
            })
            .min()
    }
}

/// Whether this peer may be asked for anything now.
pub(super) fn may_ask(peer: &Peer, piece_bytes: u32, now: Instant) -> bool {
    peer.is_live()
        && !peer.late
        && !peer.is_asked_enough(piece_bytes)
        && peer.ask_at().is_none_or(|at| at <= now)
}

/// An origin offers in the order of the blob; so is it asked.
fn first_offered(neighbour: &Neighbour, pieces: &Pieces, now: Instant) -> Option<PieceIndex> {
    let mut first = None;
    pieces.for_each_open_in(neighbour.holds.as_ref()?, |piece| {
        if first.is_none() && !neighbour.is_held_off(piece, now) {
            first = Some(piece);
        }
    });
    first
}

/// The piece that fewest neighbours hold, of those that this one has.
fn rarest(
    neighbour: &Neighbour,
    pieces: &Pieces,
    source: Source,
    strict: bool,
    rng: &mut fastrand::Rng,
    now: Instant,
) -> Option<PieceIndex> {
    let (mut best, mut fewest, mut ties) = (None, u16::MAX, 0u32);
    pieces.for_each_open_in(neighbour.holds.as_ref()?, |piece| {
        let holders = pieces.holders(piece);
        if holders > fewest {
            return;
        }
        let spare = strict
            && ((source.last_resort && holders > 1)
                || (!source.near && pieces.near_holders(piece) > 0));
        if spare || neighbour.is_held_off(piece, now) {
            return;
        }
        if holders < fewest {
            (best, fewest, ties) = (Some(piece), holders, 1);
        } else {
            ties += 1;
            if rng.u32(..ties) == 0 {
                best = Some(piece);
            }
        }
    });
    best
}
