//! `shoal-tracker`: arguments, configuration, logs, run, exit code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use shoal_daemon::args::DaemonArgs;
use shoal_tracker::config::{Config, RawConfig};

/// Introduces Shoal peers to each other.
///
/// Example: shoal-tracker --config /etc/shoal/tracker.toml
#[derive(Debug, Parser)]
#[command(name = "shoal-tracker", version)]
struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn main() -> ExitCode {
    shoal_daemon::exit::main("shoal-tracker", async |args: Args| {
        let Some(config) = args.daemon.configure::<RawConfig, Config>()? else {
            return Ok(());
        };
        shoal_daemon::telemetry::init(&config.log, args.daemon.log_filter())?;
        let shutdown = shoal_daemon::shutdown::on_signal()?;
        shoal_tracker::run(config, shutdown).await?;
        Ok(())
    })
}
