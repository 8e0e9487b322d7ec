//! Frames: a big-endian length of 32 bits, then a message.
//!
//! Not here: what is in a message. The length is checked against the stream's cap before any of the body is taken.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::DecodeError;

/// Bytes of the length in front of a message.
const LENGTH_BYTES: usize = 4;

/// A message with its length in front.
pub fn encode_frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(LENGTH_BYTES + length);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.extend_from_slice(&message.encode_to_vec());
    out.freeze()
}

/// Finds frames in a stream of bytes; holds at most one frame's worth.
#[derive(Debug)]
pub struct FrameDecoder {
    max: usize,
    pending: BytesMut,
}

impl FrameDecoder {
    /// For a stream whose frames have at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            pending: BytesMut::new(),
        }
    }

    /// Takes what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next frame's body, when all of it is there. After an error the stream is lost.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, DecodeError> {
        let Some(head) = self.pending.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length > self.max {
            return Err(DecodeError::TooLong {
                length,
                max: self.max,
            });
        }
        if self.pending.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.pending.advance(LENGTH_BYTES);
        Ok(Some(self.pending.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8), step in 1usize..30) {
            let stream: Vec<u8> = bodies.iter().flat_map(|body| {
                let length = u32::try_from(body.len()).unwrap();
                [&length.to_be_bytes()[..], body].concat()
            }).collect();
            let mut decoder = FrameDecoder::new(50);
            let mut got = Vec::new();
            for piece in stream.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push(frame.to_vec());
                }
            }
            prop_assert_eq!(got, bodies);
        }
    }

    #[test]
    fn length_is_refused_before_the_body_comes() {
        let mut decoder = FrameDecoder::new(10);
        decoder.push(&u32::MAX.to_be_bytes());
        assert_eq!(
            decoder.next_frame(),
            Err(DecodeError::TooLong {
                length: u32::MAX as usize,
                max: 10
            })
        );
    }
}
