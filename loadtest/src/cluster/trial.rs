//! What a test of a whole cluster begins with: our own upstream, a cluster in front of it, one at a time on a machine.
//!
//! What for: the tests `cluster_*`. What not for: the demonstration. Invariants: trials never overlap, in whatever
//! runner; a trial that fails shows the end of every process's log, and with `SHOAL_TRIAL_KEEP=1` in the environment
//! leaves its folder behind.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::config::RegistryEntry;
use super::folder::RunFolder;
use super::upstream::Upstream;
use super::{Cluster, ClusterOptions, Member, needs, process};
use crate::workload::Image;

/// How often a condition is looked at while a test waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const PRINT_WITHIN: Duration = Duration::from_secs(20);
/// Lines of each log that a failed trial shows.
const LOG_LINES: usize = 25;

/// The only repository and tag that a trial's upstream has.
pub const REPOSITORY: &str = "demo/app";
pub const TAG: &str = "v1";

/// A machine of one's own, as far as other trials are concerned.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for its lock, which goes with it")] File);

impl Turn {
    /// Waits until no other trial runs.
    pub fn wait() -> Result<Self> {
        let path = std::env::temp_dir().join("shoal-trial.lock");
        let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        file.lock()?;
        Ok(Self(file))
    }
}

/// An upstream with one image, and a cluster in front of it.
#[derive(Debug)]
pub struct Trial {
    pub cluster: Cluster,
    pub upstream: Upstream,
    pub folder: RunFolder,
    _turn: Turn,
}

impl Trial {
    /// Starts everything.
    pub async fn begin(agents: usize, image: &Image) -> Result<Self> {
        let upstream = Upstream::start(&[(REPOSITORY, TAG, image)]).await?;
        let entry = RegistryEntry::plain(upstream.address());
        Self::with(agents, upstream, entry, Vec::new()).await
    }

    /// Starts a cluster in front of an upstream that was started before, with these variables around every process.
    pub async fn with(
        agents: usize,
        upstream: Upstream,
        entry: RegistryEntry,
        env: Vec<(String, String)>,
    ) -> Result<Self> {
        Self::with_all(agents, upstream, vec![entry], env).await
    }

    /// The same with more registries than the one upstream that the trial holds.
    pub async fn with_all(
        agents: usize,
        upstream: Upstream,
        upstreams: Vec<RegistryEntry>,
        env: Vec<(String, String)>,
    ) -> Result<Self> {
        let turn = Turn::wait()?;
        let folder = RunFolder::create("trial")?;
        let options = ClusterOptions {
            agents,
            upstreams,
            env,
        };
        let cluster = match Cluster::start(&folder, options).await {
            Ok(cluster) => cluster,
            Err(error) => return Err(error.context("the cluster did not start")),
        };
        Ok(Self {
            cluster,
            upstream,
            folder,
            _turn: turn,
        })
    }

    /// A client of one agent that means this trial's upstream.
    #[must_use]
    pub fn client(&self, agent: usize) -> Client {
        self.cluster.agents[agent]
            .client()
            .for_registry(self.upstream.address())
    }

    /// The image as an image reference.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}/{REPOSITORY}:{TAG}", self.upstream.address())
    }

    /// Everything that any process wrote to its log.
    pub fn logs(&self) -> Result<String> {
        let logs = self
            .cluster
            .members()
            .map(|member| std::fs::read_to_string(member.log()));
        Ok(logs.collect::<std::io::Result<Vec<_>>>()?.concat())
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in self.cluster.members() {
                eprintln!(
                    "--- {}\n{}",
                    member.name(),
                    process::tail(&member.log(), LOG_LINES)
                );
            }
            if std::env::var_os("SHOAL_TRIAL_KEEP").is_some() {
                self.folder.keep();
                eprintln!("--- kept: {}", self.folder.path().display());
            }
        }
    }
}

/// What `shoal-agent print CLIENT` says: a piece of that client's own configuration.
pub async fn printed(agent: &Member, client: &str) -> Result<String> {
    let config = agent.config_file();
    let config = config.to_str().context("a path that is not UTF-8")?;
    let words = ["--config", config, "print", client];
    process::run(agent.program(), &words, PRINT_WITHIN).await
}

/// Bytes that an agent took from the swarm, by its own count.
pub async fn downloaded(agent: &Member) -> Result<u64> {
    let metrics = agent.metrics().await?;
    let of = |source| metrics.count("shoal_download_bytes_total", &[("source", source)]);
    Ok(of("peer") + of("origin"))
}

/// Waits until an agent has taken at least so many bytes from the swarm.
pub async fn wait_downloaded(agent: &Member, bytes: u64, within: Duration) -> Result<u64> {
    let deadline = Instant::now() + within;
    loop {
        let have = downloaded(agent).await?;
        if have >= bytes {
            return Ok(have);
        }
        if Instant::now() > deadline {
            bail!(
                "{} had {have} of {bytes} bytes after {within:?}",
                agent.name()
            );
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A size in its full measure, or an eighth of it where `SHOAL_TRIAL_SIZE=small` asks for a quick run.
#[must_use]
pub fn sized(bytes: u64) -> u64 {
    let small = std::env::var("SHOAL_TRIAL_SIZE").is_ok_and(|value| value == "small");
    if small { bytes / 8 } else { bytes }
}

/// Whether a test of the binaries can run; says why when it cannot, and fails instead in CI.
#[must_use]
pub fn ready(test: &str) -> bool {
    needs::met(
        test,
        needs::binary("shoal-origin")
            .and_then(|_| needs::binary("shoal-agent"))
            .map(|_| ()),
    )
}

/// The same for a test that also needs root and programs of Debian.
#[must_use]
pub fn ready_with(test: &str, programs: &[needs::Program]) -> bool {
    ready(test)
        && needs::met(
            test,
            needs::root("a real containerd").and_then(|()| needs::programs(programs)),
        )
}
