//! The links that stand, those being dialed, and who waits for them.
//!
//! One link with each peer (D5). Two that were dialed across each other are told apart by a rule that both ends apply
//! alike; otherwise the newer one stands, since a peer that believed in the older would not have dialed.
//!
//! Not here: whom to dial and when again (the core).

use std::collections::{BTreeSet, HashMap};

use shoal_link::Link;
use shoal_proto::PeerId;
use shoal_proto::limits::{CROSSED_DIALS_WITHIN, LINK_WAITERS_MAX};
use shoal_proto::wire::PeerMessage;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::report::LinkSerial;

/// A link that stands.
pub(super) struct Live {
    pub(super) link: Link,
    pub(super) serial: LinkSerial,
    pub(super) outbox: mpsc::Sender<PeerMessage>,
    since: Instant,
    /// Origins whose membership this peer was shown.
    pub(super) vouched: BTreeSet<PeerId>,
}

/// What to do with a new link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Welcome {
    /// The first one.
    Keep,
    /// Another one stands and stays.
    Refuse,
    /// Another one stood and goes.
    Replace,
}

/// All links of a member.
#[derive(Default)]
pub(super) struct Links {
    live: HashMap<PeerId, Live>,
    /// Being dialed; `true` when the core asked for it and must hear of a failure.
    dialing: HashMap<PeerId, bool>,
    waiting: HashMap<PeerId, Vec<oneshot::Sender<Option<Link>>>>,
    next_serial: u64,
}

impl Links {
    pub(super) fn get(&self, peer: &PeerId) -> Option<&Live> {
        self.live.get(peer)
    }

    pub(super) fn get_mut(&mut self, peer: &PeerId) -> Option<&mut Live> {
        self.live.get_mut(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Live> {
        self.live.values()
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Notes that a dial begins; `false` when one is under way already, whose outcome will serve both.
    pub(super) fn begin_dial(&mut self, peer: PeerId, for_core: bool) -> bool {
        match self.dialing.get_mut(&peer) {
            Some(asked) => {
                *asked |= for_core;
                false
            }
            None => {
                self.dialing.insert(peer, for_core);
                true
            }
        }
    }

    /// A dial brought a link, which is about to stand; whoever waits for it is served then.
    pub(super) fn dialed(&mut self, peer: &PeerId) {
        self.dialing.remove(peer);
    }

    /// A dial came to nothing: everybody who waits hears of it. `true` when the core waits too.
    pub(super) fn end_dial(&mut self, peer: &PeerId) -> bool {
        let asked = self.dialing.remove(peer).unwrap_or(false);
        if !self.live.contains_key(peer) {
            self.answer_waiting(peer, None);
        }
        asked
    }

    /// Hands over the link, now or when it stands.
    pub(super) fn wait_for(&mut self, peer: PeerId, reply: oneshot::Sender<Option<Link>>) {
        let waiting = self.waiting.entry(peer).or_default();
        waiting.retain(|reply| !reply.is_closed());
        if waiting.len() < LINK_WAITERS_MAX {
            waiting.push(reply);
        }
    }

    /// Decides between a new link and the one that stands, if any.
    pub(super) fn judge(&self, me: &PeerId, link: &Link) -> Welcome {
        let Some(live) = self.live.get(&link.peer()) else {
            return Welcome::Keep;
        };
        let standing = Standing {
            dialed: live.link.dialed(),
            young: live.since.elapsed() < CROSSED_DIALS_WITHIN,
        };
        judge(standing, link.dialed(), *me < link.peer())
    }

    /// Puts a link in its place; whoever waited for it has it.
    pub(super) fn stand(&mut self, link: Link, outbox: mpsc::Sender<PeerMessage>) -> LinkSerial {
        let serial = LinkSerial(self.next_serial);
        self.next_serial += 1;
        let peer = link.peer();
        self.answer_waiting(&peer, Some(&link));
        let live = Live {
            link,
            serial,
            outbox,
            since: Instant::now(),
            vouched: BTreeSet::new(),
        };
        self.live.insert(peer, live);
        serial
    }

    /// Takes a link out; `None` when it was replaced or given up before.
    pub(super) fn remove(&mut self, peer: &PeerId, serial: LinkSerial) -> Option<Live> {
        if self
            .live
            .get(peer)
            .is_some_and(|live| live.serial == serial)
        {
            return self.live.remove(peer);
        }
        None
    }

    /// Takes whatever link stands with this peer out.
    pub(super) fn give_up(&mut self, peer: &PeerId) -> Option<Live> {
        self.live.remove(peer)
    }

    fn answer_waiting(&mut self, peer: &PeerId, link: Option<&Link>) {
        for reply in self.waiting.remove(peer).unwrap_or_default() {
            // Who stopped waiting does not need it.
            let _ = reply.send(link.cloned());
        }
    }
}

#[derive(Clone, Copy)]
struct Standing {
    dialed: bool,
    young: bool,
}

/// `ours_wins`: of two links dialed across each other, the one that the smaller PeerId dialed stands.
fn judge(standing: Standing, new_dialed: bool, ours_wins: bool) -> Welcome {
    let crossed = standing.young && standing.dialed != new_dialed;
    if crossed && new_dialed != ours_wins {
        Welcome::Refuse
    } else {
        Welcome::Replace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_keep_the_same_one_of_two_crossed_dials() {
        // At the end with the smaller id (`ours_wins`), its own dial stands, whichever comes first.
        for (small, first_dialed_here) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            let standing = Standing {
                dialed: first_dialed_here,
                young: true,
            };
            let kept_first = judge(standing, !first_dialed_here, small) == Welcome::Refuse;
            let kept_dialed_here = kept_first == first_dialed_here;
            assert_eq!(
                kept_dialed_here, small,
                "small {small}, first {first_dialed_here}"
            );
        }
    }

    #[test]
    fn peer_that_dials_again_is_believed_to_have_lost_the_old_link() {
        let old = Standing {
            dialed: true,
            young: false,
        };
        assert_eq!(judge(old, false, true), Welcome::Replace);
        let same_side = Standing {
            dialed: false,
            young: true,
        };
        assert_eq!(judge(same_side, false, true), Welcome::Replace);
    }
}
