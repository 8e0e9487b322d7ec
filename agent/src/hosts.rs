//! Points containerd at this agent: writes its `hosts.toml` files, and puts them back as they were.
//!
//! Only the registries that this agent serves are touched, one file each; the record of what was there is durable
//! before a file changes, and a file is always the old or the new one, whenever the power fails. A file that
//! somebody changed after us is never overwritten: only our part of it is taken out.
//! Not here: containerd's own configuration, which decides whether these files are read (`check` looks at it).

pub mod check;
pub(crate) mod disk;
pub(crate) mod edit;
pub(crate) mod journal;
pub(crate) mod probe;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::mirror::registries::{AllowedRegistry, Registries};

pub use edit::EditError;
pub use probe::ProbeError;

use disk::{Attributes, Disk};
use edit::Entry;
use journal::{Journal, Record};

/// Where the files go, and what they say.
#[derive(Debug, Clone)]
pub struct HostsPlan {
    /// containerd's `config_path`.
    pub hosts_dir: PathBuf,
    /// Where the record of the originals is kept.
    pub journal_dir: PathBuf,
    /// The agent's registry port.
    pub agent: SocketAddr,
    pub scope: Scope,
}

/// Which files are written.
#[derive(Debug, Clone)]
pub enum Scope {
    /// `_default`, for every registry that has no folder of its own.
    Default,
    /// One for each registry.
    Each(Vec<AllowedRegistry>),
}

impl Scope {
    pub fn each(registries: &Registries) -> Self {
        Self::Each(registries.iter().cloned().collect())
    }
}

/// What became of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Written,
    Unchanged,
    Restored,
    /// Somebody edited it after us: our host was taken out, the rest kept.
    TakenOut,
}

/// Why a file could not be written or restored.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    #[error("{}: {source}", path.display())]
    Edit { path: PathBuf, source: EditError },
    #[error("{}: {source}; run it as root, or name another folder with --hosts-dir", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Writes all files of a plan. What is already as it should be is not touched.
pub fn install(plan: &HostsPlan) -> Result<Vec<(PathBuf, Outcome)>, HostsError> {
    install_on(&disk::RealDisk, plan)
}

/// Puts back every file that the journal tells of, and takes our marks out of any that it does not.
pub fn uninstall(plan: &HostsPlan) -> Result<Vec<(PathBuf, Outcome)>, HostsError> {
    uninstall_on(&disk::RealDisk, plan)
}

/// What each file would say if there were none before: for people, and for tools that write files themselves.
pub fn texts(plan: &HostsPlan) -> Vec<(PathBuf, String)> {
    plan.files()
        .into_iter()
        .filter_map(|(path, entry)| Some((path, edit::insert(None, &entry).ok()?)))
        .collect()
}

fn install_on(disk: &impl Disk, plan: &HostsPlan) -> Result<Vec<(PathBuf, Outcome)>, HostsError> {
    let journal = Journal::new(plan.journal_dir.clone());
    plan.files()
        .into_iter()
        .map(|(path, entry)| {
            let outcome = install_one(disk, &journal, &path, &entry)?;
            Ok((path, outcome))
        })
        .collect()
}

fn install_one(
    disk: &impl Disk,
    journal: &Journal,
    path: &Path,
    entry: &Entry,
) -> Result<Outcome, HostsError> {
    let io = |source| HostsError::Io {
        path: path.to_owned(),
        source,
    };
    let refused = |source| HostsError::Edit {
        path: path.to_owned(),
        source,
    };
    let current = read_text(path)?;
    let text = current.as_ref().map(|(text, _)| text.as_str());
    let known = journal.load(path).map_err(io)?;
    let original = match &known {
        Some(record) if text == record.original.as_deref() || is_ours(record, text) => {
            record.original.clone()
        }
        _ => match text {
            Some(text) if edit::is_marked(text) => edit::remove(text, None).map_err(refused)?,
            _ => text.map(str::to_owned),
        },
    };
    let wanted = edit::insert(original.as_deref(), entry).map_err(refused)?;
    if text == Some(wanted.as_str())
        && known
            .as_ref()
            .is_some_and(|record| record.ours == [wanted.as_str()])
    {
        return Ok(Outcome::Unchanged);
    }
    let folder = path.parent().unwrap_or(path);
    let attributes = current.as_ref().map(|(_, attributes)| *attributes);
    let created_dirs =
        known.map_or_else(|| disk::missing_dirs(folder), |record| record.created_dirs);
    let mut record = Record {
        path: path.to_owned(),
        original,
        attributes,
        created_dirs,
        agent_url: entry.agent_url.clone(),
        ours: vec![wanted.clone()],
    };
    if let Some(text) = text.filter(|text| edit::is_marked(text) && *text != wanted) {
        record.ours.push(text.to_owned());
    }
    journal.save(disk, &record).map_err(io)?;
    disk::create_dirs(disk, &disk::missing_dirs(folder)).map_err(io)?;
    disk::replace(disk, path, wanted.as_bytes(), attributes).map_err(io)?;
    if record.ours.len() > 1 {
        record.ours.truncate(1);
        journal.save(disk, &record).map_err(io)?;
    }
    Ok(Outcome::Written)
}

