//! The arguments that every Shoal daemon understands, and what they do before the daemon starts.
//!
//! Not here: the arguments of one binary alone; those stand in its `main.rs`, around this group.

use std::fmt::Display;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{self, ConfigError};
use crate::data_dir::{self, Owner};

/// `--config`, `--check-config`, `--print-config`, `--give-data-dir` and `--log`, to be flattened into a daemon's own arguments.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DaemonArgs {
    /// Configuration file (TOML); each key can also be given as SHOAL_SECTION_KEY
    #[arg(long, global = true, env = "SHOAL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long, global = true)]
    pub check_config: bool,

    /// Print the configuration in effect (file, environment and defaults) as TOML, and exit
    #[arg(long, global = true, conflicts_with = "check_config")]
    pub print_config: bool,

    /// Create the data folder, give it and all in it to this user and group, and exit; for root, before the first start
    #[arg(long, global = true, value_name = "UID:GID", conflicts_with_all = ["check_config", "print_config"])]
    pub give_data_dir: Option<Owner>,

    /// What to log, for example `info` or `warn,shoal_peer=debug`; overrides `[log] filter`
    #[arg(long, global = true, env = "SHOAL_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

impl DaemonArgs {
    /// Reads the configuration in its raw form `R`, checks it into `C`, and does what `--check-config`,
    /// `--print-config` or `--give-data-dir` ask for. `None`: that is done, there is nothing to run.
    pub fn configure<R, C>(&self) -> Result<Option<C>, ConfigError>
    where
        R: Clone + DeserializeOwned + Serialize,
        C: TryFrom<R>,
        C::Error: Display,
    {
        let path = self.config.as_deref();
        let raw: R = config::load(path, config::process_environment())?;
        let checked =
            C::try_from(raw.clone()).map_err(|reason| ConfigError::invalid(path, &reason))?;
        if self.check_config {
            let name =
                path.map_or_else(|| "defaults and environment".into(), Path::to_string_lossy);
            print(&format!("{name}: ok\n"))?;
            return Ok(None);
        }
        if self.print_config {
            print(&config::render(&raw)?)?;
            return Ok(None);
        }
        if let Some(owner) = self.give_data_dir {
            data_dir::give(&config::data_dir_of(&raw)?, owner).map_err(ConfigError::DataDir)?;
            return Ok(None);
        }
        Ok(Some(checked))
    }

    /// The log filter given on the command line or as `SHOAL_LOG`.
    #[must_use]
    pub fn log_filter(&self) -> Option<&str> {
        self.log.as_deref()
    }
}

fn print(text: &str) -> Result<(), ConfigError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(ConfigError::Print)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde::Deserialize;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        daemon: DaemonArgs,
    }

    #[derive(Clone, Debug, Default, Deserialize, Serialize)]
    #[serde(default, deny_unknown_fields)]
    struct Raw {
        odd: u64,
    }

    #[derive(Debug)]
    struct Odd;

    impl TryFrom<Raw> for Odd {
        type Error = String;

        fn try_from(raw: Raw) -> Result<Self, String> {
            if raw.odd % 2 == 1 {
                Ok(Self)
            } else {
                Err(format!("odd = {} is even; give an odd number", raw.odd))
            }
        }
    }

    fn configure(text: &str, flags: &[&str]) -> Result<Option<Odd>, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.toml");
        std::fs::write(&path, text).unwrap();
        let mut line = vec!["test", "--config", path.to_str().unwrap()];
        line.extend(flags);
        Whole::parse_from(line).daemon.configure::<Raw, Odd>()
    }

    #[test]
    fn asking_about_the_configuration_starts_nothing() {
        assert!(configure("odd = 1", &[]).unwrap().is_some());
        assert!(configure("odd = 1", &["--check-config"]).unwrap().is_none());
        assert!(configure("odd = 1", &["--print-config"]).unwrap().is_none());
    }

    #[test]
    fn what_the_checks_refuse_names_the_file() {
        let error = configure("odd = 2", &["--check-config"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("test.toml"), "{text}");
        assert!(text.contains("give an odd number"), "{text}");
    }

    #[test]
    fn checking_and_printing_exclude_each_other() {
        assert!(Whole::try_parse_from(["test", "--check-config", "--print-config"]).is_err());
    }
}
