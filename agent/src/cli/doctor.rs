//! `doctor`: one look at everything that must be right for pulls to come through this agent, each finding with its remedy.

use std::path::PathBuf;

use super::containerd::{CheckArgs, mark};
use super::image::{Image, Platforms, registry_client};
use super::{CliError, human_bytes, say, status};
use crate::config::Config;
use crate::hosts::check::{self, Finding, Verdict};
use crate::hosts::probe::{self, ProbeError};

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Prove it by asking for an image through the agent
    #[arg(long, value_name = "IMAGE")]
    pull: Option<String>,
    /// containerd's own configuration
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/containerd/config.toml"
    )]
    containerd_config: PathBuf,
    /// containerd's config_path
    #[arg(long, value_name = "DIR", default_value = "/etc/containerd/certs.d")]
    hosts_dir: PathBuf,
}

pub(super) async fn main(config: &Config, args: DoctorArgs) -> Result<(), CliError> {
    let mut findings = vec![Finding::new(Verdict::Good, "the configuration is valid")];
    findings.push(token(config));
    findings.push(registry_port(config).await);
    findings.extend(cluster(config).await);
    let check = CheckArgs::usual(args.containerd_config, args.hosts_dir);
    findings.extend(check::inspect(
        &check.plan(config),
        &check.containerd_config,
    ));
    if let Some(image) = &args.pull {
        findings.push(prove(config, image).await);
    }
    let bad = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Bad)
        .count();
    for finding in findings {
        say(&format!("{}  {}", mark(finding.verdict), finding.text))?;
    }
    if bad > 0 {
        Err(CliError::Findings(bad))
    } else {
        Ok(())
    }
}

fn token(config: &Config) -> Finding {
    let Some(path) = &config.join_token_file else {
        return Finding::new(
            Verdict::Bad,
            "cluster.join_token_file is not set: the agent joins no cluster",
        );
    };
    let shown = path.display();
    match std::fs::read_to_string(path) {
        Err(error) => Finding::new(
            Verdict::Bad,
            format!("cluster.join_token_file {shown}: {error}"),
        ),
        Ok(text) if text.trim().parse::<shoal_proto::JoinToken>().is_err() => Finding::new(
            Verdict::Bad,
            format!("cluster.join_token_file {shown}: not a join token; copy it anew"),
        ),
        Ok(_) => Finding::new(
            Verdict::Good,
            format!("cluster.join_token_file {shown} holds a token"),
        ),
    }
}

async fn registry_port(config: &Config) -> Finding {
    let address = config.registry_address();
    match probe::identify(address).await {
        Ok(name) => Finding::new(Verdict::Good, format!("agent {name} answers on {address}")),
        Err(ProbeError::Silent(error)) => Finding::new(Verdict::Bad, error.to_string()),
        Err(error @ ProbeError::Stranger(_)) => Finding::new(Verdict::Bad, error.to_string()),
    }
}

async fn cluster(config: &Config) -> Vec<Finding> {
    let status = match status::fetch(config).await {
        Ok(answer) => answer,
        Err(error) => return vec![Finding::new(Verdict::Bad, error.to_string())],
    };
    let peer = &status["status"]["peer"];
    let origins = peer["origins"].as_array().map_or(0, Vec::len);
    let tracker = match peer["tracker"]["connected"].as_bool() {
        Some(true) => Finding::new(
            Verdict::Good,
            format!("tracker {} is connected", peer["tracker"]["address"]),
        ),
        _ if peer["tracker"]["joined"] == true => Finding::new(
            Verdict::Odd,
            "no tracker answers: new blobs are found by the origins alone",
        ),
        _ => Finding::new(
            Verdict::Bad,
            "not let into the cluster yet: check cluster.trackers, UDP to them, and the join token",
        ),
    };
    let origin = if origins > 0 {
        Finding::new(Verdict::Good, format!("{origins} origins are known"))
    } else {
        Finding::new(
            Verdict::Bad,
            "no origin is known: tags and new blobs fall through to the upstream",
        )
    };
    vec![tracker, origin]
}

async fn prove(config: &Config, text: &str) -> Finding {
    let asked = async {
        let image = Image::parse(text, config)?;
        image.blobs(&registry_client(config), &Platforms::All).await
    };
    match asked.await {
        Ok(blobs) => {
            let bytes = blobs.iter().map(|blob| blob.bytes).sum();
            Finding::new(
                Verdict::Good,
                format!(
                    "{text}: the agent has its manifests: {} blobs, {}",
                    blobs.len(),
                    human_bytes(bytes)
                ),
            )
        }
        Err(error) => Finding::new(Verdict::Bad, error.to_string()),
    }
}
