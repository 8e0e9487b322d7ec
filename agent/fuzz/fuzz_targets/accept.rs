//! `Accept` lines: whatever they say, reading them ends, and what an origin is told of them is bounded.
#![no_main]

#[path = "../../src/mirror/accept.rs"]
mod accept;

use accept::Accept;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use shoal_proto::limits::{ACCEPT_BYTES_MAX, ACCEPT_RANGES_MAX};

fuzz_target!(|lines: Vec<&[u8]>| {
    let mut headers = HeaderMap::new();
    for line in lines.iter().take(256) {
        if let Ok(line) = HeaderValue::from_bytes(line) {
            headers.append(ACCEPT, line);
        }
    }
    let accept = Accept::from_headers(&headers);
    accept.covers("application/vnd.oci.image.index.v1+json");
    let ranges = accept.ranges();
    assert!(ranges.len() <= ACCEPT_RANGES_MAX);
    assert!(ranges.iter().map(String::len).sum::<usize>() <= ACCEPT_BYTES_MAX);
});
