//! What is shipped in `deploy/` against the real binaries and the real sources: examples parse and tell the truth
//! about defaults, alerts and dashboards ask only for metrics that exist.
//!
//! Not here: what needs helm, hadolint, systemd or promtool; `deploy/check.sh` runs those.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use toml::{Table, Value};

const ROLES: [&str; 3] = ["agent", "origin", "tracker"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Runs the release binary of a role, without any variable of ours around it.
fn run(role: &str, config: Option<&Path>, flag: &str) -> Output {
    let folder = std::env::current_exe().unwrap();
    let binary = folder
        .ancestors()
        .nth(2)
        .unwrap()
        .join(format!("shoal-{role}"));
    let mut command = Command::new(&binary);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command
        .arg(flag)
        .env_clear()
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error}; build the binaries first: make build",
                binary.display()
            )
        })
}

fn printed(role: &str, config: Option<&Path>) -> Table {
    let output = run(role, config, "--print-config");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

fn example(role: &str) -> PathBuf {
    root().join(format!("deploy/config/{role}.toml"))
}

/// The example with every `#key = default` made a line that counts; `# key = example` stays a comment.
fn with_defaults_written(role: &str) -> String {
    let text = fs::read_to_string(example(role)).unwrap();
    let is_default = |line: &str| {
        let rest = line.strip_prefix('#').unwrap_or_default();
        rest.starts_with(|first: char| first.is_ascii_lowercase()) && rest.contains(" = ")
    };
    let lines = text
        .lines()
        .map(|line| if is_default(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every key of a table with its section.
fn keys(table: &Table, prefix: &str) -> Vec<String> {
    let inner = |(key, value): (&String, &Value)| match value {
        Value::Table(table) => keys(table, &format!("{prefix}{key}.")),
        _ => vec![format!("{prefix}{key}")],
    };
    table.iter().flat_map(inner).collect()
}

#[test]
fn every_example_is_read_by_the_binary_it_is_for() {
    for role in ROLES {
        let output = run(role, Some(&example(role)), "--check-config");
        assert!(
            output.status.success(),
            "{role}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("ok"),
            "{role}"
        );
    }
}

#[test]
fn the_examples_show_every_key_with_its_true_default() {
    for role in ROLES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("{role}.toml"));
        let text = with_defaults_written(role);
        fs::write(&path, &text).unwrap();
        let defaults = printed(role, None);
        assert_eq!(
            printed(role, Some(&path)),
            defaults,
            "deploy/config/{role}.toml"
        );

        let shown: Table = text.parse().unwrap();
        let shown: BTreeSet<String> = keys(&shown, "").into_iter().collect();
        for key in keys(&defaults, "") {
            // A list of tables is empty by default and shown by an example.
            assert!(
                shown.contains(&key) || text.contains(&format!("\n# [[{key}]]\n")),
                "deploy/config/{role}.toml does not show {key}"
            );
        }
    }
}

#[test]
fn a_wrong_key_ends_every_daemon_with_64_and_one_line() {
    for role in ROLES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wrong.toml");
        fs::write(
            &path,
            "[admin]\nlisten = '127.0.0.1:0'\n[log]\nfilterr = 'info'\n",
        )
        .unwrap();
        let output = run(role, Some(&path), "--check-config");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{role}: {said}");
        assert_eq!(said.lines().count(), 1, "{role}: {said}");
        for part in [
            &format!("shoal-{role}: "),
            "wrong.toml:4",
            "log.filterr",
            "did you mean `filter`",
        ] {
            assert!(
                said.contains(part),
                "{role}: `{said}` does not say `{part}`"
            );
        }
    }
}

/// Names of ours in a text: `shoal_` and what follows, without the endings that Prometheus gives a histogram.
fn metric_names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("shoal_") {
        let rest = &text[at..];
        let end = rest
            .find(|c: char| !c.is_ascii_lowercase() && c != '_')
            .unwrap_or(rest.len());
        let name = &rest[..end];
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|ending| name.strip_suffix(ending));
        names.insert(base.unwrap_or(name).to_owned());
    }
    names
}

/// All sources of what is shipped, in one text.
fn sources() -> String {
    let mut text = String::new();
    let mut folders: Vec<_> = ["agent", "origin", "proto", "tracker"]
        .map(|folder| root().join(folder))
        .into();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    text
}

#[test]
fn alerts_and_dashboard_ask_only_for_metrics_that_exist() {
    let sources = sources();
    for file in ["alerts/shoal.yaml", "dashboards/shoal.json"] {
        let text = fs::read_to_string(root().join("deploy").join(file)).unwrap();
        let names = metric_names(&text);
        assert!(names.len() > 3, "{file}: {names:?}");
        for name in names {
            assert!(
                sources.contains(&format!("\"{name}\"")),
                "{file} asks for {name}, which nothing counts"
            );
        }
    }
}

#[test]
fn the_shown_hosts_file_asks_the_agent_first_and_the_registry_second() {
    let text = fs::read_to_string(root().join("deploy/containerd/hosts.toml")).unwrap();
    let table: Table = text.parse().unwrap();
    assert_eq!(
        table["server"].as_str(),
        Some("https://registry-1.docker.io")
    );
    let listen = printed("agent", None)["registry"]["listen"]
        .as_str()
        .unwrap()
        .to_owned();
    let host = &table["host"][format!("http://{listen}")];
    let capabilities: Vec<_> = host["capabilities"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(capabilities, ["pull", "resolve"]);
}
