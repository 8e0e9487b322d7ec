//! `shoal-agent`: arguments, then the library. Everything else is there.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoal_daemon::exit::main("shoal-agent", async |args: shoal_agent::cli::Args| {
        Ok(shoal_agent::cli::main(args).await?)
    })
}
