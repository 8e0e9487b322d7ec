//! `containerd install|uninstall|check`: arguments and words; the work is in `hosts`.

use std::path::PathBuf;

use shoal_daemon::config::Span;

use super::{CliError, say};
use crate::config::Config;
use crate::hosts::check::{self, Verdict};
use crate::hosts::{self, HostsPlan, Outcome, Scope, probe};

#[derive(Debug, clap::Subcommand)]
pub(super) enum ContainerdCommand {
    /// Write hosts.toml for each registry, with this agent first; only once the agent answers
    Install(InstallArgs),
    /// Put every hosts.toml back as it was
    Uninstall(WhereArgs),
    /// Say in one screen whether containerd's pulls come to this agent
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct WhereArgs {
    /// containerd's config_path
    #[arg(long, value_name = "DIR", default_value = "/etc/containerd/certs.d")]
    hosts_dir: PathBuf,
    /// Where the files' originals are remembered; `containerd` in the data folder by default
    #[arg(long, value_name = "DIR")]
    journal_dir: Option<PathBuf>,
    /// One file for all registries (`_default`) instead of one for each
    #[arg(long)]
    default: bool,
    /// Do not end afterwards, but wait for a signal: for a container that must not restart
    #[arg(long)]
    stay: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct InstallArgs {
    #[command(flatten)]
    place: WhereArgs,
    /// How long the agent may take to answer
    #[arg(long, value_name = "TIME", default_value = "0s")]
    wait: Span,
    /// Write the files although the agent does not answer
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    place: WhereArgs,
    /// containerd's own configuration
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/containerd/config.toml"
    )]
    pub(super) containerd_config: PathBuf,
}

pub(super) async fn main(config: &Config, command: ContainerdCommand) -> Result<(), CliError> {
    match command {
        ContainerdCommand::Install(args) => install(config, args).await,
        ContainerdCommand::Uninstall(place) => {
            tell(
                &hosts::uninstall(&place.plan(config))?,
                "nothing of ours was there",
            )?;
            stay(place.stay).await
        }
        ContainerdCommand::Check(args) => {
            let findings = check::inspect(&args.place.plan(config), &args.containerd_config);
            let bad = findings
                .iter()
                .filter(|finding| finding.verdict == Verdict::Bad)
                .count();
            for finding in findings {
                say(&format!("{}  {}", mark(finding.verdict), finding.text))?;
            }
            if bad > 0 {
                Err(CliError::Findings(bad))
            } else {
                Ok(())
            }
        }
    }
}

async fn install(config: &Config, args: InstallArgs) -> Result<(), CliError> {
    let plan = args.place.plan(config);
    match probe::await_agent(plan.agent, args.wait.duration()).await {
        Ok(name) => say(&format!("agent {name} answers on {}", plan.agent))?,
        Err(error) if args.force => say(&format!("{error}; writing all the same"))?,
        Err(error) => return Err(error.into()),
    }
    tell(&hosts::install(&plan)?, "no registry to write for")?;
    stay(args.place.stay).await
}

impl WhereArgs {
    pub(super) fn plan(&self, config: &Config) -> HostsPlan {
        HostsPlan {
            hosts_dir: self.hosts_dir.clone(),
            journal_dir: self
                .journal_dir
                .clone()
                .unwrap_or_else(|| config.data_dir.join("containerd")),
            agent: config.registry_address(),
            scope: if self.default {
                Scope::Default
            } else {
                Scope::each(&config.registries)
            },
        }
    }
}

impl CheckArgs {
    /// What `doctor` looks at.
    pub(super) fn usual(containerd_config: PathBuf, hosts_dir: PathBuf) -> Self {
        let place = WhereArgs {
            hosts_dir,
            journal_dir: None,
            default: false,
            stay: false,
        };
        Self {
            place,
            containerd_config,
        }
    }

    pub(super) fn plan(&self, config: &Config) -> HostsPlan {
        self.place.plan(config)
    }
}

fn tell(outcomes: &[(PathBuf, Outcome)], nothing: &str) -> Result<(), CliError> {
    if outcomes.is_empty() {
        return say(nothing);
    }
    for (path, outcome) in outcomes {
        let word = match outcome {
            Outcome::Restored => "restored",
            Outcome::TakenOut => "our part taken out, later edits kept",
            Outcome::Unchanged => "unchanged",
            Outcome::Written => "written",
        };
        say(&format!("{}: {word}", path.display()))?;
    }
    Ok(())
}

pub(super) fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Bad => "FAIL",
        Verdict::Good => "ok  ",
        Verdict::Odd => "note",
    }
}

async fn stay(stay: bool) -> Result<(), CliError> {
    if stay {
        let ended = shoal_daemon::shutdown::on_signal().map_err(CliError::Signals)?;
        ended.cancelled().await;
    }
    Ok(())
}
