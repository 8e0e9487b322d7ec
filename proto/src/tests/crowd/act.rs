//! What the crowd does for a node: every action carried out as the real driver does.
//!
//! Not here: what happens by itself in virtual time (the parent).

use super::*;

impl Crowd {
    #[expect(clippy::too_many_lines, reason = "one arm for each action")]
    pub(super) fn perform(&mut self, at: usize, action: Action) {
        let rtt = self.options.latency * 2;
        match action {
            Action::Announce { swarms, .. } => self.announce(at, &swarms),
            Action::CancelFetch { transfer } => self.cancel(at, transfer),
            Action::Closed { .. } => {}
            Action::Commit { digest } => {
                assert_eq!(
                    self.members[at].held.len() as u64,
                    self.options.pieces,
                    "commit of a partial blob"
                );
                self.members[at].finished.get_or_insert(self.now);
                self.later(
                    Duration::from_millis(1),
                    Event::Input(at, Input::Completed { digest }),
                );
            }
            Action::Dial { peer, .. } => self.dial(at, &peer),
            Action::Failed { reason, .. } => self.members[at].failed = Some(reason),
            Action::Fetch {
                transfer,
                peer,
                piece,
                ..
            } => self.fetch(at, transfer, &peer, piece),
            Action::Hangup { peer, .. } => {
                let other = self.find(&peer);
                if self.linked.remove(&(at.min(other), at.max(other))) {
                    self.flows.advance(self.now);
                    self.flows.take(|flow| {
                        (flow.from, flow.to) == (at, other) || (flow.to, flow.from) == (at, other)
                    });
                    self.members[at]
                        .fetching
                        .retain(|_, (from, _)| *from != other);
                    self.members[other]
                        .fetching
                        .retain(|_, (from, _)| *from != at);
                    let peer = self.members[at].id;
                    self.later(
                        self.options.latency,
                        Event::Input(other, Input::PeerLost { peer }),
                    );
                }
            }
            Action::Hold { piece, .. } => self.hold(at, piece),
            Action::Learned { .. } => {}
            Action::Open { digest, origin } => {
                self.opens += 1;
                let origin_at = self.find(&origin);
                let up = self.members[origin_at].conduct == Conduct::Honest;
                let result = if up {
                    Ok(self.info)
                } else {
                    Err(Refusal::new(RefusalCode::Unavailable))
                };
                if up {
                    self.seed(origin_at);
                }
                self.later(
                    rtt,
                    Event::Input(
                        at,
                        Input::Opened {
                            digest,
                            origin,
                            result,
                        },
                    ),
                );
            }
            Action::Refuse { request, refusal } => {
                if let Some((to, transfer)) = self.requests.remove(&request) {
                    *self.refusals.entry(name(refusal.code)).or_default() += 1;
                    self.later(
                        self.options.latency,
                        Event::Answer(to, transfer, Some(refusal)),
                    );
                }
            }
            Action::Say { peer, message } => self.say(at, &peer, message),
            Action::Serve { request, piece, .. } => self.serve(at, request, piece),
        }
    }

    pub(super) fn hold(&mut self, at: usize, piece: PieceIndex) {
        let member = &mut self.members[at];
        assert!(member.held.insert(piece.get()), "I3: held twice");
        if member.role == Role::Origin {
            return;
        }
        let before = member.cursor;
        while member.held.contains(&u32::try_from(member.cursor).unwrap()) {
            member.cursor += 1;
        }
        if member.cursor > before {
            member.first_byte.get_or_insert(self.now);
            let input = Input::ReadAdvanced {
                digest: self.info.digest,
                reader: ReaderId(1),
                at: member.cursor * MIB,
            };
            self.later(Duration::ZERO, Event::Input(at, input));
        }
    }

    /// The origin begins to read the blob from upstream, or holds it already.
    pub(super) fn seed(&mut self, at: usize) {
        if !self.ingesting.insert(at) {
            return;
        }
        self.input(at, Input::Seeded { info: self.info });
        for piece in self.info.geometry.pieces() {
            let after = self.options.ingest_per_sec.map_or(Duration::ZERO, |rate| {
                Duration::from_secs_f64(f64::from(piece.get() + 1) / rate)
            });
            self.later(
                after,
                Event::Input(
                    at,
                    Input::Ingested {
                        digest: self.digest(),
                        piece,
                    },
                ),
            );
        }
    }

