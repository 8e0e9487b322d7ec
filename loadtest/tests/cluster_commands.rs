//! The agent's commands as an operator runs them, the shipped binary beside a running cluster: `doctor`, and
//! `containerd install`, `check` and `uninstall` against a real containerd's own configuration.
//!
//! Not here: each trap by itself and crashes between two writes (the agent's own tests), pulls through the files that
//! `install` writes (`cluster_clients`), and what `print` says (there, and in `cluster_private`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_loadtest::cluster::Member;
use shoal_loadtest::cluster::config::{self, Addresses, RegistryEntry};
use shoal_loadtest::cluster::containerd::Containerd;
use shoal_loadtest::cluster::needs::{CONTAINERD, CTR};
use shoal_loadtest::cluster::process;
use shoal_loadtest::cluster::trial::{REPOSITORY, Trial, downloaded, ready, ready_with};
use shoal_loadtest::workload::Image;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
const WITHIN: Duration = Duration::from_secs(60);
const FAILURE: i32 = 1;

/// How a command ended, and all that it said.
struct Said {
    code: Option<i32>,
    text: String,
}

impl Said {
    #[track_caller]
    fn check(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.text);
        for word in words {
            assert!(self.text.contains(word), "no `{word}` in\n{}", self.text);
        }
    }

    /// Lines that say what is wrong.
    fn faults(&self) -> Vec<&str> {
        let lines = self.text.lines();
        lines.filter(|line| line.starts_with("FAIL")).collect()
    }
}

/// Runs a command of the agent's binary with the configuration in `config`.
async fn command(agent: &Member, config: &Path, words: &[&str]) -> Said {
    let mut command = process::guarded(agent.program());
    command.arg("--config").arg(config).args(words);
    let output = timeout(WITHIN, command.kill_on_drop(true).output())
        .await
        .expect("ends")
        .expect("starts");
    let text = [output.stdout, output.stderr].concat();
    Said {
        code: output.status.code(),
        text: String::from_utf8_lossy(&text).into_owned(),
    }
}

/// A node's two places that containerd and the commands share.
struct Node {
    hosts_dir: PathBuf,
    containerd_config: PathBuf,
}

impl Node {
    fn new(folder: &Path) -> Self {
        Self {
            hosts_dir: folder.join("certs.d"),
            containerd_config: folder.join("containerd.toml"),
        }
    }

