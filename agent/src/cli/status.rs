//! `status`: one screen of what the agent holds and does, or all of it as JSON.

use std::time::Duration;

use http::{HeaderMap, Method};
use serde_json::Value;

use super::{CliError, human_bytes, say};
use crate::client::{AskError, Client};
use crate::config::Config;

const ANSWER_WITHIN: Duration = Duration::from_secs(6);
const STATUS_BYTES_MAX: usize = 16 << 20;
const REQUESTS_SHOWN: usize = 10;
/// A digest's algorithm and its first twelve digits.
const REFERENCE_CHARS: usize = 19;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Json,
    #[default]
    Text,
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// For people, or for programs
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn main(config: &Config, args: StatusArgs) -> Result<(), CliError> {
    let status = fetch(config).await?;
    match args.output {
        Output::Json => say(&format!("{status:#}")),
        Output::Text => say(&screen(&status)),
    }
}

/// The admin port's answer.
pub(super) async fn fetch(config: &Config) -> Result<Value, AskError> {
    let client = Client::new(config.admin_address(), ANSWER_WITHIN);
    let answer = client
        .ask(Method::GET, "/status", HeaderMap::new(), STATUS_BYTES_MAX)
        .await?;
    serde_json::from_slice(&answer.body).map_err(|error| AskError::Broken {
        address: client.address(),
        path: "/status".to_owned(),
        reason: error.to_string(),
    })
}

fn screen(answer: &Value) -> String {
    let status = &answer["status"];
    let (peer, store, recent) = (&status["peer"], &status["store"], &status["recent"]);
    let mut lines = vec![
        format!(
            "{} {}  {}",
            text(&answer["name"]),
            text(&answer["version"]),
            text(&peer["peer"])
        ),
        format!("tracker   {}", tracker(&peer["tracker"])),
        format!(
            "cluster   {} origins, {} links",
            count(&peer["origins"]),
            count(&peer["links"])
        ),
        format!(
            "store     {} blobs whole, {} in part, {} of {}, {} free",
            store["complete_blobs"],
            store["partial_blobs"],
            bytes(&store["used_bytes"]),
            bytes(&store["quota_bytes"]),
            bytes(&store["free_bytes"]),
        ),
        format!(
            "recently  {} from this node, {} from the swarm",
            bytes(&recent["cache_bytes"]),
            bytes(&recent["swarm_bytes"])
        ),
    ];
    let swarms = peer["swarms"].as_array().into_iter().flatten();
    lines.extend(
        swarms
            .filter(|swarm| swarm["complete"] == false)
            .map(fetching),
    );
    let requests = recent["requests"].as_array().into_iter().flatten();
    lines.extend(requests.rev().take(REQUESTS_SHOWN).map(request));
    lines.join("\n")
}

fn tracker(tracker: &Value) -> String {
    match (tracker["connected"].as_bool(), tracker["joined"].as_bool()) {
        (Some(true), _) => text(&tracker["address"]),
        (_, Some(true)) => "none answers; the peers that are known are kept".to_owned(),
        _ => "not joined: look at cluster.trackers and cluster.join_token_file".to_owned(),
    }
}

fn fetching(swarm: &Value) -> String {
    format!(
        "fetching  {}  {} of {} pieces",
        text(&swarm["digest"]),
        swarm["held"],
        swarm["pieces"]
    )
}

fn request(request: &Value) -> String {
    format!(
        "  {} {:9} {} {}  {} + {}  first byte {} ms, {} ms",
        request["status"],
        text(&request["outcome"]),
        text(&request["repository"]),
        text(&request["reference"])
            .chars()
            .take(REFERENCE_CHARS)
            .collect::<String>(),
        bytes(&request["cache_bytes"]),
        bytes(&request["swarm_bytes"]),
        request["first_byte_ms"],
        request["took_ms"],
    )
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), human_bytes)
}

fn count(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_made_of_whatever_is_known() {
        assert!(screen(&Value::Null).contains("not joined"));
        let status = serde_json::json!({
            "name": "shoal-agent", "version": "1",
            "status": {
                "peer": { "peer": "12D3", "tracker": { "connected": true, "joined": true, "address": "t:7052" } },
                "store": { "complete_blobs": 2, "partial_blobs": 0, "used_bytes": 2048 },
                "recent": { "requests": [{ "status": 200, "repository": "docker.io/a", "reference": "v1" }] },
            },
        });
        let text = screen(&status);
        assert!(
            text.contains("t:7052") && text.contains("2.00 KiB") && text.contains("docker.io/a"),
            "{text}"
        );
    }
}
