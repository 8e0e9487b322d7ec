//! `print CLIENT`: what another container client must be told, for its own configuration file. Writes nothing.

use std::io::{self, Write as _};
use std::path::PathBuf;

use super::containerd::CheckArgs;
use super::{CliError, say};
use crate::config::Config;
use crate::snippets::{self, Client};

#[derive(Debug, clap::Args)]
pub(super) struct PrintArgs {
    /// For whom
    client: Client,
    /// containerd's config_path
    #[arg(long, value_name = "DIR", default_value = "/etc/containerd/certs.d")]
    hosts_dir: PathBuf,
}

/// The text goes to standard output, where it goes to standard error: so that the one can be redirected into a file.
pub(super) fn main(config: &Config, args: PrintArgs) -> Result<(), CliError> {
    let plan = CheckArgs::usual(PathBuf::new(), args.hosts_dir).plan(config);
    for snippet in snippets::snippet(args.client, config, &plan)? {
        writeln!(io::stderr().lock(), "# {}", snippet.place).map_err(CliError::Print)?;
        say(snippet.text.trim_end())?;
    }
    Ok(())
}
