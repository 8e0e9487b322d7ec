//! One byte range over a known length (RFC 9110 §14).
//!
//! Not for: several ranges; a request for them is answered with the whole, as the RFC allows.

use shoal_proto::ByteRange;

/// What a client asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wanted {
    /// Everything: no range, or one that need not be understood.
    All,
    /// A range that can be satisfied, not empty.
    Part(ByteRange),
    /// A range of which the blob has nothing.
    Nothing,
}

/// Reads a `Range` header.
pub(super) fn parse_range(text: &str, length: u64) -> Wanted {
    let Some(spec) = text
        .trim()
        .strip_prefix("bytes=")
        .filter(|spec| !spec.contains(','))
    else {
        return Wanted::All;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::All;
    };
    let (start, end) = match (parse(first), parse(last)) {
        (Some(Some(start)), Some(last)) if last.is_none_or(|last| start <= last) => (
            start,
            last.map_or(length, |last| last.saturating_add(1).min(length)),
        ),
        (Some(None), Some(Some(suffix))) => (length - suffix.min(length), length),
        // Malformed, or its end lies before its start.
        (Some(Some(_)), Some(Some(_))) => return Wanted::Nothing,
        _ => return Wanted::All,
    };
    if start < end {
        Wanted::Part(ByteRange { start, end })
    } else {
        Wanted::Nothing
    }
}

/// A number, or nothing at all; `None` when it is neither.
fn parse(text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_follow_the_rfc() {
        let part = |start, end| Wanted::Part(ByteRange { start, end });
        let cases = [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=0-", 10, part(0, 10)),
            ("bytes=5-", 10, part(5, 10)),
            ("bytes=5-7", 10, part(5, 8)),
            ("bytes=5-99", 10, part(5, 10)),
            ("bytes=-3", 10, part(7, 10)),
            ("bytes=-99", 10, part(0, 10)),
            ("bytes=-0", 10, Wanted::Nothing),
            ("bytes=10-", 10, Wanted::Nothing),
            ("bytes=5-0", 10, Wanted::Nothing),
            ("bytes=0-", 0, Wanted::Nothing),
            ("bytes=99999999999999999999-", 10, Wanted::Nothing),
            ("bytes=0-1,3-4", 10, Wanted::All),
            ("bytes=", 10, Wanted::All),
            ("bytes=-", 10, Wanted::All),
            ("bytes=a-b", 10, Wanted::All),
            ("lines=0-1", 10, Wanted::All),
        ];
        for (text, length, expected) in cases {
            assert_eq!(parse_range(text, length), expected, "{text} of {length}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_inside_and_nothing_panics(text in "(bytes=)?[0-9,\\-a ]{0,30}", length: u64) {
            if let Wanted::Part(range) = parse_range(&text, length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
