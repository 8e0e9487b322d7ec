//! The budget of links over all swarms: about 64 for an agent; the least recently useful goes first (D5).
//!
//! Not here: upload slots (`swarm::slots`) and fetches in flight (`swarm::pace`), which are budgets too.

use crate::{Instant, Role, limits};

use super::context::Context;
use super::peers::{Peer, PeerIx};

/// The link that should make room for `newcomer`, if there are too many. `newcomer` itself, when all others are in use.
pub(super) fn surplus(cx: &Context, newcomer: PeerIx, now: Instant) -> Option<PeerIx> {
    if cx.peers.live() <= cx.options.links_max {
        return None;
    }
    let idle = cx
        .peers
        .iter()
        .filter(|(ix, peer)| *ix != newcomer && is_idle(cx, *ix, peer, now))
        .min_by_key(|(ix, peer)| (peer.role == Role::Origin, peer.last_useful, *ix))
        .map(|(ix, _)| ix);
    Some(idle.unwrap_or(newcomer))
}

fn is_idle(cx: &Context, ix: PeerIx, peer: &Peer, now: Instant) -> bool {
    peer.is_live()
        && peer.in_flight() == 0
        && cx.slots.to_peer(ix) == 0
        && now.saturating_duration_since(peer.last_useful) >= limits::LINK_IDLE_MIN
}
