//! The command line: without a command the agent runs; the commands ask the agent of this machine, or prepare it.
//!
//! Not here: what the agent does when it runs. Commands find the agent by the same configuration that it runs with.

mod containerd;
mod doctor;
mod image;
mod preheat;
mod print;
mod pull;
mod status;

use std::io::{self, Write as _};

use shoal_daemon::args::DaemonArgs;
use shoal_daemon::config::ConfigError;
use shoal_daemon::exit::UsageError;

use crate::client::AskError;
use crate::config::{self, Config, RawConfig};
use crate::hosts::HostsError;
use crate::hosts::probe::ProbeError;
use crate::run::{self, AgentError};
use crate::snippets::SnippetError;

pub use image::ImageError;

/// Serves container images to this node from its neighbours.
#[derive(Debug, clap::Parser)]
#[command(name = "shoal-agent", version, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "Examples:
  shoal-agent --config /etc/shoal/agent.toml                     run the agent
  shoal-agent --config /etc/shoal/agent.toml containerd install  point this node's containerd at it
  shoal-agent --config /etc/shoal/agent.toml print podman        show what podman must be told
  shoal-agent --config /etc/shoal/agent.toml pull busybox:1.36   pull an image through it, and tell where it came from
  shoal-agent --config /etc/shoal/agent.toml doctor              say what is wrong";

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Point this node's containerd at the agent, undo that, or look at it
    #[command(subcommand)]
    Containerd(containerd::ContainerdCommand),
    /// Look for what is wrong: configuration, ports, cluster, containerd
    Doctor(doctor::DoctorArgs),
    /// Have the agent fetch an image for later, without pulling it
    Preheat(preheat::PreheatArgs),
    /// Print what another container client must be told, for its own configuration file
    Print(print::PrintArgs),
    /// Pull an image through the agent, check it, and tell where its bytes came from
    Pull(pull::PullArgs),
    /// Show what the agent holds and does
    Status(status::StatusArgs),
}

/// Why a command failed. What decides the exit code is a cause of its own, and so not transparent.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{0}")]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0} of the checks failed; each says what to do")]
    Findings(usize),
    #[error(transparent)]
    Hosts(#[from] HostsError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cannot write to standard output: {0}")]
    Print(io::Error),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Snippet(#[from] SnippetError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("{0}")]
    Usage(#[from] UsageError),
}

/// Does what the arguments say.
pub async fn main(args: Args) -> Result<(), CliError> {
    let Args { daemon, command } = args;
    let Some(command) = command else {
        let Some(config) = daemon.configure::<RawConfig, Config>()? else {
            return Ok(());
        };
        shoal_daemon::telemetry::init(&config.log, daemon.log_filter())?;
        let shutdown = shoal_daemon::shutdown::on_signal().map_err(CliError::Signals)?;
        return Ok(run::run(config, shutdown).await?);
    };
    let config = config::load(daemon.config.as_deref())?;
    match command {
        Command::Containerd(command) => containerd::main(&config, command).await,
        Command::Doctor(args) => doctor::main(&config, args).await,
        Command::Preheat(args) => preheat::main(&config, args).await,
        Command::Print(args) => print::main(&config, args),
        Command::Pull(args) => pull::main(&config, args).await,
        Command::Status(args) => status::main(&config, args).await,
    }
}

/// Writes lines for people.
fn say(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(CliError::Print)
}

/// `1.5 GiB`
fn human_bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn every_command_parses() {
        Args::command().debug_assert();
        for line in [
            "shoal-agent",
            "shoal-agent --config a.toml --check-config",
            "shoal-agent containerd install --hosts-dir /a --journal-dir /b --wait 2m --stay --default --force",
            "shoal-agent --config a.toml containerd uninstall --hosts-dir /a --journal-dir /b --stay",
            "shoal-agent containerd check --containerd-config /etc/containerd/config.toml",
            "shoal-agent print podman",
            "shoal-agent --config a.toml print containerd --hosts-dir /a",
            "shoal-agent pull docker.io/library/busybox:1 --platform linux/arm64",
            "shoal-agent preheat quay.io/a/b@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "shoal-agent status -o json",
            "shoal-agent doctor --pull busybox",
        ] {
            Args::try_parse_from(line.split_whitespace())
                .unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert!(Args::try_parse_from(["shoal-agent", "push"]).is_err());
    }
}
