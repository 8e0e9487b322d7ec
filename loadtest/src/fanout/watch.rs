//! What can be seen while a fan-out runs: bars for people, and the film that the report draws.
//!
//! Links are read from the kernel and clients' bytes from the clients, both for nothing; what the processes say of
//! themselves costs them a reply, so it is asked for once a second only. Not here: the figures (those are read before
//! and after).

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use indicatif::ProgressBar;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::delivery::Progress;
use super::outcome::{CROSS_ZONE, UPLOADED};
use super::scenario::Scenario;
use super::site::Site;
use crate::cluster::Member;
use crate::network::machine::{LinkBytes, link_of};
use crate::report;
use crate::screen::Screen;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks between two questions to the processes.
const LOOKS_PER_QUESTION: u32 = 10;
/// A process that is frozen does not answer; its last figures stand.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// A run as it was seen.
#[derive(Debug, Default)]
pub(super) struct Film {
    pub(super) progress: report::Progress,
    pub(super) links: report::Links,
    pub(super) copies: report::Copies,
}

pub(super) struct Watch<'a> {
    site: &'a Site,
    progress: Vec<Progress>,
    began: Instant,
    blob_bytes: f64,
    bars: Vec<ProgressBar>,
    links: Vec<Watched>,
    crossed: Vec<f64>,
    looked_at: Instant,
    looks: u32,
    film: Film,
}

/// One process's link, as it was at the last look.
struct Watched {
    pid: i32,
    bytes: LinkBytes,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        screen: &Screen,
        scenario: &Scenario,
        site: &'a Site,
        progress: Vec<Progress>,
        began: Instant,
    ) -> Result<Self> {
        let mut film = Film::default();
        let (mut bars, mut links) = (Vec::new(), Vec::new());
        for index in 0..scenario.agents {
            let name = super::scenario::agent(index);
            bars.push(screen.bar(&name, scenario.bytes()));
            film.progress.rows.push(report::ProgressRow {
                name,
                percent: Vec::new(),
            });
        }
        for member in site.members() {
            let pid = member.process()?.pid();
            let bytes = link_of(pid)?;
            links.push(Watched { pid, bytes });
            film.links.rows.push(report::LinkUse {
                name: member.name().to_owned(),
                bits_per_sec: scenario.link.rate().map(|rate| rate.bits_per_sec()),
                ..report::LinkUse::default()
            });
        }
        Ok(Self {
            site,
            progress,
            began,
            blob_bytes: scenario.bytes() as f64,
            bars,
            links,
            crossed: vec![0.0; site.agents.len()],
            looked_at: began,
            looks: 0,
            film,
        })
    }

    /// Looks on until it is dropped. Cancel safe: a look is taken whole or not at all.
    pub(super) async fn follow(&mut self) -> Result<Infallible> {
        let mut ticks = interval_at(self.began + LOOK_EVERY, LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.look()?;
            if self.looks.is_multiple_of(LOOKS_PER_QUESTION) {
                self.ask().await;
            }
            self.looks += 1;
        }
    }

    /// The last look, and all that was seen.
    pub(super) fn end(mut self) -> Film {
        // A process that died meanwhile is told of elsewhere.
        let _last = self.look();
        for bar in &self.bars {
            bar.finish_and_clear();
        }
        self.film
    }

    fn look(&mut self) -> Result<()> {
        let now = Instant::now();
        let at = (now - self.began).as_secs_f64();
        let since = (now - self.looked_at).as_secs_f64().max(1e-3);
        self.looked_at = now;
        let held = self
            .progress
            .iter()
            .map(|held| held.load(Ordering::Relaxed));
        for ((held, bar), row) in held.zip(&self.bars).zip(&mut self.film.progress.rows) {
            bar.set_position(held);
            row.percent.push(percent(held as f64 / self.blob_bytes));
        }
        self.film.progress.at_s.push(at);
        for (link, row) in self.links.iter_mut().zip(&mut self.film.links.rows) {
            let bytes = link_of(link.pid)?;
            let rate = |now: u64, before: u64| (now - before) as f64 * 8.0 / since;
            row.tx_bits_per_sec.push(rate(bytes.tx, link.bytes.tx));
            row.rx_bits_per_sec.push(rate(bytes.rx, link.bytes.rx));
            link.bytes = bytes;
        }
        if !self.links.is_empty() {
            self.film.links.at_s.push(at);
        }
        Ok(())
    }

    async fn ask(&mut self) {
        let Some(origin) = &self.site.origin else {
            return;
        };
        let ask = async |member: &Member| {
            let answer = timeout(ANSWER_WITHIN, member.metrics()).await;
            answer.ok().and_then(Result::ok)
        };
        let agents = join_all(self.site.agents.iter().map(ask));
        let (origin, agents) = tokio::join!(ask(origin), agents);
        for (crossed, metrics) in self.crossed.iter_mut().zip(agents) {
            if let Some(metrics) = metrics {
                *crossed = metrics.sum(CROSS_ZONE.0, &[CROSS_ZONE.1]);
            }
        }
        let Some(origin) = origin else { return };
        let upstream = self.site.upstream.asked_of(&self.site.image);
        let upstream: u64 = upstream.iter().map(|asked| asked.bytes).sum();
        let copies = &mut self.film.copies;
        copies.at_s.push(self.began.elapsed().as_secs_f64());
        copies
            .origin
            .push(origin.sum(UPLOADED, &[]) / self.blob_bytes);
        copies.upstream.push(upstream as f64 / self.blob_bytes);
        copies
            .cross_zone
            .push(self.crossed.iter().sum::<f64>() / self.blob_bytes);
    }
}

fn percent(share: f64) -> u8 {
    (0..=100u8)
        .rev()
        .find(|percent| f64::from(*percent) <= share * 100.0)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_down_so_that_a_hundred_is_all() {
        assert_eq!(
            [0.0, 0.004, 0.5, 0.999, 1.0, 1.2].map(percent),
            [0, 0, 50, 99, 100, 100]
        );
    }
}