fn uninstall_on(disk: &impl Disk, plan: &HostsPlan) -> Result<Vec<(PathBuf, Outcome)>, HostsError> {
    let journal = Journal::new(plan.journal_dir.clone());
    let records = journal.all().map_err(|source| HostsError::Io {
        path: plan.journal_dir.clone(),
        source,
    })?;
    let mut outcomes = Vec::new();
    for record in records {
        let outcome = uninstall_one(disk, &record)?;
        let io = |source| HostsError::Io {
            path: record.path.clone(),
            source,
        };
        disk::remove_empty_dirs(disk, &record.created_dirs).map_err(io)?;
        journal.forget(disk, &record.path).map_err(io)?;
        outcomes.push((record.path, outcome));
    }
    for path in marked_files(&plan.hosts_dir) {
        let outcome = take_out(disk, &path, None)?;
        outcomes.push((path, outcome));
    }
    Ok(outcomes)
}

fn uninstall_one(disk: &impl Disk, record: &Record) -> Result<Outcome, HostsError> {
    let io = |source| HostsError::Io {
        path: record.path.clone(),
        source,
    };
    let current = read_text(&record.path)?;
    let text = current.as_ref().map(|(text, _)| text.as_str());
    if text == record.original.as_deref() {
        // What an interrupted run left beside it goes too.
        let leftover = disk::temporary_of(&record.path);
        if leftover.exists() {
            disk::remove(disk, &leftover).map_err(io)?;
        }
        return Ok(Outcome::Unchanged);
    }
    if !is_ours(record, text) {
        return take_out(disk, &record.path, Some(&record.agent_url));
    }
    match &record.original {
        Some(original) => {
            disk::replace(disk, &record.path, original.as_bytes(), record.attributes).map_err(io)?
        }
        None => disk::remove(disk, &record.path).map_err(io)?,
    }
    Ok(Outcome::Restored)
}

/// Takes our host out of a file that others changed too.
fn take_out(disk: &impl Disk, path: &Path, agent_url: Option<&str>) -> Result<Outcome, HostsError> {
    let io = |source| HostsError::Io {
        path: path.to_owned(),
        source,
    };
    let Some((text, attributes)) = read_text(path)? else {
        return Ok(Outcome::Unchanged);
    };
    let left = edit::remove(&text, agent_url).map_err(|source| HostsError::Edit {
        path: path.to_owned(),
        source,
    })?;
    match left {
        Some(left) if left == text => return Ok(Outcome::Unchanged),
        Some(left) => disk::replace(disk, path, left.as_bytes(), Some(attributes)).map_err(io)?,
        None => disk::remove(disk, path).map_err(io)?,
    }
    Ok(Outcome::TakenOut)
}

fn is_ours(record: &Record, text: Option<&str>) -> bool {
    text.is_some_and(|text| record.ours.iter().any(|ours| ours == text))
}

fn read_text(path: &Path) -> Result<Option<(String, Attributes)>, HostsError> {
    let io = |source| HostsError::Io {
        path: path.to_owned(),
        source,
    };
    match disk::read(path).map_err(io)? {
        Some((bytes, attributes)) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some((text, attributes))),
            Err(_) => Err(HostsError::Edit {
                path: path.to_owned(),
                source: EditError::NotText,
            }),
        },
        None => Ok(None),
    }
}

/// Files below containerd's folder that carry our marks.
fn marked_files(hosts_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(hosts_dir) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("hosts.toml")))
        .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| edit::is_marked(&text)))
        .collect();
    files.sort();
    files
}

impl HostsPlan {
    /// `http://127.0.0.1:5050`
    pub fn agent_url(&self) -> String {
        format!("http://{}", self.agent)
    }

    /// Each file with what it must say.
    fn files(&self) -> Vec<(PathBuf, Entry)> {
        match &self.scope {
            Scope::Default => {
                vec![(
                    self.hosts_dir.join("_default/hosts.toml"),
                    Entry {
                        agent_url: self.agent_url(),
                        server: None,
                    },
                )]
            }
            Scope::Each(registries) => registries
                .iter()
                .map(|registry| {
                    let entry = Entry {
                        agent_url: self.agent_url(),
                        server: Some(registry.server_url()),
                    };
                    (
                        registry_dir(&self.hosts_dir, registry.name.as_str()).join("hosts.toml"),
                        entry,
                    )
                })
                .collect(),
        }
    }
}

