//! A large blob in parts: side by side, in order, each byte asked for once, and never at the cost of the download.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use crate::config::UpstreamEntry;
use crate::upstream::Registry;
use crate::upstream::parts::PARTS_MAX;
use crate::upstream::scripted::{Scripted, blob, cut_blob, digest_of, noise, registry, status};

use super::{DEADLINE, download};

const PART: usize = 20_000;

/// A client with so many connections for one blob, that knows this blob's length from a manifest.
fn in_parts(scripted: &Scripted, connections: u8, body: &Bytes) -> Registry {
    let registry = registry(UpstreamEntry {
        connections: Some(connections),
        ..scripted.entry()
    });
    let manifest = format!(
        r#"{{"layers":[{{"digest":"{}","size":{}}}]}}"#,
        digest_of(body),
        body.len()
    );
    registry.sizes.note("team/app", manifest.as_bytes());
    Registry {
        parts: registry.parts.clone().with_part_bytes(PART as u64),
        ..registry
    }
}

/// What was asked of the blob: first byte and the byte behind the last.
fn asked(scripted: &Scripted) -> Vec<(usize, Option<usize>)> {
    let seen = scripted.asked("/blobs/");
    let mut asked: Vec<_> = seen
        .iter()
        .map(|seen| (seen.from().unwrap_or(0), seen.until()))
        .collect();
    asked.sort_unstable();
    asked
}

/// A blob of seven parts, the last one short.
fn seven_parts(seed: u64) -> Bytes {
    noise(6 * PART + 1, seed)
}

#[tokio::test]
async fn parts_come_side_by_side_and_are_handed_out_in_order() {
    let body = seven_parts(60);
    let sent = body.clone();
    let gate = Arc::new(Semaphore::new(1));
    let scripted = Scripted::serve_gated(Some(("/blobs/", Arc::clone(&gate))), move |seen| {
        blob(seen, &sent)
    })
    .await;
    let registry = in_parts(&scripted, 3, &body);
    let digest = digest_of(&body);
    let read = async {
        let mut pull = registry.pull("team/app", &digest, 0).await.unwrap();
        let mut out = BytesMut::new();
        while let Some(bytes) = pull.next().await.unwrap() {
            out.extend_from_slice(&bytes);
        }
        out.freeze()
    };
    // One answer is let through; what is asked for then, without any other, is what comes side by side.
    let watch = async {
        while scripted.asked("/blobs/").len() < 4 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let before = asked(&scripted).len();
        gate.add_permits(100);
        before
    };
    let both = async { tokio::join!(read, watch) };
    let (out, before) = tokio::time::timeout(DEADLINE, both).await.expect("in time");
    assert_eq!(out, body);
    assert_eq!(before, 1 + 3, "the first part, and then one a connection");
    let starts = (0..7).map(|part| part * PART);
    let whole = starts.map(|from| (from, Some((from + PART).min(body.len()))));
    assert_eq!(asked(&scripted), whole.collect::<Vec<_>>(), "each once");
}

#[tokio::test]
async fn a_cut_part_is_resumed_by_itself() {
    let body = seven_parts(61);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| match seen.from() {
        Some(from) if from == 3 * PART => cut_blob(seen, &sent, 5_000),
        _ => blob(seen, &sent),
    })
    .await;
    let registry = in_parts(&scripted, 4, &body);
    assert_eq!(download(&registry, &body, 0).await.unwrap(), body);
    let asked = asked(&scripted);
    assert_eq!(asked.len(), 8, "{asked:?}");
    assert!(
        asked.contains(&(3 * PART + 5_000, Some(4 * PART))),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_part_that_does_not_come_costs_speed_and_not_the_download() {
    let body = seven_parts(62);
    let (sent, other) = (body.clone(), noise(9 * PART, 63));
    // A registry that refuses one part, and one that gives a part of something else.
    for wrong in [None, Some(other)] {
        let sent = sent.clone();
        let scripted = Scripted::serve(move |seen| match (seen.from(), seen.until(), &wrong) {
            (Some(from), Some(_), None) if from == 4 * PART => status(404),
            (Some(from), Some(_), Some(other)) if from == 4 * PART => blob(seen, other),
            _ => blob(seen, &sent),
        })
        .await;
        let registry = in_parts(&scripted, 2, &body);
        assert_eq!(download(&registry, &body, 0).await.unwrap(), body);
        assert!(
            asked(&scripted).contains(&(4 * PART, None)),
            "the rest as one"
        );
        let given_back = async {
            while registry.parts.room() < PARTS_MAX {
                tokio::task::yield_now().await;
            }
        };
        let given_back = tokio::time::timeout(DEADLINE, given_back).await;
        given_back.expect("nothing is kept in memory");
    }
}

#[tokio::test]
async fn a_registry_without_parts_is_read_on_one_connection() {
    let body = seven_parts(64);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| {
        let mut whole = seen.clone();
        whole.headers.clear();
        blob(&whole, &sent)
    })
    .await;
    let registry = in_parts(&scripted, 4, &body);
    assert_eq!(download(&registry, &body, 0).await.unwrap(), body);
    assert_eq!(asked(&scripted).len(), 1);
}

#[tokio::test]
async fn what_is_small_or_of_unknown_length_or_not_to_be_cut_is_asked_for_whole() {
    let body = seven_parts(65);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let unknown = Registry {
        sizes: Arc::default(),
        ..in_parts(&scripted, 4, &body)
    };
    assert_eq!(download(&unknown, &body, 0).await.unwrap(), body);
    let single = in_parts(&scripted, 1, &body);
    assert_eq!(download(&single, &body, 0).await.unwrap(), body);
    // What is left of it after a restart is less than two parts.
    let from = body.len() - 2 * PART + 1;
    let rest = in_parts(&scripted, 4, &body);
    let got = download(&rest, &body, from as u64).await.unwrap();
    assert_eq!(got, body.slice(from..));
    assert_eq!(asked(&scripted), [(0, None), (0, None), (from, None)]);
}
