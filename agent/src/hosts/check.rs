//! What containerd makes of its configuration, as far as files tell: will pulls come to this agent?
//!
//! Reads and judges, changes nothing. Proof is a pull (`shoal-agent doctor --pull`); this says where to look when it fails.

use std::fs;
use std::path::Path;

use super::{HostsPlan, edit};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// Works, and may surprise.
    Odd,
    /// Pulls do not come to this agent.
    Bad,
}

/// One line of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub verdict: Verdict,
    pub text: String,
}

impl Finding {
    pub(crate) fn new(verdict: Verdict, text: impl Into<String>) -> Self {
        Self {
            verdict,
            text: text.into(),
        }
    }
}

/// Where containerd's plugins keep the folder of `hosts.toml` files: 2.x, then 1.x.
const REGISTRY_TABLES: [&str; 2] = ["io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"];
/// Capabilities that every containerd knows; another one discards the file on some.
const CAPABILITIES: [&str; 3] = ["pull", "resolve", "push"];

/// Judges containerd's own configuration and each file of the plan.
pub fn inspect(plan: &HostsPlan, containerd_config: &Path) -> Vec<Finding> {
    let mut findings = vec![config_path(&plan.hosts_dir, containerd_config)];
    for (path, entry) in plan.files() {
        findings.push(hosts_file(&path, &entry.agent_url));
    }
    findings
}

fn config_path(hosts_dir: &Path, containerd_config: &Path) -> Finding {
    let shown = containerd_config.display();
    let Ok(text) = fs::read_to_string(containerd_config) else {
        return Finding::new(
            Verdict::Odd,
            format!(
                "{shown}: not readable; containerd 1.x then has no config_path and ignores hosts.toml, 2.2 and later read {}",
                hosts_dir.display()
            ),
        );
    };
    judge_config(&text, hosts_dir, &shown.to_string())
}

fn judge_config(text: &str, hosts_dir: &Path, shown: &str) -> Finding {
    let Ok(config) = text.parse::<toml::Table>() else {
        return Finding::new(
            Verdict::Bad,
            format!("{shown}: not valid TOML; containerd does not start with it"),
        );
    };
    let wanted = hosts_dir.to_string_lossy();
    let set = REGISTRY_TABLES.iter().find_map(|plugin| {
        let registry = config.get("plugins")?.get(plugin)?.get("registry")?;
        registry.get("config_path")?.as_str()
    });
    match set {
        None | Some("") => Finding::new(
            Verdict::Bad,
            format!(
                "{shown}: no config_path, so hosts.toml is not read; set config_path = \"{wanted}\" in the registry table of the CRI plugin and restart containerd once"
            ),
        ),
        Some(several) if several.contains(':') => Finding::new(
            Verdict::Bad,
            format!(
                "{shown}: config_path = \"{several}\" names two folders; containerd 2.1 and later read neither when they pull by their transfer service: name one"
            ),
        ),
        Some(other) if Path::new(other) != hosts_dir => Finding::new(
            Verdict::Bad,
            format!("{shown}: config_path = \"{other}\", not {wanted}; give --hosts-dir {other}"),
        ),
        Some(_) => Finding::new(
            Verdict::Good,
            format!("{shown}: config_path = \"{wanted}\""),
        ),
    }
}

fn hosts_file(path: &Path, agent_url: &str) -> Finding {
    let shown = path.display();
    let Ok(text) = fs::read_to_string(path) else {
        return Finding::new(
            Verdict::Bad,
            format!("{shown}: absent; `shoal-agent containerd install` writes it"),
        );
    };
    let Ok(hosts) = edit::hosts(&text) else {
        return Finding::new(
            Verdict::Bad,
            format!("{shown}: not valid TOML, so containerd goes to the upstream"),
        );
    };
    if let Some(unknown) = unknown_capability(&text) {
        return Finding::new(
            Verdict::Bad,
            format!(
                "{shown}: capability \"{unknown}\" is unknown to containerd before 2.2, which then ignores the whole file"
            ),
        );
    }
    match hosts
        .iter()
        .position(|host| host.trim_end_matches('/') == agent_url)
    {
        Some(0) => Finding::new(
            Verdict::Good,
            format!("{shown}: this agent first, then {}", rest(&hosts)),
        ),
        Some(_) => Finding::new(
            Verdict::Odd,
            format!("{shown}: {} is asked before this agent", hosts[0]),
        ),
        None => Finding::new(
            Verdict::Bad,
            format!("{shown}: does not name {agent_url}; run `shoal-agent containerd install`"),
        ),
    }
}

fn rest(hosts: &[String]) -> String {
    match hosts {
        [] | [_] => "the registry itself".to_owned(),
        [_, others @ ..] => others.join(", "),
    }
}

fn unknown_capability(text: &str) -> Option<String> {
    let file: toml::Table = text.parse().ok()?;
    let hosts = file
        .get("host")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(|hosts| hosts.values());
    let mut listed = hosts
        .filter_map(|host| host.get("capabilities"))
        .chain(file.get("capabilities"))
        .filter_map(toml::Value::as_array)
        .flatten()
        .filter_map(toml::Value::as_str);
    listed
        .find(|capability| !CAPABILITIES.contains(capability))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_config(text: &str) -> Verdict {
        judge_config(text, Path::new("/etc/containerd/certs.d"), "config.toml").verdict
    }

    #[test]
    fn each_trap_of_containerds_configuration_is_seen() {
        let registry = |plugin: &str, path: &str| {
            format!("version = 2\n[plugins.\"{plugin}\".registry]\n  config_path = \"{path}\"\n")
        };
        for plugin in REGISTRY_TABLES {
            assert_eq!(
                check_config(&registry(plugin, "/etc/containerd/certs.d")),
                Verdict::Good
            );
            assert_eq!(
                check_config(&registry(plugin, "/etc/containerd/certs.d/")),
                Verdict::Good
            );
            assert_eq!(check_config(&registry(plugin, "")), Verdict::Bad);
            assert_eq!(check_config(&registry(plugin, "/etc/other")), Verdict::Bad);
            assert_eq!(
                check_config(&registry(
                    plugin,
                    "/etc/containerd/certs.d:/etc/docker/certs.d"
                )),
                Verdict::Bad
            );
        }
        assert_eq!(check_config("version = 2\n"), Verdict::Bad);
        assert_eq!(check_config("version = [\n"), Verdict::Bad);
    }

    #[test]
    fn a_hosts_file_is_judged_by_who_is_asked_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts.toml");
        let ours = "http://127.0.0.1:5050";
        let check = |text: &str| {
            fs::write(&path, text).unwrap();
            hosts_file(&path, ours).verdict
        };
        assert_eq!(hosts_file(&path, ours).verdict, Verdict::Bad);
        assert_eq!(
            check(&format!("[host.\"{ours}\"]\n[host.\"https://b.test\"]\n")),
            Verdict::Good
        );
        assert_eq!(
            check(&format!("[host.\"https://b.test\"]\n[host.\"{ours}\"]\n")),
            Verdict::Odd
        );
        assert_eq!(check("[host.\"https://b.test\"]\n"), Verdict::Bad);
        assert_eq!(check("server = \"https://b.test\"\n"), Verdict::Bad);
        assert_eq!(
            check(&format!(
                "[host.\"{ours}\"]\ncapabilities = [\"pull\", \"referrers\"]\n"
            )),
            Verdict::Bad
        );
    }
}
