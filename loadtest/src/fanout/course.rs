//! The measured run: every client pulls, everything is watched, some agents may be frozen half-way.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::future::{join_all, try_join_all};
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until, timeout};

use super::delivery::{self, Delivery, Progress};
use super::outcome::{Account, Measured};
use super::scenario::Scenario;
use super::site::Site;
use super::watch::Watch;
use crate::ballast::Ballast;
use crate::cluster::Member;
use crate::network::machine::{self, MachineCpu};
use crate::screen::Screen;

pub(super) async fn run(screen: &Screen, scenario: &Scenario, site: &Site) -> Result<Measured> {
    if scenario.seeded {
        let act = screen.act("the origin fetches the image, unmeasured");
        site.seed().await?;
        act.done("");
    }
    if scenario.warm {
        warm_up(screen, scenario, site).await?;
    }
    let _ballast = ballast(screen, scenario).await?;
    let act = screen.act(&format!(
        "{} clients pull {}",
        scenario.agents,
        crate::screen::bytes(scenario.bytes())
    ));
    let progress: Vec<Progress> = (0..scenario.agents).map(|_| Progress::default()).collect();
    let before = Account::open(site).await?;
    let cpu = MachineCpu::now()?;
    let began = Instant::now();
    let mut watch = Watch::new(screen, scenario, site, progress.clone(), began)?;
    let starts = starts(scenario);
    let pulls = pulls(scenario, site, &starts, &progress, began);
    let deliveries = tokio::select! {
        deliveries = pulls => deliveries?,
        failed = watch.follow() => match failed? {},
    };
    let busy = MachineCpu::now()?.busy_since(cpu);
    let film = watch.end();
    let after = Account::open(site).await?;
    act.done("");
    Ok(Measured {
        image_bytes: site.image.blob_bytes(),
        deliveries,
        starts,
        before,
        after,
        rss_max: rss_max(site)?,
        busy,
        film,
        transfers: None,
        floor: None,
    })
}

/// The memory that the run will fill is made ready, unless it fills none: else the machine may be the limit of a shaped run
/// for no reason of ours, and where links are not shaped, CPU is what is measured.
async fn ballast(screen: &Screen, scenario: &Scenario) -> Result<Option<Ballast>> {
    if scenario.warm || scenario.baseline {
        return Ok(None);
    }
    let act = screen.act("have memory at hand for what will be stored");
    let stores = scenario.agents as u64 + u64::from(!scenario.seeded);
    let ballast = Ballast::take_on(scenario.bytes() * stores).await?;
    act.done("");
    Ok(Some(ballast))
}

/// When each client begins.
fn starts(scenario: &Scenario) -> Vec<Duration> {
    let mut chance = fastrand::Rng::with_seed(scenario.seed);
    let start = |_| scenario.stagger.mul_f64(chance.f64());
    (0..scenario.agents).map(start).collect()
}

async fn warm_up(screen: &Screen, scenario: &Scenario, site: &Site) -> Result<()> {
    let act = screen.act("every agent fetches the image, unmeasured");
    let now = vec![Duration::ZERO; scenario.agents];
    let nobody: Vec<Progress> = now.iter().map(|_| Progress::default()).collect();
    let warm = everybody(scenario, site, &now, &nobody, Instant::now()).await?;
    if let Some(failure) = warm.iter().find_map(|delivery| delivery.failure.as_ref()) {
        bail!("a client did not get its image: {failure}");
    }
    act.done("");
    Ok(())
}

/// All clients that count, and the freezing of agents that do not.
async fn pulls(
    scenario: &Scenario,
    site: &Site,
    starts: &[Duration],
    progress: &[Progress],
    began: Instant,
) -> Result<Vec<Delivery>> {
    let counted = scenario.agents - scenario.freeze;
    let measured = everybody(
        scenario,
        site,
        &starts[..counted],
        &progress[..counted],
        began,
    );
    // The clients whose agents will be frozen pull like the others, and nobody waits for them.
    let frozen = try_join_all((counted..scenario.agents).map(|index| {
        one(
            scenario,
            site,
            index,
            starts[index],
            &progress[index],
            began,
        )
    }));
    let freeze = async {
        if scenario.freeze > 0 {
            sleep_until(began + scenario.line_time() / 2).await;
            site.signal_last(scenario.freeze, Signal::STOP)?;
        }
        std::future::pending::<Result<Infallible>>().await
    };
    let aside = async {
        let (_, never) = tokio::try_join!(frozen, freeze)?;
        Ok::<Infallible, anyhow::Error>(never)
    };
    tokio::select! {
        deliveries = measured => deliveries,
        failed = aside => match failed? {},
    }
}

async fn everybody(
    scenario: &Scenario,
    site: &Site,
    starts: &[Duration],
    progress: &[Progress],
    began: Instant,
) -> Result<Vec<Delivery>> {
    let pulls = starts
        .iter()
        .zip(progress)
        .enumerate()
        .map(|(index, (start, progress))| one(scenario, site, index, *start, progress, began));
    try_join_all(pulls).await
}

async fn one(
    scenario: &Scenario,
    site: &Site,
    index: usize,
    start: Duration,
    progress: &Progress,
    began: Instant,
) -> Result<Delivery> {
    let (client, preheat) = (site.client(index), scenario.preheat);
    let progress = Arc::clone(progress);
    let room = site.rooms.get(index).context("a room for each client")?;
    let (at, within) = (began + start, scenario.deadline());
    room.run(async move {
        sleep_until(at).await;
        let pulled = timeout(within, delivery::deliver(client, preheat, progress)).await;
        pulled.unwrap_or_else(|_| Delivery {
            failure: Some(format!("not done after {within:?}")),
            ..Delivery::default()
        })
    })
    .await
}

/// The most memory that any of our processes had.
fn rss_max(site: &Site) -> Result<Option<u64>> {
    let high = |member: &Member| member.process()?.memory_high_bytes();
    let all: Vec<u64> = site.members().map(high).collect::<Result<_>>()?;
    Ok(all.into_iter().max())
}

impl Account {
    /// What everybody says of itself, now. A frozen agent says nothing, and is left out.
    pub(super) async fn open(site: &Site) -> Result<Self> {
        const WITHIN: Duration = Duration::from_secs(2);
        let cpu = |member: &Member| machine::cpu_of(member.process()?.pid());
        let cpu = site.members().map(cpu).sum::<Result<Duration>>()?;
        let read = site.members().map(async |member| {
            let metrics = timeout(WITHIN, member.metrics()).await;
            (member.name().to_owned(), metrics.ok().and_then(Result::ok))
        });
        let metrics = join_all(read).await;
        let asked = site.upstream.asked_of(&site.image);
        Ok(Self {
            origin: metrics.first().and_then(|(_, metrics)| metrics.clone()),
            agents: metrics
                .into_iter()
                .skip(1)
                .map(|(_, metrics)| metrics)
                .collect(),
            cpu,
            upstream_bytes: asked.iter().map(|asked| asked.bytes).sum(),
            upstream_gets: asked.iter().map(|asked| asked.gets).max().unwrap_or(0),
        })
    }
}
