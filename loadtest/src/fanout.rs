//! `fanout`: the real binaries on shaped links. Each process has a network namespace of its own behind a link of known
//! rate; clients pull through every agent at once and check what they get.
//!
//! What for: the time that a fan-out takes against the least that it can take, on links and with processes that are
//! real. What not for: more hosts than this machine's cores can drive (the report says how busy they were), loss and
//! delay. Invariants: nothing of the machine's own network is touched; every process and every namespace is gone
//! afterwards, however the run ends.

mod course;
mod delivery;
mod floor;
mod outcome;
mod scenario;
mod site;
mod transfer;
mod watch;

use std::pin::pin;
use std::time::Duration;

use anyhow::{Result, bail};
use shoal_daemon::config::{ByteSize, Span};

pub use self::scenario::{LinkRate, Scenario};

use self::outcome::Measured;
use crate::cluster::needs;
use crate::interrupt;
use crate::network;
use crate::report::ReportArgs;
use crate::screen::Screen;
use crate::sim::Rate;

/// The real binaries on shaped links.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Example: shoal-loadtest fanout --agents 8 --link 100mbit --blob 256MiB --gate 'makespan_over_goodput_bound<=1.10'"
)]
pub struct FanoutArgs {
    /// How many agents, each with a client.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub agents: u16,
    /// Every link, each way; `none` leaves links as fast as the machine.
    #[arg(long, default_value = "100mbit")]
    pub link: LinkRate,
    /// The longest packet on every link, in bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..=9000))]
    pub mtu: u16,
    /// All layers together.
    #[arg(long, default_value = "256MiB")]
    pub blob: ByteSize,
    /// Layers of mixed sizes, pulled three at a time, as containerd does.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub layers: u16,
    /// Zones; the origin is in the first, agents are spread over them evenly.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub zones: u16,
    /// What the upstream registry gives, over all requests; without it, as fast as the machine.
    #[arg(long)]
    pub upstream_rate: Option<Rate>,
    /// Agents that are frozen (SIGSTOP) when half of the bound has passed; figures are those of the others.
    #[arg(long, default_value_t = 0)]
    pub freeze: u16,
    /// Clients begin at random within this time.
    #[arg(long, default_value = "0s")]
    pub stagger: Span,
    /// The origin holds the image before the clock starts, so that no upstream takes part.
    #[arg(long)]
    pub seeded: bool,
    /// Every agent holds the image before the clock starts.
    #[arg(long)]
    pub warm: bool,
    /// Agents are told to fetch, and no client reads: what storing alone takes.
    #[arg(long, conflicts_with = "baseline")]
    pub preheat: bool,
    /// No Shoal: the same clients straight to the upstream, which is behind a link like theirs.
    #[arg(long, conflicts_with_all = ["seeded", "warm", "freeze", "zones", "floor"])]
    pub baseline: bool,
    /// Measure as well what the bare parts cost: one QUIC pair, hashes, a write, a read, HTTP.
    #[arg(long)]
    pub floor: bool,
    /// What is left to chance on our side follows from it: the image, the stagger.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Leave the data folders and logs where they are.
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    pub output: ReportArgs,
}

/// Runs one fan-out, tells, and checks the gates.
///
/// # Errors
/// No root or a program is missing, a client did not get its image, or a gate does not hold.
pub async fn run(args: FanoutArgs) -> Result<()> {
    args.output.check()?;
    network::ready()?;
    for binary in ["shoal-origin", "shoal-agent"] {
        needs::binary(binary)?;
    }
    let scenario = args.scenario()?;
    let screen = Screen::new();
    let mut stop = pin!(interrupt::listen()?);
    let measured: Measured = tokio::select! {
        measured = Box::pin(site::measure(&screen, &scenario)) => measured?,
        () = &mut stop => bail!("interrupted; processes and namespaces were removed"),
    };
    let report = measured.report(&scenario)?;
    outcome::tell(&screen, &report);
    let report = args.output.finish(&screen, report)?;
    if report.is_unjudged() {
        bail!("the machine was the limit and not the links, so that its times say nothing");
    }
    if !report.passed() {
        bail!("the run failed; repeat it with --seed {}", args.seed);
    }
    Ok(())
}

impl FanoutArgs {
    /// The conditions, checked.
    ///
    /// # Errors
    /// Conditions that contradict each other.
    pub fn scenario(&self) -> Result<Scenario> {
        if self.freeze >= self.agents {
            bail!("--freeze leaves no agent to measure; give less than --agents");
        }
        if self.zones > self.agents {
            bail!("--zones leaves a zone without agents; give at most as many as --agents");
        }
        Ok(Scenario {
            agents: usize::from(self.agents),
            link: self.link,
            mtu: self.mtu,
            layers: scenario::layer_sizes(self.blob.bytes(), usize::from(self.layers))?,
            zones: usize::from(self.zones),
            upstream_rate: self.upstream_rate,
            freeze: usize::from(self.freeze),
            stagger: self.stagger.duration(),
            seeded: self.seeded,
            warm: self.warm,
            preheat: self.preheat,
            baseline: self.baseline,
            floor: self.floor,
            seed: self.seed,
            keep: self.keep,
        })
    }
}

/// Seconds, for sums with figures.
fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}
