//! Bars that follow each node's bytes while it pulls.
//!
//! What for: something to watch. What not for: figures (those are read once, when all is done).

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::sleep;

use crate::cluster::Member;
use crate::screen::{Screen, bytes};

const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Follows an agent's counters on a bar of its own until the returned future is dropped; it never ends by itself.
pub(super) async fn follow(screen: Screen, name: String, agent: &Member, expected: Option<u64>) {
    let bar = Cleared(screen.bar(&name, expected.unwrap_or(0)));
    loop {
        if let Ok(metrics) = agent.metrics().await {
            let of = |source| metrics.count("shoal_download_bytes_total", &[("source", source)]);
            let (peers, origin) = (of("peer"), of("origin"));
            if expected.is_none() {
                bar.0.set_length(peers + origin);
            }
            bar.0.set_position(peers + origin);
            bar.0.set_message(format!(
                "from peers {}, from the origin {}",
                bytes(peers),
                bytes(origin)
            ));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A bar that goes with whoever watched it.
struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
