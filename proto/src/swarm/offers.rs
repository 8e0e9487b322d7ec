//! To whom an origin offers its fresh pieces, so that each leaves it once and its uplink never idles (D7).
//!
//! An origin tells nobody what it holds. It tells one agent of one fresh piece, in the order of the blob, and goes
//! on to another agent with the next; the agents tell each other. So nobody asks in vain, and the origin's copies
//! are counted in pieces, not in agents. With few agents about and nothing fresh left, what they lack is offered
//! again rather than letting the uplink idle.
//!
//! Not here: the answer to a request (`serving`), the state of a piece (`ledger`).

use std::time::Duration;

use crate::node::context::Context;
use crate::node::peers::PeerIx;
use crate::wire::PeerMessage;
use crate::{Instant, PieceIndex, limits};

use super::ledger::Gift;
use super::{Stage, Swarm};

impl Swarm {
    /// Offers one piece, if there is one to offer and somebody to offer it to.
    pub(crate) fn offer_one(&mut self, cx: &mut Context, now: Instant) -> bool {
        let Some(ledger) = self.ledger.as_ref() else {
            return false;
        };
        let first: Vec<PieceIndex> = ledger.fresh().take(limits::FRESH_LOOKED_AT).collect();
        for piece in &first {
            // Those behind it must not wait where nobody is left to offer it to, or nobody who takes anything.
            if self.is_with_all(*piece) {
                if let Some(ledger) = self.ledger.as_mut() {
                    ledger.spread(*piece);
                }
            } else if let Some(to) = self.choose_agent(Some(*piece), cx, now) {
                self.offer_to(*piece, to, cx, now);
                return true;
            }
        }
        first.is_empty() && self.offer_again(cx, now)
    }

    /// Every agent that takes part says that it holds the piece, and some do take part.
    fn is_with_all(&self, piece: PieceIndex) -> bool {
        let mut agents = self
            .neighbours
            .iter()
            .filter(|neighbour| !neighbour.is_origin && neighbour.interested)
            .peekable();
        agents.peek().is_some() && agents.all(|agent| agent.has(piece))
    }

    /// Whether this swarm has anybody to give to.
    pub(crate) fn is_giving(&self) -> bool {
        self.ledger.is_some() && self.neighbours.len() > 0 && self.stage != Stage::Gone
    }

    /// Brings the count over all swarms up to what this one has offered.
    pub(crate) fn count_offers(&mut self, cx: &mut Context) {
        let offered = self
            .ledger
            .as_ref()
            .map_or(0, super::ledger::Ledger::offered);
        let offered = if self.stage == Stage::Gone {
            0
        } else {
            offered
        };
        cx.offered = cx.offered - self.counted_offers + offered;
        self.counted_offers = offered;
    }

    /// Agents that take part and still lack something.
    pub(super) fn agents(&self) -> usize {
        let lacks = |holds: &crate::Bitfield| !holds.is_full();
        self.neighbours
            .iter()
            .filter(|neighbour| {
                !neighbour.is_origin
                    && neighbour.interested
                    && neighbour.holds.as_ref().is_some_and(lacks)
            })
            .count()
    }

    /// Some agent holds everything: what the others lack is its to give, and the origin's uplink may idle.
    pub(super) fn is_seeded(&self) -> bool {
        self.neighbours.iter().any(|neighbour| {
            !neighbour.is_origin
                && neighbour
                    .holds
                    .as_ref()
                    .is_some_and(crate::Bitfield::is_full)
        })
    }

    /// The agent that is to have the next piece: the one with the fewest pieces on their way to it, then the one that
    /// was given the fewest. With agents in other zones, the one that was given the fewest in the first place, where a
    /// piece given abroad counts for several: all of a few agents have pieces on their way at any time. Never one that has
    /// just let an offer pass, does not take what it is being sent, or is known to be slow, while others are not.
    fn choose_agent(
        &self,
        piece: Option<PieceIndex>,
        cx: &mut Context,
        now: Instant,
    ) -> Option<PeerIx> {
        let usual = cx.slots.usual_bytes_per_sec();
        let others_abroad = self.neighbours.iter().any(|neighbour| !neighbour.near);
        let mut best = None;
        for neighbour in self.neighbours.iter() {
            let on_the_way = cx.slots.to_peer(neighbour.peer) + neighbour.offers as usize;
            let wants = match piece {
                Some(piece) => !neighbour.has(piece),
                None => neighbour
                    .holds
                    .as_ref()
                    .is_some_and(|holds| !holds.is_full()),
            };
            if neighbour.is_origin
                || !neighbour.interested
                || !wants
                || on_the_way >= limits::PIECES_IN_FLIGHT_PER_ORIGIN_MAX
            {
                continue;
            }
            let slow = match (cx.peers.get(neighbour.peer).upload.bytes_per_sec(), usual) {
                (Some(rate), Some(usual)) => rate < 0.4 * usual,
                _ => false,
            };
            let rests = neighbour.rests_until.is_some_and(|until| until > now);
            let share = if !others_abroad {
                0
            } else if neighbour.near {
                neighbour.given
            } else {
                neighbour
                    .given
                    .saturating_mul(limits::GIFTS_HOME_PER_ABROAD)
            };
            let key = (
                rests || cx.slots.keeps_waiting(neighbour.peer, now),
                slow,
                share,
                on_the_way,
                neighbour.given,
                cx.rng.u32(..),
            );
            if best.is_none_or(|(least, _)| key < least) {
                best = Some((key, neighbour.peer));
            }
        }
        best.map(|(_, peer)| peer)
    }

