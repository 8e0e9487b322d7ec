//! The query of a list, read as a client wrote it.
//!
//! Pure: no request, no I/O. Not for: what a query leads to (that is `route` and `listing`).
//! Holds: what upstream is asked with is encoded anew, so that it can stand in a URL whatever was written, and is bounded;
//! `ns`, which led the request here, stays here and comes back with the way to the next page.

use shoal_proto::limits::LIST_QUERY_BYTES_MAX;

/// The parameter that is for us, not for upstream.
const NAMESPACE: &str = "ns";

/// The query of a list, taken apart: what is upstream's to read, and what led the request here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query {
    upstream: String,
    namespace: Option<String>,
}

impl Query {
    /// `None`: longer than a page token may be.
    pub(crate) fn parse(query: Option<&str>) -> Option<Self> {
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
    pub(crate) fn upstream(&self) -> &str {
        &self.upstream
    }

    /// `Link` to the next page below `path`, the client's own.
    pub(crate) fn link(&self, path: &str, next: &str) -> String {
        let mut query = next.to_owned();
        if let Some(namespace) = &self.namespace {
            let mut ours = form_urlencoded::Serializer::new(String::new());
            ours.append_pair(NAMESPACE, namespace);
            query = format!("{query}&{}", ours.finish());
        }
        format!("<{path}?{query}>; rel=\"next\"")
    }
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
