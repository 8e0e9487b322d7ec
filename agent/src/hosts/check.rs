//! What containerd makes of its configuration, as far as files tell: will pulls come to this agent?
//!
//! Reads and judges, changes nothing. Proof is a pull (`shoal-agent doctor --pull`); this says where to look when it fails.
//! Not here: containerd's own file (`settings`).

mod settings;

use std::fs;
use std::path::{Path, PathBuf};

use super::{HostsPlan, Scope, edit, registry_dir};

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

    fn bad(text: impl Into<String>) -> Self {
        Self::new(Verdict::Bad, text)
    }
}

/// Capabilities that every containerd knows; another one discards the file on some.
const CAPABILITIES: [&str; 3] = ["pull", "resolve", "push"];
/// Keys that are about TLS.
const TLS_KEYS: [&str; 3] = ["ca", "client", "skip_verify"];

/// Judges containerd's own configuration and each file of the plan.
pub fn inspect(plan: &HostsPlan, containerd_config: &Path) -> Vec<Finding> {
    let mut findings = settings::inspect(&plan.hosts_dir, containerd_config);
    let agent_url = plan.agent_url();
    let default = plan.hosts_dir.join("_default");
    let mut seen = Vec::new();
    let mut by_default = Vec::new();
    if let Scope::Each(registries) = &plan.scope {
        for registry in registries {
            let name = registry.name.as_str();
            let dir = registry_dir(&plan.hosts_dir, name);
            // containerd reads the first folder that is there, and none but that.
            if !dir.is_dir() && default.is_dir() {
                by_default.push(name);
                continue;
            }
            findings.extend(hosts_file(name, &dir.join("hosts.toml"), &agent_url));
            seen.push(dir);
        }
    }
    let whose = match by_default.as_slice() {
        [] => "every other registry".to_owned(),
        names => format!("{}, by _default", names.join(", ")),
    };
    if matches!(plan.scope, Scope::Default) || !by_default.is_empty() {
        findings.extend(hosts_file(&whose, &default.join("hosts.toml"), &agent_url));
        seen.push(default);
    }
    if matches!(plan.scope, Scope::Default) {
        findings.extend(own_folders(&plan.hosts_dir, &seen, &agent_url));
    }
    findings
}

/// With `_default`, a registry that has a folder of its own is not ours: containerd reads the first that exists.
fn own_folders(hosts_dir: &Path, seen: &[PathBuf], agent_url: &str) -> Vec<Finding> {
    let Ok(entries) = fs::read_dir(hosts_dir) else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && !seen.contains(path))
        .collect();
    folders.sort();
    let ours = |folder: &PathBuf| {
        fs::read_to_string(folder.join("hosts.toml")).is_ok_and(|text| {
            edit::hosts(&text).is_ok_and(|hosts| hosts.iter().any(|host| is(host, agent_url)))
        })
    };
    folders
        .into_iter()
        .filter(|folder| !ours(folder))
        .map(|folder| {
            let shown = folder.display();
            Finding::new(
                Verdict::Odd,
                format!("{shown}: a folder of its own, so _default is not read for this registry"),
            )
        })
        .collect()
}

fn hosts_file(whose: &str, path: &Path, agent_url: &str) -> Vec<Finding> {
    let shown = path.display();
    let Ok(text) = fs::read_to_string(path) else {
        return vec![Finding::bad(format!(
            "{shown}: absent; `shoal-agent containerd install` writes it"
        ))];
    };
    let (Ok(hosts), Ok(file)) = (edit::hosts(&text), text.parse::<toml::Table>()) else {
        return vec![Finding::bad(format!(
            "{shown}: not valid TOML, so containerd goes to the upstream; mend or remove it"
        ))];
    };
    let mut findings: Vec<Finding> = traps(&file)
        .into_iter()
        .map(|(verdict, trap)| Finding::new(verdict, format!("{shown}: {trap}")))
        .collect();
    let place = hosts.iter().position(|host| is(host, agent_url));
    let unread = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Bad);
    match place {
        Some(_) if unread => {}
        Some(0) => findings.push(Finding::new(
            Verdict::Good,
            format!("{whose}: this agent first, then {}", rest(&hosts, &file)),
        )),
        Some(_) => findings.push(Finding::new(
            Verdict::Odd,
            format!("{shown}: {} is asked before this agent", hosts[0]),
        )),
        None => findings.push(Finding::bad(format!(
            "{shown}: does not name {agent_url}; run `shoal-agent containerd install`"
        ))),
    }
    findings
}

fn is(host: &str, agent_url: &str) -> bool {
    host.trim_end_matches('/') == agent_url
}

/// Who is asked when the agent does not answer.
fn rest(hosts: &[String], file: &toml::Table) -> String {
    let server = file.get("server").and_then(toml::Value::as_str);
    let mut rest: Vec<&str> = hosts.iter().skip(1).map(String::as_str).collect();
    rest.push(server.unwrap_or("the registry itself"));
    rest.join(", ")
}

