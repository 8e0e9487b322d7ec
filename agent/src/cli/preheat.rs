//! `preheat IMAGE`: the agent fetches every blob of an image; nothing of it comes here.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, Method};

use super::image::{Image, ImageBlob, ImageError, Platforms, refused, registry_client};
use super::{CliError, human_bytes, say};
use crate::client::Client;
use crate::config::Config;

const BLOBS_AT_ONCE: usize = 3;
/// The agent answers when a blob is whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(60 * 60);
const ANSWER_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, clap::Args)]
pub(super) struct PreheatArgs {
    /// The image, for example docker.io/library/busybox:1.36
    image: String,
    /// Another platform than this machine's, for example linux/arm64; `all` for every one
    #[arg(long)]
    platform: Option<String>,
}

pub(super) async fn main(config: &Config, args: PreheatArgs) -> Result<(), CliError> {
    let image = Image::parse(&args.image, config)?;
    let platforms = Platforms::parse(args.platform.as_deref())?;
    let blobs = image.blobs(&registry_client(config), &platforms).await?;
    let patient = Client::new(config.registry_address(), WHOLE_WITHIN);
    let bytes = blobs.iter().map(|blob| blob.bytes).sum();
    let held: Vec<bool> = stream::iter(
        blobs
            .into_iter()
            .map(|blob| preheat_one(&image, &patient, blob)),
    )
    .buffer_unordered(BLOBS_AT_ONCE)
    .try_collect()
    .await?;
    let before = held.iter().filter(|held| **held).count();
    say(&format!(
        "{}: {} blobs, {}, on this node; {before} of them were before",
        image.shown,
        held.len(),
        human_bytes(bytes)
    ))
}

/// Whether the blob was there before.
async fn preheat_one(image: &Image, client: &Client, blob: ImageBlob) -> Result<bool, ImageError> {
    let path = image.blob_path("/shoal/preheat", &blob.digest);
    let answer = client
        .ask(Method::POST, &path, HeaderMap::new(), ANSWER_BYTES_MAX)
        .await?;
    if !answer.status.is_success() {
        return Err(refused(
            &format!("{} of {}", blob.digest, image.shown),
            &answer,
        ));
    }
    let body: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    Ok(body.is_some_and(|body| body["was_held"] == true))
}
