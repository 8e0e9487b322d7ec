//! Lists at upstream: the tags of a repository, and what refers to a manifest.
//!
//! For: one page, as upstream sends it. Not for: keeping it, or reading what is in it.
//!
//! Invariant: of the way to the next page only the query is taken, so that no answer can lead anywhere else.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use shoal_proto::limits;
use shoal_proto::wire::{ListAnswer, Listed};

use super::Registry;
use super::error::UpstreamError;
use super::request::Call;

const TAGS_TYPE: &str = "application/json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const FILTERS_APPLIED: &str = "oci-filters-applied";

impl Registry {
    /// One page of a repository's tags or of a manifest's referrers.
    ///
    /// # Errors
    /// Also where the registry knows no referrers, which is told as an absence, whatever status it was: then clients
    /// look for the tag that stands in for them.
    pub(crate) async fn list(
        &self,
        repository: &str,
        listed: Listed,
        query: &str,
    ) -> Result<ListAnswer, UpstreamError> {
        let (path, accept) = match listed {
            Listed::Referrers(subject) => (format!("referrers/{subject}"), INDEX_TYPE),
            Listed::Tags => ("tags/list".to_owned(), TAGS_TYPE),
        };
        let path = if query.is_empty() {
            path
        } else {
            format!("{path}?{query}")
        };
        let call = Call {
            method: Method::GET,
            repository,
            path,
            accept,
            standing: self.standing(repository),
            from: 0,
            until: None,
        };
        let mut response = match self.call(&call).await {
            Ok(response) if response.status() == StatusCode::OK => response,
            Err(UpstreamError::BadAnswer { registry, .. })
                if matches!(listed, Listed::Referrers(_)) =>
            {
                return Err(UpstreamError::NotFound { registry });
            }
            Ok(_) => return Err(self.bad_answer("a part of a list")),
            Err(error) => return Err(error),
        };
        let told = |name: &str, max: usize| {
            let value = response.headers().get(name)?.to_str().ok()?;
            (value.len() <= max).then(|| value.to_owned())
        };
        let media_type = told(header::CONTENT_TYPE.as_str(), limits::MEDIA_TYPE_BYTES_MAX);
        let filters_applied =
            told(FILTERS_APPLIED, limits::LIST_FILTERS_BYTES_MAX).unwrap_or_default();
        let next_query = next_query(response.headers())
            .map_err(|()| self.bad_answer("a next page that cannot be asked for"))?;
        let body: Bytes = self.read_body(&mut response).await?;
        Ok(ListAnswer {
            media_type: media_type.unwrap_or_else(|| accept.to_owned()),
            body,
            next_query,
            filters_applied,
        })
    }
}

/// The query of `Link: <…>; rel="next"`; empty without one. A next page that cannot be named would end the list early
/// without anybody's knowing, so it is an error.
fn next_query(headers: &HeaderMap) -> Result<String, ()> {
    for line in headers.get_all(header::LINK) {
        let line = line.to_str().map_err(|_| ())?;
        let mut rest = line;
        while let Some((_, after)) = rest.split_once('<') {
            let (target, after) = after.split_once('>').ok_or(())?;
            let parameters = after.split('<').next().unwrap_or_default();
            rest = after;
            if !is_next(parameters) {
                continue;
            }
            let target = target.split('#').next().unwrap_or_default();
            let query = target.split_once('?').map_or("", |(_, query)| query);
            let clean = query.bytes().all(|byte| byte.is_ascii_graphic());
            if query.is_empty() || query.len() > limits::LIST_QUERY_BYTES_MAX || !clean {
                return Err(());
            }
            return Ok(query.to_owned());
        }
    }
    Ok(String::new())
}

fn is_next(parameters: &str) -> bool {
    parameters.split([';', ',']).any(|parameter| {
        parameter.split_once('=').is_some_and(|(name, value)| {
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value
                    .split(' ')
                    .any(|word| word.eq_ignore_ascii_case("next"))
        })
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn next(lines: &[&str]) -> Result<String, ()> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::LINK, HeaderValue::from_str(line).unwrap());
        }
        next_query(&headers)
    }

    #[test]
    fn of_a_link_only_the_query_is_taken() {
        let long = format!(
            "</x?{}>; rel=next",
            "q".repeat(limits::LIST_QUERY_BYTES_MAX + 1)
        );
        let cases: [(&[&str], Result<&str, &()>); 12] = [
            (&[], Ok("")),
            (
                &["</v2/a/tags/list?n=2&last=b>; rel=\"next\""],
                Ok("n=2&last=b"),
            ),
            (&["<https://evil.test/x?last=b>;rel=next"], Ok("last=b")),
            (
                &["</a?x=1>; rel=\"prev\", </a?x=2>; rel=\"next\""],
                Ok("x=2"),
            ),
            (
                &[
                    "</a?x=1>; rel=prev",
                    "</a?x=3>; title=\"t\"; REL=\"last next\"",
                ],
                Ok("x=3"),
            ),
            (&["</a?x=1>; rel=\"first\""], Ok("")),
            (&["</a?x=1#top>; rel=next"], Ok("x=1")),
            (&["</a>; rel=next"], Err(&())),
            (&["</a?x=1; rel=next"], Err(&())),
            (&["</a?x= 1>; rel=next"], Err(&())),
            (&[&long], Err(&())),
            (&["nonsense"], Ok("")),
        ];
        for (lines, expected) in cases {
            assert_eq!(next(lines).as_deref(), expected, "{lines:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_link_is_read_or_refused(line in "[ -~]{0,120}") {
            if let Ok(query) = next(&[&line]) {
                proptest::prop_assert!(query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
            }
        }
    }
}