    fn offer_to(&mut self, piece: PieceIndex, to: PeerIx, cx: &mut Context, now: Instant) {
        let until = now + self.offer_patience(cx);
        if let (Some(ledger), Some(neighbour)) = (self.ledger.as_mut(), self.neighbours.get_mut(to))
        {
            ledger.offer(piece, to, until);
            neighbour.offers += 1;
            cx.say(
                to,
                PeerMessage::Have {
                    digest: self.digest,
                    indexes: vec![piece.get()],
                    held: 0,
                },
            );
        }
    }

    /// Nothing is fresh: with few agents, what they lack is offered a second time while the uplink would idle.
    fn offer_again(&mut self, cx: &mut Context, now: Instant) -> bool {
        let idle = cx.offered + cx.slots.on_time(now) < limits::UPLOAD_SLOTS;
        if !idle || self.agents() >= limits::FEW_AGENTS || self.is_seeded() {
            return false;
        }
        let Some(to) = self.choose_agent(None, cx, now) else {
            return false;
        };
        let (Some(ledger), Some(pieces), Some(neighbour)) = (
            self.ledger.as_ref(),
            self.pieces.as_ref(),
            self.neighbours.get(to),
        ) else {
            return false;
        };
        let lacking = pieces
            .held()
            .iter()
            .filter(|piece| {
                !neighbour.has(*piece)
                    && ledger.gift(*piece) != Gift::Given(to)
                    && !neighbour.was_offered(*piece)
            })
            .min_by_key(|piece| (pieces.holders(*piece), *piece));
        let Some(piece) = lacking else { return false };
        self.offer_to(piece, to, cx, now);
        if let Some(neighbour) = self.neighbours.get_mut(to) {
            neighbour.remember_offer(piece);
        }
        true
    }

    /// How long an agent may take to ask for what it was offered.
    fn offer_patience(&self, cx: &Context) -> Duration {
        self.four_pieces(cx).max(limits::OFFER_PATIENCE)
    }

    pub(super) fn four_pieces(&self, cx: &Context) -> Duration {
        cx.slots
            .usual_bytes_per_sec()
            .map_or(Duration::ZERO, |rate| {
                Duration::from_secs_f64(4.0 * f64::from(self.piece_bytes()) / rate)
            })
    }

    /// A gift was sent: until when a second copy must be announced.
    pub(super) fn second_copy_by(&self, cx: &Context, now: Instant) -> Instant {
        now + self.four_pieces(cx).max(limits::SECOND_COPY_MIN) + limits::NEWS_TO_ORIGIN_DELAY
    }

    /// Takes back what had no effect in time.
    pub(super) fn recall_offers(&mut self, cx: &Context, now: Instant) {
        let patience = self.offer_patience(cx);
        let (agents, seeded) = (self.agents(), self.is_seeded());
        while let (Some(ledger), Some(pieces)) = (self.ledger.as_mut(), self.pieces.as_ref()) {
            let Some(piece) = ledger.pop_deadline(now) else {
                break;
            };
            match ledger.gift(piece) {
                Gift::Offered(to) => {
                    let holders = pieces.holders(piece);
                    if holders > 1 || seeded {
                        ledger.spread(piece)
                    } else {
                        ledger.renew(piece)
                    }
                    if let Some(neighbour) = self.neighbours.get_mut(to) {
                        neighbour.offers = neighbour.offers.saturating_sub(1);
                        // Once may have been a bad time; again and again, it may be gone.
                        let doubled =
                            patience * (1 << neighbour.declined.min(limits::OFFERS_DOUBLED_MAX));
                        neighbour.rests_until = Some(now + doubled.min(limits::OFFER_REST_MAX));
                        neighbour.declined = neighbour.declined.saturating_add(1);
                    }
                }
                // Who holds everything gives what the others lack, and whoever doubts it pleads.
                Gift::Given(_) if pieces.holders(piece) >= 2 || agents < 2 || seeded => {
                    ledger.spread(piece)
                }
                Gift::Given(_) => {
                    ledger.renew(piece);
                }
                Gift::Absent | Gift::Fresh | Gift::Spread => {}
            }
        }
    }

    pub(super) fn next_recall(&self, cx: &Context) -> Option<Instant> {
        if cx.is_origin() {
            self.ledger.as_ref()?.next_deadline()
        } else {
            None
        }
    }
}
