//! What is known of headers: those in hand with their ages, those on their way, and what each place wants.
//!
//! Not for: fetching anything. Time is an argument.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::super::error::UpstreamError;
use super::{Authorization, TokenKey, Wanted};

/// Tokens remembered for one registry.
const TOKENS_MAX: usize = 4096;
/// Places whose wants are remembered for one registry: its own host, and what it redirects to is not.
const PLACES_MAX: usize = 16;
/// A header is replaced when it has lived this share of its life,
const REFRESH_AT: f64 = 0.8;
/// and not sent any more at this one: it must still be good when it arrives.
const UNSENT_AT: f64 = 0.95;

/// A fetch that any number may wait for.
pub(super) type Fetch = Shared<BoxFuture<'static, Result<Authorization, UpstreamError>>>;

#[derive(Debug)]
struct Kept {
    authorization: Authorization,
    refresh_at: Instant,
    unsent_at: Instant,
}

/// How far a header has come in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// To be sent.
    Good(Authorization),
    /// To be sent, and to be replaced meanwhile.
    Ending(Authorization),
    /// Not in hand.
    Missing,
}

/// The books of one registry.
#[derive(Default)]
pub(super) struct Book {
    kept: BTreeMap<TokenKey, Kept>,
    fetching: BTreeMap<TokenKey, Fetch>,
    wanted: BTreeMap<String, Wanted>,
    serial: u64,
}

impl Book {
    pub(super) fn phase(&self, key: &TokenKey, now: Instant) -> Phase {
        match self.kept.get(key) {
            Some(kept) if now < kept.refresh_at => Phase::Good(kept.authorization.clone()),
            Some(kept) if now < kept.unsent_at => Phase::Ending(kept.authorization.clone()),
            Some(_) | None => Phase::Missing,
        }
    }

    /// A header that may still be sent.
    pub(super) fn in_hand(&self, key: &TokenKey, now: Instant) -> Option<Authorization> {
        match self.phase(key, now) {
            Phase::Good(authorization) | Phase::Ending(authorization) => Some(authorization),
            Phase::Missing => None,
        }
    }

    pub(super) fn keep(
        &mut self,
        key: TokenKey,
        authorization: Authorization,
        life: Duration,
        now: Instant,
    ) {
        if self.kept.len() >= TOKENS_MAX {
            self.kept.retain(|_, kept| now < kept.refresh_at);
        }
        if self.kept.len() < TOKENS_MAX {
            let kept = Kept {
                authorization,
                refresh_at: now + life.mul_f64(REFRESH_AT),
                unsent_at: now + life.mul_f64(UNSENT_AT),
            };
            self.kept.insert(key, kept);
        }
    }

    pub(super) fn fetching(&self, key: &TokenKey) -> Option<Fetch> {
        self.fetching.get(key).cloned()
    }

    pub(super) fn begin(&mut self, key: TokenKey, fetch: Fetch) {
        self.fetching.insert(key, fetch);
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn knows(&self, place: &str) -> bool {
        self.wanted.contains_key(place)
    }

    pub(super) fn wanted(&self, place: &str) -> Option<Wanted> {
        self.wanted.get(place).cloned()
    }

    pub(super) fn note(&mut self, place: &str, wanted: Wanted) {
        if self.wanted.len() < PLACES_MAX || self.knows(place) {
            self.wanted.insert(place.to_owned(), wanted);
        }
    }

    pub(super) fn note_if_new(&mut self, place: &str, wanted: Wanted) {
        if !self.knows(place) {
            self.note(place, wanted);
        }
    }

    pub(super) fn forget(&mut self, place: &str) {
        self.wanted.remove(place);
    }
}

/// Waits for a fetch, and strikes it off the book when it has ended.
pub(super) async fn settle(
    book: &Mutex<Book>,
    key: &TokenKey,
    fetch: Fetch,
) -> Result<Authorization, UpstreamError> {
    let result = fetch.clone().await;
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    let running = book.fetching.get(key);
    if running.is_some_and(|running| running.ptr_eq(&fetch)) {
        book.fetching.remove(key);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::Standing;
    use super::*;
    use crate::upstream::guard::secret_header;

    fn key() -> TokenKey {
        TokenKey {
            place: "https://registry.example".into(),
            standing: Standing::Anonymous,
            repository: "team/app".into(),
        }
    }

    fn authorization() -> Authorization {
        let header = secret_header("Bearer canary-canary").unwrap();
        Authorization { header, serial: 1 }
    }

    #[test]
    fn header_is_replaced_at_four_fifths_of_its_life_and_not_sent_at_its_end() {
        let mut book = Book::default();
        let start = Instant::now();
        let phase =
            |book: &Book, seconds| match book.phase(&key(), start + Duration::from_secs(seconds)) {
                Phase::Good(_) => "good",
                Phase::Ending(_) => "ending",
                Phase::Missing => "missing",
            };
        assert_eq!(phase(&book, 0), "missing");
        book.keep(key(), authorization(), Duration::from_secs(100), start);
        for (seconds, expected) in [
            (0, "good"),
            (79, "good"),
            (80, "ending"),
            (94, "ending"),
            (95, "missing"),
        ] {
            assert_eq!(phase(&book, seconds), expected, "after {seconds} s");
        }
    }

    #[test]
    fn wants_of_a_place_are_kept_until_they_change() {
        let mut book = Book::default();
        book.note_if_new("a", Wanted::Nothing);
        book.note("a", Wanted::Basic);
        book.note_if_new("a", Wanted::Nothing);
        assert!(matches!(book.wanted("a"), Some(Wanted::Basic)));
        book.forget("a");
        assert!(!book.knows("a"));
        for number in 0..100 {
            book.note(&number.to_string(), Wanted::Basic);
        }
        assert!(book.wanted.len() <= PLACES_MAX);
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let now = Instant::now();
        let kept = Kept {
            authorization: authorization(),
            refresh_at: now,
            unsent_at: now,
        };
        assert!(!format!("{kept:?}").contains("canary"));
    }
}
