//! `demo`: the main job with real parts, in front of a person: Debian's registry, skopeo, containerd and runc around the
//! shipped binaries.
//!
//! What for: `make demo`, the first thing that a newcomer sees; it fails when Shoal does not keep its word. What not for:
//! speed figures (one machine carries everything). It needs root and the Debian packages in
//! [`needs::DEMO_PACKAGES`]. Invariant: what it started is ended, unmounted and removed however it ends.

mod figures;
pub mod image;
mod watch;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::{join_all, try_join_all};
use shoal_proto::Digest;

use self::figures::{Figures, NodeFigures, UpstreamFigures};
use crate::cluster::config::RegistryEntry;
use crate::cluster::containerd::{self, Containerd};
use crate::cluster::folder::RunFolder;
use crate::cluster::image_ref::ImageRef;
use crate::cluster::registry::DockerRegistry;
use crate::cluster::{Cluster, ClusterOptions, needs, process};
use crate::screen::{Screen, bytes};
use crate::{interrupt, layout, up};

/// Where the image goes in the local registry.
const REPOSITORY: &str = "demo/app";
const TAG: &str = "v1";
const INSTALL_WITHIN: Duration = Duration::from_secs(30);
/// Content, unpacked snapshot and the agent's own store, on each node; layout, registry and origin beside them.
const COPIES_PER_NODE: u64 = 3;
const COPIES_BESIDE: u64 = 3;

/// The main job with real parts.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// How many nodes: an agent and a containerd each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub agents: u16,
    /// Pull this image from its own registry instead of a local one; http:// in front when that speaks no TLS
    #[arg(long, value_name = "REF")]
    pub image: Option<String>,
    /// Leave the cluster up afterwards, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// With --image: what the containers run, after `--`; the image's own command when not given
    #[arg(last = true, value_name = "COMMAND", requires = "image")]
    pub command: Vec<String>,
}

/// Everything that has to be taken down again.
struct Stage {
    screen: Screen,
    folder: RunFolder,
    registry: Option<DockerRegistry>,
    cluster: Option<Cluster>,
    nodes: Vec<Containerd>,
}

/// What is pulled.
struct Subject {
    /// As `ctr` wants it.
    reference: String,
    upstream: RegistryEntry,
    /// Blobs with their sizes, where they are known beforehand.
    blobs: Option<Vec<(Digest, u64)>>,
}

/// Runs the demonstration to its verdict; an error is its failure.
pub async fn run(args: DemoArgs) -> Result<()> {
    check_needs(&args)?;
    let image = args.image.as_deref().map(ImageRef::parse).transpose()?;
    let mut interrupted = std::pin::pin!(interrupt::listen()?);
    let mut stage = Stage {
        screen: Screen::new(),
        folder: RunFolder::create("demo")?,
        registry: None,
        cluster: None,
        nodes: Vec::new(),
    };
    let outcome = tokio::select! {
        outcome = Box::pin(play(&mut stage, &args, image)) => outcome,
        () = &mut interrupted => Err(anyhow::anyhow!("interrupted; everything was taken down")),
    };
    if args.keep && outcome.is_ok() {
        if let Some(cluster) = &stage.cluster {
            up::show(&stage.screen, cluster);
        }
        for node in &stage.nodes {
            stage.screen.say(&node.ctr_by_hand());
        }
        stage.screen.say("\nCtrl-C ends everything.");
        interrupted.await;
    }
    stage.strike().await?;
    outcome
}

fn check_needs(args: &DemoArgs) -> Result<()> {
    needs::root("a demonstration with a real containerd")?;
    let mut programs = containerd::PROGRAMS.to_vec();
    if args.image.is_none() {
        programs.extend([needs::BUSYBOX, needs::DOCKER_REGISTRY, needs::SKOPEO]);
    }
    needs::programs(&programs)?;
    for binary in ["shoal-origin", "shoal-agent"] {
        needs::binary(binary)?;
    }
    Ok(())
}

