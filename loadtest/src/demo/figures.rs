//! What the demonstration measured, as tables, and what it proves.
//!
//! What for: the closing tables and the exit code. Invariant: the verdict is a pure function of the figures shown.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use shoal_proto::Digest;

use crate::cluster::Member;
use crate::cluster::upstream::Asked;
use crate::screen::{bytes, table};

/// Nodes after the first may take at most this much of their bytes from the origin.
const ORIGIN_SHARE_MAX: f64 = 0.10;

/// One node's pull.
#[derive(Debug, Clone)]
pub(super) struct NodeFigures {
    pub(super) name: String,
    pub(super) pulled_in: Duration,
    pub(super) first_byte: Option<Duration>,
    pub(super) from_cache: u64,
    pub(super) from_peers: u64,
    pub(super) from_origin: u64,
}

impl NodeFigures {
    /// Reads an agent's metrics.
    pub(super) async fn read(name: &str, pulled_in: Duration, agent: &Member) -> Result<Self> {
        let metrics = agent.metrics().await?;
        let source = |source| metrics.count("shoal_download_bytes_total", &[("source", source)]);
        Ok(Self {
            name: name.to_owned(),
            pulled_in,
            first_byte: metrics.mean("shoal_http_time_to_first_byte_seconds", &[]),
            from_cache: source("cache"),
            from_peers: source("peer"),
            from_origin: source("origin"),
        })
    }
}

/// What the upstream was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UpstreamFigures {
    /// From the local registry's access log: each blob of the image with its size, then the manifests.
    Log {
        blobs: Vec<(Digest, u64, Asked)>,
        manifests: Asked,
    },
    /// From the origin's counters: somebody else's registry.
    Counters { requests: u64, bytes: u64 },
}

impl UpstreamFigures {
    /// Picks the image's blobs out of what a registry was asked.
    #[must_use]
    pub(super) fn of_log(blobs: &[(Digest, u64)], asked: &BTreeMap<Option<Digest>, Asked>) -> Self {
        let of = |key: Option<Digest>| asked.get(&key).copied().unwrap_or_default();
        let blobs = blobs
            .iter()
            .map(|(digest, size)| (*digest, *size, of(Some(*digest))))
            .collect();
        Self::Log {
            blobs,
            manifests: of(None),
        }
    }

    pub(super) async fn of_counters(origin: &Member) -> Result<Self> {
        let metrics = origin.metrics().await?;
        Ok(Self::Counters {
            requests: metrics.count("shoal_upstream_requests_total", &[]),
            bytes: metrics.count("shoal_download_bytes_total", &[("source", "upstream")]),
        })
    }
}

/// Everything that was measured.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    pub(super) nodes: Vec<NodeFigures>,
    pub(super) upstream: UpstreamFigures,
}