    pub(super) fn announce(&mut self, at: usize, swarms: &[SwarmChange]) {
        if !self.tracker_up {
            return;
        }
        if let Some(swarm) = swarms.first() {
            self.members[at].announced = swarm.state != SwarmState::Left;
        }
        if !swarms.iter().any(|swarm| swarm.wants_peers) {
            return;
        }
        let live = |other: &usize| {
            *other != at
                && self.members[*other].announced
                && self.members[*other].conduct != Conduct::Crashed
        };
        let mut others: Vec<usize> = self.agents().filter(live).collect();
        fastrand::Rng::with_seed(self.options.seed + at as u64).shuffle(&mut others);
        let zone = &self.members[at].zone;
        let (near, far): (Vec<usize>, Vec<usize>) = others
            .into_iter()
            .partition(|other| self.members[*other].zone == *zone);
        let far = far
            .into_iter()
            .take(if self.options.zones > 1 { 4 } else { 0 });
        let named: Vec<usize> = near.into_iter().take(16).chain(far).collect();
        let known = named
            .iter()
            .any(|other| !self.members[*other].held.is_empty());
        let injected = !named.is_empty();
        let peers = named
            .into_iter()
            .chain(0..self.options.origins)
            .map(|other| self.candidate(other))
            .collect();
        let info = known.then_some(self.info);
        let handed = Input::Handed {
            digest: self.digest(),
            info,
            peers,
            injected,
        };
        self.later(self.options.latency * 2, Event::Input(at, handed));
    }

    pub(super) fn candidate(&self, at: usize) -> Candidate {
        let member = &self.members[at];
        let held = u32::try_from(member.held.len()).unwrap();
        Candidate {
            peer: member.id,
            addr: addr(at),
            zone: member.zone.clone(),
            role: member.role,
            held: if member.role == Role::Origin { 0 } else { held },
            seeding: member.finished.is_some(),
        }
    }

    pub(super) fn dial(&mut self, at: usize, peer: &PeerId) {
        let other = self.find(peer);
        let rtt = self.options.latency * 2;
        if self.members[other].conduct == Conduct::Crashed {
            let peer = *peer;
            return self.later(rtt, Event::Input(at, Input::DialFailed { peer }));
        }
        if !self.linked.insert((at.min(other), at.max(other))) {
            return;
        }
        for (a, b) in [(at, other), (other, at)] {
            let member = &self.members[b];
            let connected = Input::Connected {
                peer: member.id,
                role: member.role,
                zone: member.zone.clone(),
                addr: addr(b),
            };
            self.later(rtt, Event::Input(a, connected));
        }
    }

    pub(super) fn is_linked(&self, a: usize, b: usize) -> bool {
        self.linked.contains(&(a.min(b), a.max(b)))
    }

    pub(super) fn say(&mut self, at: usize, peer: &PeerId, message: PeerMessage) {
        self.messages += 1;
        let (to, peer) = (self.find(peer), self.members[at].id);
        if self.is_linked(at, to) {
            self.later(
                self.options.latency,
                Event::Input(to, Input::PeerSaid { peer, message }),
            );
        }
    }

    pub(super) fn fetch(
        &mut self,
        at: usize,
        transfer: TransferId,
        peer: &PeerId,
        piece: PieceIndex,
    ) {
        let from = self.find(peer);
        assert!(
            !self.members[at].held.contains(&piece.get()),
            "asked for a piece that is held"
        );
        let twice = self.members[at]
            .fetching
            .values()
            .any(|other| *other == (from, piece));
        assert!(!twice, "asked the same peer twice for one piece");
        self.members[at].fetching.insert(transfer, (from, piece));
        self.later(
            self.options.latency,
            Event::Asked(from, at, transfer, piece),
        );
        self.later(limits::FETCH_STALLED_AFTER, Event::Stalled(at, transfer));
    }

    pub(super) fn cancel(&mut self, at: usize, transfer: TransferId) {
        if self.members[at].fetching.remove(&transfer).is_none() {
            return;
        }
        self.flows.advance(self.now);
        for flow in self
            .flows
            .take(|flow| flow.to == at && flow.transfer == transfer)
        {
            self.wasted_bytes += flow.bytes - flow.left;
            let served = Input::Served {
                request: flow.request,
                sent: false,
            };
            self.later(self.options.latency, Event::Input(flow.from, served));
        }
    }

    pub(super) fn serve(&mut self, at: usize, request: RequestId, piece: PieceIndex) {
        assert!(
            self.members[at].held.contains(&piece.get()),
            "serves what it does not hold"
        );
        let Some((to, transfer)) = self.requests.remove(&request) else {
            return;
        };
        if !self.members[to].fetching.contains_key(&transfer) {
            return self.later(
                self.options.latency,
                Event::Input(
                    at,
                    Input::Served {
                        request,
                        sent: false,
                    },
                ),
            );
        }
        self.flows.advance(self.now);
        let bytes = u64::from(self.info.geometry.len_of(piece));
        self.flows.start((at, to), request, transfer, bytes);
    }
}
