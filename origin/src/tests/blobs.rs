//! Blobs through an origin: once from upstream, at once to whoever asks, and never wrong.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response as Reply;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{Method, StatusCode, header};
use shoal_proto::wire::RefusalCode;
use shoal_proto::{Digest, DigestAlgorithm};
use tokio::sync::Semaphore;

use super::{Stage, blob_path, body, source, within};
use crate::upstream::scripted::{Scripted, blob, cut_blob, digest_of, noise, status};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn blob_is_served_whole_by_range_and_by_head() {
    let content = noise(3 * MIB + 5, 1);
    let sent = content.clone();
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let path = blob_path(&scripted, &digest_of(&content));

    let head = within(stage.client.head(stage.url(&path)).send())
        .await
        .unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(
        head.headers()[header::CONTENT_LENGTH],
        (3 * MIB + 5).to_string()
    );
    assert!(
        scripted
            .seen()
            .iter()
            .all(|seen| seen.method == Method::HEAD),
        "HEAD starts no download"
    );

    let whole = stage.get(&path).await;
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(
        whole.headers()["docker-content-digest"],
        digest_of(&content).to_string()
    );
    assert_eq!(
        whole.headers()["docker-distribution-api-version"],
        "registry/2.0"
    );
    assert_eq!(
        whole.headers()[header::CONTENT_LENGTH],
        (3 * MIB + 5).to_string()
    );
    assert_eq!(body(whole).await, content);

    for (range, start, end) in [
        ("bytes=1000000-", 1_000_000, 3 * MIB + 5),
        ("bytes=-7", 3 * MIB - 2, 3 * MIB + 5),
        ("bytes=1048570-1048580", 1_048_570, 1_048_581),
    ] {
        let part = stage.get_range(&path, range).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(
            part.headers()[header::CONTENT_RANGE],
            format!("bytes {start}-{}/{}", end - 1, 3 * MIB + 5)
        );
        assert_eq!(body(part).await, content.slice(start..end), "{range}");
    }
    let outside = stage.get_range(&path, "bytes=99999999-").await;
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(
        scripted
            .seen()
            .iter()
            .filter(|seen| seen.method == Method::GET)
            .count(),
        1
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_askers_at_once_cost_upstream_one_get() {
    let content = noise(2 * MIB, 2);
    let sent = content.clone();
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let handle = stage.origin.handle();
    let reads = (0..100).map(|_| async {
        let mut reader = handle
            .open(digest_of(&content), source(&scripted), None)
            .await
            .unwrap();
        let mut out = BytesMut::new();
        while let Some(bytes) = reader.next().await {
            out.extend_from_slice(&bytes.unwrap());
        }
        out.freeze()
    });
    for read in within(futures_util::future::join_all(reads)).await {
        assert!(read == content);
    }
    assert_eq!(scripted.seen().len(), 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_out_before_the_last_have_come_in() {
    let content = noise(4 * MIB, 3);
    let gate = Arc::new(Semaphore::new(0));
    let (sent, held) = (content.clone(), Arc::clone(&gate));
    let scripted = Scripted::serve(move |_| {
        let held = Arc::clone(&held);
        let (first, rest) = (sent.slice(..2 * MIB), sent.slice(2 * MIB..));
        let later = stream::once(async move {
            let _open = held.acquire().await;
            Ok::<_, std::io::Error>(rest)
        });
        let parts = stream::once(async { Ok(first) }).chain(later);
        Reply::builder()
            .header(header::CONTENT_LENGTH, sent.len())
            .body(Body::from_stream(parts))
            .unwrap()
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let mut entry = scripted.entry();
    entry.url = Some(format!("http://{}", scripted.addr));
    let stage = Stage::start(dir.path(), entry).await;
    let mut reader = within(stage.origin.handle().open(
        digest_of(&content),
        source(&scripted),
        None,
    ))
    .await
    .unwrap();
    let mut out = BytesMut::new();
    while out.len() < 2 * MIB {
        out.extend_from_slice(&within(reader.next()).await.unwrap().unwrap());
    }
    assert_eq!(
        gate.available_permits(),
        0,
        "half of the blob is here, and upstream has not sent the rest"
    );
    gate.add_permits(1);
    while let Some(bytes) = within(reader.next()).await {
        out.extend_from_slice(&bytes.unwrap());
    }
    assert!(out == content);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_never_completed_and_never_kept() {
    let content = noise(3 * MIB, 4);
    let digest = digest_of(b"something else");
    let sent = content.clone();
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let response = stage.get(&blob_path(&scripted, &digest)).await;
    if response.status() == StatusCode::OK {
        // The headers left before the last byte was seen; the body must not end as if it were good.
        assert!(within(response.bytes()).await.is_err());
    } else {
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
    let again = within(stage.origin.handle().open(digest, source(&scripted), None)).await;
    let error = again.expect_err("it is known to be wrong");
    assert_eq!(
        error.refusal().map(|refusal| refusal.code),
        Some(RefusalCode::NotFound),
        "{error}"
    );
    assert!(
        stage
            .origin
            .handle()
            .store()
            .lookup(&digest)
            .is_none_or(|blob| !blob.complete)
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_blob_is_served_under_its_own_digest() {
    let content = noise(3 * MIB + 5, 6);
    let sent = content.clone();
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let right = Digest::of(DigestAlgorithm::Sha512, &content);
    let response = stage.get(&blob_path(&scripted, &right)).await;
    assert_eq!(
        (
            response.status(),
            response.headers()["docker-content-digest"]
                .to_str()
                .unwrap()
        ),
        (StatusCode::OK, right.to_string().as_str())
    );
    assert_eq!(body(response).await, content);
    stage.stop().await;
}

/// The last piece of a wrong blob was stored before the whole digest was checked, and a client that stood before it read it
/// there: one in two of these got a whole wrong body.
#[tokio::test(flavor = "multi_thread")]
async fn no_client_gets_to_the_end_of_a_wrong_blob() {
    let content = noise(MIB + 5, 7);
    let sent = content.clone();
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    for algorithm in [DigestAlgorithm::Sha256, DigestAlgorithm::Sha512] {
        for nth in 0..16_u8 {
            let wrong = Digest::of(algorithm, &[nth]);
            let response = stage.get(&blob_path(&scripted, &wrong)).await;
            let good =
                response.status() == StatusCode::OK && within(response.bytes()).await.is_ok();
            assert!(!good, "{wrong} came to its end");
        }
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_origin_asks_for_what_is_missing_only() {
    let content = noise(5 * MIB, 5);
    let (sent, broken) = (
        content.clone(),
        Arc::new(std::sync::atomic::AtomicBool::new(true)),
    );
    let mend = Arc::clone(&broken);
    let scripted = Scripted::serve(move |seen| {
        match (
            broken.load(std::sync::atomic::Ordering::SeqCst),
            seen.from(),
        ) {
            (false, _) => blob(seen, &sent),
            (true, None) => cut_blob(seen, &sent, 3 * MIB + 1_000),
            (true, Some(_)) => status(404),
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let digest = digest_of(&content);
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let mut reader = within(stage.origin.handle().open(digest, source(&scripted), None))
        .await
        .unwrap();
    let mut out = BytesMut::new();
    while out.len() < 3 * MIB {
        out.extend_from_slice(&within(reader.next()).await.unwrap().unwrap());
    }
    drop(reader);
    stage.stop().await;

    mend.store(false, std::sync::atomic::Ordering::SeqCst);
    let before = scripted.seen().len();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let response = stage.get(&blob_path(&scripted, &digest)).await;
    assert!(body(response).await == content);
    let seen = scripted.seen();
    assert_eq!(seen.len(), before + 1);
    assert_eq!(seen[before].from(), Some(3 * MIB));
    stage.stop().await;

    // And once more: it is complete, and upstream is not asked at all.
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    assert!(body(stage.get(&blob_path(&scripted, &digest)).await).await == content);
    assert_eq!(scripted.seen().len(), before + 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn download_goes_on_when_its_asker_has_gone() {
    let content = noise(4 * MIB, 6);
    let sent = content.clone();
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let digest = digest_of(&content);
    drop(
        within(stage.origin.handle().open(digest, source(&scripted), None))
            .await
            .unwrap(),
    );
    let complete = async {
        while !stage
            .origin
            .handle()
            .store()
            .lookup(&digest)
            .is_some_and(|blob| blob.complete)
        {
            tokio::task::yield_now().await;
        }
    };
    within(complete).await;
    assert_eq!(scripted.seen().len(), 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_blob_is_served() {
    let scripted = Scripted::serve(|seen| blob(seen, &Bytes::new())).await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let response = stage.get(&blob_path(&scripted, &digest_of(b""))).await;
    assert_eq!(
        (
            response.status(),
            response.headers()[header::CONTENT_LENGTH].to_str().unwrap()
        ),
        (StatusCode::OK, "0")
    );
    assert!(body(response).await.is_empty());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_get_right_answers() {
    let scripted = Scripted::serve(|_| status(404)).await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let ns = scripted.addr;
    let absent = digest_of(b"absent");
    let cases = [
        (
            format!("/v2/team/app/blobs/{absent}?ns={ns}"),
            StatusCode::NOT_FOUND,
            "BLOB_UNKNOWN",
        ),
        (
            format!("/v2/team/app/manifests/{absent}?ns={ns}"),
            StatusCode::NOT_FOUND,
            "MANIFEST_UNKNOWN",
        ),
        (
            format!("/v2/team/app/manifests/v1?ns={ns}"),
            StatusCode::NOT_FOUND,
            "MANIFEST_UNKNOWN",
        ),
        (
            format!("/v2/Team/app/manifests/v1?ns={ns}"),
            StatusCode::BAD_REQUEST,
            "NAME_INVALID",
        ),
        (
            format!("/v2/team/app/manifests/sha256:bad?ns={ns}"),
            StatusCode::BAD_REQUEST,
            "NAME_INVALID",
        ),
        (
            format!("/v2/team/app/blobs/sha256:bad?ns={ns}"),
            StatusCode::NOT_FOUND,
            "NAME_UNKNOWN",
        ),
        (
            format!("/v2/team/app/blobs/{absent}?ns=169.254.169.254"),
            StatusCode::NOT_FOUND,
            "BLOB_UNKNOWN",
        ),
        (
            "/v2/team/app/manifests/v1?ns=elsewhere.example".into(),
            StatusCode::NOT_FOUND,
            "MANIFEST_UNKNOWN",
        ),
        ("/v3/".into(), StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
    ];
    for (path, expected, code) in cases {
        let response = stage.get(&path).await;
        assert_eq!(response.status(), expected, "{path}");
        let text = body(response).await;
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains(code), "{path}: {text}");
    }
    assert_eq!(stage.get("/v2/").await.status(), StatusCode::OK);
    let posted = within(
        stage
            .client
            .post(stage.url("/v2/team/app/blobs/uploads/"))
            .send(),
    )
    .await
    .unwrap();
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
    stage.stop().await;
}
