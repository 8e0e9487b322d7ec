//! `clients`: what pulling through an agent costs a real client, against the same pull straight from the registry.
//!
//! What for: three figures with gates, each taken in pairs within one run, since the machine is part of the figure: a warm
//! pull, a cold pull with one agent, the first byte of a warm blob. What not for: many nodes, where Shoal wins (that is
//! `fanout`). It needs root, containerd, docker-registry and skopeo. Invariant: each pull begins with a containerd that
//! has nothing, each cold one with a cluster that has nothing.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use shoal_daemon::config::ByteSize;
use shoal_proto::Digest;

use crate::ballast::Ballast;
use crate::cluster::config::RegistryEntry;
use crate::cluster::containerd::{self, Containerd};
use crate::cluster::folder::RunFolder;
use crate::cluster::measure::median;
use crate::cluster::registry::DockerRegistry;
use crate::cluster::{Cluster, ClusterOptions, needs};
use crate::interrupt;
use crate::layout;
use crate::screen::{Screen, bytes, table};
use crate::workload::Image;

const REPOSITORY: &str = "bench/app";
const TAG: &str = "v1";
/// A warm pull may take so much of the direct one.
const WARM_OVER_DIRECT_MAX: f64 = 1.05;
/// The same for a cold one, which passes through origin and agent.
const COLD_OVER_DIRECT_MAX: f64 = 1.10;
const FIRST_BYTE_MAX: Duration = Duration::from_millis(5);
const FIRST_BYTES: usize = 21;
/// Layout, registry, origin, agent, containerd's content and its snapshot, the memory that
/// is had at hand, and as much again in page cache on its way.
const COPIES: u64 = 13;

/// What a cold pull fills of the page cache: the stores of origin and agent, containerd's content and its snapshot. Memory
/// is had at hand for as much before every pull, also one that fills less.
const COPIES_OF_A_PULL: u64 = 4;

/// What pulling through an agent costs a client.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientsArgs {
    /// The size of the image's one layer
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    pub blob: ByteSize,
    /// Pairs of pulls for each figure; the medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub pairs: u16,
    /// Write the figures there
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Leave out the cold pulls, which take longest
    #[arg(long)]
    pub warm_only: bool,
}

/// The figures, as `--json` has them.
#[derive(Debug, Clone, Serialize)]
struct Figures {
    blob_bytes: u64,
    pairs: u16,
    direct_s: f64,
    warm_s: f64,
    warm_over_direct: f64,
    cold_s: Option<f64>,
    cold_over_direct: Option<f64>,
    first_byte_ms: f64,
}

/// Everything that has to be taken down again.
struct Bench {
    screen: Screen,
    folder: RunFolder,
    registry: Option<DockerRegistry>,
    /// With a folder of its own, which goes with it.
    cluster: Option<(Cluster, RunFolder)>,
    pulls: u32,
    blob_bytes: u64,
}

/// Runs the pairs and judges them; an error is a gate that does not hold.
pub async fn run(args: ClientsArgs) -> Result<()> {
    needs::root("a real containerd")?;
    let mut programs = containerd::PROGRAMS.to_vec();
    programs.extend([needs::DOCKER_REGISTRY, needs::SKOPEO]);
    needs::programs(&programs)?;
    for binary in ["shoal-origin", "shoal-agent"] {
        needs::binary(binary)?;
    }
    let mut interrupted = std::pin::pin!(interrupt::listen()?);
    let mut bench = Bench {
        screen: Screen::new(),
        folder: RunFolder::create("c")?,
        registry: None,
        cluster: None,
        pulls: 0,
        blob_bytes: args.blob.bytes() / 512 * 512,
    };
    let figures = tokio::select! {
        figures = Box::pin(bench.measure(&args)) => figures,
        () = &mut interrupted => Err(anyhow::anyhow!("interrupted; everything was taken down")),
    };
    bench.end_cluster().await?;
    let figures = figures?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&figures)?)
            .with_context(|| format!("{}", file.display()))?;
    }
    judge(&bench.screen, &figures)
}

impl Bench {
    async fn measure(&mut self, args: &ClientsArgs) -> Result<Figures> {
        let blob_bytes = self.blob_bytes;
        self.folder.need(blob_bytes * COPIES)?;
        let layer = self.publish(blob_bytes).await?;
        self.start_cluster().await?;
        self.pull("fill the agent", true).await?;
        let (mut direct, mut warm) = (Vec::new(), Vec::new());
        for pair in 0..args.pairs {
            // The order turns from pair to pair, so that neither is always the second.
            for through in [pair % 2 == 0, pair % 2 != 0] {
                let what = if through { "warm" } else { "straight" };
                let took = self.pull(what, through).await?;
                if through {
                    warm.push(took)
                } else {
                    direct.push(took)
                }
            }
        }
        let first_byte = self.first_byte(&layer).await?;
        let mut cold = Vec::new();
        for _ in 0..if args.warm_only { 0 } else { args.pairs } {
            self.end_cluster().await?;
            self.start_cluster().await?;
            direct.push(self.pull("straight", false).await?);
            cold.push(self.pull("cold", true).await?);
        }
        let direct = median(direct).as_secs_f64();
        let warm = median(warm).as_secs_f64();
        let cold = (!cold.is_empty()).then(|| median(cold).as_secs_f64());
        Ok(Figures {
            blob_bytes,
            pairs: args.pairs,
            direct_s: direct,
            warm_s: warm,
            warm_over_direct: warm / direct,
            cold_s: cold,
            cold_over_direct: cold.map(|cold| cold / direct),
            first_byte_ms: first_byte.as_secs_f64() * 1e3,
        })
    }

