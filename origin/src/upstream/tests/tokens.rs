//! The token dance, and where secrets may go.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header;
use shoal_proto::wire::RefusalCode;

use crate::config::UpstreamEntry;
use crate::config::upstream::AccessKind;
use crate::upstream::UpstreamError;
use crate::upstream::scripted::{
    Scripted, Seen, blob, digest_of, json, noise, registry, status, with,
};

use super::download;

fn host(seen: &Seen) -> String {
    seen.headers[header::HOST].to_str().unwrap().to_owned()
}

fn challenge(seen: &Seen) -> axum::response::Response {
    let line = format!(
        "Bearer realm=\"http://{}/token\",service=\"reg, the\",scope=\"repository:team/app:pull repository:other:pull\"",
        host(seen)
    );
    with(401, "www-authenticate", &line)
}

/// Credentials as an operator configures them.
fn shared(scripted: &Scripted, password_file: &tempfile::NamedTempFile) -> UpstreamEntry {
    UpstreamEntry {
        access: AccessKind::Shared,
        repositories: vec!["team/*".into()],
        username: Some("robot".into()),
        password_file: Some(password_file.path().to_owned()),
        ..scripted.entry()
    }
}

fn password() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"canary\n").unwrap();
    file
}

#[tokio::test]
async fn a_hundred_pulls_fetch_one_anonymous_token() {
    let body = noise(1_000, 20);
    let sent = body.clone();
    let scripted = Scripted::serve(
        move |seen| match (seen.path.as_str(), seen.authorization()) {
            ("/token", _) => json(r#"{"access_token":"t"}"#),
            (_, Some("Bearer t")) => blob(seen, &sent),
            _ => challenge(seen),
        },
    )
    .await;
    let registry = scripted.registry();
    let pulls = (0..100).map(|_| download(&registry, &body, 0));
    for result in futures_util::future::join_all(pulls).await {
        assert_eq!(result.unwrap(), body);
    }
    let tokens = scripted.asked("/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].query, "service=reg%2C+the&scope=repository%3Ateam%2Fapp%3Apull",
        "one token, one scope"
    );
    assert_eq!(tokens[0].authorization(), None);
    // Known tokens go out at once: no further 401 is earned.
    let before = scripted.asked("/blobs/").len();
    download(&registry, &body, 0).await.unwrap();
    assert_eq!(scripted.asked("/blobs/").len(), before + 1);
}

#[tokio::test]
async fn rejected_token_is_replaced_once_and_then_it_is_a_denial() {
    let body = noise(1_000, 21);
    let sent = body.clone();
    let good_from = std::sync::Arc::new(AtomicUsize::new(1));
    let good = std::sync::Arc::clone(&good_from);
    let scripted = Scripted::serve(move |seen| {
        if seen.path == "/token" {
            return json(&format!(
                r#"{{"token":"{}","expires_in":3600}}"#,
                seen.earlier + 1
            ));
        }
        let number = seen
            .authorization()
            .and_then(|value| value.strip_prefix("Bearer ")?.parse::<usize>().ok());
        if number.is_some_and(|number| number >= good.load(Ordering::SeqCst)) {
            blob(seen, &sent)
        } else {
            challenge(seen)
        }
    })
    .await;
    let registry = scripted.registry();
    download(&registry, &body, 0).await.unwrap();
    // Upstream forgets the token long before its time.
    good_from.store(2, Ordering::SeqCst);
    download(&registry, &body, 0).await.unwrap();
    assert_eq!(scripted.asked("/token").len(), 2);
    // No token is good any more: one fresh one is tried, not more.
    good_from.store(99, Ordering::SeqCst);
    let error = download(&registry, &body, 0).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Denied { status: 401, .. }),
        "{error}"
    );
    assert_eq!(scripted.asked("/token").len(), 3);
}

#[tokio::test]
async fn expired_token_is_not_sent() {
    let body = noise(1_000, 22);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| match seen.authorization() {
        _ if seen.path == "/token" => json(r#"{"token":"t","expires_in":1}"#),
        Some(_) => blob(seen, &sent),
        None => challenge(seen),
    })
    .await;
    let registry = scripted.registry();
    download(&registry, &body, 0).await.unwrap();
    // Its second is over.
    tokio::time::sleep(std::time::Duration::from_millis(1_000)).await;
    download(&registry, &body, 0).await.unwrap();
    assert_eq!(scripted.asked("/token").len(), 2);
}

