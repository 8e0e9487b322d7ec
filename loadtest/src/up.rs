//! `up`: a whole local cluster that stays until Ctrl-C, with all that is needed to use it by hand.

use anyhow::Result;

use crate::cluster::config::RegistryEntry;
use crate::cluster::folder::RunFolder;
use crate::cluster::needs;
use crate::cluster::{Cluster, ClusterOptions};
use crate::interrupt;
use crate::screen::{Screen, table};

/// A local cluster of the real binaries.
#[derive(Debug, Clone, clap::Args)]
pub struct UpArgs {
    /// How many agents.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub agents: u16,
    /// A registry to serve, as image references name it; http:// in front when it speaks no TLS. May be repeated
    #[arg(long, value_name = "URL", default_value = "docker.io")]
    pub upstream: Vec<String>,
    /// Leave the data folders where they are afterwards.
    #[arg(long)]
    pub keep: bool,
}

/// Runs until a signal.
pub async fn run(args: UpArgs) -> Result<()> {
    for binary in ["shoal-origin", "shoal-agent"] {
        needs::binary(binary)?;
    }
    let stop = interrupt::listen()?;
    let screen = Screen::new();
    let mut folder = RunFolder::create("up")?;
    let upstreams: Vec<RegistryEntry> = args
        .upstream
        .iter()
        .map(|name| RegistryEntry::named(name))
        .collect();
    let options = ClusterOptions {
        agents: usize::from(args.agents),
        upstreams,
        ..ClusterOptions::default()
    };
    let act = screen.act("start one origin and its agents");
    let mut stop = std::pin::pin!(stop);
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&folder, options) => cluster?,
        () = &mut stop => return Ok(()),
    };
    act.done("");
    show(&screen, &cluster);
    screen.say("\nCtrl-C ends everything.");
    stop.await;
    cluster.stop().await?;
    if args.keep {
        folder.keep();
        screen.say(&format!("\nkept: {}", folder.path().display()));
    }
    Ok(())
}

/// Addresses of every process, and lines to paste into a shell.
pub fn show(screen: &Screen, cluster: &Cluster) {
    let mut rows = vec![
        ["process", "pid", "registry", "admin", "log"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for member in cluster.members() {
        let addresses = member.addresses();
        rows.push(vec![
            member.name().to_owned(),
            member
                .process()
                .map_or_else(|_| "-".into(), |process| process.pid().to_string()),
            format!("http://{}", addresses.registry),
            format!("http://{}", addresses.admin),
            member.log().display().to_string(),
        ]);
    }
    screen.say(&format!("\n{}", table(&rows)));
    let Some(agent) = cluster.agents.first() else {
        return;
    };
    let Some(upstream) = cluster.upstreams().first() else {
        return;
    };
    let (registry, admin) = (agent.addresses().registry, agent.addresses().admin);
    let name = &upstream.registry;
    screen.say(&format!(
        "export SHOAL={registry}\n\
         curl \"http://$SHOAL/v2/library/busybox/manifests/latest?ns={name}\"\n\
         skopeo copy --src-tls-verify=false docker://$SHOAL/{name}/library/busybox:latest dir:/tmp/busybox\n\
         {} containerd install --config {} --hosts-dir /tmp/certs.d   # then: ctr images pull --hosts-dir /tmp/certs.d …\n\
         curl -s http://{admin}/metrics | grep shoal_download_bytes_total",
        agent.program().display(),
        agent.config_file().display(),
    ));
}
