//! From `main` to the exit code: 0 clean, 64 wrong usage or configuration, 1 anything else that failed.
//!
//! A failure is one line on standard error, `shoal-agent: what: why; how to mend it`, never a backtrace and never
//! more than one line. A port in use or an unwritable folder is a failure (1): it may mend itself, so a service
//! manager should try again. A wrong configuration (64) will not, so it should not.

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::config::ConfigError;

/// The code for wrong usage or configuration, as in `sysexits.h`.
pub const USAGE: u8 = 64;

/// Blocking work that is still running when everything else has ended is abandoned after this long.
const BLOCKING_GRACE: Duration = Duration::from_secs(5);

/// Wrong use of a command that the argument parser could not see; ends with code 64.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Parses the arguments, runs `run` on a multi-threaded runtime, and turns its outcome into an exit code.
///
/// `anyhow` here, and nowhere else in this crate, because this is where a `main.rs` hands over what went wrong.
pub fn main<A, F>(name: &str, run: F) -> ExitCode
where
    A: clap::Parser,
    F: AsyncFnOnce(A) -> anyhow::Result<()>,
{
    let args = match A::try_parse() {
        Ok(args) => args,
        Err(answer) => {
            // Help and version are answers, not mistakes. If they cannot be printed, nobody is reading.
            let _ = answer.print();
            return ExitCode::from(if answer.use_stderr() { USAGE } else { 0 });
        }
    };
    // Keys and credentials live in memory: no core file may carry them to disk.
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    crate::memory::keep_freed();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return report(name, &error.into()),
    };
    let outcome = runtime.block_on(Box::pin(run(args)));
    runtime.shutdown_timeout(BLOCKING_GRACE);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(name, &error),
    }
}

fn report(name: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("{name}: {}", line_of(error));
    ExitCode::from(code_of(error))
}

/// The error and its causes on one line; a cause that an outer message already quotes is not repeated.
fn line_of(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for part in error.chain() {
        let text = part.to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}

fn code_of(error: &anyhow::Error) -> u8 {
    let usage = error.chain().any(|part| {
        part.is::<ConfigError>() || part.is::<UsageError>() || part.is::<clap::Error>()
    });
    if usage { USAGE } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context as _, anyhow};
    use std::io;

    #[test]
    fn configuration_and_usage_end_with_64_and_the_rest_with_1() {
        let config = || ConfigError::invalid(None, &"trackers = [] and no key_file; set one");
        for (error, code) in [
            (config().into(), 64),
            (anyhow!(config()).context("start"), 64),
            (UsageError("no such image".into()).into(), 64),
            (io::Error::other("broken").into(), 1),
            (anyhow!("broken").context("start"), 1),
        ] {
            assert_eq!(code_of(&error), code, "{error}");
        }
    }

    #[test]
    fn a_failure_is_one_line_that_says_each_cause_once() {
        let error = Err::<(), _>(io::Error::other("disk\n  is gone"))
            .context("open the store: disk is gone")
            .context("start")
            .unwrap_err();
        assert_eq!(line_of(&error), "start: open the store: disk is gone");
    }
}
