//! A whole cluster of the real binaries on loopback: one origin (its tracker inside) and agents.
//!
//! What for: the demonstration, `up`, and every test that must see the shipped binaries at work. What not for: shaped
//! links (a [`Member`] may be [`inside`](Member::inside) a namespace, but who makes it is elsewhere). Invariants: each
//! process has its own data folder; ports are free ones; a process is ended by its own id and never outlives the
//! [`Cluster`].

pub mod browser;
pub mod c_image;
pub mod client;
pub mod config;
pub mod containerd;
pub mod cri;
pub mod dockerd;
pub mod folder;
pub mod image_ref;
pub mod measure;
pub mod needs;
pub mod ports;
pub mod process;
pub mod puller;
pub mod registry;
pub mod trial;
pub mod upstream;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};

use self::client::Client;
use self::config::{Addresses, RegistryEntry};
use self::folder::RunFolder;
use self::measure::Metrics;
use self::ports::Ports;
use self::process::Process;
use crate::network::IP;
use crate::network::room::Room;

/// How long a process may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// A port noted as free may be taken by somebody else before the process binds it.
const TRIES: u32 = 3;

/// What a cluster is made of.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    pub agents: usize,
    pub upstreams: Vec<RegistryEntry>,
    /// More keys for every process, as environment variables.
    pub env: Vec<(String, String)>,
}

/// One process of the cluster; it may be down.
#[derive(Debug)]
pub struct Member {
    name: String,
    program: PathBuf,
    folder: PathBuf,
    env: Vec<(String, String)>,
    addresses: Addresses,
    process: Option<Process>,
    http: reqwest::Client,
    inside: Option<Inside>,
}

/// The namespace that a member runs in, and who reaches its ports there.
#[derive(Debug)]
struct Inside {
    space: String,
    room: Arc<Room>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    pub origin: Member,
    pub agents: Vec<Member>,
    options: ClusterOptions,
}

impl Cluster {
    /// Starts everything below `folder` and waits until each process says that it is ready.
    pub async fn start(folder: &RunFolder, options: ClusterOptions) -> Result<Self> {
        let origin = Self::start_origin(folder, &options).await?;
        let mut cluster = Self {
            origin,
            agents: Vec::new(),
            options,
        };
        let count = cluster.options.agents;
        let agents =
            try_join_all((1..=count).map(|number| cluster.start_agent(folder, number))).await?;
        cluster.agents = agents;
        Ok(cluster)
    }