/// What makes some containerd read the file otherwise than it looks.
fn traps(file: &toml::Table) -> Vec<(Verdict, String)> {
    let hosts = file.get("host").and_then(toml::Value::as_table);
    let mut traps = Vec::new();
    if hosts.is_none_or(toml::Table::is_empty) {
        let trap = "no [host.\"URL\"] table; containerd 1.x then ignores the whole file";
        traps.push((Verdict::Bad, trap.to_owned()));
    }
    let tables = hosts.into_iter().flatten();
    let tables = tables.filter_map(|(url, host)| Some((url.as_str(), host.as_table()?)));
    let server = file.get("server").and_then(toml::Value::as_str);
    let all: Vec<(&str, &toml::Table)> = tables
        .chain(std::iter::once((server.unwrap_or_default(), file)))
        .collect();
    for (url, host) in &all {
        let unknown = host
            .get("capabilities")
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(toml::Value::as_str)
            .find(|capability| !CAPABILITIES.contains(capability));
        if let Some(unknown) = unknown {
            let trap = format!(
                "capability \"{unknown}\" is unknown to containerd before 2.2, which then ignores the whole file; take it out"
            );
            traps.push((Verdict::Bad, trap));
        }
        let tls = TLS_KEYS.iter().find(|key| host.contains_key(**key));
        if let (true, Some(key)) = (url.starts_with("http://"), tls) {
            let trap = format!(
                "`{key}` for {url}: newer containerds then try HTTPS there first; take the key out"
            );
            traps.push((Verdict::Odd, trap));
        }
    }
    traps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::registries::Registries;

    const OURS: &str = "http://127.0.0.1:5050";

    fn check(text: &str) -> Vec<(Verdict, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts.toml");
        fs::write(&path, text).unwrap();
        hosts_file("docker.io", &path, OURS)
            .into_iter()
            .map(|finding| (finding.verdict, finding.text))
            .collect()
    }

    fn verdicts(text: &str) -> Vec<Verdict> {
        check(text)
            .into_iter()
            .map(|(verdict, _)| verdict)
            .collect()
    }

    #[test]
    fn a_hosts_file_is_judged_by_who_is_asked_first() {
        let absent = hosts_file("docker.io", Path::new("/does/not/exist"), OURS);
        assert_eq!(absent[0].verdict, Verdict::Bad);
        let good = check(&format!(
            "server = \"https://a.test\"\n[host.\"{OURS}\"]\n[host.\"https://b.test\"]\n"
        ));
        assert_eq!(
            good,
            [(
                Verdict::Good,
                "docker.io: this agent first, then https://b.test, https://a.test".to_owned()
            )]
        );
        assert_eq!(
            verdicts(&format!("[host.\"https://b.test\"]\n[host.\"{OURS}\"]\n")),
            [Verdict::Odd]
        );
        assert_eq!(verdicts("[host.\"https://b.test\"]\n"), [Verdict::Bad]);
        assert_eq!(verdicts("[host."), [Verdict::Bad]);
    }

    #[test]
    fn each_trap_of_a_hosts_file_is_seen_and_named() {
        let cases = [
            (format!("server = \"{OURS}\"\n"), Verdict::Bad, "no [host"),
            (
                format!("[host.\"{OURS}\"]\ncapabilities = [\"pull\", \"referrers\"]\n"),
                Verdict::Bad,
                "\"referrers\"",
            ),
            (
                format!("capabilities = [\"referrers\"]\n[host.\"{OURS}\"]\n"),
                Verdict::Bad,
                "\"referrers\"",
            ),
            (
                format!("[host.\"{OURS}\"]\nskip_verify = true\n"),
                Verdict::Odd,
                "`skip_verify`",
            ),
            (
                format!("server = \"http://a.test\"\nca = \"/a.crt\"\n[host.\"{OURS}\"]\n"),
                Verdict::Odd,
                "`ca` for http://a.test",
            ),
        ];
        for (text, verdict, word) in cases {
            let found = check(&text);
            assert!(
                found
                    .iter()
                    .any(|(found, text)| *found == verdict && text.contains(word)),
                "{text}: {found:?}"
            );
        }
        let tls_elsewhere =
            format!("[host.\"{OURS}\"]\n[host.\"https://b.test\"]\nskip_verify = true\n");
        assert_eq!(verdicts(&tls_elsewhere), [Verdict::Good]);
    }

    #[test]
    fn with_default_a_registry_with_a_folder_of_its_own_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let write = |folder: &str, text: &str| {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("hosts.toml"), text).unwrap();
        };
        write("_default", &format!("[host.\"{OURS}\"]\n"));
        write("ours.test", &format!("[host.\"{OURS}\"]\n"));
        write("theirs.test", "[host.\"https://b.test\"]\n");
        let plan = HostsPlan {
            hosts_dir: dir.path().to_owned(),
            journal_dir: dir.path().join("j"),
            agent: ([127, 0, 0, 1], 5050).into(),
            scope: Scope::Default,
        };
        let told = |plan: &HostsPlan| -> Vec<String> {
            let findings = inspect(plan, Path::new("/does/not/exist"));
            findings.into_iter().map(|finding| finding.text).collect()
        };
        let text = told(&plan).join("\n");
        assert!(text.contains("theirs.test: a folder of its own"), "{text}");
        assert!(!text.contains("ours.test:"), "{text}");
        let each = |names: &[&str]| {
            let registries = Registries::try_new(names.iter().copied(), []).unwrap();
            let scope = Scope::each(&registries);
            told(&HostsPlan {
                scope,
                ..plan.clone()
            })
            .join("\n")
        };
        let text = each(&["theirs.test"]);
        assert!(text.contains("does not name"), "{text}");
        // Who checks each registry is told of those that `_default` brings here as well.
        let text = each(&["hub.test", "ours.test", "quay.test"]);
        let good = "hub.test, quay.test, by _default: this agent first, then the registry itself";
        assert!(text.contains(good), "{text}");
        assert!(!text.contains("absent"), "{text}");
        // A folder without the file hides `_default`.
        fs::create_dir(dir.path().join("hub.test")).unwrap();
        let text = each(&["hub.test"]);
        assert!(text.contains("hub.test/hosts.toml: absent"), "{text}");
    }
}
