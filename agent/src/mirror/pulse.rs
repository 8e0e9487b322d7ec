//! Which registries' origins have fallen silent, so that clients wait for them once and not at every request.
//!
//! A pull is a dozen requests; if each of them waited for an origin that is dead or frozen, or for an upstream that hangs,
//! a mirror would be worse than none. After one question about a registry went unanswered for long, the next ones get
//! little time, until one is answered or the silence is old enough for a patient question.
//! Not here: whether an origin is alive (`shoal_peer`); a silence says only that it did not answer us.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use shoal_proto::Digest;
use shoal_proto::limits::{
    HTTP_ANSWER_DEADLINE, HTTP_CONNECTIONS_MAX, HTTP_SILENCE_AFTER, HTTP_SILENCE_HOLD,
    HTTP_SILENT_DEADLINE,
};
use tokio::time::Instant;

use super::name::RegistryName;
use super::reply::{Failure, Fallthrough};

/// The silences that are remembered: at most one for each registry of the allow-list, with no more blobs than there are
/// connections on which one could be given up.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    silences: Mutex<HashMap<RegistryName, Silence>>,
}

/// No origin has answered about a registry since.
#[derive(Debug)]
struct Silence {
    until: Instant,
    given_up: BTreeSet<Digest>,
}

impl Silence {
    fn from(now: Instant) -> Self {
        Self {
            until: now + HTTP_SILENCE_HOLD,
            given_up: BTreeSet::new(),
        }
    }
}

/// One question about a registry: asked when, and with how much patience.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    asked: Instant,
    within: Duration,
}

impl Patience {
    pub(crate) fn deadline(&self) -> Instant {
        self.asked + self.within
    }
}

impl Pulse {
    /// How long a question asked now may take. `orphan`: no origin is known, so that only peers could answer.
    pub(crate) fn patience(
        &self,
        registry: &RegistryName,
        orphan: bool,
        asked: Instant,
    ) -> Patience {
        let silent = self.with(|silences| {
            silences
                .get(registry)
                .is_some_and(|silence| asked < silence.until)
        });
        let within = if silent || orphan {
            HTTP_SILENT_DEADLINE
        } else {
            HTTP_ANSWER_DEADLINE
        };
        Patience { asked, within }
    }

    /// An origin answered, were it with a no.
    pub(crate) fn answered(&self, registry: &RegistryName) {
        self.with(|silences| silences.remove(registry));
    }

    /// A question came to nothing. Only patience that was tried counts, so that short questions do not prolong a silence.
    pub(crate) fn failed(
        &self,
        registry: &RegistryName,
        patience: Patience,
        failure: &Failure,
        now: Instant,
    ) {
        if failure.status != StatusCode::SERVICE_UNAVAILABLE {
            self.answered(registry);
        } else if patience.within == HTTP_ANSWER_DEADLINE
            && (unreachable(failure)
                || now.saturating_duration_since(patience.asked) >= HTTP_SILENCE_AFTER)
        {
            tracing::info!(%registry, %failure, "no answer about a registry: for a while, its requests wait less");
            self.silence(registry, now, |_| ());
        }
    }

    /// An answer was cut short after a long wait for its next byte.
    pub(crate) fn gave_up(&self, registry: &RegistryName, digest: Digest, now: Instant) {
        tracing::info!(%registry, digest = %digest.short(), "a blob was given up: for a while it is not begun again, and requests about its registry wait less");
        self.silence(registry, now, |silence| {
            if silence.given_up.len() < HTTP_CONNECTIONS_MAX {
                silence.given_up.insert(digest);
            }
        });
    }

    /// Whether a blob was given up in a silence that still lasts: what of it is here would be a beginning without an end.
    pub(crate) fn has_given_up(
        &self,
        registry: &RegistryName,
        digest: &Digest,
        now: Instant,
    ) -> bool {
        self.with(|silences| {
            silences
                .get(registry)
                .is_some_and(|silence| now < silence.until && silence.given_up.contains(digest))
        })
    }

