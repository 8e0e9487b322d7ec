//! RFC 9110 byte ranges over a representation of known length: the `Range` header in, what to send out.
//!
//! Pure. Not here: opening readers, writing bodies (`blob`, `multipart`).
//! Holds: every range handed out is non-empty and inside the blob; what is asked for in pieces is never more than
//! the whole blob (else the whole is the answer).

use shoal_proto::ByteRange;
use shoal_proto::limits::HTTP_RANGES_MAX;

/// What a `Range` header asks for, held against the length of the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// No usable range: answer 200 with everything.
    Whole,
    /// 206 with one `Content-Range`.
    One(ByteRange),
    /// 206 as `multipart/byteranges`; two parts at least, in the order they were asked for.
    Many(Vec<ByteRange>),
    /// 416 with `Content-Range: bytes */length`.
    Unsatisfiable,
}

/// One member of a range set, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    FromTo(u64, u64),
    From(u64),
    Suffix(u64),
}

/// Reads a `Range` header for a blob of `length` bytes.
///
/// Another unit, a malformed set or more members than allowed count as no range at all, which RFC 9110 permits.
/// `bytes=5-2` is answered 416, as the OCI distribution suite expects. The empty blob has no satisfiable range;
/// a client that asks for it from its start gets a 200 with no bytes, so that it does not have to go elsewhere.
pub fn select(header: Option<&str>, length: u64) -> Selection {
    let Some(specs) = header.and_then(parse_set) else {
        return Selection::Whole;
    };
    if length == 0 {
        let from_start =
            |spec: &Spec| matches!(spec, Spec::From(0) | Spec::FromTo(0, _) | Spec::Suffix(_));
        return if specs.iter().any(from_start) {
            Selection::Whole
        } else {
            Selection::Unsatisfiable
        };
    }
    let ranges: Vec<ByteRange> = specs
        .iter()
        .filter_map(|spec| resolve(*spec, length))
        .collect();
    match ranges.as_slice() {
        [] => Selection::Unsatisfiable,
        [one] => Selection::One(*one),
        many => {
            let asked = many.iter().fold(0u64, |sum, range| {
                sum.saturating_add(range.end - range.start)
            });
            if asked > length {
                Selection::Whole
            } else {
                Selection::Many(ranges)
            }
        }
    }
}

/// What a header asks for where that does not depend on the length: one range with a known start. Its end may lie
/// behind the blob's.
pub fn hint(header: &str) -> Option<ByteRange> {
    let (start, end) = match parse_set(header)?.as_slice() {
        [Spec::From(first)] => (*first, u64::MAX),
        [Spec::FromTo(first, last)] => (*first, last.saturating_add(1)),
        _ => return None,
    };
    (start < end).then_some(ByteRange { start, end })
}

