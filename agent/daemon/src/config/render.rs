//! The configuration in effect as TOML, for people: what `--print-config` prints.
//!
//! Secrets are no values of any configuration; what looks like one is blanked here all the same, so that a print
//! can go into a bug report. Blanked are the values of keys that end in password, secret or token, and the
//! user information of URLs.

use std::path::PathBuf;

use serde::Serialize;
use toml::Value;

use super::ConfigError;

const BLANK: &str = "(not shown)";
const SECRET_ENDINGS: [&str; 3] = ["password", "secret", "token"];

/// The TOML text of a configuration, secrets blanked.
pub fn render<R: Serialize>(raw: &R) -> Result<String, ConfigError> {
    let mut whole = Value::try_from(raw).map_err(ConfigError::Render)?;
    blank("", &mut whole);
    toml::to_string_pretty(&whole).map_err(ConfigError::Render)
}

/// The key that every daemon has: the folder of what must outlive it.
pub(crate) fn data_dir_of<R: Serialize>(raw: &R) -> Result<PathBuf, ConfigError> {
    let whole = Value::try_from(raw).map_err(ConfigError::Render)?;
    let path = whole.get("data_dir").and_then(Value::as_str);
    path.map(PathBuf::from)
        .ok_or_else(|| ConfigError::invalid(None, &"there is no `data_dir` to give away"))
}

fn blank(key: &str, value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| blank(key, item)),
        Value::String(text) => {
            if SECRET_ENDINGS.iter().any(|ending| key.ends_with(ending)) {
                BLANK.clone_into(text);
            } else {
                blank_user_information(text);
            }
        }
        Value::Table(table) => {
            for (key, inner) in table.iter_mut() {
                blank(key, inner);
            }
        }
        _ => {}
    }
}

/// `https://user:password@host/path` becomes `https://(not shown)@host/path`.
fn blank_user_information(text: &mut String) {
    let Some(scheme_end) = text.find("://").map(|at| at + 3) else {
        return;
    };
    let authority_end = text[scheme_end..]
        .find(['/', '?', '#'])
        .map_or(text.len(), |at| scheme_end + at);
    if let Some(at) = text[scheme_end..authority_end].rfind('@') {
        text.replace_range(scheme_end..scheme_end + at, BLANK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, load};
    use serde::Deserialize;

    #[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
    #[serde(default, deny_unknown_fields)]
    struct Raw {
        quota: ByteSize,
        join_token_file: Option<String>,
        upstream: Vec<Upstream>,
    }

    #[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
    #[serde(default, deny_unknown_fields)]
    struct Upstream {
        url: String,
        password: Option<String>,
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let raw = Raw {
            quota: ByteSize::gib(20),
            join_token_file: Some("/etc/shoal/join-token".into()),
            upstream: vec![Upstream {
                url: "https://registry.example/v2/".into(),
                password: None,
            }],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("printed.toml");
        std::fs::write(&path, render(&raw).unwrap()).unwrap();
        assert_eq!(load::<Raw>(Some(&path), std::iter::empty()).unwrap(), raw);
    }

    #[test]
    fn no_secret_is_printed() {
        let raw = Raw {
            upstream: vec![Upstream {
                url: "https://someone:canary@registry.example/v2/?a=b@c".into(),
                password: Some("canary".into()),
            }],
            ..Raw::default()
        };
        let text = render(&raw).unwrap();
        assert!(
            !text.contains("canary") && !text.contains("someone"),
            "{text}"
        );
        assert!(text.contains("@registry.example/v2/?a=b@c"), "{text}");
    }
}
