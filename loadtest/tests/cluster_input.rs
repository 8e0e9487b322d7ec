//! What operators get wrong: one clear line that says what and how to mend it, and the right exit code; and what is no
//! mistake but bad weather, an unreachable tracker, costs service quality and shows in a metric, but ends nothing.
//!
//! Not here: every key of the configuration (the daemons' own tests).

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shoal_loadtest::cluster::config::{self, Addresses, RegistryEntry};
use shoal_loadtest::cluster::folder::RunFolder;
use shoal_loadtest::cluster::ports::Ports;
use shoal_loadtest::cluster::process::Process;
use shoal_loadtest::cluster::trial::{Turn, ready};
use shoal_loadtest::cluster::{ClusterOptions, Member, needs};
use shoal_proto::{ClusterKey, JoinToken};
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(30);
const USAGE: i32 = 64;
const FAILURE: i32 = 1;

struct Bench {
    folder: RunFolder,
    addresses: Addresses,
    _turn: Turn,
}

impl Bench {
    fn new() -> Self {
        let turn = Turn::wait().expect("a turn");
        let mut ports = Ports::default();
        let addresses = Addresses {
            registry: ports.tcp().expect("a port"),
            peers: ports.udp().expect("a port"),
            admin: ports.tcp().expect("a port"),
            bound: ports.tcp().expect("a port"),
            tracker: ports.udp().expect("a port"),
        };
        Self {
            folder: RunFolder::create("input").expect("a folder"),
            addresses,
            _turn: turn,
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn upstreams(&self) -> [RegistryEntry; 1] {
        [RegistryEntry::named("registry.example")]
    }

    fn origin(&self, data: &Path) -> String {
        config::origin(data, &self.addresses, &self.upstreams(), None).expect("a configuration")
    }

    fn agent(&self, data: &Path, token: &Path) -> String {
        config::agent(data, &self.addresses, token, &self.upstreams(), None)
            .expect("a configuration")
    }

    /// A token of a cluster that nobody runs.
    fn strange_token(&self) -> PathBuf {
        let token = JoinToken::new(ClusterKey::from_secret(&[7; 32]).public(), [9; 32]);
        let path = self.folder.path().join("strange-token");
        fs::write(&path, token.to_text().as_bytes()).expect("written");
        path
    }

    /// Runs a daemon that must end by itself with `code`, and with one last line that names every one of `words`.
    async fn check_refusal(&self, program: &str, config: &str, code: i32, words: &[&str]) {
        let file = self.folder.path().join("config.toml");
        fs::write(&file, config).expect("written");
        let log = self.folder.path().join("log");
        // Each run is judged by its own words.
        let _not_there_yet = fs::remove_file(&log);
        let args = ["--config".into(), file.into()];
        let binary = needs::binary(program).expect("built");
        let mut process = Process::start(program, &binary, &args, &[], &log).expect("starts");
        let status = process.wait(WITHIN).await.expect("ends by itself");
        let output = process.output().expect("readable");
        assert_eq!(status.code(), Some(code), "{output}");
        let said: Vec<&str> = output
            .lines()
            .filter(|line| line.starts_with(&format!("{program}: ")))
            .collect();
        assert_eq!(said.len(), 1, "one line: {output}");
        for word in words {
            assert!(said[0].contains(word), "no {word:?} in {:?}", said[0]);
        }
        assert!(!output.contains("panicked"), "{output}");
    }

    fn member(&self, program: &str, name: &str, config: &str) -> Member {
        let folder = self.folder.path().join(name);
        Member::new(
            name,
            program,
            &folder,
            self.addresses,
            config,
            &ClusterOptions::default(),
        )
        .expect("set up")
    }
}

#[tokio::test]
async fn an_unknown_key_is_named_and_ends_with_64() {
    if !ready("an_unknown_key_is_named_and_ends_with_64") {
        return;
    }
    let bench = Bench::new();
    let token = bench.strange_token();
    let wrong = |config: String| config.replace("[peers]", "[peers]\nlissten = \"0.0.0.0:1\"");
    let agent = wrong(bench.agent(&bench.data(), &token));
    bench
        .check_refusal(
            "shoal-agent",
            &agent,
            USAGE,
            &["config.toml", "lissten", "listen"],
        )
        .await;
    let origin = wrong(bench.origin(&bench.data()));
    bench
        .check_refusal("shoal-origin", &origin, USAGE, &["config.toml", "lissten"])
        .await;
    assert!(
        !bench.data().exists(),
        "a wrong configuration touches nothing"
    );
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_key_that_sets_it() {
    if !ready("a_port_in_use_is_named_with_the_key_that_sets_it") {
        return;
    }
    let bench = Bench::new();
    let token = bench.strange_token();
    let config = bench.agent(&bench.data(), &token);
    let port = bench.addresses.registry.port().to_string();
    let taken = TcpListener::bind(bench.addresses.registry).expect("free until now");
    bench
        .check_refusal(
            "shoal-agent",
            &config,
            FAILURE,
            &[&port, "in use", "registry.listen"],
        )
        .await;
    drop(taken);
    let port = bench.addresses.peers.port().to_string();
    let taken = UdpSocket::bind(bench.addresses.peers).expect("free until now");
    bench
        .check_refusal(
            "shoal-agent",
            &config,
            FAILURE,
            &[&port, "in use", "peers.listen"],
        )
        .await;
    bench
        .check_refusal(
            "shoal-origin",
            &bench.origin(&bench.data()),
            FAILURE,
            &[&port, "peers.listen"],
        )
        .await;
    drop(taken);
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_written_is_named() {
    if !ready("a_data_folder_that_cannot_be_written_is_named") {
        return;
    }
    let bench = Bench::new();
    // Root may write in any folder, but in nothing that is below a file.
    let file = bench.folder.path().join("file");
    fs::write(&file, "").expect("written");
    let below = file.join("data");
    let shown = below.to_str().expect("utf-8");
    let agent = bench.agent(&below, &bench.strange_token());
    bench
        .check_refusal("shoal-agent", &agent, FAILURE, &[shown, "data_dir"])
        .await;
    bench
        .check_refusal(
            "shoal-origin",
            &bench.origin(&below),
            FAILURE,
            &[shown, "data_dir"],
        )
        .await;
}

#[tokio::test]
async fn a_join_token_that_is_none_ends_with_64_and_is_not_shown() {
    if !ready("a_join_token_that_is_none_ends_with_64_and_is_not_shown") {
        return;
    }
    let bench = Bench::new();
    let token = bench.folder.path().join("token");
    let config = bench.agent(&bench.data(), &token);
    bench
        .check_refusal("shoal-agent", &config, USAGE, &["join_token_file", "token"])
        .await;
    fs::write(&token, "shoal1.not-a-token-but-secret").expect("written");
    bench
        .check_refusal("shoal-agent", &config, USAGE, &["join_token_file", "token"])
        .await;
    let log = fs::read_to_string(bench.folder.path().join("log")).expect("readable");
    assert!(!log.contains("but-secret"), "{log}");
}

#[tokio::test]
async fn a_join_token_that_no_tracker_takes_ends_with_64_and_is_not_shown() {
    if !ready("a_join_token_that_no_tracker_takes_ends_with_64_and_is_not_shown") {
        return;
    }
    let bench = Bench::new();
    let data = bench.folder.path().join("origin/data");
    let mut origin = bench.member("shoal-origin", "origin", &bench.origin(&data));
    origin.start().await.expect("starts");
    let agent = |token: &Path| {
        let mut ports = Ports::default();
        let addresses = Addresses {
            registry: ports.tcp().expect("a port"),
            peers: ports.udp().expect("a port"),
            admin: ports.tcp().expect("a port"),
            bound: ports.tcp().expect("a port"),
            tracker: bench.addresses.tracker,
        };
        config::agent(&bench.data(), &addresses, token, &bench.upstreams(), None)
            .expect("a configuration")
    };
    let words = |reason| ["cluster.join_token_file", reason, "copy", "join-token"];
    bench
        .check_refusal(
            "shoal-agent",
            &agent(&bench.strange_token()),
            USAGE,
            &words("belongs to another cluster"),
        )
        .await;

    let right = fs::read_to_string(data.join("join-token")).expect("written by the origin");
    let right: JoinToken = right.trim().parse().expect("a token");
    let wrong = JoinToken::new(right.cluster(), [9; 32]).to_text();
    let file = bench.folder.path().join("wrong-token");
    fs::write(&file, wrong.as_bytes()).expect("written");
    bench
        .check_refusal(
            "shoal-agent",
            &agent(&file),
            USAGE,
            &words("does not take this token"),
        )
        .await;
    let secret = wrong.trim().rsplit('.').next().expect("has a secret");
    let log = fs::read_to_string(bench.folder.path().join("log")).expect("readable");
    assert!(!log.contains(secret), "{log}");
}

#[tokio::test]
async fn an_unreachable_tracker_costs_pulls_nothing_but_the_way_through_us() {
    if !ready("an_unreachable_tracker_costs_pulls_nothing_but_the_way_through_us") {
        return;
    }
    let bench = Bench::new();
    let token = bench.strange_token();
    let config = bench.agent(&bench.folder.path().join("agent/data"), &token);
    let mut agent = bench.member("shoal-agent", "agent", &config);
    agent
        .start()
        .await
        .expect("ready: what it cannot serve falls through");
    let client = agent.client().for_registry("registry.example");
    let started = Instant::now();
    let answer = timeout(
        WITHIN,
        client.ask(reqwest::Method::HEAD, "a/b/manifests/v1", &[]),
    )
    .await;
    let status = answer.expect("in time").expect("answers").status();
    assert!(
        matches!(status.as_u16(), 404 | 503),
        "{status}: containerd goes on to the upstream"
    );
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "soon: {:?}",
        started.elapsed()
    );
    let metrics = agent.metrics().await.expect("answers");
    assert!(metrics.has("shoal_tracker_connected"));
    assert_eq!(metrics.count("shoal_tracker_connected", &[]), 0);
    assert!(
        metrics.count("shoal_pull_fallthrough_total", &[]) > 0,
        "{}",
        metrics.show("shoal_pull")
    );
}
