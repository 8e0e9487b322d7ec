//! `WWW-Authenticate`: what a registry wants to see.
//!
//! Not for: answering it (that is `auth`). Everything here comes from outside: nothing panics, and what cannot be
//! understood, or is longer than a challenge may be, is passed over. `origin/fuzz` compiles this file by itself.

use http::{HeaderMap, header};
use shoal_proto::limits::CHALLENGE_BYTES_MAX;

/// A challenge that can be answered.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// All challenges of all lines; those of other schemes, and lines that cannot be parsed, are passed over, as are those
/// that no longer fit into what all may have together.
pub(crate) fn parse_challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut out = Vec::new();
    let mut room = CHALLENGE_BYTES_MAX;
    for line in headers.get_all(header::WWW_AUTHENTICATE) {
        let Ok(line) = line.to_str() else { continue };
        let Some(left) = room.checked_sub(line.len()) else {
            continue;
        };
        room = left;
        let Ok(challenges) = http_auth::parse_challenges(line) else {
            continue;
        };
        for challenge in challenges {
            let param = |name: &str| {
                challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                out.push(Challenge::Basic);
            } else if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = param("realm")
            {
                // Some token servers read only the first scope: ask for that one alone.
                let scope = param("scope")
                    .and_then(|scopes| scopes.split_whitespace().next().map(str::to_owned));
                out.push(Challenge::Bearer {
                    realm,
                    service: param("service"),
                    scope,
                });
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parse(lines: &[&'static str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(line));
        }
        parse_challenges(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn all_challenges_of_all_lines_are_read() {
        let basic_then_bearer =
            parse(&["Basic realm=\"x\", Bearer realm=\"https://a/t\",service=\"s, with comma\""]);
        assert_eq!(
            basic_then_bearer,
            vec![
                Challenge::Basic,
                bearer("https://a/t", Some("s, with comma"), None)
            ]
        );
        let two_lines = parse(&[
            "Negotiate",
            "bEaReR REALM=\"https://a/t\",Scope=\"repository:x:pull repository:y:pull\"",
        ]);
        assert_eq!(
            two_lines,
            vec![bearer("https://a/t", None, Some("repository:x:pull"))]
        );
        let escaped = parse(&["Bearer realm=\"https://a/\\\"t\\\"\""]);
        assert_eq!(escaped, vec![bearer("https://a/\"t\"", None, None)]);
    }

    #[test]
    fn useless_challenges_are_passed_over() {
        for line in [
            "",
            "Bearer service=\"no realm\"",
            "Digest realm=\"x\", nonce=\"1\"",
            "\"\"\"",
            "Bearer realm=\"unterminated",
        ] {
            assert!(parse(&[line]).is_empty(), "{line}");
        }
    }

    #[test]
    fn what_is_longer_than_a_challenge_may_be_is_passed_over() {
        let mut headers = HeaderMap::new();
        let long = format!(
            "Bearer realm=\"https://a/{}\"",
            "x".repeat(CHALLENGE_BYTES_MAX)
        );
        for line in [long.as_str(), "Basic realm=\"x\""] {
            headers.append(header::WWW_AUTHENTICATE, line.parse().unwrap());
        }
        assert_eq!(parse_challenges(&headers), [Challenge::Basic]);
    }

    /// The bytes of all that was read.
    fn read_bytes(headers: &HeaderMap) -> usize {
        let bytes = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        parse_challenges(headers)
            .iter()
            .map(|challenge| match challenge {
                Challenge::Basic => 0,
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                } => realm.len() + bytes(service) + bytes(scope),
            })
            .sum()
    }

    proptest::proptest! {
        #[test]
        fn any_challenge_is_read_or_passed_over(line in "[ -~]{0,200}") {
            let mut headers = HeaderMap::new();
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_str(&line).unwrap());
            proptest::prop_assert!(read_bytes(&headers) <= line.len());
        }

        /// Where the generator above never comes: challenges that are nearly right.
        #[test]
        fn a_challenge_near_the_grammar_is_read_or_passed_over(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "Bearer", "bEARER ", "Basic ", "Digest ", "realm=", "service=\"s\"", "scope=\"a b\"",
                    "\"https://a/t\"", "\"", "\\", ",", ", ", "=", "==", " ", "x=y", "{", "~",
                ]),
                0..24,
            ),
        ) {
            let line = parts.concat();
            let mut headers = HeaderMap::new();
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_str(&line).unwrap());
            proptest::prop_assert!(read_bytes(&headers) <= line.len());
        }
    }
}
