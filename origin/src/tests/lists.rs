//! Lists through an origin: relayed page by page, shared by those that ask together, kept by nobody.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response as Reply;
use futures_util::future::join_all;
use shoal_peer::ListAsk;
use shoal_proto::CallerKey;
use shoal_proto::wire::{Listed, RefusalCode};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::{source, within};
use crate::config::UpstreamConfig;
use crate::listings::Listings;
use crate::policy::Policy;
use crate::upstream::Upstreams;
use crate::upstream::scripted::{Scripted, Seen, digest_of, install_provider, patient, status};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn listings(scripted: &Scripted) -> Listings {
    install_provider();
    let config = UpstreamConfig::try_from(scripted.entry()).unwrap();
    let upstreams = Upstreams::new(vec![config], false, patient());
    let policy = Policy::new(Arc::new(upstreams), CallerKey::new([7; 32]));
    Listings::new(policy, TaskTracker::new())
}

fn ask(scripted: &Scripted, listed: Listed, query: &str) -> ListAsk {
    ListAsk {
        source: source(scripted),
        listed,
        query: query.to_owned(),
    }
}

fn page(seen: &Seen) -> Reply {
    let reply = Reply::builder().header("content-type", "application/json; charset=utf-8");
    let reply = match seen.query.as_str() {
        "n=2" => reply.header("link", "</v2/team/app/tags/list?n=2&last=b>; rel=\"next\""),
        _ => reply,
    };
    reply
        .body(Body::from(format!("{} {}", seen.path, seen.query)))
        .unwrap()
}

#[tokio::test]
async fn a_page_is_upstreams_own_and_says_how_to_ask_for_the_next() {
    let scripted = Scripted::serve(page).await;
    let listings = listings(&scripted);
    for (query, next) in [("n=2", "n=2&last=b"), ("n=2&last=b", ""), ("", "")] {
        let answer = within(listings.answer(ask(&scripted, Listed::Tags, query)))
            .await
            .unwrap();
        assert_eq!(answer.body, format!("/v2/team/app/tags/list {query}"));
        assert_eq!(answer.media_type, "application/json; charset=utf-8");
        assert_eq!(answer.next_query, next);
    }
}

#[tokio::test]
async fn referrers_keep_their_filter_and_where_there_are_none_it_is_an_absence() {
    for (code, refused) in [
        (200, None),
        (404, Some(RefusalCode::NotFound)),
        (405, Some(RefusalCode::NotFound)),
        (400, Some(RefusalCode::NotFound)),
        (403, Some(RefusalCode::Denied)),
        (500, Some(RefusalCode::Unavailable)),
        (429, Some(RefusalCode::Unavailable)),
    ] {
        let scripted = Scripted::serve(move |seen| match code {
            200 => Reply::builder()
                .header("content-type", INDEX)
                .header("oci-filters-applied", "artifactType")
                .body(Body::from(format!("{} {}", seen.path, seen.query)))
                .unwrap(),
            code => status(code),
        })
        .await;
        let subject = digest_of(b"subject");
        let asked = ask(&scripted, Listed::Referrers(subject), "artifactType=a%2Fb");
        let answer = within(listings(&scripted).answer(asked)).await;
        match refused {
            None => {
                let answer = answer.unwrap();
                assert_eq!(
                    answer.body,
                    format!("/v2/team/app/referrers/{subject} artifactType=a%2Fb")
                );
                assert_eq!(
                    (answer.media_type.as_str(), answer.filters_applied.as_str()),
                    (INDEX, "artifactType")
                );
            }
            Some(refused) => assert_eq!(answer.unwrap_err().code, refused, "{code}"),
        }
    }
}

#[tokio::test]
async fn askers_that_come_together_share_one_request_and_the_next_asks_anew() {
    let gate = Arc::new(Semaphore::new(0));
    let scripted = Scripted::serve_gated(Some(("tags", Arc::clone(&gate))), page).await;
    let listings = listings(&scripted);
    let askers = join_all((0..20).map(|_| listings.answer(ask(&scripted, Listed::Tags, ""))));
    let open = async {
        while scripted.asked("tags").is_empty() {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
    };
    let (answers, ()) = within(futures_util::future::join(askers, open)).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(scripted.asked("tags").len(), 1);
    within(listings.answer(ask(&scripted, Listed::Tags, "")))
        .await
        .unwrap();
    assert_eq!(scripted.asked("tags").len(), 2);
}

#[tokio::test]
async fn a_page_that_is_too_long_or_leads_nowhere_is_refused_and_not_cut() {
    let scripted = Scripted::serve(|seen| match seen.query.as_str() {
        "n=1" => Reply::builder()
            .header("link", "</v2/team/app/tags/list>; rel=next")
            .body(Body::from("{}"))
            .unwrap(),
        _ => Reply::builder()
            .body(Body::from(vec![b' '; (4 << 20) + 1]))
            .unwrap(),
    })
    .await;
    let listings = listings(&scripted);
    for query in ["n=1", ""] {
        let refusal = within(listings.answer(ask(&scripted, Listed::Tags, query)))
            .await
            .unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Unavailable, "{query}");
        assert!(refusal.retry_after > Duration::ZERO || query.is_empty());
    }
}

#[tokio::test]
async fn a_registry_that_may_not_be_asked_is_not_asked() {
    let scripted = Scripted::serve(page).await;
    let listings = listings(&scripted);
    let mut elsewhere = ask(&scripted, Listed::Tags, "");
    elsewhere.source.registry = "169.254.169.254".into();
    let refusal = within(listings.answer(elsewhere)).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Denied);
    assert!(scripted.seen().is_empty());
}