async fn play(stage: &mut Stage, args: &DemoArgs, image: Option<ImageRef>) -> Result<()> {
    stage.screen.title("The stage");
    let subject = match image {
        Some(image) => Subject {
            reference: image.to_string(),
            upstream: RegistryEntry::named(&image.registry_spelled()),
            blobs: None,
        },
        None => local_subject(stage, args.agents).await?,
    };
    start_cluster(stage, &subject, args.agents).await?;
    start_nodes(stage, args.agents).await?;
    if let Some(registry) = &mut stage.registry {
        registry.forget()?;
    }
    stage.screen.title("The pulls");
    let mut pulled = pull_on(stage, &subject, 0..1).await?;
    if args.agents > 1 {
        pulled.extend(pull_on(stage, &subject, 1..usize::from(args.agents)).await?);
    }
    stage.screen.title("The containers");
    run_containers(stage, &subject, &args.command).await?;
    stage.screen.title("What it took");
    let figures = measure(stage, &subject, &pulled).await?;
    judge(&stage.screen, &figures)
}

/// A registry of our own machine with an image made here.
async fn local_subject(stage: &mut Stage, agents: u16) -> Result<Subject> {
    let act = stage
        .screen
        .act("make an image from busybox-static and noise");
    let busybox = needs::BUSYBOX.path()?;
    let folder = stage.folder.sub("layout")?;
    let write_to = folder.clone();
    let image = tokio::task::spawn_blocking(move || -> Result<_> {
        let image = image::make(&busybox, 1)?;
        layout::write(&write_to, &image, TAG, |_| ())?;
        Ok(image)
    });
    let image = image.await??;
    stage
        .folder
        .need(image.blob_bytes() * (COPIES_BESIDE + COPIES_PER_NODE * u64::from(agents)))?;
    act.done(&format!(
        "({} layers, {})",
        image.layers().len(),
        bytes(image.blob_bytes())
    ));

    let act = stage
        .screen
        .act("start Debian's docker-registry and push the image with skopeo");
    let registry = DockerRegistry::start(&stage.folder.sub("registry")?).await?;
    let address = registry.address();
    let reference = registry.push(&folder, REPOSITORY, TAG).await?;
    stage.registry = Some(registry);
    std::fs::remove_dir_all(&folder)?;
    act.done(&format!("to {reference}"));
    let blobs = image
        .blobs()
        .iter()
        .map(|blob| (blob.digest(), blob.len()))
        .collect();
    Ok(Subject {
        reference,
        upstream: RegistryEntry::plain(address),
        blobs: Some(blobs),
    })
}

async fn start_cluster(stage: &mut Stage, subject: &Subject, agents: u16) -> Result<()> {
    let act = stage.screen.act(&format!(
        "start shoal-origin (tracker inside) and {agents} shoal-agents"
    ));
    let options = ClusterOptions {
        agents: usize::from(agents),
        upstreams: vec![subject.upstream.clone()],
        ..ClusterOptions::default()
    };
    stage.cluster = Some(Cluster::start(&stage.folder, options).await?);
    act.done("");
    Ok(())
}

/// One containerd a node, pointed at that node's agent by the agent's own installer.
async fn start_nodes(stage: &mut Stage, agents: u16) -> Result<()> {
    let act = stage
        .screen
        .act("start a containerd on each node, pointed at its agent");
    let cluster = stage
        .cluster
        .as_ref()
        .context("the cluster was started before")?;
    for number in 1..=agents {
        // A short name: a Unix socket's path is short.
        let folder = stage.folder.sub(&format!("c{number}"))?;
        stage
            .nodes
            .push(Containerd::start(&node_name(usize::from(number)), &folder).await?);
    }
    for (node, agent) in stage.nodes.iter().zip(&cluster.agents) {
        install(node, agent).await?;
    }
    let snapshotter = stage.nodes.first().map_or("", Containerd::snapshotter);
    act.done(&format!("(snapshots by {snapshotter})"));
    Ok(())
}

/// `shoal-agent containerd install` for one node.
pub async fn install(node: &Containerd, agent: &crate::cluster::Member) -> Result<()> {
    let (config, hosts) = (agent.config_file(), node.hosts_dir());
    let path = |path: &std::path::Path| {
        path.to_str()
            .map(str::to_owned)
            .context("a path that is not UTF-8")
    };
    let (config, hosts) = (path(&config)?, path(&hosts)?);
    let args = [
        "--config",
        &config,
        "containerd",
        "install",
        "--hosts-dir",
        &hosts,
    ];
    process::run(agent.program(), &args, INSTALL_WITHIN).await?;
    Ok(())
}

