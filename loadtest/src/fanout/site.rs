//! Everything that a fan-out runs on: the network, the upstream, the processes, and a room in each namespace.
//!
//! Not here: the measured run (`course`). Invariant: processes end before their namespaces go, and those before their
//! folder.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use rustix::process::Signal;

use super::course;
use super::floor::{self, Floor};
use super::outcome::Measured;
use super::scenario::{self, ORIGIN, Scenario, UPSTREAM};
use super::transfer::{self, Transfers};
use crate::cluster::client::Client;
use crate::cluster::config::{self, RegistryEntry};
use crate::cluster::folder::RunFolder;
use crate::cluster::trial::{REPOSITORY, TAG};
use crate::cluster::upstream::Upstream;
use crate::cluster::{ClusterOptions, Member};
use crate::network::Network;
use crate::network::room::Room;
use crate::screen::Screen;
use crate::sim::Rate;
use crate::workload::Image;

/// Fields in the order in which they go.
pub(super) struct Site {
    /// None for a baseline.
    pub(super) origin: Option<Member>,
    /// As many as the scenario has; empty for a baseline.
    pub(super) agents: Vec<Member>,
    /// Where each client is.
    pub(super) rooms: Vec<Arc<Room>>,
    pub(super) upstream: Upstream,
    _upstream_room: Room,
    network: Network,
    folder: RunFolder,
    pub(super) image: Arc<Image>,
}

/// Builds, measures, and takes down again.
pub(super) async fn measure(screen: &Screen, scenario: &Scenario) -> Result<Measured> {
    let mut site = Site::build(screen, scenario).await?;
    let transfers = Box::pin(site.transfers(screen, scenario)).await?;
    let floor = site.floor(screen, scenario).await?;
    site.start(screen, scenario).await?;
    let measured = course::run(screen, scenario, &site).await;
    let stopped = site.stop(scenario).await;
    let measured = measured.map_err(|error| site.explain(error))?;
    stopped?;
    Ok(Measured {
        transfers,
        floor,
        ..measured
    })
}

impl Site {
    async fn build(screen: &Screen, scenario: &Scenario) -> Result<Self> {
        let mut folder = RunFolder::create("fanout")?;
        if scenario.keep {
            folder.keep();
            screen.aside(&format!("kept: {}", folder.path().display()));
        }
        let stores = scenario.agents as u64 + 2;
        // Where memory is had at hand, that takes half as much again as the stores.
        folder.need(scenario.bytes() * (stores + stores * 3 / 2))?;
        let act = screen.act("make the image");
        let (seed, sizes) = (scenario.seed, scenario.layers.clone());
        let image = tokio::task::spawn_blocking(move || Image::of_sizes(seed, &sizes)).await?;
        let image = Arc::new(image);
        act.done("");
        let act = screen.act(&format!(
            "make {} namespaces, links of {}",
            scenario.hosts().len(),
            scenario.link
        ));
        let network = Network::create(&scenario.hosts(), scenario.mtu)?;
        let upstream_room = Room::enter(&network.space(UPSTREAM))?;
        let served = Arc::clone(&image);
        let upstream = upstream_room
            .run(async move {
                let images = [(REPOSITORY, TAG, &*served)];
                Upstream::start_at(scenario::upstream_address(), &images).await
            })
            .await??;
        upstream.set_rate(scenario.upstream_rate.map(Rate::whole_bytes_per_sec));
        let rooms = (0..scenario.agents)
            .map(|index| {
                Ok(Arc::new(Room::enter(
                    &network.space(&scenario::agent(index)),
                )?))
            })
            .collect::<Result<_>>()?;
        act.done("");
        Ok(Self {
            origin: None,
            agents: Vec::new(),
            rooms,
            upstream,
            _upstream_room: upstream_room,
            network,
            folder,
            image,
        })
    }

    /// Bare QUIC transfers over the links, before anything else uses them: one way, then both ways at once.
    async fn transfers(&self, screen: &Screen, scenario: &Scenario) -> Result<Option<Transfers>> {
        if scenario.baseline {
            return Ok(None);
        }
        let act = screen.act("one tuned QUIC transfer over the same links");
        let from = Room::enter(&self.network.space(ORIGIN))?;
        let to = Room::enter(&self.network.space(&scenario::agent(0)))?;
        let rate = scenario.link.rate().map(Rate::whole_bytes_per_sec);
        let bytes = transfer::bytes_for(rate, scenario.bytes());
        let [address, _] = scenario::transfer_addresses(0);
        let one = transfer::transfer(&from, &to, address, bytes).await?;
        act.done(&format!("{:.1} Mbit/s", one.bits_per_sec() / 1e6));
        let both = if scenario.link.rate().is_some() {
            let act = screen.act("the same both ways at once");
            let addresses = scenario::transfer_addresses(1);
            let both = transfer::both_ways([&from, &to], addresses, bytes / 2);
            let both = Box::pin(both).await?;
            act.done(&format!("{:.1} Mbit/s", both.bits_per_sec() / 1e6));
            Some(both)
        } else {
            None
        };
        Ok(Some(Transfers { one, both }))
    }