    fn silence(&self, registry: &RegistryName, now: Instant, act: impl FnOnce(&mut Silence)) {
        self.with(|silences| {
            let silence = silences
                .entry(registry.clone())
                .or_insert_with(|| Silence::from(now));
            if silence.until <= now {
                *silence = Silence::from(now);
            }
            silence.until = now + HTTP_SILENCE_HOLD;
            act(silence);
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<RegistryName, Silence>) -> T) -> T {
        act(&mut self.silences.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Nobody could be asked, which is known sooner than a silence.
fn unreachable(failure: &Failure) -> bool {
    matches!(
        failure.reason,
        Fallthrough::NoOrigin | Fallthrough::NoSource
    )
}

#[cfg(test)]
mod tests {
    use super::super::reply::OciCode;
    use super::*;

    fn registry(name: &str) -> RegistryName {
        name.parse().unwrap()
    }

    fn within(pulse: &Pulse, name: &str, now: Instant) -> Duration {
        pulse.patience(&registry(name), false, now).within
    }

    /// A patient question that failed after `took`.
    fn fail_after(pulse: &Pulse, took: Duration, start: Instant) -> Instant {
        let patience = pulse.patience(&registry("a.io"), false, start);
        pulse.failed(&registry("a.io"), patience, &Failure::late(), start + took);
        start + took
    }

    #[test]
    fn after_a_long_wait_for_nothing_the_next_questions_are_short_and_later_one_is_patient() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        assert_eq!(within(&pulse, "a.io", start), HTTP_ANSWER_DEADLINE);
        let now = fail_after(&pulse, HTTP_SILENCE_AFTER, start);
        assert_eq!(within(&pulse, "a.io", now), HTTP_SILENT_DEADLINE);
        assert_eq!(within(&pulse, "b.io", now), HTTP_ANSWER_DEADLINE);
        let later = now + HTTP_SILENCE_HOLD;
        assert_eq!(within(&pulse, "a.io", later), HTTP_ANSWER_DEADLINE);
    }

    #[test]
    fn a_quick_no_is_no_silence_and_any_answer_ends_one() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let now = fail_after(&pulse, HTTP_SILENCE_AFTER / 2, start);
        assert_eq!(within(&pulse, "a.io", now), HTTP_ANSWER_DEADLINE);
        let now = fail_after(&pulse, HTTP_SILENCE_AFTER, now);
        pulse.answered(&registry("a.io"));
        assert_eq!(within(&pulse, "a.io", now), HTTP_ANSWER_DEADLINE);
        let now = fail_after(&pulse, HTTP_SILENCE_AFTER, now);
        let patience = pulse.patience(&registry("a.io"), false, now);
        let absent = Failure::cannot(OciCode::BlobUnknown, Fallthrough::NotFound, "");
        pulse.failed(&registry("a.io"), patience, &absent, now);
        assert_eq!(within(&pulse, "a.io", now), HTTP_ANSWER_DEADLINE);
    }

    #[test]
    fn an_origin_that_cannot_be_reached_is_a_silence_at_once() {
        let (pulse, now) = (Pulse::default(), Instant::now());
        let patience = pulse.patience(&registry("a.io"), false, now);
        let unreachable = Failure::broken(Fallthrough::NoOrigin, "");
        pulse.failed(&registry("a.io"), patience, &unreachable, now);
        assert_eq!(within(&pulse, "a.io", now), HTTP_SILENT_DEADLINE);
    }

    #[test]
    fn what_was_given_up_is_not_begun_again_until_an_origin_answers_or_the_silence_is_over() {
        let (pulse, now) = (Pulse::default(), Instant::now());
        let (one, other) = (Digest::Sha256([1; 32]), Digest::Sha256([2; 32]));
        let given_up =
            |name: &str, blob: &Digest, now| pulse.has_given_up(&registry(name), blob, now);
        pulse.gave_up(&registry("a.io"), one, now);
        assert_eq!(within(&pulse, "a.io", now), HTTP_SILENT_DEADLINE);
        assert!(given_up("a.io", &one, now));
        assert!(!given_up("a.io", &other, now) && !given_up("b.io", &one, now));
        let later = now + HTTP_SILENCE_HOLD;
        assert!(!given_up("a.io", &one, later));
        assert_eq!(within(&pulse, "a.io", later), HTTP_ANSWER_DEADLINE);
        // A new silence knows nothing of what was given up in an older one.
        pulse.gave_up(&registry("a.io"), other, later);
        assert!(!given_up("a.io", &one, later) && given_up("a.io", &other, later));
        pulse.answered(&registry("a.io"));
        assert!(!given_up("a.io", &other, later));
    }

    #[test]
    fn short_questions_do_not_prolong_a_silence() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let silent_from = fail_after(&pulse, HTTP_SILENCE_AFTER, start);
        let mut now = silent_from;
        while now < silent_from + HTTP_SILENCE_HOLD {
            assert_eq!(within(&pulse, "a.io", now), HTTP_SILENT_DEADLINE);
            now = fail_after(&pulse, HTTP_SILENCE_AFTER, now);
        }
        assert_eq!(within(&pulse, "a.io", now), HTTP_ANSWER_DEADLINE);
    }

    #[test]
    fn without_an_origin_nobody_waits_long() {
        let (pulse, now) = (Pulse::default(), Instant::now());
        let patience = pulse.patience(&registry("a.io"), true, now);
        assert_eq!(patience.deadline(), now + HTTP_SILENT_DEADLINE);
    }
}
