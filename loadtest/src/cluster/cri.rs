//! One call to a container runtime as the kubelet makes it: `PullImage` of the CRI, over the runtime's own socket.
//!
//! What for: tests of the path that a cluster takes, where crictl is not packaged. What not for: anything else of the CRI;
//! for one unary call, gRPC is a frame of HTTP/2, and a client library would weigh more than this file. Invariant: the
//! call ends, with the runtime's own words where it fails.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use axum::http::{HeaderMap, Request, header};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;

const METHOD: &str = "http://localhost/runtime.v1.ImageService/PullImage";
/// Whether the message is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a pull secret becomes on its way to the runtime. The kubelet leaves `server_address` empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AuthConfig {
    #[prost(string, tag = "1")]
    pub username: String,
    #[prost(string, tag = "2")]
    pub password: String,
    #[prost(string, tag = "4")]
    pub server_address: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    auth: Option<AuthConfig>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

/// Has the runtime at `socket` pull an image; returns what it calls it.
pub async fn pull_image(
    socket: &Path,
    image: &str,
    auth: Option<AuthConfig>,
    within: Duration,
) -> Result<String> {
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: image.to_owned(),
        }),
        auth,
    };
    let called = timeout(within, call(socket, &frame(&request))).await;
    let answer = called.with_context(|| format!("PullImage of {image} took over {within:?}"))??;
    Ok(PullImageResponse::decode(answer)?.image_ref)
}

fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_BYTES + message.encoded_len());
    frame.put_u8(0); // not compressed
    frame.put_u32(u32::try_from(message.encoded_len()).expect("a name and a password"));
    message
        .encode(&mut frame)
        .expect("a buffer that grows holds it");
    frame.freeze()
}

async fn call(socket: &Path, frame: &Bytes) -> Result<Bytes> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("{}", socket.display()))?;
    let (client, connection) = h2::client::handshake(stream).await?;
    let asked = async {
        let request = Request::post(METHOD)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())?;
        let (answer, mut send) = client.ready().await?.send_request(request, false)?;
        send.send_data(frame.clone(), true)?;
        let answer = answer.await?;
        // An answer that failed at once has no body, and says so at its head.
        check(answer.headers())?;
        let mut body = answer.into_body();
        let mut message = BytesMut::new();
        while let Some(bytes) = body.data().await {
            let bytes = bytes?;
            body.flow_control().release_capacity(bytes.len())?;
            message.extend_from_slice(&bytes);
            ensure!(message.len() <= ANSWER_BYTES_MAX, "an answer without end");
        }
        check(&body.trailers().await?.unwrap_or_default())?;
        ensure!(message.len() >= FRAME_HEAD_BYTES, "an empty answer");
        Ok(message.split_off(FRAME_HEAD_BYTES).freeze())
    };
    // The connection is driven for as long as the call takes, and dropped with it.
    tokio::select! {
        answer = asked => answer,
        ended = connection => {
            ended?;
            bail!("the runtime hung up")
        }
    }
}

fn check(headers: &HeaderMap) -> Result<()> {
    let said = |name: &str| {
        let value = headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match said("grpc-status").as_deref() {
        None | Some("0") => Ok(()),
        Some(code) => bail!(
            "gRPC status {code}: {}",
            said("grpc-message").unwrap_or_default()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_flag_a_length_and_the_message() {
        let request = PullImageRequest {
            image: Some(ImageSpec { image: "a".into() }),
            auth: None,
        };
        assert_eq!(frame(&request)[..], [0, 0, 0, 0, 5, 0x0a, 3, 0x0a, 1, b'a']);
    }

    #[test]
    fn a_status_other_than_zero_is_an_error_with_its_message() {
        let mut headers = HeaderMap::new();
        check(&headers).expect("no status yet");
        headers.insert("grpc-status", "0".parse().expect("a value"));
        check(&headers).expect("fine");
        headers.insert("grpc-status", "5".parse().expect("a value"));
        headers.insert("grpc-message", "not found".parse().expect("a value"));
        let error = check(&headers).expect_err("an error").to_string();
        assert_eq!(error, "gRPC status 5: not found");
    }
}