    async fn floor(&self, screen: &Screen, scenario: &Scenario) -> Result<Option<Floor>> {
        if !scenario.floor {
            return Ok(None);
        }
        let act = screen.act("the bare parts: hashes, a write, a read, HTTP");
        let space = self.network.space(&scenario::agent(0));
        let floor = floor::measure(&space, self.folder.sub("floor")?).await?;
        act.done("");
        Ok(Some(floor))
    }

    async fn start(&mut self, screen: &Screen, scenario: &Scenario) -> Result<()> {
        if scenario.baseline {
            return Ok(());
        }
        let act = screen.act("start one origin and its agents");
        let mut origin = self.origin(scenario)?;
        origin.start().await?;
        let token = origin.data().join("join-token");
        self.origin = Some(origin);
        let agents = (0..scenario.agents)
            .map(|index| self.agent(scenario, index, &token))
            .collect::<Result<Vec<_>>>()?;
        self.agents = try_join_all(agents.into_iter().map(async |mut agent| {
            agent.start_joined().await?;
            Ok::<_, anyhow::Error>(agent)
        }))
        .await?;
        act.done("");
        Ok(())
    }

    fn origin(&self, scenario: &Scenario) -> Result<Member> {
        let folder = self.folder.sub(ORIGIN)?;
        let addresses = scenario::origin_addresses();
        let zone = (scenario.zones > 1).then(|| scenario.zone_of(0));
        let config = config::origin(
            &folder.join("data"),
            &addresses,
            &[upstream_entry()],
            zone.as_deref(),
        )?;
        let options = ClusterOptions::default();
        let member = Member::new(
            ORIGIN,
            "shoal-origin",
            &folder,
            addresses,
            &config,
            &options,
        )?;
        let space = self.network.space(ORIGIN);
        let room = Arc::new(Room::enter(&space)?);
        Ok(member.inside(space, room))
    }

    fn agent(&self, scenario: &Scenario, index: usize, token: &Path) -> Result<Member> {
        let name = scenario::agent(index);
        let folder = self.folder.sub(&name)?;
        let addresses = scenario::agent_addresses(index);
        let zone = (scenario.zones > 1).then(|| scenario.zone_of(index));
        let config = config::agent(
            &folder.join("data"),
            &addresses,
            token,
            &[upstream_entry()],
            zone.as_deref(),
        )?;
        let options = ClusterOptions::default();
        let member = Member::new(&name, "shoal-agent", &folder, addresses, &config, &options)?;
        let room = self.rooms.get(index).context("a room for each agent")?;
        Ok(member.inside(self.network.space(&name), Arc::clone(room)))
    }

    /// What the client of the agent with this index asks.
    pub(super) fn client(&self, index: usize) -> Client {
        match self.agents.get(index) {
            Some(agent) => agent.client().for_registry(scenario::upstream_address()),
            None => Client::new(scenario::upstream_address()),
        }
    }

    /// Has the origin fetch everything, through its own registry port.
    pub(super) async fn seed(&self) -> Result<()> {
        let origin = self.origin.as_ref().context("a baseline has no origin")?;
        let client = origin.client().for_registry(scenario::upstream_address());
        let room = Room::enter(&self.network.space(ORIGIN))?;
        room.run(async move { client.pull(REPOSITORY, TAG).await })
            .await??;
        Ok(())
    }

    /// Origin and agents, in this order.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.origin.iter().chain(&self.agents)
    }

    /// Stops or continues the last agents of the scenario.
    pub(super) fn signal_last(&self, count: usize, signal: Signal) -> Result<()> {
        for agent in self.agents.iter().rev().take(count) {
            agent.process()?.signal(signal)?;
        }
        Ok(())
    }

    async fn stop(&mut self, scenario: &Scenario) -> Result<()> {
        let frozen = self.agents.len().saturating_sub(scenario.freeze);
        for agent in self.agents.iter_mut().skip(frozen) {
            agent.kill().await?;
        }
        try_join_all(self.agents.iter_mut().map(Member::stop)).await?;
        if let Some(origin) = &mut self.origin {
            origin.stop().await?;
        }
        Ok(())
    }

    /// The end of every log, behind what went wrong.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        use crate::cluster::process::tail;
        const LINES: usize = 5;
        let logs: Vec<String> = self
            .members()
            .map(|member| format!("--- {}\n{}", member.name(), tail(&member.log(), LINES)))
            .collect();
        eprintln!("{}", logs.join("\n"));
        error
    }
}

fn upstream_entry() -> RegistryEntry {
    RegistryEntry::plain(scenario::upstream_address())
}
