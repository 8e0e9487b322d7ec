//! GET and HEAD of a repository's tags and of a manifest's referrers: one page, relayed from an origin, kept by nobody.
//!
//! Holds: the body is upstream's own; of its way to the next page only the query is taken, and put behind the path by
//! which the client came, so that the next question comes here again. An absence is relayed as one, which sends
//! clients from the referrers API to the tag that stands in for it.

use axum::body::Body;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use shoal_peer::{ListAnswer, ListAsk};
use shoal_proto::wire::{Listed, Source};
use tokio::time::{Instant, timeout_at};

use super::Mirror;
use super::blob::{insert, refuse};
use super::name::RegistryName;
use super::observe::{FirstFrom, Observation};
use super::query::Query;
use super::reply::Failure;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// A list as a client asked for it.
#[derive(Debug)]
pub(crate) struct ListWish<'a> {
    pub(crate) registry: &'a RegistryName,
    pub(crate) source: Source,
    pub(crate) listed: Listed,
    pub(crate) query: Query,
    pub(crate) path: &'a str,
    pub(crate) head: bool,
}

impl Mirror {
    pub(crate) async fn list(&self, wish: ListWish<'_>, mut seen: Observation) -> Response<Body> {
        let patience = self.patience(wish.registry, seen.start());
        let ask = ListAsk {
            source: wish.source.clone(),
            listed: wish.listed,
            query: wish.query.upstream().to_owned(),
        };
        let answered = match timeout_at(patience.deadline(), self.handle.list(ask)).await {
            Ok(answered) => answered.map_err(|error| Failure::of_list(&error)),
            Err(_) => Err(Failure::late()),
        };
        match answered {
            Ok(page) => {
                self.pulse.answered(wish.registry);
                seen.first_byte(FirstFrom::Origin);
                answer(page, &wish, &mut seen)
            }
            Err(failure) => {
                self.guarded.learn_from(wish.registry, &failure);
                self.pulse
                    .failed(wish.registry, patience, &failure, Instant::now());
                refuse(&failure, &mut seen)
            }
        }
    }
}

fn answer(page: ListAnswer, wish: &ListWish<'_>, seen: &mut Observation) -> Response<Body> {
    let length = page.body.len();
    let body = if wish.head {
        Body::empty()
    } else {
        seen.sent_other(length as u64);
        Body::from(page.body)
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(length));
    insert(&mut response, CONTENT_TYPE, &page.media_type);
    if !page.next_query.is_empty() {
        let link = wish.query.link(wish.path, &page.next_query);
        insert(&mut response, LINK, &link);
    }
    if !page.filters_applied.is_empty() {
        insert(&mut response, FILTERS_APPLIED, &page.filters_applied);
    }
    seen.complete();
    response
}
