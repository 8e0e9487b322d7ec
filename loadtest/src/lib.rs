//! The proving ground: a local cluster of the real binaries, the demonstration, and what tests of them need.
//!
//! Nothing depends on it. The daemons are run, not linked; only the simulator takes the tracker's directory as it is.
//! A library, so that the tests of this package can use its parts; the binary is [`run`] behind a `main`.

mod ballast;
pub mod bench;
pub mod clients;
pub mod cluster;
pub mod demo;
pub mod fanout;
pub mod interrupt;
pub mod layout;
pub mod network;
pub mod report;
pub mod screen;
pub mod sim;
pub mod tarball;
pub mod up;
pub mod workload;

use clap::{Parser, Subcommand};

/// The proving ground of Shoal
#[derive(Debug, Parser)]
#[command(version, after_help = "Example: shoal-loadtest demo --agents 5")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure every promise about fan-out, each by its own command line (needs root)
    Bench(bench::BenchArgs),
    /// Measure what pulling through an agent costs a real containerd, against the same pull straight from the registry
    Clients(clients::ClientsArgs),
    /// Hold two reports side by side
    Compare(report::compare::CompareArgs),
    /// Show the main job with real parts: containerd pulls an image through Shoal, and the next nodes get it from the first
    Demo(demo::DemoArgs),
    /// Run the real binaries on shaped links, each in a network namespace of its own (needs root)
    Fanout(Box<fanout::FanoutArgs>),
    /// Draw the page of a report that was written earlier
    Report(report::draw::DrawArgs),
    /// Run the shipped core at scale in virtual time
    Simulate(Box<sim::SimulateArgs>),
    /// Start a whole local cluster and leave it until Ctrl-C
    Up(up::UpArgs),
}

/// Does what the command line says.
pub async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Bench(args) => bench::run(args).await,
        Command::Clients(args) => Box::pin(clients::run(args)).await,
        Command::Compare(args) => report::compare::run(&args),
        Command::Demo(args) => Box::pin(demo::run(args)).await,
        Command::Fanout(args) => Box::pin(fanout::run(*args)).await,
        Command::Report(args) => report::draw::run(&args),
        Command::Simulate(args) => sim::run(&args),
        Command::Up(args) => Box::pin(up::run(args)).await,
    }
}
