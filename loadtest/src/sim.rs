//! `simulate`: the shipped core and the shipped tracker directory at scale, in virtual time.
//!
//! A discrete-event simulator at the level of flows: links are shared max-min fairly, messages take half a round trip
//! and the receiver's time, links take their handshake. One seed gives one run, told by one trace hash. What is
//! simplified, and what that does to the figures, stands in `docs/SIMULATION.md`.
//!
//! Not here: real processes, real bytes, CPU and disks; those are measured by running the binaries.

mod act;
mod check;
mod desk;
mod flows;
mod happen;
mod member;
mod outcome;
mod quantity;
mod queue;
mod reported;
mod samples;
mod scenario;
mod trace;
mod world;

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use shoal_daemon::config::{ByteSize, Span};
use shoal_proto::Geometry;

pub use self::outcome::Outcome;
pub use self::quantity::{Rate, Share};
pub use self::samples::Drawn;
pub use self::scenario::Scenario;

use self::world::World;
use crate::report::ReportArgs;
use crate::screen::{Screen, table};

/// The core at scale, in virtual time.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Example: shoal-loadtest simulate --agents 1000 --link 10gbit --blob 5GiB --piece 4MiB"
)]
pub struct SimulateArgs {
    /// How many agents want the blob.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub agents: u32,
    /// Every link, each way.
    #[arg(long, default_value = "10gbit")]
    pub link: Rate,
    /// The blob's length.
    #[arg(long, default_value = "1GiB")]
    pub blob: ByteSize,
    /// A piece's length; by default what an origin would choose.
    #[arg(long)]
    pub piece: Option<ByteSize>,
    /// Zones, or racks; agents are spread over them evenly.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub zones: u16,
    /// Each zone's link to the others, each way; without it, zones cost nothing but are counted.
    #[arg(long)]
    pub zone_link: Option<Rate>,
    /// Round trip time between any two.
    #[arg(long, default_value = "500us")]
    pub rtt: Span,
    /// What a control message costs its receiver.
    #[arg(long, default_value = "10us")]
    pub message_cost: Span,
    /// From upstream to the origin; without it, the origin has the blob.
    #[arg(long)]
    pub upstream: Option<Rate>,
    /// Agents whose link is slow.
    #[arg(long, default_value = "0%")]
    pub slow: Share,
    /// By how much.
    #[arg(long, default_value_t = 10.0)]
    pub slow_by: f64,
    /// Agents that send wrong pieces.
    #[arg(long, default_value = "0%")]
    pub liars: Share,
    /// Agents that vanish mid-way.
    #[arg(long, default_value = "0%")]
    pub crash: Share,
    /// Agents begin at random within this time.
    #[arg(long, default_value = "0s")]
    pub stagger: Span,
    /// The tracker is gone for this long, mid-way, and knows nothing when it is back.
    #[arg(long)]
    pub tracker_restart: Option<Span>,
    /// The origin sends nothing for this long, mid-way.
    #[arg(long)]
    pub origin_stall: Option<Span>,
    /// Everything that is left to chance follows from it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub output: ReportArgs,
}

impl SimulateArgs {
    /// The conditions, checked.
    ///
    /// # Errors
    /// A blob that cannot be cut so.
    pub fn scenario(&self) -> Result<Scenario> {
        let geometry = match self.piece {
            Some(piece) => {
                let piece = u32::try_from(piece.bytes()).context("--piece is far too long")?;
                Geometry::try_new(self.blob.bytes(), piece)
            }
            None => Geometry::for_blob(self.blob.bytes()),
        };
        if !(self.slow_by.is_finite() && self.slow_by >= 1.0) {
            bail!("--slow-by is a number of at least 1");
        }
        Ok(Scenario {
            agents: self.agents as usize,
            zones: usize::from(self.zones),
            geometry: geometry.context("the blob cannot be cut so; see --blob and --piece")?,
            link: self.link,
            zone_link: self.zone_link,
            rtt: self.rtt.duration(),
            message_cost: self.message_cost.duration(),
            upstream: self.upstream,
            slow: self.slow,
            slow_by: self.slow_by,
            liars: self.liars,
            crash: self.crash,
            stagger: self.stagger.duration(),
            tracker_restart: self.tracker_restart.map(Span::duration),
            origin_stall: self.origin_stall.map(Span::duration),
            seed: self.seed,
        })
    }
}

/// Runs one scenario to its end; `watch` is told now and then how many agents are left, and the virtual time in seconds.
#[must_use]
pub fn simulate(scenario: Scenario, mut watch: impl FnMut(usize, f64)) -> Outcome {
    let started = Instant::now();
    let mut world = World::new(scenario);
    world.run(|world| watch(world.left, world.now.as_nanos() as f64 / 1e9));
    world.outcome(started.elapsed())
}

/// Simulates, tells, and checks the gates.
///
/// # Errors
/// An agent that should have finished did not, or a gate does not hold.
pub fn run(args: &SimulateArgs) -> Result<()> {
    args.output.check()?;
    let screen = Screen::new();
    let act = screen.act(&format!(
        "simulate {} agents, {} over {}, seed {}",
        args.agents, args.blob, args.link, args.seed
    ));
    let outcome = simulate(args.scenario()?, |left, virtual_s| {
        act.tell(&format!("{left} agents to go at {virtual_s:.2} s"));
    });
    act.done("");
    tell(&screen, &outcome);
    let report = args.output.finish(&screen, outcome.report()?)?;
    for finding in &outcome.findings {
        screen.bad(finding);
    }
    if !(report.passed() && outcome.findings.is_empty()) {
        bail!("the run failed; repeat it with --seed {}", args.seed);
    }
    Ok(())
}

fn tell(screen: &Screen, outcome: &Outcome) {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let refusals: Vec<String> = outcome
        .refusals
        .iter()
        .map(|(code, count)| format!("{code} {count}"))
        .collect();
    screen.say(&table(&[
        row(
            "pieces",
            format!("{} of {} bytes", outcome.pieces, outcome.piece_bytes),
        ),
        row("bound", format!("{:.3} s", outcome.bound_s)),
        row(
            "makespan",
            format!(
                "{:.3} s = {:.3} x bound",
                outcome.makespan_s, outcome.makespan_over_bound
            ),
        ),
        row(
            "p50, p99, max",
            format!(
                "{:.3}, {:.3}, {:.3} s",
                outcome.p50_s, outcome.p99_s, outcome.max_s
            ),
        ),
        row(
            "p99 of the fast",
            format!("{:.3} x bound", outcome.fast_p99_over_bound),
        ),
        row(
            "first byte p50, p99",
            format!("{:.3}, {:.3} s", outcome.ttfb_p50_s, outcome.ttfb_p99_s),
        ),
        row("origin copies", format!("{:.3}", outcome.origin_copies)),
        row(
            "copies into a zone, at most",
            format!("{:.3}", outcome.zone_copies_max),
        ),
        row(
            "duplicates",
            format!("{:.2} %", outcome.duplicate_ratio * 100.0),
        ),
        row("refusals", refusals.join(", ")),
        row(
            "control bytes",
            format!("{:.3} %", outcome.control_byte_ratio * 100.0),
        ),
        row(
            "events",
            format!("{} in {:.1} s", outcome.events, outcome.wall_s),
        ),
        row("trace", outcome.trace.clone()),
    ]));
}
