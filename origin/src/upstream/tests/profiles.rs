//! The registries of the world as far as their documents and their clients tell how they behave, played by scripts.
//!
//! One test a registry: what it is configured with, what it demands, and what must not reach it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, header};
use shoal_proto::CallerKey;
use shoal_proto::wire::Secret;

use crate::config::UpstreamEntry;
use crate::config::upstream::AccessKind;
use crate::upstream::UpstreamError;
use crate::upstream::caller::Caller;
use crate::upstream::scripted::{
    Scripted, Seen, blob, digest_of, json, noise, registry, status, with,
};

use super::download;

fn host(seen: &Seen) -> &str {
    seen.headers[header::HOST].to_str().unwrap()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A challenge to get a token at a path of the same host.
fn bearer(seen: &Seen, realm: &str, service: &str) -> Response {
    let line = format!(
        "Bearer realm=\"http://{}{realm}\",service=\"{service}\",scope=\"repository:team/app:pull\"",
        host(seen)
    );
    with(401, "www-authenticate", &line)
}

/// An entry with a `config.json` as an operator mounts it; the file lives as long as what is returned with it.
fn with_auth_file(scripted: &Scripted, entry: &str) -> (UpstreamEntry, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, r#"{{"auths":{{"{}":{entry}}}}}"#, scripted.addr).unwrap();
    let entry = UpstreamEntry {
        access: AccessKind::Shared,
        repositories: vec!["*".into()],
        auth_file: Some(file.path().to_owned()),
        ..scripted.entry()
    };
    (entry, file)
}

fn user(name: &str, password: &str) -> String {
    let auth = STANDARD.encode(format!("{name}:{password}"));
    format!(r#"{{"auth":"{auth}"}}"#)
}

/// A token for anybody who asks for the scope, 300 s of life, blobs at a content network behind a signed address, and
/// headroom told with every manifest.
#[tokio::test]
async fn docker_hub_anonymous() {
    let body = noise(5_000, 50);
    let sent = body.clone();
    let cdn = Scripted::serve(move |seen| match seen.authorization() {
        None if seen.query == "sig=1" => blob(seen, &sent),
        _ => status(400),
    })
    .await;
    let target = format!("http://{}/blob?sig=1", cdn.addr);
    let scripted = Scripted::serve(move |seen| match seen.authorization() {
        _ if seen.path == "/token" && seen.query.contains("service=registry.docker.io") => {
            json(r#"{"token":"anon","access_token":"anon","expires_in":300,"issued_at":"2026-11-25T00:00:00Z"}"#)
        }
        Some("Bearer anon") => with(307, "location", &target),
        _ => bearer(seen, "/token", "registry.docker.io"),
    })
    .await;
    let registry = scripted.registry();
    assert_eq!(download(&registry, &body, 0).await.unwrap(), body);
    assert_eq!(
        download(&registry, &body, 4_000).await.unwrap(),
        body.slice(4_000..)
    );
    assert_eq!(scripted.asked("/token").len(), 1);
    assert!(
        cdn.seen()
            .iter()
            .all(|seen| !seen.headers.contains_key(header::COOKIE))
    );
}

/// Over its limit, Docker Hub answers 429 to manifests; HEAD and GET count for the same circuit.
#[tokio::test]
async fn docker_hub_over_its_limit() {
    let scripted = Scripted::serve(|seen| match seen.authorization() {
        _ if seen.path == "/token" => json(r#"{"token":"anon","expires_in":300}"#),
        Some(_) => with(429, "retry-after", "3600"),
        None => bearer(seen, "/token", "registry.docker.io"),
    })
    .await;
    let registry = scripted.registry();
    for _ in 0..3 {
        let error = registry.resolve("team/app", "v1").await.unwrap_err();
        assert!(matches!(error, UpstreamError::Throttled { .. }), "{error}");
    }
    assert_eq!(scripted.asked("/manifests/").len(), 2, "one 401, one 429");
}

/// Docker Hub tells with each manifest how much of whose limit is left. A caller's own limit, and what the place behind a
/// redirect says of its own, are nobody's headroom here.
#[tokio::test]
async fn headroom_is_shown_for_each_right_of_this_origin_and_for_no_other() {
    let metrics = shoal_daemon::metrics::install("test").unwrap();
    let told = |limit: &str, remaining: &str| {
        Response::builder()
            .header("docker-content-digest", digest_of(b"a").to_string())
            .header("ratelimit-limit", limit)
            .header("ratelimit-remaining", remaining)
            .body(axum::body::Body::empty())
            .unwrap()
    };
    let elsewhere = Scripted::serve(move |_| told("9;w=60", "1;w=60")).await;
    let target = format!("http://{}/m", elsewhere.addr);
    let scripted = Scripted::serve(move |seen| match seen.authorization() {
        _ if seen.path.contains("/away/") => with(307, "location", &target),
        Some("Bearer theirs") => told("200;w=21600", "3;w=21600"),
        Some(_) => told("200;w=21600", "180;w=21600"),
        None if seen.path.contains("/ours/") => with(401, "www-authenticate", "Basic realm=\"x\""),
        None => told("100;w=21600", "76;w=21600"),
    })
    .await;
    let (entry, _file) = with_auth_file(&scripted, &user("u", "p"));
    let registry = registry(UpstreamEntry {
        repositories: vec!["ours/*".into()],
        ..entry
    });
    for repository in ["ours/app", "away/app", "library/app"] {
        registry.resolve(repository, "v1").await.unwrap();
    }
    let key = CallerKey::new([7; 32]);
    let theirs = Secret::new(b"Bearer theirs".to_vec());
    let asked = registry.asked_by(Caller::new(&key, Some(&theirs)));
    asked.resolve("library/app", "v1").await.unwrap();

    let shown = metrics.render();
    let shown: BTreeSet<&str> = shown
        .lines()
        .filter(|line| line.starts_with("shoal_upstream_rate_limit"))
        .filter_map(|line| line.split_once(&format!("{{registry=\"{}\",", scripted.addr)))
        .map(|(_, rest)| rest)
        .collect();
    let expected = [
        "standing=\"anonymous\"} 100",
        "standing=\"anonymous\"} 76",
        "standing=\"configured\"} 180",
        "standing=\"configured\"} 200",
    ];
    assert_eq!(shown, BTreeSet::from(expected));
}

/// A token is wanted even for what is public, a raw access token as Bearer is 403, tokens say nothing of their life.
#[tokio::test]
async fn ghcr_with_a_personal_token() {
    let body = noise(1_000, 51);
    let (sent, pat) = (body.clone(), basic("octocat", "ghp_canary"));
    let scripted = Scripted::serve(move |seen| match seen.authorization() {
        Some(sent_here) if seen.path == "/token" && sent_here == pat => {
            json(r#"{"token":"djE6opaque"}"#)
        }
        _ if seen.path == "/token" => status(403),
        Some("Bearer djE6opaque") => blob(seen, &sent),
        Some(_) => status(403),
        None => bearer(seen, "/token", "ghcr.io"),
    })
    .await;
    let (entry, _file) = with_auth_file(&scripted, &user("octocat", "ghp_canary"));
    assert_eq!(download(&registry(entry), &body, 0).await.unwrap(), body);
}

/// Robot accounts are Basic at the token endpoint; the user may be `$oauthtoken`.
#[tokio::test]
async fn quay_with_an_oauth_token() {
    let body = noise(1_000, 52);
    let (sent, robot) = (body.clone(), basic("$oauthtoken", "canary"));
    let scripted = Scripted::serve(move |seen| match seen.authorization() {
        Some(given) if seen.path == "/v2/auth" && given == robot => json(r#"{"token":"t"}"#),
        _ if seen.path == "/v2/auth" => status(401),
        Some("Bearer t") => blob(seen, &sent),
        _ => bearer(seen, "/v2/auth", "quay.io"),
    })
    .await;
    let (entry, _file) = with_auth_file(&scripted, &user("$oauthtoken", "canary"));
    assert_eq!(download(&registry(entry), &body, 0).await.unwrap(), body);
    let error = download(&scripted.registry(), &body, 0).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Denied { status: 401, .. }),
        "{error}"
    );
}

/// Basic with the registry itself, and blobs at a presigned address that takes one way to sign, not two.
#[tokio::test]
async fn ecr_presigned() {
    let body = noise(5_000, 53);
    let (sent, aws) = (body.clone(), basic("AWS", "canary"));
    let s3 = Scripted::serve(move |seen| match seen.authorization() {
        Some(_) => status(400),
        None => blob(seen, &sent),
    })
    .await;
    let target = format!("http://{}/layer?X-Amz-Signature=1", s3.addr);
    let scripted = Scripted::serve(move |seen| match seen.authorization() {
        Some(given) if given == aws => with(307, "location", &target),
        _ => with(
            401,
            "www-authenticate",
            "Basic realm=\"https://ecr.example/\",service=\"ecr.amazonaws.com\"",
        ),
    })
    .await;
    let (entry, _file) = with_auth_file(&scripted, &user("AWS", "canary"));
    let registry = registry(entry);
    assert_eq!(download(&registry, &body, 0).await.unwrap(), body);
    assert_eq!(
        download(&registry, &body, 7).await.unwrap(),
        body.slice(7..)
    );
    assert_eq!(s3.seen().len(), 2);
    let unauthorised = |seen: &&Seen| seen.authorization().is_none();
    assert_eq!(
        scripted.seen().iter().filter(unauthorised).count(),
        1,
        "one 401 for all"
    );
}

/// The real request's 401 says nothing; `/v2/` does. The user is `_json_key`, the password a file of JSON.
#[tokio::test]
async fn google_with_a_json_key() {
    let body = noise(1_000, 54);
    let key = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"canary\"\n}";
    let (sent, json_key) = (body.clone(), basic("_json_key", key));
    let scripted = Scripted::serve(
        move |seen| match (seen.path.as_str(), seen.authorization()) {
            ("/v2/token", Some(given)) if given == json_key => {
                json(r#"{"token":"t","expires_in":3599}"#)
            }
            ("/v2/token", _) => status(403),
            ("/v2/", None) => bearer(seen, "/v2/token", "gcr.io"),
            (_, Some("Bearer t")) => blob(seen, &sent),
            _ => status(401),
        },
    )
    .await;
    let mut password = tempfile::NamedTempFile::new().unwrap();
    password.write_all(key.as_bytes()).unwrap();
    let entry = UpstreamEntry {
        access: AccessKind::Shared,
        repositories: vec!["team/*".into()],
        username: Some("_json_key".into()),
        password_file: Some(password.path().to_owned()),
        ..scripted.entry()
    };
    let registry = registry(entry);
    assert_eq!(download(&registry, &body, 0).await.unwrap(), body);
    // Another repository is asked with a token from the start.
    registry
        .pull("team/other", &digest_of(&body), 0)
        .await
        .unwrap();
    assert_eq!(scripted.asked("/v2/token").len(), 2);
    assert_eq!(scripted.asked("/blobs/").len(), 3, "one 401 for all");
}

/// An identity token is changed by POST; the access token that comes is what the registry takes.
#[tokio::test]
async fn azure_with_an_identity_token() {
    let body = noise(1_000, 55);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| match (&seen.method, seen.path.as_str()) {
        (&Method::POST, "/oauth2/token") => json(r#"{"access_token":"at"}"#),
        (_, "/oauth2/token") => status(400),
        _ if seen.authorization() == Some("Bearer at") => blob(seen, &sent),
        _ => bearer(seen, "/oauth2/token", "team.azurecr.io"),
    })
    .await;
    let zeros = "00000000-0000-0000-0000-000000000000";
    let auth = STANDARD.encode(format!("{zeros}:"));
    let entry = format!(r#"{{"auth":"{auth}","identitytoken":"refresh canary"}}"#);
    let (entry, _file) = with_auth_file(&scripted, &entry);
    assert_eq!(download(&registry(entry), &body, 0).await.unwrap(), body);
    let asked = scripted.asked("/oauth2/token");
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].body,
        "grant_type=refresh_token&client_id=shoal-origin&refresh_token=refresh+canary&service=team.azurecr.io&scope=repository%3Ateam%2Fapp%3Apull"
    );
    assert_eq!(
        (asked[0].authorization(), asked[0].query.as_str()),
        (None, "")
    );
}

/// A token server without OAuth2 is asked by GET, with the same secret as a password.
#[tokio::test]
async fn identity_token_where_there_is_no_post() {
    for unknown in [404, 405] {
        let body = noise(1_000, 56);
        let (sent, expected) = (body.clone(), basic("robot", "refresh"));
        let scripted = Scripted::serve(move |seen| match (&seen.method, seen.path.as_str()) {
            (&Method::POST, "/token") => status(unknown),
            (_, "/token") if seen.authorization() == Some(&expected) => json(r#"{"token":"t"}"#),
            (_, "/token") => status(401),
            _ if seen.authorization() == Some("Bearer t") => blob(seen, &sent),
            _ => bearer(seen, "/token", "reg"),
        })
        .await;
        let entry = r#"{"username":"robot","identitytoken":"refresh"}"#;
        let (entry, _file) = with_auth_file(&scripted, entry);
        assert_eq!(download(&registry(entry), &body, 0).await.unwrap(), body);
    }
}

/// A ready-made token goes to the registry itself, and to no token server.
#[tokio::test]
async fn registry_token_needs_no_token_server() {
    let body = noise(1_000, 57);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| match seen.authorization() {
        Some("Bearer ready") => blob(seen, &sent),
        _ => bearer(seen, "/token", "reg"),
    })
    .await;
    let (entry, _file) = with_auth_file(&scripted, r#"{"registrytoken":"ready"}"#);
    assert_eq!(download(&registry(entry), &body, 0).await.unwrap(), body);
    assert!(scripted.asked("/token").is_empty());
}

/// A robot account of Harbor, a project that is a proxy and sends elsewhere on the same host, and 401 twice a line.
#[tokio::test]
async fn harbor_with_a_robot_account() {
    let body = noise(1_000, 58);
    let (sent, robot) = (body.clone(), basic("robot$team", "canary"));
    let scripted = Scripted::serve(move |seen| match (seen.path.as_str(), seen.authorization()) {
        ("/service/token", Some(given)) if given == robot => json(r#"{"token":"t","expires_in":1800}"#),
        ("/service/token", _) => status(401),
        (path, Some("Bearer t")) if path.starts_with("/v2/team/library/") => blob(seen, &sent),
        (path, Some("Bearer t")) => {
            let there = path.replace("/v2/team/", "/v2/team/library/");
            with(301, "location", &there)
        }
        _ => {
            let line = format!(
                "Basic realm=\"harbor\", Bearer realm=\"http://{}/service/token\",service=\"harbor-registry\"",
                host(seen)
            );
            with(401, "www-authenticate", &line)
        }
    })
    .await;
    let (entry, _file) = with_auth_file(&scripted, &user("robot$team", "canary"));
    assert_eq!(download(&registry(entry), &body, 0).await.unwrap(), body);
    assert_eq!(scripted.asked("/service/token").len(), 1);
}

/// GitLab's token server is another host of the same site; one of another site is shown no credential unless listed.
#[tokio::test]
async fn gitlab_with_its_token_server_elsewhere() {
    let body = noise(1_000, 59);
    let (sent, deploy) = (body.clone(), basic("deploy", "canary"));
    let gitlab = Scripted::serve(move |seen| match seen.authorization() {
        Some(given) if given == deploy => json(r#"{"token":"t"}"#),
        Some(_) => status(401),
        None => json(r#"{"token":"nobody"}"#),
    })
    .await;
    // Another name for the same machine is another site.
    let realm = format!("http://localhost:{}/jwt/auth", gitlab.addr.port());
    let scripted = Scripted::serve(move |seen| match seen.authorization() {
        Some("Bearer t") => blob(seen, &sent),
        Some(_) => status(403),
        None => with(
            401,
            "www-authenticate",
            &format!("Bearer realm=\"{realm}\",service=\"container_registry\""),
        ),
    })
    .await;
    let (entry, _file) = with_auth_file(&scripted, &user("deploy", "canary"));
    let error = download(&registry(entry.clone()), &body, 0)
        .await
        .unwrap_err();
    assert!(
        matches!(error, UpstreamError::Denied { status: 403, .. }),
        "{error}"
    );
    assert!(
        gitlab
            .seen()
            .iter()
            .all(|seen| seen.authorization().is_none())
    );
    let entry = UpstreamEntry {
        realm_hosts: vec!["localhost".into()],
        ..entry
    };
    assert_eq!(download(&registry(entry), &body, 0).await.unwrap(), body);
}

/// A token server that limits rates closes the circuit for whoever asks with the same right, and for nobody else.
#[tokio::test]
async fn pause_of_a_token_server_is_kept_by_all_with_the_same_right() {
    let body = noise(1_000, 60);
    let (sent, robot) = (body.clone(), basic("robot", "canary"));
    let scripted = Scripted::serve(move |seen| match seen.authorization() {
        Some(given) if seen.path == "/token" && given == robot => json(r#"{"token":"t"}"#),
        _ if seen.path == "/token" => with(429, "retry-after", "60"),
        Some("Bearer t") => blob(seen, &sent),
        _ => bearer(seen, "/token", "reg"),
    })
    .await;
    let (mut entry, _file) = with_auth_file(&scripted, &user("robot", "canary"));
    entry.repositories = vec!["team/*".into()];
    let registry = registry(entry);
    for _ in 0..3 {
        let error = registry.resolve("public/app", "v1").await.unwrap_err();
        let UpstreamError::Throttled { retry_after, .. } = error else {
            panic!("{error}")
        };
        assert!(retry_after > Duration::from_secs(50), "{retry_after:?}");
    }
    assert_eq!(scripted.asked("/token").len(), 1);
    assert_eq!(
        download(&registry, &body, 0).await.unwrap(),
        body,
        "with a credential of its own"
    );
}

/// An entry that is missing is told as what it is, and nothing is asked in its stead.
#[tokio::test]
async fn missing_credential_is_a_fault_of_this_origin() {
    let scripted = Scripted::serve(|_| with(401, "www-authenticate", "Basic realm=\"reg\"")).await;
    let (mut entry, file) = with_auth_file(&scripted, "{}");
    let missing = download(&registry(entry.clone()), &Bytes::new(), 0)
        .await
        .unwrap_err();
    entry.auth_file = Some("/nowhere/config.json".into());
    let absent = download(&registry(entry), &Bytes::new(), 0)
        .await
        .unwrap_err();
    for (error, expected) in [(missing, "docker login"), (absent, "/nowhere/config.json")] {
        assert!(matches!(error, UpstreamError::Credential { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    drop(file);
}
