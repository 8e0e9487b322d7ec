//! Files of others, changed and put back: merged, cut short at every step, edited meanwhile.

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
    let hub = "# by hand\nserver = \"https://a.test\"\n[host.\"https://b.test\"]\n  ca = \"/c\"\n";
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