/// The folder that containerd reads for a registry: `host_port_` wins over `host:port`, if it exists.
fn registry_dir(hosts_dir: &Path, registry: &str) -> PathBuf {
    let escaped = hosts_dir.join(format!("{}_", registry.replace(':', "_")));
    if registry.contains(':') && escaped.is_dir() {
        escaped
    } else {
        hosts_dir.join(registry)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::disk::faults::FailingDisk;
    use super::*;

    struct Node {
        dir: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
            }
        }

        fn plan(&self, port: u16) -> HostsPlan {
            let registries = Registries::try_new(["docker.io", "127.0.0.1:5000"], []).unwrap();
            HostsPlan {
                hosts_dir: self.dir.path().join("etc/certs.d"),
                journal_dir: self.dir.path().join("journal"),
                agent: SocketAddr::from(([127, 0, 0, 1], port)),
                scope: Scope::each(&registries),
            }
        }

        fn write(&self, registry: &str, text: &str) {
            let dir = self.dir.path().join("etc/certs.d").join(registry);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("hosts.toml"), text).unwrap();
        }

        fn read(&self, registry: &str) -> Option<String> {
            fs::read_to_string(
                self.dir
                    .path()
                    .join("etc/certs.d")
                    .join(registry)
                    .join("hosts.toml"),
            )
            .ok()
        }

        /// Every file and folder below containerd's, with contents.
        fn tree(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
            let mut tree = BTreeMap::new();
            let mut todo = vec![self.dir.path().join("etc")];
            while let Some(dir) = todo.pop() {
                let Ok(entries) = fs::read_dir(&dir) else {
                    continue;
                };
                tree.insert(dir, None);
                for entry in entries {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        todo.push(path);
                    } else {
                        let bytes = fs::read(&path).unwrap();
                        tree.insert(path, Some(bytes));
                    }
                }
            }
            tree
        }
    }

    #[test]
    fn each_registry_gets_its_file_with_its_own_server() {
        let node = Node::new();
        install(&node.plan(5050)).unwrap();
        assert!(
            node.read("docker.io")
                .unwrap()
                .contains("server = \"https://registry-1.docker.io\"")
        );
        assert!(
            node.read("127.0.0.1:5000")
                .unwrap()
                .contains("server = \"http://127.0.0.1:5000\"")
        );
        let plan = HostsPlan {
            scope: Scope::Default,
            ..node.plan(5050)
        };
        install(&plan).unwrap();
        assert!(!node.read("_default").unwrap().contains("server"));
    }

    #[test]
    fn the_folder_spelling_that_containerd_prefers_is_used_when_it_is_there() {
        let node = Node::new();
        node.write("127.0.0.1_5000_", "# by hand\n");
        install(&node.plan(5050)).unwrap();
        assert!(
            node.read("127.0.0.1_5000_")
                .unwrap()
                .contains("shoal-agent")
        );
        assert_eq!(node.read("127.0.0.1:5000"), None);
    }

    #[test]
    fn a_second_install_changes_nothing_and_a_new_port_replaces_the_old_one() {
        let node = Node::new();
        node.write(
            "docker.io",
            "server = \"https://a.test\"\n[host.\"https://b.test\"]\n",
        );
        let before = node.tree();
        install(&node.plan(5050)).unwrap();
        let outcomes = install(&node.plan(5050)).unwrap();
        assert!(
            outcomes
                .iter()
                .all(|(_, outcome)| *outcome == Outcome::Unchanged)
        );
        install(&node.plan(6060)).unwrap();
        let text = node.read("docker.io").unwrap();
        assert_eq!(
            edit::hosts(&text).unwrap(),
            ["http://127.0.0.1:6060", "https://b.test"]
        );
        uninstall(&node.plan(6060)).unwrap();
        assert_eq!(node.tree(), before);
    }

    #[test]
    fn the_mode_of_a_file_is_kept() {
        let node = Node::new();
        node.write("docker.io", "server = \"https://a.test\"\n");
        let path = node.dir.path().join("etc/certs.d/docker.io/hosts.toml");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        install(&node.plan(5050)).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        uninstall(&node.plan(5050)).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn an_edit_made_after_ours_is_kept() {
        let node = Node::new();
        install(&node.plan(5050)).unwrap();
        let edited = node.read("docker.io").unwrap() + "[host.\"https://new.test\"]\n";
        node.write("docker.io", &edited);
        let again = install(&node.plan(5050)).unwrap();
        assert!(
            again
                .iter()
                .any(|(path, outcome)| path.ends_with("docker.io/hosts.toml")
                    && *outcome == Outcome::Written)
        );
        uninstall(&node.plan(5050)).unwrap();
        let left = node.read("docker.io").unwrap();
        assert_eq!(edit::hosts(&left).unwrap(), ["https://new.test"]);
        assert_eq!(node.read("127.0.0.1:5000"), None);
    }

    #[test]
    fn a_lost_journal_still_lets_our_part_go() {
        let node = Node::new();
        node.write("docker.io", "[host.\"https://b.test\"]\n");
        let before = node.read("docker.io");
        install(&node.plan(5050)).unwrap();
        fs::remove_dir_all(node.dir.path().join("journal")).unwrap();
        uninstall(&node.plan(5050)).unwrap();
        assert_eq!(node.read("docker.io"), before);
        assert_eq!(node.read("127.0.0.1:5000"), None);
    }

    #[test]
    fn a_file_that_is_not_ours_to_mend_is_left_alone() {
        let node = Node::new();
        node.write("docker.io", "server = [broken");
        let error = install(&node.plan(5050)).unwrap_err().to_string();
        assert!(
            error.contains("docker.io/hosts.toml") && error.contains("not valid TOML"),
            "{error}"
        );
        assert_eq!(node.read("docker.io").unwrap(), "server = [broken");
    }

    fn originals() -> impl Strategy<Value = Option<&'static str>> {
        prop::option::of(prop::sample::select(vec![
            "",
            "# nothing\n",
            "server = \"https://a.test\"",
            "server = \"https://a.test\"\n\n[host.\"https://b.test\"]\n  capabilities = [\"pull\"]\n",
            "[host.\"https://b.test\"]\n\n\n",
        ]))
    }

    /// Cuts the power at the first step, at the second, and so on, until a run gets through; how many steps it takes.
    fn cut_everywhere(mut run: impl FnMut(&FailingDisk) -> bool) -> usize {
        (0..1000)
            .find(|steps| run(&FailingDisk::after(*steps)))
            .expect("a run that ends")
    }

    #[test]
    fn a_cut_at_each_step_of_install_and_of_uninstall_loses_no_byte() {
        let hub =
            "# by hand\nserver = \"https://a.test\"\n[host.\"https://b.test\"]\n  ca = \"/c\"\n";
        for original in [None, Some(""), Some(hub)] {
            let fresh = || {
                let node = Node::new();
                if let Some(text) = original {
                    node.write("docker.io", text);
                }
                node
            };
            let install_steps = cut_everywhere(|disk| {
                let node = fresh();
                let before = node.tree();
                let whole = install_on(disk, &node.plan(5050)).is_ok();
                uninstall(&node.plan(5050)).unwrap();
                assert_eq!(node.tree(), before, "{original:?}");
                whole
            });
            let undo_steps = cut_everywhere(|disk| {
                let node = fresh();
                let before = node.tree();
                install(&node.plan(5050)).unwrap();
                let whole = uninstall_on(disk, &node.plan(5050)).is_ok();
                uninstall(&node.plan(5050)).unwrap();
                assert_eq!(node.tree(), before, "{original:?}");
                whole
            });
            assert!(
                install_steps > 8 && undo_steps > 4,
                "{install_steps} {undo_steps}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn uninstall_restores_every_byte(hub in originals(), local in originals(), ports in prop::collection::vec(1u16.., 1..4)) {
            let node = Node::new();
            for (registry, text) in [("docker.io", hub), ("127.0.0.1:5000", local)] {
                if let Some(text) = text {
                    node.write(registry, text);
                }
            }
            let before = node.tree();
            for port in &ports {
                install(&node.plan(*port)).unwrap();
            }
            uninstall(&node.plan(ports[0])).unwrap();
            prop_assert_eq!(node.tree(), before);
            prop_assert_eq!(fs::read_dir(node.dir.path().join("journal")).unwrap().count(), 0);
        }

        #[test]
        fn a_cut_at_any_step_leaves_old_or_new_and_can_be_undone(
            original in originals(), first in 0usize..30, second in 0usize..30, undo in 0usize..20,
        ) {
            let node = Node::new();
            if let Some(text) = original {
                node.write("docker.io", text);
            }
            let before = node.tree();
            let old = node.read("docker.io");
            let new = |port: u16| {
                let entry = Entry {
                    agent_url: format!("http://127.0.0.1:{port}"),
                    server: Some("https://registry-1.docker.io".to_owned()),
                };
                edit::insert(old.as_deref(), &entry).ok()
            };
            let states = [old.clone(), new(5050), new(6060)];
            let _ = install_on(&FailingDisk::after(first), &node.plan(5050));
            prop_assert!(states.contains(&node.read("docker.io")));
            let _ = install_on(&FailingDisk::after(second), &node.plan(6060));
            prop_assert!(states.contains(&node.read("docker.io")));
            let _ = uninstall_on(&FailingDisk::after(undo), &node.plan(6060));
            prop_assert!(states.contains(&node.read("docker.io")));
            uninstall(&node.plan(6060)).unwrap();
            prop_assert_eq!(node.tree(), before);
        }
    }
}
