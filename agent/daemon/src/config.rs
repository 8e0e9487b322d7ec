//! One TOML file per daemon, every key of it also as an environment variable, and errors that name the place.
//!
//! Laws: an unknown key is refused, never ignored; the environment wins over the file, the file over the
//! defaults; an error says file and line (or the variable), the key, and how to mend it; no secret is a value of
//! any configuration (files are named instead), and `render` blanks whatever looks like one all the same.
//!
//! Not here: what any key means. A binary's own `RawConfig` says which keys there are, and its `TryFrom` checks
//! how they relate.

mod environment;
mod error;
mod quantity;
mod render;
mod schema;

use std::ops::Range;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use environment::process_environment;
pub use error::{ConfigError, Place};
pub use quantity::{ByteSize, QuantityError, Span};
pub(crate) use render::data_dir_of;
pub use render::render;

use environment::Overrides;
use schema::Shape;

/// No configuration of ours is longer; a larger file was named by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads `R` from the file (if any) and from the variables of `env` that are ours.
///
/// `R` is a derived `Deserialize` with `deny_unknown_fields`, its sections nested structs. The variable of key
/// `free_floor` in `[store]` is `SHOAL_STORE_FREE_FLOOR`; a list is given with commas, or as TOML in brackets.
pub fn load<R>(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<R, ConfigError>
where
    R: DeserializeOwned + Serialize,
{
    let text = path.map_or_else(|| Ok(String::new()), read)?;
    let source = Source { path, text: &text };
    let shape = Shape::of::<R>();
    let overrides = Overrides::collect(&shape, env)?;

    let mut table = DeTable::parse(&text).map_err(|error| source.syntax(&error))?;
    refuse_unknown_keys(table.get_ref(), &shape, &mut String::new(), &source)?;
    overrides.apply(table.get_mut(), text.len())?;

    let keys = table.get_ref().clone();
    R::deserialize(toml::de::Deserializer::from(table)).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        match overrides.variable_at(&span, text.len()) {
            Some(variable) => ConfigError::Value {
                place: Place::Variable(variable),
                reason: error::one_line(error.message()),
            },
            None => ConfigError::Value {
                place: source.place(span.start),
                reason: with_key(&keys, &span, error.message()),
            },
        }
    })
}

/// The text that was read, to turn offsets into lines.
struct Source<'a> {
    path: Option<&'a Path>,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, offset: usize) -> Place {
        let Some(path) = self.path else {
            return Place::Defaults;
        };
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        Place::File {
            path: path.to_path_buf(),
            line,
        }
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        ConfigError::Value {
            place: self.place(error.span().map_or(0, |span| span.start)),
            reason: format!("not valid TOML: {}", error::one_line(error.message())),
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let fail = |source| ConfigError::Read {
        path: path.to_path_buf(),
        source,
    };
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge {
            path: path.to_path_buf(),
            size: ByteSize::new(size),
        });
    }
    std::fs::read_to_string(path).map_err(fail)
}

/// Walks the file beside the outline of the type, so that the refusal can name the whole key and a likely one.
fn refuse_unknown_keys(
    table: &DeTable<'_>,
    shape: &Shape,
    prefix: &mut String,
    source: &Source<'_>,
) -> Result<(), ConfigError> {
    let Shape::Table(fields) = shape else {
        return Ok(());
    };
    for (key, value) in table {
        let name: &str = key.get_ref();
        let Some((_, inner)) = fields.iter().find(|(field, _)| *field == name) else {
            return Err(ConfigError::UnknownKey {
                place: source.place(key.span().start),
                key: format!("{prefix}{name}"),
                hint: error::hint(name, fields.iter().map(|(field, _)| *field)),
            });
        };
        let length = prefix.len();
        prefix.push_str(name);
        prefix.push('.');
        match (value.get_ref(), inner) {
            (DeValue::Table(nested), _) => refuse_unknown_keys(nested, inner, prefix, source)?,
            (DeValue::Array(items), Shape::List(item)) => {
                for nested in items.iter().filter_map(|entry| entry.get_ref().as_table()) {
                    refuse_unknown_keys(nested, item, prefix, source)?;
                }
            }
            _ => {}
        }
        prefix.truncate(length);
    }
    Ok(())
}

