//! What this origin does with good, bad and hostile registries: over real HTTP, against a scripted one.

mod ahead;
mod hostile;
mod network;
mod parts;
mod profiles;
mod tokens;

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{Method, header};

use super::scripted::{
    Scripted, blob, cut_blob, digest_of, impatient, noise, registry_with, stalled_blob, status,
    with,
};
use super::{Registry, UpstreamError};

/// Nothing in here takes longer.
const DEADLINE: Duration = Duration::from_secs(20);
const LENGTH: usize = 300_000;

/// Downloads the blob from `from` on.
async fn download(registry: &Registry, body: &Bytes, from: u64) -> Result<Bytes, UpstreamError> {
    let read = async {
        let mut pull = registry.pull("team/app", &digest_of(body), from).await?;
        assert_eq!(pull.blob_bytes(), body.len() as u64);
        let mut out = BytesMut::new();
        while let Some(bytes) = pull.next().await? {
            out.extend_from_slice(&bytes);
        }
        Ok(out.freeze())
    };
    tokio::time::timeout(DEADLINE, read)
        .await
        .expect("within the deadline")
}

#[tokio::test]
async fn a_blob_comes_whole_and_from_an_offset() {
    let body = noise(LENGTH, 1);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let registry = scripted.registry();
    assert_eq!(download(&registry, &body, 0).await.unwrap(), body);
    assert_eq!(
        download(&registry, &body, 1_000).await.unwrap(),
        body.slice(1_000..)
    );
    let seen = scripted.seen();
    assert_eq!(
        seen[0].path,
        format!("/v2/team/app/blobs/{}", digest_of(&body))
    );
    assert_eq!((seen[0].from(), seen[1].from()), (None, Some(1_000)));
    for seen in seen {
        assert_eq!(seen.headers[header::ACCEPT_ENCODING], "identity");
        assert!(!seen.headers.contains_key(header::REFERER));
        assert!(
            seen.headers[header::USER_AGENT]
                .to_str()
                .unwrap()
                .starts_with("shoal-origin/")
        );
    }
}

#[tokio::test]
async fn cut_download_resumes_where_it_stopped() {
    let body = noise(LENGTH, 2);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| {
        if seen.earlier < 3 {
            cut_blob(seen, &sent, 70_000)
        } else {
            blob(seen, &sent)
        }
    })
    .await;
    assert_eq!(
        download(&scripted.registry(), &body, 0).await.unwrap(),
        body
    );
    let froms: Vec<_> = scripted
        .seen()
        .iter()
        .map(super::scripted::Seen::from)
        .collect();
    assert_eq!(
        froms,
        vec![None, Some(70_000), Some(140_000), Some(210_000)]
    );
}

#[tokio::test]
async fn stalled_download_is_taken_up_again() {
    let body = noise(LENGTH, 3);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| {
        if seen.earlier == 0 {
            stalled_blob(seen, &sent, 100_000)
        } else {
            blob(seen, &sent)
        }
    })
    .await;
    assert_eq!(
        download(&scripted.impatient_registry(), &body, 0)
            .await
            .unwrap(),
        body
    );
    assert_eq!(scripted.seen()[1].from(), Some(100_000));
}

#[tokio::test]
async fn registry_that_ignores_ranges_is_read_past() {
    let body = noise(LENGTH, 4);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| {
        let mut whole = seen.clone();
        whole.headers.remove(header::RANGE);
        if seen.earlier == 0 {
            cut_blob(&whole, &sent, 123_456)
        } else {
            blob(&whole, &sent)
        }
    })
    .await;
    assert_eq!(
        download(&scripted.registry(), &body, 0).await.unwrap(),
        body
    );
    assert_eq!(
        download(&scripted.registry(), &body, 299_999)
            .await
            .unwrap(),
        body.slice(299_999..)
    );
}

#[tokio::test]
async fn download_without_progress_is_given_up() {
    let body = noise(LENGTH, 5);
    let sent = body.clone();
    let scripted =
        Scripted::serve(move |seen| cut_blob(seen, &sent, if seen.earlier == 0 { 10 } else { 0 }))
            .await;
    let error = download(&scripted.registry(), &body, 0).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Unavailable { .. }),
        "{error}"
    );
    assert!(
        scripted.seen().len() <= 30,
        "{} requests",
        scripted.seen().len()
    );
}