    /// An image of one layer in Debian's registry.
    async fn publish(&mut self, blob_bytes: u64) -> Result<Digest> {
        let act = self
            .screen
            .act("make an image and push it to Debian's docker-registry");
        let folder = self.folder.sub("layout")?;
        let write_to = folder.clone();
        let image = tokio::task::spawn_blocking(move || -> Result<_> {
            let image = Image::of_sizes(1, &[blob_bytes]);
            layout::write(&write_to, &image, TAG, |_| ())?;
            Ok(image)
        });
        let image = image.await??;
        let registry = DockerRegistry::start(&self.folder.sub("registry")?).await?;
        registry.push(&folder, REPOSITORY, TAG).await?;
        self.registry = Some(registry);
        std::fs::remove_dir_all(&folder)?;
        act.done(&format!("({})", bytes(blob_bytes)));
        Ok(image.layers().first().context("it has one layer")?.digest())
    }

    async fn start_cluster(&mut self) -> Result<()> {
        let registry = self.registry.as_ref().context("it was started before")?;
        let options = ClusterOptions {
            agents: 1,
            upstreams: vec![RegistryEntry::plain(registry.address())],
            ..ClusterOptions::default()
        };
        let folder = RunFolder::create("cc")?;
        self.cluster = Some((Cluster::start(&folder, options).await?, folder));
        Ok(())
    }

    /// Ends the cluster and makes room for the next.
    async fn end_cluster(&mut self) -> Result<()> {
        if let Some((mut cluster, folder)) = self.cluster.take() {
            cluster.stop().await?;
            drop(folder);
        }
        Ok(())
    }

    /// One pull by a containerd that has nothing.
    async fn pull(&mut self, what: &str, through: bool) -> Result<Duration> {
        let act = self.screen.act(&format!("pull: {what}"));
        self.pulls += 1;
        let folder = self.folder.sub(&format!("n{}", self.pulls))?;
        let registry = self
            .registry
            .as_ref()
            .context("it was started before")?
            .address();
        let (cluster, _) = self.cluster.as_ref().context("it was started before")?;
        let agent = cluster.agents.first().context("there is one")?;
        let mut node = Containerd::start("n", &folder).await?;
        let host = if through {
            agent.addresses().registry
        } else {
            registry
        };
        let host = format!("http://{host}");
        node.set_hosts(&registry.to_string(), &[&host], Some(&host))?;
        let _ballast = Ballast::take_on(self.blob_bytes * COPIES_OF_A_PULL).await?;
        // What was written before is not to be waited for in the middle of the pull.
        rustix::fs::sync();
        let image = format!("{registry}/{REPOSITORY}:{TAG}");
        let took = node.pull(&image).await;
        node.stop().await?;
        drop(node);
        std::fs::remove_dir_all(&folder)?;
        let took = took?;
        act.done(&format!("{:.2} s", took.as_secs_f64()));
        Ok(took)
    }

    /// From a request to the first byte of a blob that the agent has.
    async fn first_byte(&self, layer: &Digest) -> Result<Duration> {
        let registry = self.registry.as_ref().context("it was started before")?;
        let (cluster, _) = self.cluster.as_ref().context("it was started before")?;
        let agent = cluster.agents.first().context("there is one")?;
        let client = agent.client().for_registry(registry.address());
        let mut first = Vec::new();
        for _ in 0..FIRST_BYTES {
            let mut blob = client.open(REPOSITORY, layer, 0).await?;
            blob.next().await?;
            first.push(blob.first_byte().context("a blob without bytes")?);
        }
        Ok(median(first))
    }
}

fn judge(screen: &Screen, figures: &Figures) -> Result<()> {
    let row = |what: &str, took: String, over: Option<f64>, most: String| {
        let over = over.map_or_else(String::new, |over| format!("{over:.3}"));
        vec![what.to_owned(), took, over, most]
    };
    let seconds = |value: f64| format!("{value:.2} s");
    let mut rows = vec![
        row("", "median".into(), None, "at most".into()),
        row(
            "straight from the registry",
            seconds(figures.direct_s),
            None,
            String::new(),
        ),
        row(
            "warm, through the agent",
            seconds(figures.warm_s),
            Some(figures.warm_over_direct),
            format!("{WARM_OVER_DIRECT_MAX:.2}"),
        ),
    ];
    if let Some(cold) = figures.cold_s {
        rows.push(row(
            "cold, through origin and agent",
            seconds(cold),
            figures.cold_over_direct,
            format!("{COLD_OVER_DIRECT_MAX:.2}"),
        ));
    }
    rows.push(row(
        "first byte of a warm blob",
        format!("{:.2} ms", figures.first_byte_ms),
        None,
        format!("{} ms", FIRST_BYTE_MAX.as_millis()),
    ));
    screen.say(&table(&rows));
    let gates = [
        (
            figures.warm_over_direct <= WARM_OVER_DIRECT_MAX,
            "a warm pull",
        ),
        (
            figures
                .cold_over_direct
                .is_none_or(|over| over <= COLD_OVER_DIRECT_MAX),
            "a cold pull",
        ),
        (
            figures.first_byte_ms <= FIRST_BYTE_MAX.as_secs_f64() * 1e3,
            "the first byte of a warm blob",
        ),
    ];
    let late: Vec<&str> = gates
        .iter()
        .filter(|(holds, _)| !holds)
        .map(|(_, what)| *what)
        .collect();
    if !late.is_empty() {
        bail!("over its limit: {}", late.join(", "));
    }
    Ok(())
}