impl Figures {
    /// The closing tables.
    #[must_use]
    pub(super) fn tables(&self) -> String {
        let head = [
            "node",
            "pulled in",
            "first byte",
            "from cache",
            "from peers",
            "from origin",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for node in &self.nodes {
            let first_byte = node.first_byte.map_or_else(
                || "-".into(),
                |time| format!("{:.0} ms", time.as_secs_f64() * 1e3),
            );
            rows.push(vec![
                node.name.clone(),
                format!("{:.1} s", node.pulled_in.as_secs_f64()),
                first_byte,
                bytes(node.from_cache),
                bytes(node.from_peers),
                bytes(node.from_origin),
            ]);
        }
        format!("{}\n{}", table(&rows), self.upstream_table())
    }

    fn upstream_table(&self) -> String {
        let mut rows = vec![
            ["upstream", "size", "GET", "HEAD", "bytes sent"]
                .map(str::to_owned)
                .to_vec(),
        ];
        match &self.upstream {
            UpstreamFigures::Counters {
                requests,
                bytes: sent,
            } => {
                return format!("  upstream: {requests} requests, {} in all\n", bytes(*sent));
            }
            UpstreamFigures::Log { blobs, manifests } => {
                let row = |name: String, size: String, asked: &Asked| {
                    vec![
                        name,
                        size,
                        asked.gets.to_string(),
                        asked.heads.to_string(),
                        bytes(asked.bytes),
                    ]
                };
                rows.extend(
                    blobs
                        .iter()
                        .map(|(digest, size, asked)| row(digest.short(), bytes(*size), asked)),
                );
                rows.push(row("manifests".into(), String::new(), manifests));
            }
        }
        table(&rows)
    }

    /// How much of their bytes the nodes after the first took from the origin, 0 to 1.
    #[must_use]
    pub(super) fn origin_share(&self) -> f64 {
        let later = self.nodes.get(1..).unwrap_or_default();
        let origin: u64 = later.iter().map(|node| node.from_origin).sum();
        let all: u64 = later
            .iter()
            .map(|node| node.from_peers + node.from_origin)
            .sum();
        if all == 0 { 0.0 } else { ratio(origin, all) }
    }

    /// What the figures prove, or why they do not; each with whether it holds.
    #[must_use]
    pub(super) fn verdict(&self) -> Vec<(bool, String)> {
        let mut verdict = Vec::new();
        match &self.upstream {
            UpstreamFigures::Log { blobs, .. } => {
                for (digest, _, asked) in blobs.iter().filter(|(_, _, asked)| asked.gets != 1) {
                    verdict.push((
                        false,
                        format!(
                            "blob {} was fetched {} times from upstream",
                            digest.short(),
                            asked.gets
                        ),
                    ));
                }
                if verdict.is_empty() {
                    verdict.push((
                        true,
                        format!(
                            "each of the {} blobs was fetched once from upstream",
                            blobs.len()
                        ),
                    ));
                }
            }
            UpstreamFigures::Counters { bytes: sent, .. } => {
                verdict.push((
                    true,
                    format!(
                        "{} came from upstream, for all nodes together",
                        bytes(*sent)
                    ),
                ));
            }
        }
        if self.nodes.len() > 1 {
            let later = &self.nodes[1..];
            let carried: u64 = later.iter().map(|node| node.from_peers).sum();
            let share = self.origin_share();
            let text = format!(
                "later nodes took {:.1} % of their bytes from the origin, less than 10 % expected",
                share * 100.0
            );
            verdict.push((share < ORIGIN_SHARE_MAX && carried > 0, text));
        }
        verdict
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share is shown with one decimal"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::digest_of;

    fn figures(gets: u64, from_origin: u64, from_peers: u64) -> Figures {
        let node = |name: &str, from_peers, from_origin| NodeFigures {
            name: name.into(),
            pulled_in: Duration::from_secs(1),
            first_byte: None,
            from_cache: 0,
            from_peers,
            from_origin,
        };
        let asked = Asked {
            gets,
            heads: 0,
            bytes: 1000 * gets,
        };
        let upstream = UpstreamFigures::Log {
            blobs: vec![(digest_of(b"a"), 1000, asked)],
            manifests: Asked::default(),
        };
        let nodes = vec![
            node("node-1", 0, 1000),
            node("node-2", from_peers, from_origin),
            node("node-3", 1000, 0),
        ];
        Figures { nodes, upstream }
    }

    fn passes(figures: &Figures) -> bool {
        figures.verdict().iter().all(|(holds, _)| *holds)
    }

    #[test]
    fn a_blob_that_was_fetched_twice_or_never_fails_the_demonstration() {
        assert!(passes(&figures(1, 0, 1000)));
        assert!(!passes(&figures(2, 0, 1000)));
        assert!(!passes(&figures(0, 0, 1000)));
    }

    #[test]
    fn later_nodes_that_lean_on_the_origin_fail_the_demonstration() {
        assert!(passes(&figures(1, 190, 810)));
        assert!(
            !passes(&figures(1, 200, 800)),
            "a tenth exactly is too much"
        );
        let mut nothing = figures(1, 0, 0);
        nothing.nodes[2].from_peers = 0;
        assert!(
            !passes(&nothing),
            "nodes that carried nothing prove nothing"
        );
    }

    #[test]
    fn the_tables_name_every_node_and_every_blob() {
        let text = figures(1, 0, 1000).tables();
        for expected in ["node-1", "node-3", &digest_of(b"a").short(), "manifests"] {
            assert!(text.contains(expected), "no {expected} in\n{text}");
        }
    }
}