    /// What containerd is configured with, of the release that Debian has.
    fn configure(&self, config_path: &str) {
        let text = format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{config_path}\"\n"
        );
        fs::write(&self.containerd_config, text).expect("written");
    }

    async fn doctor(&self, agent: &Member, image: &str) -> Said {
        let (hosts, file) = (text(&self.hosts_dir), text(&self.containerd_config));
        let words = [
            "doctor",
            "--pull",
            image,
            "--hosts-dir",
            hosts,
            "--containerd-config",
            file,
        ];
        command(agent, &agent.config_file(), &words).await
    }

    async fn containerd(&self, agent: &Member, words: &[&str]) -> Said {
        let words = [
            &["containerd"],
            words,
            &["--hosts-dir", text(&self.hosts_dir)],
        ]
        .concat();
        command(agent, &agent.config_file(), &words).await
    }

    async fn check(&self, agent: &Member) -> Said {
        let words = [
            "check",
            "--containerd-config",
            text(&self.containerd_config),
        ];
        self.containerd(agent, &words).await
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_names_each_fault_with_its_remedy_and_proves_the_way_by_a_digest() {
    const TEST: &str = "doctor_names_each_fault_with_its_remedy_and_proves_the_way_by_a_digest";
    if !ready(TEST) {
        return;
    }
    let image = Image::of_sizes(1, &[MIB, 3 * MIB]);
    let mut trial = Trial::begin(1, &image).await.expect("starts");
    let node = Node::new(trial.folder.path());
    let dir = text(&node.hosts_dir).to_owned();
    let (agent, reference) = (&trial.cluster.agents[0], trial.reference());

    // Two folders joined by a colon, and no file of ours: the cluster itself is in order.
    node.configure(&format!("{dir}:/etc/docker/certs.d"));
    let said = node.doctor(agent, &reference).await;
    let words = [
        "names two folders",
        "absent",
        "every byte right",
        "2 of the checks",
    ];
    said.check(FAILURE, &words);
    assert_eq!(said.faults().len(), 2, "{}", said.text);

    // The proof was a pull through the mirror: of the smallest blob alone, and it came from the origin.
    let smallest = image.blobs().iter().map(|blob| blob.len()).min();
    let had = downloaded(agent).await.expect("answers");
    assert_eq!(Some(had), smallest);

    node.configure(&dir);
    node.containerd(agent, &["install"])
        .await
        .check(0, &["written"]);
    let said = node.doctor(agent, &reference).await;
    said.check(0, &["holds a token", "is connected", "this agent first"]);
    assert_eq!(said.faults(), Vec::<&str>::new(), "{}", said.text);

    let absent = format!("{}/{REPOSITORY}:none", trial.upstream.address());
    let said = node.doctor(agent, &absent).await;
    said.check(FAILURE, &["404", "check the name"]);
    let said = node.doctor(agent, "elsewhere.test/a/b:1").await;
    said.check(FAILURE, &["elsewhere.test", "`registries`"]);

    trial.cluster.agents[0].stop().await.expect("stops");
    let agent = &trial.cluster.agents[0];
    let said = node.doctor(agent, &reference).await;
    said.check(FAILURE, &["no agent answers"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_while_the_agents_port_is_silent_or_a_strangers() {
    const TEST: &str = "nothing_is_written_while_the_agents_port_is_silent_or_a_strangers";
    if !ready(TEST) {
        return;
    }
    let mut trial = Trial::begin(1, &Image::of_sizes(10, &[MIB]))
        .await
        .expect("starts");
    trial.cluster.agents[0].stop().await.expect("stops");
    let agent = &trial.cluster.agents[0];
    let node = Node::new(trial.folder.path());
    let said = node.containerd(agent, &["install"]).await;
    said.check(FAILURE, &["no agent answers", "--force"]);

    // A registry answers on the port that is ours by configuration.
    let addresses = Addresses {
        registry: trial.upstream.address(),
        ..*agent.addresses()
    };
    let token = trial.cluster.join_token();
    let entries = [RegistryEntry::plain(trial.upstream.address())];
    let strange = config::agent(&agent.data(), &addresses, &token, &entries, None).expect("text");
    let file = trial.folder.path().join("strange.toml");
    fs::write(&file, strange).expect("written");
    let install = [
        "containerd",
        "install",
        "--hosts-dir",
        text(&node.hosts_dir),
    ];
    let said = command(agent, &file, &install).await;
    said.check(FAILURE, &["answered by another program"]);
    assert!(!node.hosts_dir.exists(), "nothing was written");

    // Who insists is obeyed, and `check` needs no agent to say that the file is in order.
    node.containerd(agent, &["install", "--force"])
        .await
        .check(0, &["written"]);
    node.configure(text(&node.hosts_dir));
    node.check(agent).await.check(0, &["this agent first"]);
    node.containerd(agent, &["uninstall"])
        .await
        .check(0, &["restored"]);
    assert!(!node.hosts_dir.exists(), "the folder was ours too");
}

/// What an operator had is in effect behind us while we are there, and is back to the byte when we go; containerd's
/// own account of its configuration is what `check` is given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_understands_a_real_containerds_own_account_and_uninstall_leaves_no_trace() {
    const TEST: &str =
        "check_understands_a_real_containerds_own_account_and_uninstall_leaves_no_trace";
    if !ready_with(TEST, &[CONTAINERD, CTR]) {
        return;
    }
    let image = Image::of_sizes(20, &[MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let agent = &trial.cluster.agents[0];
    let folder = trial.folder.sub("n").expect("a folder");
    let mut running = Containerd::start_with_cri("n", &folder)
        .await
        .expect("starts");
    let node = Node {
        hosts_dir: running.hosts_dir(),
        containerd_config: folder.join("dump.toml"),
    };
    let account = async |words: &[&str]| {
        let program = CONTAINERD.path().expect("found");
        let text = process::run(&program, words, WITHIN).await.expect("tells");
        fs::write(&node.containerd_config, text).expect("written");
    };
    let upstream = trial.upstream.address().to_string();
    let theirs = format!(
        "# ours since 2021\nserver = \"http://{upstream}\"\n[host.\"http://{upstream}\"]\n  capabilities = ['pull']"
    );
    let hosts_toml = node.hosts_dir.join(&upstream).join("hosts.toml");
    fs::create_dir_all(hosts_toml.parent().expect("a folder")).expect("made");
    fs::write(&hosts_toml, &theirs).expect("written");

    account(&["config", "default"]).await;
    let said = node.check(agent).await;
    said.check(FAILURE, &["no config_path", "does not name"]);

    account(&[
        "--config",
        text(&folder.join("config.toml")),
        "config",
        "dump",
    ])
    .await;
    for outcome in ["written", "unchanged"] {
        node.containerd(agent, &["install"])
            .await
            .check(0, &[outcome]);
    }
    let good = format!("{upstream}: this agent first, then http://{upstream}");
    node.check(agent).await.check(0, &["config_path", &good]);
    running
        .cri_pull(&trial.reference(), None)
        .await
        .expect("pulls");
    let had = downloaded(agent).await.expect("answers");
    assert_eq!(had, image.blob_bytes(), "the agent was asked first");
    running.stop().await.expect("stops");

    node.containerd(agent, &["uninstall"])
        .await
        .check(0, &["restored"]);
    assert_eq!(fs::read_to_string(&hosts_toml).expect("readable"), theirs);
    node.containerd(agent, &["uninstall"])
        .await
        .check(0, &["nothing of ours"]);
    node.check(agent).await.check(FAILURE, &["does not name"]);
}
