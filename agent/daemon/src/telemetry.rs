//! Logs: text for people, JSON for machines, one filter for both, on standard error.
//!
//! Not here: metrics (`metrics`), and what is worth logging.

use std::io::IsTerminal as _;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::ConfigError;

/// `[log]` of every daemon.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// What is logged: a level, or levels by module, as in `info,shoal_peer=debug`.
    pub filter: String,
    /// How it is written.
    pub format: LogFormat,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            filter: "info".into(),
            format: LogFormat::Text,
        }
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For reading.
    #[default]
    Text,
}

/// Starts logging for the whole process. `filter` is the command line's, and wins over the section's.
///
/// # Errors
/// The filter cannot be parsed. Calling it a second time keeps the first logger and is no error.
pub fn init(section: &LogSection, filter: Option<&str>) -> Result<(), ConfigError> {
    let text = filter.unwrap_or(&section.filter);
    let filter = EnvFilter::builder().parse(text).map_err(|error| {
        ConfigError::invalid(
            None,
            &format!(
                "`{text}` is not a log filter: {error}; write for example `info,shoal_peer=debug`"
            ),
        )
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let started = match section.format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging is already started");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_a_configuration_error_with_an_example() {
        let error = init(&LogSection::default(), Some("shoal_peer=loud")).unwrap_err();
        assert!(
            error.to_string().contains("info,shoal_peer=debug"),
            "{error}"
        );
    }

    #[test]
    fn the_section_reads_and_prints_in_words() {
        let section: LogSection = toml::from_str("format = 'json'").unwrap();
        assert_eq!(section.format, LogFormat::Json);
        assert_eq!(section.filter, "info");
        assert!(toml::from_str::<LogSection>("format = 'xml'").is_err());
        assert!(init(&section, None).is_ok() && init(&section, None).is_ok());
    }
}