    async fn start_origin(folder: &RunFolder, options: &ClusterOptions) -> Result<Member> {
        let folder = folder.sub("origin")?;
        for attempt in 1.. {
            let addresses = free_addresses()?;
            let config =
                config::origin(&folder.join("data"), &addresses, &options.upstreams, None)?;
            let mut member = Member::new(
                "origin",
                "shoal-origin",
                &folder,
                addresses,
                &config,
                options,
            )?;
            match member.start().await {
                Ok(()) => return Ok(member),
                Err(error) if attempt < TRIES && member.lost_its_port() => drop(error),
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop above ends by returning")
    }

    async fn start_agent(&self, folder: &RunFolder, number: usize) -> Result<Member> {
        let name = format!("agent-{number}");
        let folder = folder.sub(&name)?;
        for attempt in 1.. {
            let mut addresses = free_addresses()?;
            addresses.tracker = self.origin.addresses.tracker;
            let (data, token, upstreams) = (
                folder.join("data"),
                self.join_token(),
                &self.options.upstreams,
            );
            let config = config::agent(&data, &addresses, &token, upstreams, None)?;
            let mut member = Member::new(
                &name,
                "shoal-agent",
                &folder,
                addresses,
                &config,
                &self.options,
            )?;
            match member.start_joined().await {
                Ok(()) => return Ok(member),
                Err(error) if attempt < TRIES && member.lost_its_port() => drop(error),
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop above ends by returning")
    }

    /// The file with which agents join.
    #[must_use]
    pub fn join_token(&self) -> PathBuf {
        self.origin.data().join("join-token")
    }

    /// Ends every process in an orderly way, the agents first.
    pub async fn stop(&mut self) -> Result<()> {
        try_join_all(self.agents.iter_mut().map(Member::stop)).await?;
        self.origin.stop().await
    }

    /// The registries that the cluster serves.
    #[must_use]
    pub fn upstreams(&self) -> &[RegistryEntry] {
        &self.options.upstreams
    }

    /// Origin and agents.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.origin).chain(&self.agents)
    }
}

fn free_addresses() -> Result<Addresses> {
    let mut ports = Ports::default();
    Ok(Addresses {
        registry: ports.tcp()?,
        peers: ports.udp()?,
        admin: ports.tcp()?,
        bound: ports.tcp()?,
        tracker: ports.udp()?,
    })
}

impl Member {
    /// A member that is not running yet: its folder, its configuration, nothing else.
    pub fn new(
        name: &str,
        program: &str,
        folder: &Path,
        addresses: Addresses,
        config: &str,
        options: &ClusterOptions,
    ) -> Result<Self> {
        let program = needs::binary(program)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("config.toml"), config)?;
        Ok(Self {
            name: name.to_owned(),
            program,
            folder: folder.to_owned(),
            env: options.env.clone(),
            addresses,
            process: None,
            http: client::http(),
            inside: None,
        })
    }

    /// The same in the network namespace `space`; `room` is in it as well.
    #[must_use]
    pub fn inside(mut self, space: String, room: Arc<Room>) -> Self {
        self.inside = Some(Inside { space, room });
        self
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready(READY_WITHIN).await
    }

    /// Starts an agent and waits until it knows an origin: before that it is ready, but lets every pull fall through.
    pub async fn start_joined(&mut self) -> Result<()> {
        self.start().await?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let status = self.status().await?;
            let peer = &status["status"]["peer"];
            let origins = peer["origins"].as_array();
            if origins.is_some_and(|origins| !origins.is_empty()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} knew no origin after {READY_WITHIN:?}: {}\n{}",
                    self.name,
                    peer["tracker"],
                    process::tail(&self.log(), 8)
                );
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// Starts the process and does not wait.
    pub fn launch(&mut self) -> Result<()> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(inside) = &self.inside {
            // It becomes what it is told to run, so that the process id is that of our binary.
            words.push(IP.path()?.into());
            words.extend(["netns", "exec", &inside.space].map(Into::into));
        }
        words.extend([
            self.program.clone().into(),
            "--config".into(),
            self.config_file().into(),
        ]);
        let (program, args) = (PathBuf::from(words.remove(0)), words);
        let started = Process::start(&self.name, &program, &args, &self.env, &self.log())?;
        self.process = Some(started);
        Ok(())
    }

    /// Waits until `/readyz` says yes.
    pub async fn wait_ready(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.process_mut()?.ended()? {
                bail!(
                    "{} ended with {status} before it was ready: {}",
                    self.name,
                    process::tail(&self.log(), 5)
                );
            }
            if self.admin("readyz").await.is_ok_and(|(ready, _)| ready) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let (_, said) = self.admin("readyz?verbose").await.unwrap_or_default();
                bail!(
                    "{} was not ready after {within:?}: {said}\n{}",
                    self.name,
                    process::tail(&self.log(), 8)
                );
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// GET on the admin port: whether the status was 2xx, and the body.
    pub async fn admin(&self, path: &str) -> Result<(bool, String)> {
        let url = format!("http://{}/{path}", self.addresses.admin);
        let request = self.http.get(&url).timeout(Duration::from_secs(5));
        let asking = async {
            let answer = request.send().await?;
            Ok((answer.status().is_success(), answer.text().await?))
        };
        match &self.inside {
            Some(inside) => inside.room.run(asking).await?,
            None => asking.await,
        }
    }

    pub async fn metrics(&self) -> Result<Metrics> {
        let (fine, text) = self.admin("metrics").await?;
        if !fine {
            bail!("{}: /metrics answered an error: {text}", self.name);
        }
        Ok(Metrics::parse(&text))
    }

    pub async fn status(&self) -> Result<serde_json::Value> {
        let (_, text) = self.admin("status").await?;
        serde_json::from_str(&text)
            .with_context(|| format!("{}: /status is not JSON: {text}", self.name))
    }

    /// A client of this member's registry port.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.addresses.registry)
    }

    /// SIGKILL.
    pub async fn kill(&mut self) -> Result<()> {
        self.process_mut()?.kill().await?;
        self.process = None;
        Ok(())
    }

    /// SIGTERM; does nothing when the member is down.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop().await?;
        }
        Ok(())
    }

    pub fn process_mut(&mut self) -> Result<&mut Process> {
        self.process
            .as_mut()
            .with_context(|| format!("{} is not running", self.name))
    }

    pub fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("{} is not running", self.name))
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The folder that holds its configuration, data and log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn lost_its_port(&self) -> bool {
        process::tail(&self.log(), 3).contains("in use")
    }
}