#[tokio::test]
async fn broken_token_servers_are_passing_trouble_and_denials_are_not() {
    let body = noise(10, 23);
    for (answer, denied) in [
        ("503", false),
        ("401", true),
        ("nonsense", false),
        ("{}", false),
        ("big", false),
    ] {
        let scripted = Scripted::serve(move |seen| match (seen.path.as_str(), answer) {
            ("/token", "nonsense") => json("nonsense"),
            ("/token", "{}") => json("{}"),
            ("/token", "big") => json(&format!(r#"{{"token":"{}"}}"#, "x".repeat(300_000))),
            ("/token", code) => status(code.parse().unwrap()),
            _ => challenge(seen),
        })
        .await;
        let error = download(&scripted.registry(), &body, 0).await.unwrap_err();
        assert_eq!(
            matches!(error, UpstreamError::Denied { .. }),
            denied,
            "{answer}: {error}"
        );
        assert_eq!(
            matches!(error, UpstreamError::Unavailable { .. }),
            !denied,
            "{answer}: {error}"
        );
    }
}

#[tokio::test]
async fn credential_goes_to_the_token_server_for_listed_repositories_only() {
    let body = noise(1_000, 24);
    let sent = body.clone();
    let scripted = Scripted::serve(
        move |seen| match (seen.path.as_str(), seen.authorization()) {
            ("/token", Some(_)) => json(r#"{"token":"robot"}"#),
            ("/token", None) => json(r#"{"token":"anybody"}"#),
            (path, Some("Bearer robot")) if path.starts_with("/v2/team/") => blob(seen, &sent),
            (path, Some("Bearer anybody")) if path.starts_with("/v2/public/") => blob(seen, &sent),
            _ => challenge(seen),
        },
    )
    .await;
    let password = password();
    let registry = registry(shared(&scripted, &password));
    download(&registry, &body, 0).await.unwrap();
    registry
        .pull("public/app", &digest_of(&body), 0)
        .await
        .unwrap();
    let tokens = scripted.asked("/token");
    assert_eq!(tokens[0].authorization(), Some("Basic cm9ib3Q6Y2FuYXJ5"));
    assert_eq!(tokens[1].authorization(), None);
    assert!(scripted.asked("/v2/").iter().all(|seen| {
        !seen
            .authorization()
            .unwrap_or_default()
            .starts_with("Basic")
    }));
    assert!(!format!("{registry:?}").contains("canary"));
}

#[tokio::test]
async fn basic_is_answered_and_never_taken_to_a_redirect() {
    let body = noise(1_000, 25);
    let sent = body.clone();
    let cdn = Scripted::serve(move |seen| {
        if seen.earlier == 0 {
            with(401, "www-authenticate", "Basic realm=\"x\"")
        } else {
            blob(seen, &sent)
        }
    })
    .await;
    let target = format!("http://{}/blob", cdn.addr);
    let scripted = Scripted::serve(move |seen| match seen.authorization() {
        Some("Basic cm9ib3Q6Y2FuYXJ5") => with(307, "location", &target),
        _ => with(401, "www-authenticate", "Basic realm=\"reg\""),
    })
    .await;
    let password = password();
    let registry = registry(shared(&scripted, &password));
    // The place it redirects to asks for a password, and gets none.
    assert!(download(&registry, &body, 0).await.is_err());
    assert!(cdn.seen().iter().all(|seen| seen.authorization().is_none()));
    assert!(scripted.seen().len() >= 2);
}

#[tokio::test]
async fn redirect_target_may_have_a_token_server_of_its_own() {
    let body = noise(1_000, 26);
    let sent = body.clone();
    let cdn = Scripted::serve(
        move |seen| match (seen.path.as_str(), seen.authorization()) {
            ("/token", None) => json(r#"{"token":"theirs"}"#),
            (_, Some("Bearer theirs")) => blob(seen, &sent),
            (_, Some(_)) => status(400),
            _ => challenge(seen),
        },
    )
    .await;
    let target = format!("http://{}/elsewhere", cdn.addr);
    let scripted = Scripted::serve(
        move |seen| match (seen.path.as_str(), seen.authorization()) {
            ("/token", _) => json(r#"{"token":"ours"}"#),
            (_, Some("Bearer ours")) => with(307, "location", &target),
            _ => challenge(seen),
        },
    )
    .await;
    assert_eq!(
        download(&scripted.registry(), &body, 0).await.unwrap(),
        body
    );
    assert!(
        cdn.seen()
            .iter()
            .all(|seen| seen.authorization() != Some("Bearer ours"))
    );
}

/// A client that is told a challenge gives its credential here instead of going upstream.
#[tokio::test]
async fn denial_asks_nobody_for_a_credential() {
    let scripted = Scripted::serve(|_| with(401, "www-authenticate", "Basic realm=\"reg\"")).await;
    let error = download(&scripted.registry(), &noise(10, 27), 0)
        .await
        .unwrap_err();
    assert!(matches!(error, UpstreamError::Denied { status: 401, .. }));
    let refusal = error.to_refusal();
    assert_eq!(
        (refusal.code, refusal.challenge.as_str()),
        (RefusalCode::Denied, "")
    );
}
