//! Which package may depend on which: the table of `docs/ARCHITECTURE.md`, checked against `cargo metadata`.
//!
//! Also what must not come in by any path: a runtime, a clock or randomness into `proto`, an HTTP client that
//! leaves the cluster into anything but `origin`. Not here: what code does with a dependency it may have; clippy's
//! bans see to that.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Package, and those of ours that it may depend on, for its tests too. `loadtest` may depend on all.
const ARROWS: [(&str, &[&str]); 8] = [
    (
        "shoal-agent",
        &["shoal-daemon", "shoal-link", "shoal-peer", "shoal-proto"],
    ),
    ("shoal-daemon", &[]),
    ("shoal-link", &["shoal-proto"]),
    (
        "shoal-loadtest",
        &[
            "shoal-agent",
            "shoal-daemon",
            "shoal-link",
            "shoal-origin",
            "shoal-peer",
            "shoal-proto",
            "shoal-tracker",
        ],
    ),
    (
        "shoal-origin",
        &[
            "shoal-daemon",
            "shoal-link",
            "shoal-peer",
            "shoal-proto",
            "shoal-tracker",
        ],
    ),
    ("shoal-peer", &["shoal-link", "shoal-proto"]),
    ("shoal-proto", &[]),
    (
        "shoal-tracker",
        &["shoal-daemon", "shoal-link", "shoal-proto"],
    ),
];

/// What the core must not reach: time, chance and the world are arguments.
const NOT_IN_PROTO: [&str; 15] = [
    "chrono",
    "getrandom",
    "hyper",
    "instant",
    "mio",
    "quinn",
    "rand",
    "rand_core",
    "reqwest",
    "rustix",
    "rustls",
    "socket2",
    "time",
    "tokio",
    "web-time",
];

/// Names of packages by the identifier that `cargo metadata` gives them, and the graph between them.
struct Graph {
    names: BTreeMap<String, String>,
    edges: BTreeMap<String, Vec<String>>,
    members: BTreeMap<String, Value>,
}

impl Graph {
    fn read() -> Self {
        let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
            .args(["metadata", "--format-version=1", "--locked", "--offline"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let whole: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list = |value: &Value| value.as_array().unwrap().clone();
        let packages = list(&whole["packages"]);
        let ours: BTreeSet<String> = list(&whole["workspace_members"]).iter().map(text).collect();
        Self {
            names: packages
                .iter()
                .map(|p| (text(&p["id"]), text(&p["name"])))
                .collect(),
            edges: list(&whole["resolve"]["nodes"])
                .iter()
                .map(|node| (text(&node["id"]), shipped_edges(node)))
                .collect(),
            members: packages
                .into_iter()
                .filter(|package| ours.contains(package["id"].as_str().unwrap()))
                .map(|package| (text(&package["name"]), package))
                .collect(),
        }
    }

    /// Everything that ends up in what `package` ships, itself left out.
    fn reached(&self, package: &str) -> BTreeSet<&str> {
        let start = self.members[package]["id"].as_str().unwrap();
        let mut seen = BTreeSet::new();
        let mut next = vec![start];
        while let Some(id) = next.pop() {
            for edge in &self.edges[id] {
                if seen.insert(edge.as_str()) {
                    next.push(edge);
                }
            }
        }
        seen.iter().map(|id| self.names[*id].as_str()).collect()
    }
}

/// Ordinary dependencies only: neither those of tests nor those of build scripts are shipped.
fn shipped_edges(node: &Value) -> Vec<String> {
    let ordinary = |dep: &&Value| {
        let kinds = dep["dep_kinds"].as_array().unwrap();
        kinds.iter().any(|kind| kind["kind"].is_null())
    };
    let deps = node["deps"].as_array().unwrap();
    let ids = deps
        .iter()
        .filter(ordinary)
        .map(|dep| dep["pkg"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

/// Names of the packages that `package` asks for itself, of every kind.
fn asked_for(package: &Value) -> BTreeSet<&str> {
    let list = package["dependencies"].as_array().unwrap();
    list.iter()
        .map(|dep| dep["name"].as_str().unwrap())
        .collect()
}

#[test]
fn every_arrow_between_our_packages_is_in_the_table() {
    let graph = Graph::read();
    let table: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let known: Vec<&str> = table.keys().copied().collect();
    let members: Vec<&str> = graph.members.keys().map(String::as_str).collect();
    assert_eq!(
        members, known,
        "a package came or went: the table and docs/ARCHITECTURE.md must follow"
    );
    for (name, package) in &graph.members {
        let allowed: BTreeSet<&str> = table[name.as_str()].iter().copied().collect();
        let ours = asked_for(package)
            .into_iter()
            .filter(|dep| dep.starts_with("shoal-"));
        for dep in ours {
            assert!(allowed.contains(dep), "{name} must not depend on {dep}");
        }
    }
}

#[test]
fn the_core_reaches_no_runtime_no_clock_and_no_randomness() {
    let graph = Graph::read();
    let reached = graph.reached("shoal-proto");
    assert!(
        reached.contains("prost"),
        "the graph was not read: {reached:?}"
    );
    for banned in NOT_IN_PROTO {
        assert!(!reached.contains(banned), "proto reaches {banned}");
    }
}

#[test]
fn only_the_origin_has_an_http_client_that_leaves_the_cluster() {
    let graph = Graph::read();
    for name in graph.members.keys() {
        let may = matches!(name.as_str(), "shoal-origin" | "shoal-loadtest");
        assert_eq!(
            graph.reached(name).contains("reqwest"),
            may,
            "{name} and reqwest"
        );
    }
}

#[test]
fn no_package_reaches_a_second_tls_stack() {
    let graph = Graph::read();
    for name in graph.members.keys() {
        let reached = graph.reached(name);
        for banned in ["native-tls", "openssl", "openssl-sys"] {
            assert!(!reached.contains(banned), "{name} reaches {banned}");
        }
    }
}
