//! What must hold of any run, whatever the core decides: watched from outside, with a memory of its own.
//!
//! The world tells what nodes asked for and what happened; nothing here is asked by the world or by a node, so that a
//! mistake in either shows. What it finds is told, with the moment, and fails the run.
//!
//! - Nobody asks for a piece that it holds, nor one peer twice for one piece (I3).
//! - Nobody takes a piece for held that did not arrive from somebody honest: wrong bytes are none (I1).
//! - Nobody serves what it does not hold, nor more at once than the limit says (I6).
//! - In the end, everybody that is alive and honest has the blob (told by the world, which knows who that is).
//!
//! Not here: how fast it went; that is for gates.

use shoal_proto::{Action, Bitfield, Geometry, Input, Instant, PieceIndex, RequestId, limits};

use super::member;

/// Findings that are kept; the first are the ones that matter.
const FINDINGS_MAX: usize = 20;

/// What one member is known to have done.
#[derive(Debug)]
struct Watched {
    lies: bool,
    verified: Bitfield,
    held: Bitfield,
    /// The number of each fetch, of whom, and what.
    asked: Vec<(u64, u32, PieceIndex)>,
    /// Questions of others that are not answered, and answers under way: to whom.
    questions: Vec<(RequestId, u32)>,
    uploads: Vec<(RequestId, u32)>,
}

/// Watches all members.
#[derive(Debug)]
pub(super) struct Checker {
    geometry: Geometry,
    members: Vec<Watched>,
    findings: Vec<String>,
    wrong_bytes: u64,
}

impl Checker {
    /// `liars` says of each member whether it sends wrong pieces.
    pub(super) fn new(geometry: Geometry, liars: impl Iterator<Item = bool>) -> Self {
        let none = || Bitfield::new(geometry.piece_count());
        let watched = |lies| Watched {
            lies,
            verified: none(),
            held: none(),
            asked: Vec::new(),
            questions: Vec::new(),
            uploads: Vec::new(),
        };
        Self {
            geometry,
            members: liars.map(watched).collect(),
            findings: Vec::new(),
            wrong_bytes: 0,
        }
    }

    /// What was found, in the order of finding.
    pub(super) fn findings(&self) -> &[String] {
        &self.findings
    }

    /// Bytes that somebody holds and nobody honest sent.
    pub(super) fn wrong_bytes(&self) -> u64 {
        self.wrong_bytes
    }

    /// Keeps what was found, with its moment.
    pub(super) fn find(&mut self, what: &str, now: Instant) {
        if self.findings.len() < FINDINGS_MAX {
            let secs = now.as_nanos() as f64 / 1e9;
            self.findings.push(format!("{what}, at {secs:.6} s"));
        }
    }

    /// A node is told something.
    pub(super) fn hears(&mut self, at: u32, input: &Input) {
        match input {
            Input::Fetched { transfer } => self.settled(at, transfer.get(), true),
            Input::FetchFailed { transfer, .. } => self.settled(at, transfer.get(), false),
            Input::Asked { request, peer, .. } => {
                let by = member::number(peer);
                self.watched(at).questions.push((*request, by));
            }
            Input::Served { request, .. } => {
                self.watched(at)
                    .uploads
                    .retain(|(other, _)| other != request);
            }
            Input::PeerLost { peer } | Input::Connected { peer, .. } => {
                self.parted(at, member::number(peer));
            }
            Input::Loaded { held, .. } => self.watched(at).verified = held.clone(),
            Input::Ingested { piece, .. } => {
                self.watched(at).verified.set(*piece);
            }
            _ => {}
        }
    }

    /// A node asks for something to be done.
    pub(super) fn does(&mut self, at: u32, action: &Action, now: Instant) {
        match action {
            Action::Fetch {
                transfer,
                peer,
                piece,
                ..
            } => self.asks(at, (transfer.get(), member::number(peer), *piece), now),
            Action::CancelFetch { transfer } => self.settled(at, transfer.get(), false),
            Action::Hangup { peer, .. } => self.parted(at, member::number(peer)),
            Action::Hold { piece, .. } => self.holds(at, *piece, now),
            Action::Refuse { request, .. } => {
                self.answered(at, *request);
            }
            Action::Serve { request, piece, .. } => self.serves(at, *request, *piece, now),
            _ => {}
        }
    }

    fn watched(&mut self, at: u32) -> &mut Watched {
        &mut self.members[at as usize]
    }

    fn asks(&mut self, at: u32, fetch: (u64, u32, PieceIndex), now: Instant) {
        let (_, from, piece) = fetch;
        let watched = self.watched(at);
        let held = watched.held.contains(piece);
        let twice = watched
            .asked
            .iter()
            .any(|(_, other, asked)| (*other, *asked) == (from, piece));
        watched.asked.push(fetch);
        let piece = piece.get();
        if held {
            self.find(
                &format!("{at} asked {from} for piece {piece}, which it holds"),
                now,
            );
        }
        if twice {
            self.find(&format!("{at} asked {from} twice for piece {piece}"), now);
        }
    }

    /// A fetch is over. Only what an honest peer sent counts as come.
    fn settled(&mut self, at: u32, transfer: u64, came: bool) {
        let asked = &mut self.watched(at).asked;
        let Some(place) = asked.iter().position(|(other, ..)| *other == transfer) else {
            return;
        };
        let (_, from, piece) = asked.swap_remove(place);
        if came && !self.watched(from).lies {
            self.watched(at).verified.set(piece);
        }
    }