/// Puts the key in front of serde's message, which knows the value only.
fn with_key(table: &DeTable<'_>, span: &Range<usize>, message: &str) -> String {
    let reason = error::one_line(message);
    match key_at(table, span, "") {
        Some(key) => format!("`{key}`: {reason}"),
        None => reason,
    }
}

fn key_at(table: &DeTable<'_>, span: &Range<usize>, prefix: &str) -> Option<String> {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        let nested = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, span, &format!("{name}.")),
            DeValue::Array(items) => items
                .iter()
                .filter_map(|item| item.get_ref().as_table())
                .find_map(|inner| key_at(inner, span, &format!("{name}."))),
            _ => None,
        };
        if nested.is_some() {
            return nested;
        }
        let inside: &Spanned<DeValue<'_>> = value;
        if inside.span().start <= span.start && span.end <= inside.span().end {
            return Some(name);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::net::SocketAddr;

    #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
    #[serde(default, deny_unknown_fields)]
    struct Raw {
        data_dir: String,
        store: Store,
        cluster: Cluster,
        upstream: Vec<Upstream>,
    }

    #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
    #[serde(default, deny_unknown_fields)]
    struct Store {
        quota: Option<ByteSize>,
        grace: Span,
        listen: SocketAddr,
        scrub: bool,
        workers: u16,
    }

    #[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
    #[serde(default, deny_unknown_fields)]
    struct Cluster {
        trackers: Vec<String>,
        join_token_file: Option<String>,
    }

    #[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
    #[serde(default, deny_unknown_fields)]
    struct Upstream {
        registry: String,
        plain_http: bool,
    }

    impl Default for Raw {
        fn default() -> Self {
            Self {
                data_dir: "/var/lib/shoal".into(),
                store: Store::default(),
                cluster: Cluster::default(),
                upstream: vec![],
            }
        }
    }

    impl Default for Store {
        fn default() -> Self {
            Self {
                quota: None,
                grace: Span::secs(30),
                listen: "127.0.0.1:5050".parse().unwrap(),
                scrub: true,
                workers: 2,
            }
        }
    }

    fn check(text: &str, env: &[(&str, &str)]) -> Result<Raw, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raw.toml");
        std::fs::write(&path, text).unwrap();
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        load(Some(&path), env).map_err(|error| {
            let text = error.to_string();
            assert!(!text.contains('\n'), "more than one line: {text}");
            text.replace(dir.path().to_str().unwrap(), "")
        })
    }

    fn refused(text: &str, env: &[(&str, &str)], says: &[&str]) {
        let error = check(text, env).unwrap_err();
        for part in says {
            assert!(error.contains(part), "`{error}` does not say `{part}`");
        }
    }

    #[test]
    fn what_is_not_written_has_its_default() {
        assert_eq!(check("", &[]), Ok(Raw::default()));
        assert_eq!(load(None, std::iter::empty()).ok(), Some(Raw::default()));
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
        let text =
            "data_dir = '/a'\n[store]\ngrace = '1m'\nworkers = 3\n[cluster]\ntrackers = ['x:1']";
        let env = [
            ("SHOAL_STORE_GRACE", "5s"),
            ("SHOAL_STORE_QUOTA", "4GiB"),
            ("SHOAL_STORE_SCRUB", "false"),
            ("SHOAL_STORE_WORKERS", "4"),
            ("SHOAL_CLUSTER_TRACKERS", "a:1, b:2"),
            ("SHOAL_CLUSTER_JOIN_TOKEN_FILE", "/t"),
            (
                "SHOAL_UPSTREAM",
                "[{registry = 'docker.io', plain_http = true}]",
            ),
            ("HOME", "/home/somebody"),
        ];
        let raw = check(text, &env).unwrap();
        assert_eq!(raw.data_dir, "/a");
        assert_eq!(raw.store.grace, Span::secs(5));
        assert_eq!(raw.store.quota, Some(ByteSize::gib(4)));
        assert!(!raw.store.scrub);
        assert_eq!(raw.store.workers, 4);
        assert_eq!(raw.cluster.trackers, ["a:1", "b:2"]);
        assert_eq!(raw.cluster.join_token_file.as_deref(), Some("/t"));
        assert_eq!(raw.upstream[0].registry, "docker.io");
        assert!(raw.upstream[0].plain_http);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_likely_one() {
        refused(
            "data_dir = '/a'\n[store]\nquotta = '1GiB'\n",
            &[],
            &["raw.toml:3", "store.quotta", "did you mean `quota`"],
        );
        refused(
            "[stroe]\n",
            &[],
            &["raw.toml:1", "`stroe`", "did you mean `store`"],
        );
        refused(
            "[[upstream]]\nregistry = 'a'\n[[upstream]]\nregistri = 'b'",
            &[],
            &["raw.toml:4", "upstream.registri", "`registry`"],
        );
        refused("xyzzy = 1", &[], &["`xyzzy`", "data_dir, store"]);
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_with_its_line_and_key() {
        refused(
            "[store]\ngrace = 30",
            &[],
            &["raw.toml:2", "store.grace", "30s"],
        );
        refused(
            "[store]\n\nquota = 'much'",
            &[],
            &["raw.toml:3", "store.quota", "4MiB"],
        );
        refused(
            "[store]\nlisten = 'nowhere'",
            &[],
            &["raw.toml:2", "store.listen"],
        );
        refused(
            "[store]\nworkers = 70000",
            &[],
            &["raw.toml:2", "store.workers"],
        );
        refused("[store\n", &[], &["raw.toml:1", "not valid TOML"]);
        refused(
            "[[upstream]]\nregistry = 7",
            &[],
            &["raw.toml:2", "upstream.registry"],
        );
    }

    #[test]
    fn a_wrong_variable_is_named_and_not_the_file() {
        for (name, value) in [
            ("SHOAL_STORE_GRACE", "soon"),
            ("SHOAL_STORE_SCRUB", "perhaps"),
            ("SHOAL_STORE_WORKERS", "many"),
            ("SHOAL_STORE_WORKERS", "70000"),
            ("SHOAL_STORE_LISTEN", "nowhere"),
            ("SHOAL_UPSTREAM", "[{registry = 1}]"),
            ("SHOAL_UPSTREAM", "[{"),
        ] {
            let error = check("", &[(name, value)]).unwrap_err();
            assert!(
                error.contains(name) && !error.contains("raw.toml"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_mistyped_variable_is_refused_and_a_foreign_one_is_not() {
        refused(
            "",
            &[("SHOAL_STORE_QUOTTA", "1GiB")],
            &["SHOAL_STORE_QUOTTA", "did you mean `SHOAL_STORE_QUOTA`"],
        );
        refused("", &[("SHOAL_DATADIR", "/x")], &["`SHOAL_DATA_DIR`"]);
        // Set by clap, by Kubernetes for a Service named shoal-store, and by somebody else altogether.
        let foreign = [
            ("SHOAL_LOG", "debug"),
            ("SHOAL_CONFIG", "/x"),
            ("SHOAL_STORE_SERVICE_HOST", "10.0.0.1"),
            ("SHOAL_STORE_PORT", "tcp://10.0.0.1:7051"),
            ("SHOAL_STORE_PORT_7051_UDP_ADDR", "10.0.0.1"),
            ("SHOAL_BENCHMARK_HOST_NAME", "x"),
        ];
        assert_eq!(check("", &foreign), Ok(Raw::default()));
    }

    #[test]
    fn a_missing_or_huge_file_is_a_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent.toml");
        let error = load::<Raw>(Some(&path), std::iter::empty()).unwrap_err();
        assert!(error.to_string().contains("absent.toml"));
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(FILE_BYTES_MAX + 1).unwrap();
        let error = load::<Raw>(Some(&path), std::iter::empty()).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }
}
