//! Tokens that are had before they are needed, so that no first byte waits for them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header;

use crate::upstream::Registry;
use crate::upstream::scripted::{Scripted, Seen, blob, digest_of, json, noise, with};

use super::{DEADLINE, download};

fn challenge(seen: &Seen) -> axum::response::Response {
    let host = seen.headers[header::HOST].to_str().unwrap();
    let line = format!("Bearer realm=\"http://{host}/token\",service=\"reg\"");
    with(401, "www-authenticate", &line)
}

async fn tokened(body: &Bytes, life: u64) -> Scripted {
    let sent = body.clone();
    Scripted::serve(move |seen| match seen.authorization() {
        _ if seen.path == "/token" => json(&format!(
            r#"{{"token":"{}","expires_in":{life}}}"#,
            seen.earlier + 1
        )),
        Some(_) => blob(seen, &sent),
        None => challenge(seen),
    })
    .await
}

/// Waits for what happens on its own.
async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .expect("within the deadline");
}

async fn pull(registry: &Registry, repository: &str, body: &Bytes) {
    let mut pull = registry
        .pull(repository, &digest_of(body), 0)
        .await
        .unwrap();
    while pull.next().await.unwrap().is_some() {}
}

#[tokio::test]
async fn second_repository_earns_no_401() {
    let body = noise(1_000, 70);
    let scripted = tokened(&body, 300).await;
    let registry = scripted.registry();
    for repository in ["team/a", "team/b", "team/c"] {
        pull(&registry, repository, &body).await;
    }
    let without = scripted.asked("/blobs/").into_iter();
    assert_eq!(
        without
            .filter(|seen| seen.authorization().is_none())
            .count(),
        1
    );
    let scopes: Vec<_> = scripted
        .asked("/token")
        .into_iter()
        .map(|seen| seen.query)
        .collect();
    let expected =
        ["a", "b", "c"].map(|name| format!("service=reg&scope=repository%3Ateam%2F{name}%3Apull"));
    assert_eq!(scopes, expected, "one token, one scope");
}

#[tokio::test]
async fn manifest_that_was_answered_has_the_token_fetched_for_its_blobs() {
    let body = noise(1_000, 71);
    let scripted = tokened(&body, 300).await;
    let registry = Arc::new(scripted.registry());
    // Nothing was asked since the start: the registry's `/v2/` tells what it wants.
    registry.foresee("team/app", b"{}");
    registry.foresee("team/app", b"{}");
    until(|| scripted.asked("/token").len() == 1).await;
    assert_eq!(scripted.asked("/v2/").len(), 1);
    until(|| registry.auth.is_good(&registry.home_key("team/app"))).await;
    download(&registry, &body, 0).await.unwrap();
    let blobs = scripted.asked("/blobs/");
    assert_eq!(blobs.len(), 1);
    assert_eq!(blobs[0].authorization(), Some("Bearer 1"));
    // With a token in hand there is nothing to foresee.
    registry.foresee("team/app", b"{}");
    registry.foresee("team/other", b"{}");
    until(|| scripted.asked("/token").len() == 2).await;
}

#[tokio::test]
async fn open_registry_is_not_asked_what_it_wants_again() {
    let body = noise(1_000, 72);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let registry = Arc::new(scripted.registry());
    download(&registry, &body, 0).await.unwrap();
    registry.foresee("team/app", b"{}");
    registry.foresee("team/other", b"{}");
    download(&registry, &body, 0).await.unwrap();
    assert_eq!(scripted.seen().len(), 2);
}

#[tokio::test]
async fn ending_token_is_replaced_while_it_is_used() {
    let body = noise(1_000, 73);
    let scripted = tokened(&body, 2).await;
    let registry = scripted.registry();
    download(&registry, &body, 0).await.unwrap();
    // Past four fifths of its two seconds, and before their end.
    tokio::time::sleep(Duration::from_millis(1_650)).await;
    download(&registry, &body, 0).await.unwrap();
    let sent = scripted.asked("/blobs/");
    assert_eq!(
        sent.last().unwrap().authorization(),
        Some("Bearer 1"),
        "nobody waited"
    );
    until(|| scripted.asked("/token").len() == 2).await;
    until(|| registry.auth.is_good(&registry.home_key("team/app"))).await;
    download(&registry, &body, 0).await.unwrap();
    assert_eq!(
        scripted.asked("/blobs/").last().unwrap().authorization(),
        Some("Bearer 2")
    );
}