    fn holds(&mut self, at: u32, piece: PieceIndex, now: Instant) {
        let bytes = u64::from(self.geometry.len_of(piece));
        let watched = self.watched(at);
        let verified = watched.verified.contains(piece);
        let news = watched.held.set(piece);
        let piece = piece.get();
        if !verified {
            self.wrong_bytes += bytes;
            self.find(
                &format!("{at} holds piece {piece}, which nobody honest sent"),
                now,
            );
        }
        if !news {
            self.find(&format!("{at} took piece {piece} twice"), now);
        }
    }

    fn answered(&mut self, at: u32, request: RequestId) -> Option<u32> {
        let questions = &mut self.watched(at).questions;
        let place = questions.iter().position(|(other, _)| *other == request)?;
        Some(questions.swap_remove(place).1)
    }

    fn serves(&mut self, at: u32, request: RequestId, piece: PieceIndex, now: Instant) {
        let to = self.answered(at, request);
        let watched = self.watched(at);
        watched.uploads.extend(to.map(|to| (request, to)));
        let (uploads, holds) = (watched.uploads.len(), watched.verified.contains(piece));
        let piece = piece.get();
        if to.is_none() {
            self.find(
                &format!("{at} serves piece {piece} to nobody who asked"),
                now,
            );
        }
        if !holds {
            self.find(
                &format!("{at} serves piece {piece}, which it does not hold"),
                now,
            );
        }
        if uploads > limits::UPLOADS_MAX {
            self.find(&format!("{at} sends {uploads} pieces at once"), now);
        }
    }

    /// A link is gone, and what was under way on it.
    fn parted(&mut self, at: u32, other: u32) {
        let watched = self.watched(at);
        watched.asked.retain(|(_, from, _)| *from != other);
        watched.uploads.retain(|(_, to)| *to != other);
        watched.questions.retain(|(_, by)| *by != other);
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::{Digest, DigestAlgorithm};

    use super::*;

    const NOW: Instant = Instant::ZERO;

    /// A course of events among 0, 1 and a liar, 2.
    struct Course {
        checker: Checker,
        digest: Digest,
        piece: PieceIndex,
    }

    impl Course {
        fn new() -> Self {
            let geometry = Geometry::try_new(200 << 20, 1 << 20).unwrap();
            let mut checker = Checker::new(geometry, [false, false, true].into_iter());
            let piece = geometry.piece(100).unwrap();
            for at in [0, 2] {
                checker.watched(at).verified.set(piece);
            }
            Self {
                checker,
                digest: Digest::of(DigestAlgorithm::Sha256, b"blob"),
                piece,
            }
        }

        fn fetch(mut self, from: u32, transfer: u64) -> Self {
            self.checker.asks(1, (transfer, from, self.piece), NOW);
            self
        }

        fn fetched(mut self, transfer: u64) -> Self {
            self.checker.settled(1, transfer, true);
            self
        }

        fn hold(mut self) -> Self {
            let (digest, piece) = (self.digest, self.piece);
            self.checker.does(1, &Action::Hold { digest, piece }, NOW);
            self
        }

        fn serve(mut self, at: u32, request: u64) -> Self {
            let (request, digest, piece) = (RequestId(request), self.digest, self.piece);
            let (peer, index) = (member::name(2), piece.get());
            let asked = Input::Asked {
                request,
                peer,
                digest,
                index,
            };
            self.checker.hears(at, &asked);
            let serve = Action::Serve {
                request,
                digest,
                piece,
            };
            self.checker.does(at, &serve, NOW);
            self
        }

        fn served(mut self, at: u32, request: u64) -> Self {
            let request = RequestId(request);
            self.checker.hears(
                at,
                &Input::Served {
                    request,
                    sent: true,
                },
            );
            self
        }

        fn found(&self) -> (usize, u64) {
            (self.checker.findings().len(), self.checker.wrong_bytes())
        }
    }

    #[test]
    fn an_honest_course_has_no_findings() {
        let mut course = Course::new().fetch(0, 1).fetched(1).hold().serve(1, 9);
        for request in 10..20 {
            course = course.serve(0, request).served(0, request);
        }
        assert_eq!(course.found(), (0, 0));
    }

    #[test]
    fn each_broken_rule_is_found() {
        let mib = 1 << 20;
        let cases = [
            (
                "asked for what it holds",
                Course::new().fetch(0, 1).fetched(1).hold().fetch(0, 2),
                0,
            ),
            (
                "asked one peer twice",
                Course::new().fetch(0, 1).fetch(0, 2),
                0,
            ),
            (
                "kept what a liar sent",
                Course::new().fetch(2, 1).fetched(1).hold(),
                mib,
            ),
            ("kept what nobody sent", Course::new().hold(), mib),
            (
                "took it twice",
                Course::new().fetch(0, 1).fetched(1).hold().hold(),
                0,
            ),
            ("served what it has not", Course::new().serve(1, 1), 0),
        ];
        for (rule, course, wrong_bytes) in cases {
            assert_eq!(course.found(), (1, wrong_bytes), "{rule}");
        }
        let mut greedy = Course::new();
        for request in 0..=limits::UPLOADS_MAX as u64 {
            greedy = greedy.serve(0, request);
        }
        assert_eq!(greedy.found(), (1, 0), "sent too many at once");
    }
}
