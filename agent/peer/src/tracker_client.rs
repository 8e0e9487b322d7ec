//! Keeps one link to a tracker: joins and renews, tells what changed, hands back whom to try.
//!
//! Trackers are tried in the order of the configuration, from the one that answered last; names are resolved at each
//! attempt. While none answers, attempts go on for ever with growing, jittered pauses: an unreachable tracker degrades a
//! member and never ends it. Everything signed that a tracker says is checked here.
//!
//! Not here: when to announce and what (the core), and what a handout is good for.

mod queue;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_link::{Credentials, DialError, Endpoint, Expect};
use shoal_proto::limits::{TRACKER_BACKOFF_MAX, TRACKER_BACKOFF_MIN};
use shoal_proto::wire::PeerAddress;
use shoal_proto::{JoinToken, SignedMembership, Zone};
use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

pub(crate) use self::queue::AnnounceQueue;
use self::session::Session;
use crate::driver::report::{Report, TrackerReport};
use crate::exchange::Uploads;
use crate::metrics;
use crate::options::PeerOptions;
use crate::trust::Trust;

/// Why no tracker session came to stand.
#[derive(Debug, thiserror::Error)]
enum TrackerError {
    #[error("tracker {address}: {source}")]
    Dial { address: String, source: DialError },
    #[error("tracker {address} cannot be resolved: {source}")]
    Resolve {
        address: String,
        source: std::io::Error,
    },
    #[error("tracker {0} resolves to no address")]
    NoAddress(String),
    #[error("no membership and no join token: set `join_token_file`")]
    NoToken,
}

/// The client, before it runs.
pub(crate) struct TrackerClient {
    endpoint: Endpoint,
    credentials: Credentials,
    trust: Arc<Trust>,
    trackers: Vec<String>,
    token: Option<JoinToken>,
    zone: Zone,
    advertise: Option<PeerAddress>,
    queue: Arc<AnnounceQueue>,
    uploads: Arc<Uploads>,
    reports: mpsc::Sender<Report>,
    jitter: Jitter,
}

impl TrackerClient {
    pub(crate) fn new(
        endpoint: Endpoint,
        options: &PeerOptions,
        trust: Arc<Trust>,
        queue: Arc<AnnounceQueue>,
        uploads: Arc<Uploads>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            endpoint,
            credentials: options.credentials.clone(),
            trust,
            trackers: options.trackers.clone(),
            token: options.join_token.clone(),
            zone: options.zone.clone(),
            advertise: options.advertise,
            queue,
            uploads,
            reports,
            jitter: Jitter(options.seed),
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        metrics::tracker_connected(false);
        if self.trackers.is_empty() {
            tracing::info!("no tracker is configured");
            return;
        }
        let mut first = 0;
        let mut pause = TRACKER_BACKOFF_MIN;
        loop {
            for turn in 0..self.trackers.len() {
                let at = (first + turn) % self.trackers.len();
                let begun = Instant::now();
                match self.attend(&self.trackers[at].clone()).await {
                    Ok(()) => {
                        first = at;
                        if begun.elapsed() > TRACKER_BACKOFF_MAX {
                            pause = TRACKER_BACKOFF_MIN;
                        }
                        break;
                    }
                    Err(error) => tracing::warn!(%error, "no tracker session"),
                }
            }
            sleep(self.jitter.spread(pause)).await;
            pause = (pause * 2).min(TRACKER_BACKOFF_MAX);
        }
    }

    /// One session with one tracker, from name to the end of the link. `Ok`: there was one.
    async fn attend(&mut self, address: &str) -> Result<(), TrackerError> {
        let mut tried = Err(TrackerError::NoAddress(address.to_owned()));
        for addr in resolve(address).await? {
            tried = self.open(address, addr).await;
            if tried.is_ok() {
                break;
            }
        }
        let session = tried?;
        self.report(TrackerReport::Up {
            tracker: address.to_owned(),
        })
        .await;
        metrics::tracker_connected(true);
        tracing::info!(tracker = address, "tracker connected");
        session.run(self).await;
        metrics::tracker_connected(false);
        tracing::warn!(tracker = address, "tracker lost; known peers are kept");
        self.report(TrackerReport::Down).await;
        Ok(())
    }

    async fn open(&mut self, address: &str, addr: SocketAddr) -> Result<Session, TrackerError> {
        if self.renewal_due() {
            let joined = self.join(address, addr).await;
            // A membership that still holds is enough to go on with.
            if self
                .credentials
                .membership()
                .is_none_or(|m| self.credentials.check(&m).is_err())
            {
                joined?;
            }
        }
        let dialed = self
            .endpoint
            .dial(addr, Expect::Role(shoal_proto::Role::Tracker))
            .await;
        let connected = dialed.map_err(|source| TrackerError::Dial {
            address: address.to_owned(),
            source,
        })?;
        Ok(Session::new(address.to_owned(), connected))
    }

    /// Asks to be let in, or to be let stay.
    async fn join(&self, address: &str, addr: SocketAddr) -> Result<(), TrackerError> {
        let token = self.token.as_ref().ok_or(TrackerError::NoToken)?;
        let joined = self.endpoint.join(addr, token, self.zone.clone()).await;
        let membership = joined.map_err(|source| TrackerError::Dial {
            address: address.to_owned(),
            source,
        })?;
        tracing::info!(tracker = address, "membership received");
        self.credentials.set_membership(membership);
        Ok(())
    }

    /// With a token, a membership is renewed when a third of its life is left; without one, it is somebody else's care.
    fn renewal_due(&self) -> bool {
        match self.credentials.membership() {
            None => true,
            Some(membership) => self.token.is_some() && self.renew_in(&membership).is_zero(),
        }
    }

    /// How long a membership may be kept before it is renewed. Its whole life is not told, so that what is left when it
    /// is first seen counts as its life.
    fn renew_in(&self, membership: &SignedMembership) -> Duration {
        let now = self.credentials.now_unix_s();
        let until = membership.peek().map_or(now, |body| body.not_after_unix_s);
        Duration::from_secs(until.saturating_sub(now)) * 2 / 3
    }

    async fn report(&self, report: TrackerReport) {
        if self.reports.send(Report::Tracker(report)).await.is_err() {
            tracing::trace!("the driver is gone");
        }
    }
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>, TrackerError> {
    let found = lookup_host(address).await;
    let found = found.map_err(|source| TrackerError::Resolve {
        address: address.to_owned(),
        source,
    })?;
    Ok(found.collect())
}

/// Spreads the comebacks of many members after a tracker's restart. SplitMix64 (Steele et al., 2014) over the seed.
struct Jitter(u64);

impl Jitter {
    /// Between half of the pause and the whole of it.
    fn spread(&mut self, pause: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = u32::try_from((mixed >> 32) % 1000).unwrap_or(0);
        pause / 2 + pause * share / 2000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_of_different_seeds_differ_and_stay_within_half_and_whole() {
        let pause = Duration::from_secs(10);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let spread = Jitter(seed).spread(pause);
            assert!((pause / 2..=pause).contains(&spread), "{spread:?}");
            seen.insert(spread);
        }
        assert!(seen.len() > 80, "{} different pauses of 100", seen.len());
    }
}
