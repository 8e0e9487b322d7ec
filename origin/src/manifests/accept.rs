//! `Accept`: whether a client takes what is stored. Nothing is ever converted.
//!
//! Not for: choosing among several; there is one stored form of each manifest.

use shoal_proto::limits;

/// Whether Accept lines cover a type. No line at all accepts everything. Weights are passed over, but for a zero.
pub(super) fn is_accepted(accept: &[String], media_type: &str) -> bool {
    let mut ranges = accept
        .iter()
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .peekable();
    if ranges.peek().is_none() {
        return true;
    }
    let (kind, _) = media_type.split_once('/').unwrap_or((media_type, ""));
    ranges.take(limits::ACCEPT_RANGES_MAX).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        let covers = name == "*/*"
            || name.eq_ignore_ascii_case(media_type)
            || name
                .strip_suffix("/*")
                .is_some_and(|name| name.eq_ignore_ascii_case(kind));
        covers && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_accept_lines_are_read() {
        let lines = |lines: &[&str]| {
            lines
                .iter()
                .map(|line| (*line).to_owned())
                .collect::<Vec<_>>()
        };
        let oci = "application/vnd.oci.image.index.v1+json";
        let cases = [
            (lines(&[]), true),
            (lines(&[""]), true),
            (lines(&["*/*"]), true),
            (lines(&["application/*"]), true),
            (lines(&["text/plain", "application/json", oci]), true),
            (
                lines(&["text/plain, application/vnd.oci.image.index.v1+json;q=0.5"]),
                true,
            ),
            (lines(&["text/plain"]), false),
            (lines(&["text/*"]), false),
            (lines(&["*/*;q=0"]), false),
        ];
        for (accept, expected) in cases {
            assert_eq!(is_accepted(&accept, oci), expected, "{accept:?}");
        }
    }
}
