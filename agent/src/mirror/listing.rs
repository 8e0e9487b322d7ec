//! GET and HEAD of a repository's tags and of a manifest's referrers: one page, relayed from an origin, kept by nobody.
//!
//! Holds: the body is upstream's own; of its way to the next page only the query is taken, and put behind the path by
//! which the client came, so that the next question comes here again. An absence is relayed as one, which sends
//! clients from the referrers API to the tag that stands in for it.

use axum::body::Body;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use shoal_peer::{ListAnswer, ListAsk};
use shoal_proto::limits::LIST_QUERY_BYTES_MAX;
use shoal_proto::wire::{Listed, Source};
use tokio::time::{Instant, timeout_at};

use super::Mirror;
use super::blob::{insert, refuse};
use super::name::RegistryName;
use super::observe::{FirstFrom, Observation};
use super::reply::Failure;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// The parameter that is for us, not for upstream.
const NAMESPACE: &str = "ns";

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

/// The query of a list, taken apart: what is upstream's to read, and what led the request here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    upstream: String,
    namespace: Option<String>,
}

impl Query {
    /// `None`: longer than a page token may be.
    pub fn parse(query: Option<&str>) -> Option<Self> {
        let mut parsed = Self::default();
        let mut upstream = form_urlencoded::Serializer::new(String::new());
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if key == NAMESPACE {
                parsed.namespace.get_or_insert_with(|| value.into_owned());
            } else {
                upstream.append_pair(&key, &value);
            }
        }
        parsed.upstream = upstream.finish();
        (parsed.upstream.len() <= LIST_QUERY_BYTES_MAX).then_some(parsed)
    }

    /// What upstream is asked with.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// `Link` to the next page below `path`, the client's own.
    fn link(&self, path: &str, next: &str) -> String {
        let mut query = next.to_owned();
        if let Some(namespace) = &self.namespace {
            let mut ours = form_urlencoded::Serializer::new(String::new());
            ours.append_pair(NAMESPACE, namespace);
            query = format!("{query}&{}", ours.finish());
        }
        format!("<{path}?{query}>; rel=\"next\"")
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_namespace_is_ours_and_the_rest_is_upstreams() {
        for (query, upstream) in [
            (None, ""),
            (Some(""), ""),
            (Some("ns=docker.io"), ""),
            (Some("n=2&ns=docker.io&last=v1"), "n=2&last=v1"),
            (
                Some("artifactType=application%2Fx%2By"),
                "artifactType=application%2Fx%2By",
            ),
            (Some("n=0"), "n=0"),
        ] {
            let parsed = Query::parse(query).unwrap();
            assert_eq!(parsed.upstream(), upstream, "{query:?}");
        }
        let long = format!("last={}", "x".repeat(LIST_QUERY_BYTES_MAX));
        assert_eq!(Query::parse(Some(&long)), None);
    }

    #[test]
    fn the_next_page_is_asked_for_where_this_one_was() {
        let named = Query::parse(Some("n=1&ns=127.0.0.1%3A5000")).unwrap();
        assert_eq!(
            named.link("/v2/a/tags/list", "n=1&last=b"),
            "</v2/a/tags/list?n=1&last=b&ns=127.0.0.1%3A5000>; rel=\"next\""
        );
        let plain = Query::parse(None).unwrap();
        assert_eq!(
            plain.link("/v2/quay.io/a/tags/list", "last=b"),
            "</v2/quay.io/a/tags/list?last=b>; rel=\"next\""
        );
    }

    proptest! {
        #[test]
        fn what_upstream_is_asked_with_can_stand_in_a_url(query in ".{0,80}") {
            let parsed = Query::parse(Some(&query)).unwrap();
            prop_assert!(parsed.upstream().bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
        }
    }
}
