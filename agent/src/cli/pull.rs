//! `pull IMAGE`: every blob of an image through the agent, checked, with progress, and told by source.
//!
//! The bytes are dropped after the check: what stays is what the agent now holds. Not here: unpacking, running.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use shoal_proto::DigestHasher;

use super::image::{Image, ImageBlob, ImageError, Platforms, refused, registry_client};
use super::{CliError, human_bytes, say};
use crate::client::{Answer, Client};
use crate::config::Config;

/// As container clients do.
const BLOBS_AT_ONCE: usize = 3;
const ADMIN_WITHIN: Duration = Duration::from_secs(5);
const METRICS_BYTES_MAX: usize = 8 << 20;
const REFUSAL_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// The image, for example docker.io/library/busybox:1.36
    image: String,
    /// Another platform than this machine's, for example linux/arm64; `all` for every one
    #[arg(long)]
    platform: Option<String>,
}

/// One blob that came.
pub(super) struct Pulled {
    pub(super) blob: ImageBlob,
    pub(super) first_byte: Duration,
    took: Duration,
}

pub(super) async fn main(config: &Config, args: PullArgs) -> Result<(), CliError> {
    let image = Image::parse(&args.image, config)?;
    let platforms = Platforms::parse(args.platform.as_deref())?;
    let client = registry_client(config);
    let admin = Client::new(config.admin_address(), ADMIN_WITHIN);
    let before = bytes_by_source(&admin).await;
    let start = Instant::now();
    let blobs = image.blobs(&client, &platforms).await?;
    let screen = Screen::new(&blobs);
    let pulled: Vec<Pulled> = stream::iter(
        blobs
            .into_iter()
            .map(|blob| pull_one(&image, &client, &screen, blob)),
    )
    .buffer_unordered(BLOBS_AT_ONCE)
    .try_collect()
    .await?;
    screen.clear();
    report(&image, &pulled, start.elapsed())?;
    match (before, bytes_by_source(&admin).await) {
        (Some(before), Some(after)) => say(&sources(&before, &after)),
        _ => say("by source: unknown, since the admin port does not answer"),
    }
}

async fn pull_one(
    image: &Image,
    client: &Client,
    screen: &Screen,
    blob: ImageBlob,
) -> Result<Pulled, ImageError> {
    let bar = screen.bar(&blob);
    let pulled = checked(image, client, blob, |bytes| bar.inc(bytes)).await?;
    bar.finish();
    Ok(pulled)
}

/// One blob by its digest through the agent, every byte of it checked.
pub(super) async fn checked(
    image: &Image,
    client: &Client,
    blob: ImageBlob,
    mut arrived: impl FnMut(u64),
) -> Result<Pulled, ImageError> {
    let path = image.blob_path("/v2", &blob.digest);
    let start = Instant::now();
    let response = client.send(Method::GET, &path, HeaderMap::new()).await?;
    let (parts, mut body) = response.into_parts();
    if parts.status != StatusCode::OK {
        let body = http_body_util::Limited::new(body, REFUSAL_BYTES_MAX)
            .collect()
            .await;
        let body = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        };
        return Err(refused(
            &format!("{} of {}", blob.digest, image.shown),
            &answer,
        ));
    }
    let mut hasher = DigestHasher::new(blob.digest.algorithm());
    let mut first_byte = None;
    while let Some(bytes) = client.next_part(&path, &mut body).await? {
        first_byte.get_or_insert_with(|| start.elapsed());
        hasher.update(&bytes);
        arrived(bytes.len() as u64);
    }
    if hasher.finish() != blob.digest {
        return Err(ImageError::WrongDigest {
            what: blob.digest.to_string(),
        });
    }
    let took = start.elapsed();
    Ok(Pulled {
        blob,
        first_byte: first_byte.unwrap_or(took),
        took,
    })
}

/// Progress for people; nothing where nobody watches.
struct Screen {
    bars: MultiProgress,
    total: ProgressBar,
}

impl Screen {
    fn new(blobs: &[ImageBlob]) -> Self {
        let bars = MultiProgress::new();
        let total = bars.add(ProgressBar::new(blobs.iter().map(|blob| blob.bytes).sum()));
        total.set_style(style(
            "total        {wide_bar} {bytes:>11} / {total_bytes:11} {bytes_per_sec:>13}",
        ));
        Self { bars, total }
    }

    fn bar(&self, blob: &ImageBlob) -> Bar<'_> {
        let bar = self
            .bars
            .insert_before(&self.total, ProgressBar::new(blob.bytes));
        bar.set_style(style(
            "{prefix} {wide_bar} {bytes:>11} / {total_bytes:11} {bytes_per_sec:>13}",
        ));
        bar.set_prefix(blob.digest.short());
        Bar {
            bar,
            total: &self.total,
        }
    }

    fn clear(&self) {
        // A terminal that cannot be cleared keeps its bars.
        let _ = self.bars.clear();
    }
}

struct Bar<'a> {
    bar: ProgressBar,
    total: &'a ProgressBar,
}

impl Bar<'_> {
    fn inc(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.total.inc(bytes);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn report(image: &Image, pulled: &[Pulled], took: Duration) -> Result<(), CliError> {
    for one in pulled {
        say(&format!(
            "{}  {:>11}  first byte {:>7.1} ms  {:>7.2} s",
            one.blob.digest.short(),
            human_bytes(one.blob.bytes),
            one.first_byte.as_secs_f64() * 1000.0,
            one.took.as_secs_f64(),
        ))?;
    }
    let bytes = pulled.iter().map(|one| one.blob.bytes).sum();
    say(&format!(
        "{}: {} blobs, {} in {:.2} s, every digest right",
        image.shown,
        pulled.len(),
        human_bytes(bytes),
        took.as_secs_f64()
    ))
}

/// What the agent has counted, by source; `None` when it does not tell.
async fn bytes_by_source(admin: &Client) -> Option<BTreeMap<String, u64>> {
    let answer = admin
        .ask(Method::GET, "/metrics", HeaderMap::new(), METRICS_BYTES_MAX)
        .await
        .ok()?;
    answer
        .status
        .is_success()
        .then(|| read_sources(&String::from_utf8_lossy(&answer.body)))
}

fn read_sources(metrics: &str) -> BTreeMap<String, u64> {
    let read = |line: &str| {
        let rest = line.strip_prefix("shoal_download_bytes_total{source=\"")?;
        let (source, value) = rest.split_once("\"} ")?;
        Some((source.to_owned(), value.trim().parse().ok()?))
    };
    metrics.lines().filter_map(read).collect()
}

fn sources(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let grown = after
        .iter()
        .map(|(source, bytes)| (source, bytes - before.get(source).unwrap_or(&0).min(bytes)));
    let told: Vec<String> = grown
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(source, bytes)| format!("{source} {}", human_bytes(bytes)))
        .collect();
    if told.is_empty() {
        "by source: nothing new".to_owned()
    } else {
        format!("by source: {}", told.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_source_are_what_was_added_since() {
        let before =
            read_sources("shoal_download_bytes_total{source=\"cache\"} 10\n# x\nother 3\n");
        let after = read_sources(
            "shoal_download_bytes_total{source=\"cache\"} 10\nshoal_download_bytes_total{source=\"peer\"} 2048\n",
        );
        assert_eq!(sources(&before, &after), "by source: peer 2.00 KiB");
        assert_eq!(sources(&after, &after), "by source: nothing new");
        assert_eq!(sources(&after, &before), "by source: nothing new");
    }
}
