//! How hard one registry is asked: requests at once, and the pause it asked for.
//!
//! For: one state shared by all that wait for a registry. Not for: how many blobs are brought in at once (that is
//! `ingest`'s).
//!
//! Invariant: after a 429 nobody asks that registry again, with that credential, before the time it told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use shoal_proto::CallerId;
use tokio::time::Instant;

use super::auth::Standing;

/// A pause is never longer than this, whatever upstream says.
pub const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// The pause when a 429 tells none.
pub const PAUSE_DEFAULT: Duration = Duration::from_secs(10);

/// Closed until a registry asks for a pause; then open until that is over.
#[derive(Debug, Default)]
pub struct Circuit {
    open_until: Mutex<Option<Instant>>,
}

impl Circuit {
    /// How long is still to be waited, when it is.
    #[must_use]
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        let mut until = self
            .open_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let left = until
            .map(|until| until.saturating_duration_since(now))
            .filter(|left| !left.is_zero());
        if left.is_none() {
            *until = None;
        }
        left
    }

    /// Upstream asked for a pause. The longer of two stands.
    pub fn trip(&self, pause: Duration, now: Instant) {
        let until = now + pause.min(PAUSE_MAX);
        let mut held = self
            .open_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *held = Some(held.map_or(until, |held| held.max(until)));
    }
}

/// The pause that a 429 or 503 asks for: seconds or a date.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(PAUSE_MAX));
    }
    let at = parse_http_date(text)?;
    Some(at.duration_since(now).unwrap_or_default().min(PAUSE_MAX))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that is still sent.
fn parse_http_date(text: &str) -> Option<SystemTime> {
    let mut words = text.split_once(", ")?.1.split([' ', ':']);
    let mut number = || words.next()?.parse::<i64>().ok();
    let day = number()?;
    let month = words.next()?;
    let month = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    .iter()
    .position(|name| *name == month)?;
    let mut number = || words.next()?.parse::<i64>().ok();
    let (year, hour, minute, second) = (number()?, number()?, number()?, number()?);
    if !(1970..=9999).contains(&year)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    // Days since 1970-01-01 of a proleptic Gregorian date, counted from March so that the leap day comes last.
    let month = i64::try_from(month).ok()? + 1;
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era_day = (153 * month + 2) / 5 + day - 1 + 365 * year + year / 4 - year / 100 + year / 400;
    let seconds = (era_day - 719_468) * 86_400 + hour * 3_600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// The circuits of one registry: what it says to one of those that ask it does not say to all.
#[derive(Debug, Default)]
pub struct Circuits {
    anonymous: Arc<Circuit>,
    configured: Arc<Circuit>,
    callers: Mutex<BTreeMap<CallerId, Arc<Circuit>>>,
}

/// Callers with a circuit of their own, for one registry; when there are more, the others share that of anybody.
const CALLERS_MAX: usize = 4096;

impl Circuits {
    /// The circuit of this origin itself, asking with this right.
    #[must_use]
    pub fn of(&self, standing: Standing) -> Arc<Circuit> {
        match standing {
            Standing::Anonymous => Arc::clone(&self.anonymous),
            Standing::Configured => Arc::clone(&self.configured),
        }
    }

    /// The circuit of a caller's own credential.
    #[must_use]
    pub fn of_caller(&self, caller: CallerId) -> Arc<Circuit> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= CALLERS_MAX {
            let now = Instant::now();
            callers.retain(|_, circuit| circuit.pause(now).is_some());
        }
        if callers.len() >= CALLERS_MAX && !callers.contains_key(&caller) {
            return self.of(Standing::Anonymous);
        }
        Arc::clone(callers.entry(caller).or_default())
    }
}

/// Waits between attempts: doubling, with jitter, so that many that failed together do not come back together.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Starts at `first` and doubles up to `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// The next wait: between half of the step and all of it.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        step / 2 + step.mul_f64(fastrand::f64() / 2.0)
    }
}

