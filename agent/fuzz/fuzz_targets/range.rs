//! `Range`: whatever it says, what is sent lies inside the blob and is never more than the blob.
#![no_main]
#![expect(dead_code, reason = "what is fuzzed is a part of each file")]

#[path = "../../src/mirror/range.rs"]
mod range;

use libfuzzer_sys::fuzz_target;
use range::{Selection, hint, select};

fuzz_target!(|asked: (&str, u64)| {
    let (header, length) = asked;
    let inside = |range: &shoal_proto::ByteRange| range.start < range.end && range.end <= length;
    match select(Some(header), length) {
        Selection::Whole | Selection::Unsatisfiable => {}
        Selection::One(range) => {
            assert!(inside(&range));
            // What was opened before the length was known begins where the answer does.
            if let Some(hint) = hint(header) {
                assert_eq!(hint.start, range.start);
            }
        }
        Selection::Many(ranges) => {
            assert!(ranges.len() > 1 && ranges.iter().all(inside));
            let sum: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            assert!(sum <= length);
        }
    }
});
