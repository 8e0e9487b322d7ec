//! What can be wrong with a configuration: each on one line, with its place and the way to mend it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::ByteSize;
use crate::data_dir::DataDirError;

/// A configuration that cannot be used. The process ends with code 64 on it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--give-data-dir` could not do it.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The checks of the whole refuse it.
    #[error("{place}: {reason}")]
    Invalid {
        /// Where the configuration came from.
        place: Place,
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// `--print-config` or `--check-config` could not answer.
    #[error("cannot write the configuration to standard output: {0}")]
    Print(#[source] io::Error),
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}; name an existing, readable file with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The configuration has no TOML form.
    #[error("cannot print the configuration as TOML: {0}")]
    Render(#[source] toml::ser::Error),
    /// The file is no configuration.
    #[error("{} has {size}, larger than any configuration; name the right file with --config", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How much it holds.
        size: ByteSize,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key `{key}`; {hint}")]
    UnknownKey {
        /// Where it stands.
        place: Place,
        /// The key with its section.
        key: String,
        /// The likely key, or all there are.
        hint: String,
    },
    /// A variable that names no key.
    #[error("environment variable {variable}: names no key of the configuration; {hint}")]
    UnknownVariable {
        /// The variable.
        variable: String,
        /// The likely one, or all there are.
        hint: String,
    },
    /// A value of the wrong kind, or text that is no TOML.
    #[error("{place}: {reason}")]
    Value {
        /// Where it stands.
        place: Place,
        /// What is wrong with it.
        reason: String,
    },
}

impl ConfigError {
    /// What a check of the whole configuration refused, for the reason given.
    pub fn invalid(path: Option<&Path>, reason: &impl fmt::Display) -> Self {
        Self::Invalid {
            place: path.map_or(Place::Defaults, |path| Place::Whole(path.to_path_buf())),
            reason: one_line(&reason.to_string()),
        }
    }
}

/// Where a part of the configuration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// No file was named.
    Defaults,
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// The file as a whole.
    Whole(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => write!(f, "configuration"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Whole(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The known name that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|other| (strsim::damerau_levenshtein(name, other), other))
        .filter(|(distance, other)| *distance <= 1 + other.len() / 8)
        .min()
        .map(|(_, other)| other)
}

/// "did you mean", or the list of what there is.
pub(super) fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(name, known.clone()) {
        Some(likely) => format!("did you mean `{likely}`?"),
        None => format!("there are {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// The text without line breaks and runs of blanks, as an error line must be.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_offered_and_a_far_one_is_not() {
        let known = ["data_dir", "store", "registry"];
        assert_eq!(nearest("stroe", known.into_iter()), Some("store"));
        assert_eq!(nearest("data-dir", known.into_iter()), Some("data_dir"));
        assert_eq!(nearest("banana", known.into_iter()), None);
        assert_eq!(
            hint("banana", known.into_iter()),
            "there are data_dir, store, registry"
        );
    }
}