/// What a registry says of the rate that it grants whoever asks it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Headroom {
    /// Requests that are left.
    pub remaining: u64,
    /// Of how many, where it says so.
    pub limit: Option<u64>,
}

impl Headroom {
    /// As the headers tell it: `76;w=21600` with the window's seconds, or a bare number.
    #[must_use]
    pub fn told(headers: &HeaderMap) -> Option<Self> {
        let number = |name: &str| {
            let text = headers.get(name)?.to_str().ok()?;
            text.split(';').next()?.trim().parse().ok()
        };
        Some(Self {
            remaining: number("ratelimit-remaining")?,
            limit: number("ratelimit-limit"),
        })
    }

    /// Shows it to operators, for one registry and one right to ask it.
    #[expect(
        clippy::cast_precision_loss,
        reason = "gauges; limits are far below 2^52"
    )]
    pub(crate) fn show(self, registry: String, standing: Standing) {
        let labels = [
            ("registry", registry),
            ("standing", standing.label().to_owned()),
        ];
        metrics::gauge!("shoal_upstream_rate_limit_remaining", &labels).set(self.remaining as f64);
        if let Some(limit) = self.limit {
            metrics::gauge!("shoal_upstream_rate_limit", &labels).set(limit as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn retry_after_reads_seconds_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        let cases = [
            ("7", Some(7)),
            ("0", Some(0)),
            ("999999999", Some(PAUSE_MAX.as_secs())),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("Tue, 29 Feb 2000 00:00:00 GMT", Some(PAUSE_MAX.as_secs())),
            ("soon", None),
            ("-4", None),
            ("Sun, 99 Nov 1994 08:50:37 GMT", None),
            ("Sun, 06 Nov", None),
        ];
        for (value, expected) in cases {
            let got = retry_after(&headers("retry-after", value), now).map(|pause| pause.as_secs());
            assert_eq!(got, expected, "{value}");
        }
    }

    #[test]
    fn dates_are_counted_right_around_leap_days() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
        ] {
            assert_eq!(
                parse_http_date(text),
                Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn circuit_stays_open_for_the_time_told_and_then_closes() {
        let circuit = Circuit::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(circuit.pause(start), None);
        circuit.trip(Duration::from_secs(30), start);
        circuit.trip(Duration::from_secs(5), start);
        assert_eq!(
            circuit.pause(start),
            Some(Duration::from_secs(30)),
            "the longer pause stands"
        );
        assert_eq!(circuit.pause(after(29)), Some(Duration::from_secs(1)));
        assert_eq!(circuit.pause(after(30)), None);
        circuit.trip(Duration::from_secs(1_000_000), after(30));
        assert_eq!(circuit.pause(after(30)), Some(PAUSE_MAX));
    }

    #[test]
    fn backoff_doubles_with_jitter_and_is_bounded() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for step in [100, 200, 400, 800, 1_000, 1_000] {
            let wait = backoff.pause();
            assert!(
                wait >= Duration::from_millis(step / 2) && wait <= Duration::from_millis(step),
                "{wait:?} of {step}"
            );
        }
    }

    #[test]
    fn headroom_is_read_in_both_forms_and_never_guessed() {
        let cases = [
            ("100;w=21600", "76;w=21600", Some((76, Some(100)))),
            ("", "5", Some((5, None))),
            ("many", "0", Some((0, None))),
            ("100", "", None),
            ("100", "many", None),
            ("", "", None),
        ];
        for (limit, remaining, expected) in cases {
            let mut told = HeaderMap::new();
            if !limit.is_empty() {
                told.extend(headers("ratelimit-limit", limit));
            }
            if !remaining.is_empty() {
                told.extend(headers("ratelimit-remaining", remaining));
            }
            let headroom = Headroom::told(&told).map(|told| (told.remaining, told.limit));
            assert_eq!(headroom, expected, "{limit} {remaining}");
        }
    }
}