/// The value of `Content-Range` for one range of a blob.
pub fn content_range(range: ByteRange, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

/// The value of `Content-Range` in a 416.
pub fn unsatisfied_range(length: u64) -> String {
    format!("bytes */{length}")
}

fn resolve(spec: Spec, length: u64) -> Option<ByteRange> {
    let (start, end) = match spec {
        Spec::FromTo(first, last) if first <= last => (first, last.saturating_add(1).min(length)),
        Spec::FromTo(..) => return None,
        Spec::From(first) => (first, length),
        Spec::Suffix(count) => (length.saturating_sub(count), length),
    };
    (start < end).then_some(ByteRange { start, end })
}

fn parse_set(header: &str) -> Option<Vec<Spec>> {
    let (unit, set) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for member in set.split(',') {
        let member = member.trim_matches([' ', '\t']);
        if member.is_empty() {
            continue; // RFC 9110 §5.6.1: empty list members are ignored
        }
        if specs.len() == HTTP_RANGES_MAX {
            return None;
        }
        specs.push(parse_spec(member)?);
    }
    (!specs.is_empty()).then_some(specs)
}

fn parse_spec(member: &str) -> Option<Spec> {
    let (first, last) = member.split_once('-')?;
    match (first, last) {
        ("", count) => Some(Spec::Suffix(parse_position(count)?)),
        (first, "") => Some(Spec::From(parse_position(first)?)),
        (first, last) => Some(Spec::FromTo(parse_position(first)?, parse_position(last)?)),
    }
}

/// Digits only; a number beyond `u64` lies beyond any blob, so it saturates.
fn parse_position(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(start: u64, end: u64) -> Selection {
        Selection::One(ByteRange { start, end })
    }

    #[test]
    fn each_form_of_range_selects_what_rfc_9110_says() {
        let cases: &[(&str, u64, Selection)] = &[
            ("bytes=500-1499", 2000, one(500, 1500)),
            ("bytes=500-", 2000, one(500, 2000)),
            ("bytes=-500", 2000, one(1500, 2000)),
            ("bytes=0-", 2000, one(0, 2000)),
            ("bytes=0-0", 1, one(0, 1)),
            ("bytes=1000-5000", 2000, one(1000, 2000)),
            ("bytes=-5000", 2000, one(0, 2000)),
            ("Bytes = 1-2", 2000, one(1, 3)),
            ("bytes=0-99999999999999999999999999", 10, one(0, 10)),
            ("bytes=500-0", 2000, Selection::Unsatisfiable),
            ("bytes=2000-", 2000, Selection::Unsatisfiable),
            ("bytes=2000-5000", 1999, Selection::Unsatisfiable),
            ("bytes=-0", 2000, Selection::Unsatisfiable),
            (
                "bytes=99999999999999999999999999-",
                10,
                Selection::Unsatisfiable,
            ),
            ("bytes=0-", 0, Selection::Whole),
            ("bytes=-5", 0, Selection::Whole),
            ("bytes=5-", 0, Selection::Unsatisfiable),
            (
                "bytes=0-9,20-29",
                100,
                Selection::Many(vec![
                    ByteRange { start: 0, end: 10 },
                    ByteRange { start: 20, end: 30 },
                ]),
            ),
            ("bytes=0-9,,200-", 100, one(0, 10)),
            ("bytes=0-,0-", 100, Selection::Whole),
            ("bytes=", 100, Selection::Whole),
            ("bytes=a-b", 100, Selection::Whole),
            ("bytes=+1-2", 100, Selection::Whole),
            ("lines=1-2", 100, Selection::Whole),
            ("bytes", 100, Selection::Whole),
        ];
        for (header, length, expected) in cases {
            assert_eq!(
                &select(Some(header), *length),
                expected,
                "{header} of {length}"
            );
        }
        assert_eq!(select(None, 10), Selection::Whole);
    }

    #[test]
    fn a_hint_is_the_range_that_needs_no_length() {
        for (header, expected) in [
            (
                "bytes=5-",
                Some(ByteRange {
                    start: 5,
                    end: u64::MAX,
                }),
            ),
            ("bytes=5-9", Some(ByteRange { start: 5, end: 10 })),
            ("bytes=9-5", None),
            ("bytes=-5", None),
            ("bytes=0-1,3-4", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(hint(header), expected, "{header}");
        }
    }

    #[test]
    fn more_ranges_than_allowed_get_the_whole_blob() {
        let set = |count: usize| {
            let members: Vec<String> = (0..count)
                .map(|at| format!("{}-{}", at * 2, at * 2))
                .collect();
            format!("bytes={}", members.join(","))
        };
        assert!(matches!(
            select(Some(&set(HTTP_RANGES_MAX)), 1000),
            Selection::Many(_)
        ));
        assert_eq!(
            select(Some(&set(HTTP_RANGES_MAX + 1)), 1000),
            Selection::Whole
        );
    }

    proptest! {
        #[test]
        fn any_header_is_answered_within_the_blob(header in ".{0,80}", length in 0u64..5000) {
            check_inside(&select(Some(&header), length), length)?;
        }

        #[test]
        fn any_set_of_numbers_is_answered_within_the_blob(
            specs in prop::collection::vec((prop::option::of(0u64..6000), prop::option::of(0u64..6000)), 0..20),
            length in 0u64..5000,
        ) {
            let show = |number: &Option<u64>| number.map_or_else(String::new, |value| value.to_string());
            let members: Vec<String> =
                specs.iter().map(|(first, last)| format!("{}-{}", show(first), show(last))).collect();
            check_inside(&select(Some(&format!("bytes={}", members.join(","))), length), length)?;
        }

        #[test]
        fn a_range_that_fits_is_answered_as_asked(length in 1u64..1 << 40, a in any::<u64>(), b in any::<u64>()) {
            let (a, b) = (a % length, b % length);
            let (first, last) = (a.min(b), a.max(b));
            prop_assert_eq!(select(Some(&format!("bytes={first}-{last}")), length), one(first, last + 1));
        }
    }

    fn check_inside(selection: &Selection, length: u64) -> Result<(), TestCaseError> {
        let ranges = match selection {
            Selection::One(range) => vec![*range],
            Selection::Many(ranges) => {
                prop_assert!(ranges.len() >= 2 && ranges.len() <= HTTP_RANGES_MAX);
                ranges.clone()
            }
            Selection::Whole | Selection::Unsatisfiable => return Ok(()),
        };
        for range in &ranges {
            prop_assert!(range.start < range.end && range.end <= length);
        }
        prop_assert!(
            ranges
                .iter()
                .map(|range| range.end - range.start)
                .sum::<u64>()
                <= length
        );
        Ok(())
    }
}
