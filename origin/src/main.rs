//! `shoal-origin`: arguments, configuration, logs, run, exit code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use shoal_daemon::args::DaemonArgs;
use shoal_origin::config::{Config, RawConfig};
use shoal_origin::upstream::EnvProxies;

/// Pulls each blob from its registry once, and seeds it to Shoal's agents.
///
/// Example: shoal-origin --config /etc/shoal/origin.toml
#[derive(Debug, Parser)]
#[command(name = "shoal-origin", version)]
struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn main() -> ExitCode {
    shoal_daemon::exit::main("shoal-origin", async |args: Args| {
        let Some(mut config) = args.daemon.configure::<RawConfig, Config>()? else {
            return Ok(());
        };
        shoal_daemon::telemetry::init(&config.log, args.daemon.log_filter())?;
        let shutdown = shoal_daemon::shutdown::on_signal()?;
        config.proxies = EnvProxies::from_environment(shoal_daemon::config::process_environment());
        // One TLS provider for the process; a second installation could only be the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        shoal_origin::run(config, shutdown).await?;
        Ok(())
    })
}
