//! `WWW-Authenticate`: whatever a registry says in it, reading it ends, and what is read of it was said and is bounded.
#![no_main]

#[path = "../../src/upstream/challenge.rs"]
mod challenge;

use challenge::{Challenge, parse_challenges};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use shoal_proto::limits::CHALLENGE_BYTES_MAX;

fuzz_target!(|lines: Vec<&[u8]>| {
    let mut headers = HeaderMap::new();
    for line in lines.iter().take(256) {
        if let Ok(line) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, line);
        }
    }
    let mut read = 0;
    for challenge in parse_challenges(&headers) {
        if let Challenge::Bearer {
            realm,
            service,
            scope,
        } = challenge
        {
            // One scope alone, so that it stands for one repository.
            assert!(
                scope
                    .as_ref()
                    .is_none_or(|scope| !scope.contains(char::is_whitespace))
            );
            read += realm.len();
            read += service.map_or(0, |service| service.len()) + scope.map_or(0, |scope| scope.len());
        }
    }
    assert!(read <= CHALLENGE_BYTES_MAX);
});
