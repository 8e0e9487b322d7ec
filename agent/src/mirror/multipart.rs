//! The texts of a `multipart/byteranges` body, and its exact length.
//!
//! Pure. The boundary is the blob's own digest: no blob can contain the digest of itself.

use bytes::Bytes;
use shoal_proto::{ByteRange, Digest};

use super::pour::Stretch;
use super::range::content_range;

const PART_TYPE: &str = "application/octet-stream";

/// A multipart body: what it is made of, how long it is, and its media type.
#[derive(Debug)]
pub(crate) struct Multipart {
    pub(crate) stretches: Vec<Stretch>,
    pub(crate) bytes: u64,
    pub(crate) content_type: String,
}

pub(crate) fn multipart(digest: &Digest, ranges: &[ByteRange], blob_bytes: u64) -> Multipart {
    let boundary = format!("shoal-{}", digest.hex().get(..32).unwrap_or_default());
    let mut stretches = Vec::with_capacity(ranges.len() * 2 + 1);
    let mut bytes = 0;
    for (at, range) in ranges.iter().enumerate() {
        let lead = if at == 0 { "" } else { "\r\n" };
        let text = format!(
            "{lead}--{boundary}\r\nContent-Type: {PART_TYPE}\r\nContent-Range: {}\r\n\r\n",
            content_range(*range, blob_bytes)
        );
        bytes += text.len() as u64 + (range.end - range.start);
        stretches.push(Stretch::Text(Bytes::from(text)));
        stretches.push(Stretch::Range(*range));
    }
    let end = format!("\r\n--{boundary}--\r\n");
    bytes += end.len() as u64;
    stretches.push(Stretch::Text(Bytes::from(end)));
    Multipart {
        stretches,
        bytes,
        content_type: format!("multipart/byteranges; boundary={boundary}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promised_length_is_the_length_of_the_parts() {
        let ranges = [
            ByteRange { start: 0, end: 10 },
            ByteRange {
                start: 90,
                end: 100,
            },
        ];
        let body = multipart(&Digest::Sha256([0xab; 32]), &ranges, 100);
        let length: u64 = body
            .stretches
            .iter()
            .map(|stretch| match stretch {
                Stretch::Text(text) => text.len() as u64,
                Stretch::Range(range) => range.end - range.start,
            })
            .sum();
        assert_eq!(length, body.bytes);
        assert!(
            body.content_type
                .ends_with("shoal-abababababababababababababababab")
        );
        let Stretch::Text(first) = &body.stretches[0] else {
            panic!("a text comes first")
        };
        assert!(first.starts_with(b"--shoal-"));
    }
}
