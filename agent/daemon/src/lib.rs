//! How to be a Shoal process: arguments, configuration, logs, metrics, admin port, signals, exit codes.
//!
//! Every daemon is the same five lines around its own `run(config, shutdown)`:
//!
//! ```no_run
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Clone, Debug, Default, Deserialize, Serialize)]
//! # #[serde(default, deny_unknown_fields)]
//! # struct RawConfig { log: shoal_daemon::telemetry::LogSection }
//! # async fn run(_: RawConfig, _: tokio_util::sync::CancellationToken) -> std::io::Result<()> { Ok(()) }
//! #[derive(clap::Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     daemon: shoal_daemon::args::DaemonArgs,
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     shoal_daemon::exit::main("shoal-example", async |args: Args| {
//!         let Some(config) = args.daemon.configure::<RawConfig, RawConfig>()? else {
//!             return Ok(()); // --check-config or --print-config has been answered
//!         };
//!         shoal_daemon::telemetry::init(&config.log, args.daemon.log_filter())?;
//!         run(config, shoal_daemon::shutdown::on_signal()?).await?;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! What is not here: anything about images, blobs, peers or the wire. This crate depends on none of ours, so
//! that a change of what Shoal does never touches how its processes behave.

pub mod admin;
pub mod args;
pub mod bind;
pub mod config;
pub mod data_dir;
pub mod exit;
pub mod memory;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;
pub mod watchdog;
