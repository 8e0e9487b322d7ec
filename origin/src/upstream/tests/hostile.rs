//! Registries that would lead this process where it must not go, or feed it what it must not take.

use axum::body::Body;
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use http::header;
use shoal_proto::limits;

use crate::config::UpstreamEntry;
use crate::upstream::UpstreamError;
use crate::upstream::scripted::{Scripted, blob, digest_of, json, noise, registry, status, with};

use super::download;

/// A registry that may not lead to private addresses, although it has one itself.
fn confined(scripted: &Scripted) -> UpstreamEntry {
    UpstreamEntry {
        private_addresses: Some(false),
        ..scripted.entry()
    }
}

#[tokio::test]
async fn redirect_to_a_private_address_is_not_followed() {
    let body = noise(10, 30);
    let inside = Scripted::serve(|_| status(200)).await;
    let port = inside.addr.port();
    for target in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
    ] {
        let scripted = Scripted::serve(move |_| with(307, "location", &target)).await;
        let error = download(&registry(confined(&scripted)), &body, 0)
            .await
            .unwrap_err();
        assert!(
            matches!(error, UpstreamError::ForbiddenAddress { .. }),
            "{error}"
        );
        assert_eq!(scripted.seen().len(), 1);
    }
    assert!(inside.seen().is_empty(), "it was asked");
}

#[tokio::test]
async fn realm_at_a_private_address_is_not_asked() {
    let inside = Scripted::serve(|_| status(200)).await;
    let realm = format!("Bearer realm=\"http://{}/token\"", inside.addr);
    let scripted = Scripted::serve(move |_| with(401, "www-authenticate", &realm)).await;
    let error = download(&registry(confined(&scripted)), &noise(10, 32), 0)
        .await
        .unwrap_err();
    assert!(
        matches!(error, UpstreamError::ForbiddenAddress { .. }),
        "{error}"
    );
    assert!(inside.seen().is_empty(), "it was asked");
}

/// Of several challenges, on one line or more, the first that can be followed is: neither a scheme that nobody here speaks
/// nor a realm that must not be asked stands in the way of it.
#[tokio::test]
async fn a_realm_that_must_not_be_asked_hides_no_other() {
    let body = noise(1_000, 34);
    let inside = Scripted::serve(|_| status(200)).await;
    let forbidden = format!("Bearer realm=\"http://{}/token\"", inside.addr);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| {
        let own = seen.headers[header::HOST].to_str().unwrap();
        match seen.authorization() {
            _ if seen.path == "/token" => json(r#"{"token":"good"}"#),
            Some("Bearer good") => blob(seen, &sent),
            _ => Response::builder()
                .status(401)
                .header("www-authenticate", "Negotiate")
                .header("www-authenticate", &forbidden)
                .header(
                    "www-authenticate",
                    format!("Basic realm=\"x\", Bearer realm=\"http://{own}/token\""),
                )
                .body(Body::empty())
                .unwrap(),
        }
    })
    .await;
    let registry = registry(confined(&scripted));
    assert_eq!(download(&registry, &body, 0).await.unwrap(), body);
    assert!(inside.seen().is_empty(), "it was asked");
}

#[tokio::test]
async fn endless_redirects_end() {
    let scripted =
        Scripted::serve(|seen| with(307, "location", &format!("/{}", seen.path.len()))).await;
    let error = download(&scripted.registry(), &noise(10, 33), 0)
        .await
        .unwrap_err();
    assert!(matches!(error, UpstreamError::BadAnswer { .. }), "{error}");
    assert_eq!(scripted.seen().len(), 11);
}

#[tokio::test]
async fn wrong_redirects_are_bad_answers() {
    for target in [
        "ftp://example.com/",
        "http://user:pw@127.0.0.1/",
        "http://[::",
        "file:///etc/passwd",
    ] {
        let scripted = Scripted::serve(move |_| with(307, "location", target)).await;
        let error = download(&scripted.registry(), &noise(10, 34), 0)
            .await
            .unwrap_err();
        assert!(
            matches!(error, UpstreamError::BadAnswer { .. }),
            "{target}: {error}"
        );
    }
    let nowhere = Scripted::serve(|_| status(302)).await;
    let error = download(&nowhere.registry(), &noise(10, 34), 0)
        .await
        .unwrap_err();
    assert!(matches!(error, UpstreamError::BadAnswer { .. }), "{error}");
}

#[tokio::test]
async fn compressed_or_misplaced_bodies_are_refused() {
    let body = noise(1_000, 35);
    let encoded = Scripted::serve(|_| with(200, "content-encoding", "gzip")).await;
    let misplaced = Scripted::serve(|_| {
        Response::builder()
            .status(206)
            .header(header::CONTENT_RANGE, "bytes 1-9/1000")
            .body(Body::from(vec![0; 9]))
            .unwrap()
    })
    .await;
    let shorter = Scripted::serve(|_| status(416)).await;
    for (scripted, from) in [(encoded, 0), (misplaced, 500), (shorter, 500)] {
        let error = download(&scripted.registry(), &body, from)
            .await
            .unwrap_err();
        assert!(matches!(error, UpstreamError::BadAnswer { .. }), "{error}");
    }
}

#[tokio::test]
async fn boundless_blob_is_refused_before_it_is_read() {
    let scripted = Scripted::serve(|_| {
        let never = stream::pending::<Result<bytes::Bytes, std::io::Error>>();
        let length = limits::BLOB_BYTES_MAX + 1;
        Response::builder()
            .header(header::CONTENT_LENGTH, length)
            .body(Body::from_stream(
                stream::once(async { Ok(bytes::Bytes::from_static(b"x")) }).chain(never),
            ))
            .unwrap()
    })
    .await;
    let digest = digest_of(b"x");
    let error = scripted
        .registry()
        .pull("team/app", &digest, 0)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, UpstreamError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn errors_never_tell_where_a_redirect_led() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let target = format!("http://{gone}/x?sig=canary");
    let scripted = Scripted::serve(move |_| with(307, "location", &target)).await;
    let error = download(&scripted.registry(), &noise(10, 36), 0)
        .await
        .unwrap_err();
    let text = format!("{error} {error:?} {:?}", error.to_refusal());
    assert!(!text.contains("canary"), "{text}");
}
