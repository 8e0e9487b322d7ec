//! `doctor`: one look at everything that must be right for pulls to come through this agent, each finding with its remedy.

use std::path::PathBuf;

use super::containerd::{CheckArgs, mark};
use super::image::{Image, ImageError, Platforms, registry_client};
use super::{CliError, human_bytes, pull, say, status};
use crate::config::Config;
use crate::hosts::check::{self, Finding, Verdict};
use crate::hosts::probe::{self, ProbeError};

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Prove it by asking for an image through the agent, and for its smallest blob by digest
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
    match &args.pull {
        Some(image) => findings.extend(prove(config, image).await),
        None => findings.push(Finding::new(
            Verdict::Odd,
            "nothing was pulled: --pull IMAGE proves the way from the registry to this port",
        )),
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

/// An image's manifests, and its smallest blob by digest, as a container client would ask for them.
async fn prove(config: &Config, text: &str) -> Vec<Finding> {
    let client = registry_client(config);
    let asked = async {
        let image = Image::parse(text, config)?;
        let blobs = image.blobs(&client, &Platforms::All).await?;
        Ok::<_, ImageError>((image, blobs))
    };
    let (image, blobs) = match asked.await {
        Ok(found) => found,
        Err(error) => return vec![failed(&error)],
    };
    let bytes = blobs.iter().map(|blob| blob.bytes).sum();
    let mut findings = vec![Finding::new(
        Verdict::Good,
        format!(
            "{text}: the agent has its manifests: {} blobs, {}",
            blobs.len(),
            human_bytes(bytes)
        ),
    )];
    if let Some(blob) = blobs.into_iter().min_by_key(|blob| blob.bytes) {
        findings.push(match pull::checked(&image, &client, blob, |_| ()).await {
            Ok(pulled) => Finding::new(
                Verdict::Good,
                format!(
                    "{}: {} through the agent, every byte right, the first after {:.1} ms",
                    pulled.blob.digest.short(),
                    human_bytes(pulled.blob.bytes),
                    pulled.first_byte.as_secs_f64() * 1000.0
                ),
            ),
            Err(error) => failed(&error),
        });
    }
    findings
}

/// What an answer of the agent means here, and what to do about it.
fn failed(error: &ImageError) -> Finding {
    let status = match error {
        ImageError::Refused { status, .. } => Some(status.as_u16()),
        _ => None,
    };
    let (verdict, remedy) = match status {
        Some(401) => (
            Verdict::Odd,
            "its registry is asked about each caller, and this command has no credential: prove it with a client that has one",
        ),
        Some(404) => (
            Verdict::Bad,
            "the origin does not have it or may not: check the name, the origin's policy for this registry (`access`), and its log; clients go to the registry itself",
        ),
        Some(503) => (
            Verdict::Bad,
            "no origin could bring it: check the lines above, then the origin's log and its way to the registry; clients go to the registry itself",
        ),
        _ => return Finding::new(Verdict::Bad, error.to_string()),
    };
    Finding::new(verdict, format!("{error}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn each_answer_says_what_to_do_and_a_challenge_is_no_fault() {
        let of = |status| {
            failed(&ImageError::Refused {
                what: "a".to_owned(),
                status,
                detail: "b".to_owned(),
            })
        };
        assert_eq!(of(StatusCode::UNAUTHORIZED).verdict, Verdict::Odd);
        for status in [StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE] {
            let finding = of(status);
            assert_eq!(finding.verdict, Verdict::Bad);
            assert!(finding.text.contains("check"), "{}", finding.text);
        }
    }
}