/// Pulls on some nodes at the same time, with a bar for each.
async fn pull_on(
    stage: &Stage,
    subject: &Subject,
    which: std::ops::Range<usize>,
) -> Result<Vec<Duration>> {
    let names = which
        .clone()
        .map(|index| node_name(index + 1))
        .collect::<Vec<_>>()
        .join(", ");
    let together = if which.len() > 1 {
        " at the same time"
    } else {
        ""
    };
    let act = stage.screen.act(&format!(
        "{names}: ctr images pull {}{together}",
        subject.reference
    ));
    let cluster = stage
        .cluster
        .as_ref()
        .context("the cluster was started before")?;
    let expected = subject
        .blobs
        .as_ref()
        .map(|blobs| blobs.iter().map(|(_, size)| size).sum());
    let watching = which.clone().map(|index| {
        watch::follow(
            stage.screen.clone(),
            node_name(index + 1),
            &cluster.agents[index],
            expected,
        )
    });
    let pulling = which
        .clone()
        .map(|index| stage.nodes[index].pull(&subject.reference));
    let pulled = tokio::select! {
        pulled = try_join_all(pulling) => pulled?,
        _ = join_all(watching) => bail!("a bar ended before the pull"),
    };
    act.done("");
    Ok(pulled)
}

async fn run_containers(stage: &Stage, subject: &Subject, command: &[String]) -> Result<()> {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let act = stage.screen.act("run a container on each node");
    let mut outputs = Vec::new();
    for (index, node) in stage.nodes.iter().enumerate() {
        let name = node_name(index + 1);
        act.tell(&format!("({name})"));
        let printed = node.run(&subject.reference, &name, &command).await.context(
            "the container did not run to its end; with --image, give a command that does: demo --image REF -- echo hello",
        )?;
        outputs.push((name, printed));
    }
    act.done("");
    for (name, printed) in outputs {
        for line in printed.lines() {
            stage.screen.say(&format!("  {name} │ {line}"));
        }
        if subject.blobs.is_some() {
            image::check(&printed, &name)?;
        } else if printed.trim().is_empty() {
            bail!("the container on {name} printed nothing");
        }
    }
    Ok(())
}

async fn measure(stage: &Stage, subject: &Subject, pulled: &[Duration]) -> Result<Figures> {
    let cluster = stage
        .cluster
        .as_ref()
        .context("the cluster was started before")?;
    let mut nodes = Vec::new();
    for (index, (agent, pulled_in)) in cluster.agents.iter().zip(pulled).enumerate() {
        nodes.push(NodeFigures::read(&node_name(index + 1), *pulled_in, agent).await?);
    }
    let upstream = match (&subject.blobs, &stage.registry) {
        (Some(blobs), Some(registry)) => UpstreamFigures::of_log(blobs, &registry.asked()?),
        _ => UpstreamFigures::of_counters(&cluster.origin).await?,
    };
    Ok(Figures { nodes, upstream })
}

fn judge(screen: &Screen, figures: &Figures) -> Result<()> {
    screen.say(&figures.tables());
    let verdict = figures.verdict();
    for (holds, text) in &verdict {
        if *holds {
            screen.good(text)
        } else {
            screen.bad(text)
        }
    }
    let failed: Vec<String> = verdict
        .into_iter()
        .filter(|(holds, _)| !holds)
        .map(|(_, text)| text)
        .collect();
    if !failed.is_empty() {
        bail!("the demonstration failed: {}", failed.join("; "));
    }
    Ok(())
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

impl Stage {
    /// Takes everything down, the clients first; goes on when a part does not.
    async fn strike(mut self) -> Result<()> {
        let act = self.screen.act("take everything down");
        let nodes = join_all(self.nodes.iter_mut().map(Containerd::stop)).await;
        let cluster = match &mut self.cluster {
            Some(cluster) => cluster.stop().await,
            None => Ok(()),
        };
        let registry = match &mut self.registry {
            Some(registry) => registry.stop().await,
            None => Ok(()),
        };
        self.nodes.clear();
        drop(self.folder);
        act.done("");
        nodes.into_iter().collect::<Result<()>>()?;
        cluster.and(registry)
    }
}
