//! What media types a client takes, from all of its `Accept` lines.
//!
//! Not here: converting manifests. A manifest is passed on as it was pushed or not at all.
//! Holds: every line counts (skopeo and dockerd send six), and no `Accept` at all means anything.

use http::HeaderMap;
use http::header::ACCEPT;
use shoal_proto::limits::{ACCEPT_BYTES_MAX, ACCEPT_RANGES_MAX};

/// A client's `Accept` lines, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accept {
    lines: Vec<String>,
}

impl Accept {
    /// Collects every line; unreadable ones are skipped, and what exceeds the caps is left out.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut bytes = 0;
        let mut lines = Vec::new();
        for line in headers.get_all(ACCEPT) {
            let Ok(text) = line.to_str() else { continue };
            bytes += text.len();
            if bytes > ACCEPT_BYTES_MAX || lines.len() == ACCEPT_RANGES_MAX {
                break;
            }
            lines.push(text.to_owned());
        }
        Self { lines }
    }

    /// The lines as an origin is told them, one media range each.
    pub fn ranges(&self) -> Vec<String> {
        self.members()
            .map(str::to_owned)
            .take(ACCEPT_RANGES_MAX)
            .collect()
    }

    /// Whether the client takes a manifest of this type.
    pub fn covers(&self, media_type: &str) -> bool {
        let mut any = false;
        for member in self.members() {
            any = true;
            let mut parts = member.split(';').map(str::trim);
            let range = parts.next().unwrap_or_default();
            let refused = parts.any(|parameter| {
                let weight = parameter
                    .strip_prefix("q=")
                    .or_else(|| parameter.strip_prefix("Q="));
                weight.is_some_and(|weight| {
                    weight
                        .trim()
                        .parse::<f32>()
                        .is_ok_and(|weight| weight <= 0.0)
                })
            });
            if !refused && range_covers(range, media_type) {
                return true;
            }
        }
        !any
    }

    fn members(&self) -> impl Iterator<Item = &str> {
        self.lines
            .iter()
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .filter(|member| !member.is_empty())
    }
}

fn range_covers(range: &str, media_type: &str) -> bool {
    if range == "*/*" || range.eq_ignore_ascii_case(media_type) {
        return true;
    }
    let (Some(wanted), Some((kind, _))) = (range.strip_suffix("/*"), media_type.split_once('/'))
    else {
        return false;
    };
    wanted.eq_ignore_ascii_case(kind)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn accept(lines: &[&str]) -> Accept {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT, HeaderValue::from_str(line).unwrap());
        }
        Accept::from_headers(&headers)
    }

    #[test]
    fn a_type_on_the_last_of_several_lines_is_accepted() {
        let several = accept(&[MANIFEST, "application/json", INDEX]);
        assert!(several.covers(INDEX));
        assert!(several.covers(MANIFEST));
        assert!(!several.covers("application/vnd.docker.distribution.manifest.v2+json"));
    }

    #[test]
    fn wildcards_weights_and_silence_are_understood() {
        let cases: &[(&[&str], bool)] = &[
            (&[], true),
            (&["*/*"], true),
            (&["application/*"], true),
            (&["text/*"], false),
            (&[&format!("{MANIFEST}, */*")], true),
            (&[&format!("{INDEX};q=0")], false),
            (&[&format!("{INDEX}; q=0.5")], true),
            (&["APPLICATION/vnd.oci.image.INDEX.v1+json"], true),
            (&["application"], false),
        ];
        for (lines, covered) in cases {
            assert_eq!(accept(lines).covers(INDEX), *covered, "{lines:?}");
        }
    }

    #[test]
    fn an_origin_is_told_every_range_once_and_within_the_cap() {
        assert_eq!(
            accept(&[&format!("{INDEX}, {MANIFEST}"), "*/*"]).ranges(),
            [INDEX, MANIFEST, "*/*"]
        );
        let flood = vec!["a/b"; ACCEPT_RANGES_MAX * 2];
        assert!(accept(&flood).ranges().len() <= ACCEPT_RANGES_MAX);
    }

    proptest! {
        #[test]
        fn any_accept_lines_are_read_and_bounded(
            lines in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b','), Just(b';'), Just(b'q'), Just(b'='), 0x20u8..0xff], 0..80), 0..80),
            media_type in "[a-z/+.;=]{0,30}",
        ) {
            let mut headers = HeaderMap::new();
            for line in &lines {
                if let Ok(line) = HeaderValue::from_bytes(line) {
                    headers.append(ACCEPT, line);
                }
            }
            let accept = Accept::from_headers(&headers);
            accept.covers(&media_type);
            let ranges = accept.ranges();
            prop_assert!(ranges.len() <= ACCEPT_RANGES_MAX);
            prop_assert!(ranges.iter().map(String::len).sum::<usize>() <= ACCEPT_BYTES_MAX);
            prop_assert!(ranges.iter().all(|range| !range.is_empty() && !range.contains(',')));
        }
    }
}