#[tokio::test]
async fn blob_that_changes_its_length_is_given_up() {
    let (body, other) = (noise(LENGTH, 6), noise(LENGTH + 1, 6));
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| {
        if seen.earlier == 0 {
            cut_blob(seen, &sent, 10)
        } else {
            blob(seen, &other)
        }
    })
    .await;
    let error = download(&scripted.registry(), &body, 0).await.unwrap_err();
    assert!(matches!(error, UpstreamError::BadAnswer { .. }), "{error}");
}

#[tokio::test]
async fn passing_trouble_is_waited_out_and_lasting_trouble_is_told() {
    let body = noise(1_000, 7);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| {
        if seen.earlier < 2 {
            status(503)
        } else {
            blob(seen, &sent)
        }
    })
    .await;
    assert_eq!(
        download(&scripted.registry(), &body, 0).await.unwrap(),
        body
    );
    let broken = Scripted::serve(|_| status(502)).await;
    let error = download(&broken.registry(), &body, 0).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Unavailable { .. }),
        "{error}"
    );
    assert_eq!(broken.seen().len(), 4);
}

#[tokio::test]
async fn absence_is_told_at_once() {
    let scripted = Scripted::serve(|_| status(404)).await;
    let error = download(&scripted.registry(), &noise(10, 8), 0)
        .await
        .unwrap_err();
    assert_eq!(
        error,
        UpstreamError::NotFound {
            registry: scripted.addr.to_string()
        }
    );
    assert_eq!(scripted.seen().len(), 1);
}

