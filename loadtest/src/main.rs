//! `shoal-loadtest`: arguments to [`shoal_loadtest::run`] to exit code, as every binary of Shoal does it.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoal_daemon::exit::main("shoal-loadtest", shoal_loadtest::run)
}