#[tokio::test]
async fn slow_headers_end_within_the_deadline() {
    let scripted = Scripted::serve(|_| {
        // Headers leave with the first byte, which never comes.
        let never = stream::pending::<Result<Bytes, std::io::Error>>();
        Response::builder()
            .header(header::CONTENT_LENGTH, 10)
            .body(Body::from_stream(never))
            .unwrap()
    })
    .await;
    let registry = scripted.impatient_registry();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut entry = scripted.entry();
    entry.url = Some(format!("http://{}", silent.local_addr().unwrap()));
    for registry in [registry, registry_with(entry, impatient())] {
        let error = download(&registry, &noise(10, 9), 0).await.unwrap_err();
        assert!(
            matches!(error, UpstreamError::Unavailable { .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn pause_that_upstream_asks_for_is_shared_and_kept() {
    let scripted = Scripted::serve(|_| with(429, "retry-after", "120")).await;
    let registry = scripted.registry();
    let body = noise(10, 10);
    for _ in 0..5 {
        let error = download(&registry, &body, 0).await.unwrap_err();
        let UpstreamError::Throttled { retry_after, .. } = error else {
            panic!("{error}")
        };
        assert!(retry_after > Duration::from_secs(100) && retry_after <= Duration::from_secs(120));
    }
    assert!(registry.resolve("team/app", "v1").await.is_err());
    assert_eq!(scripted.seen().len(), 1, "one request, whoever asks");
}

#[tokio::test]
async fn redirect_to_another_port_drops_the_authorization_and_keeps_the_range() {
    let body = noise(LENGTH, 11);
    let sent = body.clone();
    let cdn = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let target = format!("http://{}/signed?sig=secret", cdn.addr);
    let scripted = Scripted::serve(
        move |seen| match (seen.path.as_str(), seen.authorization()) {
            ("/token", _) => super::scripted::json(r#"{"token":"t"}"#),
            (_, Some("Bearer t")) => with(307, "location", &target),
            _ => with(
                401,
                "www-authenticate",
                &format!(
                    "Bearer realm=\"http://{}/token\"",
                    seen.headers[header::HOST].to_str().unwrap()
                ),
            ),
        },
    )
    .await;
    assert_eq!(
        download(&scripted.registry(), &body, 5_000).await.unwrap(),
        body.slice(5_000..)
    );
    let seen = cdn.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (
            seen[0].authorization(),
            seen[0].from(),
            seen[0].query.as_str()
        ),
        (None, Some(5_000), "sig=secret")
    );
}

#[tokio::test]
async fn expired_redirect_is_fetched_anew_on_resume() {
    let body = noise(LENGTH, 12);
    let sent = body.clone();
    // Each signed address is good for one request.
    let cdn = Scripted::serve(move |seen| match seen.earlier {
        0 if seen.path == "/1" => cut_blob(seen, &sent, 50_000),
        0 => blob(seen, &sent),
        _ => status(403),
    })
    .await;
    let addr = cdn.addr;
    let scripted = Scripted::serve(move |seen| {
        with(
            302,
            "location",
            &format!("http://{addr}/{}", 1 + seen.earlier),
        )
    })
    .await;
    assert_eq!(
        download(&scripted.registry(), &body, 0).await.unwrap(),
        body
    );
    // And one that is refused at once is asked for again, once.
    let refused = Scripted::serve(|_| status(403)).await;
    let addr = refused.addr;
    let scripted =
        Scripted::serve(move |_| with(302, "location", &format!("http://{addr}/x"))).await;
    assert!(download(&scripted.registry(), &body, 0).await.is_err());
    assert_eq!((scripted.seen().len(), refused.seen().len()), (2, 2));
}

#[tokio::test]
async fn missing_length_is_taken_from_head_or_refused() {
    let body = noise(LENGTH, 13);
    let sent = body.clone();
    let chunked = move |told: bool| {
        let sent = sent.clone();
        move |seen: &super::scripted::Seen| {
            if seen.method == Method::HEAD {
                return if told {
                    with(200, "content-length", &sent.len().to_string())
                } else {
                    status(405)
                };
            }
            Response::new(Body::from_stream(stream::iter([Ok::<_, std::io::Error>(
                sent.clone(),
            )])))
        }
    };
    let scripted = Scripted::serve(chunked(true)).await;
    assert_eq!(
        download(&scripted.registry(), &body, 0).await.unwrap(),
        body
    );
    let scripted = Scripted::serve(chunked(false)).await;
    let error = download(&scripted.registry(), &body, 0).await.unwrap_err();
    assert!(
        matches!(
            error,
            UpstreamError::BadAnswer { .. } | UpstreamError::NoLength { .. }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn empty_blob_is_a_blob() {
    let scripted = Scripted::serve(|seen| blob(seen, &Bytes::new())).await;
    assert_eq!(
        download(&scripted.registry(), &Bytes::new(), 0)
            .await
            .unwrap(),
        Bytes::new()
    );
}

#[tokio::test]
async fn manifests_are_checked_before_they_are_believed() {
    let body = Bytes::from_static(
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#,
    );
    let (sent, digest) = (body.clone(), digest_of(&body));
    let scripted = Scripted::serve(move |seen| {
        let mut response = match seen.path.rsplit('/').next().unwrap_or_default() {
            "lies" => with(
                200,
                "docker-content-digest",
                &digest_of(b"other").to_string(),
            ),
            "huge" => with(200, "content-type", "application/json"),
            "silent" => status(200),
            "rude" => return status(405),
            _ => with(200, "docker-content-digest", &digest.to_string()),
        };
        let huge = seen.path.ends_with("huge");
        *response.body_mut() = Body::from(if huge {
            Bytes::from(vec![b' '; 5 << 20])
        } else {
            sent.clone()
        });
        response
    })
    .await;
    let registry = scripted.registry();
    let good = registry.manifest("team/app", "v1", None).await.unwrap();
    assert_eq!((good.digest, good.body.clone()), (digest, body));
    assert_eq!(
        good.media_type,
        "application/vnd.oci.image.manifest.v1+json"
    );
    assert_eq!(
        registry
            .manifest("team/app", "x", Some(digest))
            .await
            .unwrap(),
        good
    );
    let wrong = registry
        .manifest("team/app", "x", Some(digest_of(b"wanted")))
        .await;
    assert!(matches!(wrong, Err(UpstreamError::WrongDigest { .. })));
    assert!(matches!(
        registry.manifest("team/app", "lies", None).await,
        Err(UpstreamError::WrongDigest { .. })
    ));
    assert!(matches!(
        registry.manifest("team/app", "huge", None).await,
        Err(UpstreamError::TooLarge { .. })
    ));
    assert_eq!(registry.resolve("team/app", "v1").await, Ok(Some(digest)));
    assert_eq!(registry.resolve("team/app", "silent").await, Ok(None));
    assert_eq!(registry.resolve("team/app", "rude").await, Ok(None));
}
