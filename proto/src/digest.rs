//! What names a blob: its digest, as OCI writes it.
//!
//! Not here: hashes of pieces ([`PieceHash`](crate::PieceHash)), which prove and do not name. A digest in text form
//! exists only at borders (HTTP, configuration, logs); inside it is bytes, compared and ordered as such.

use core::fmt;
use core::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest as _, Sha256, Sha512};
use thiserror::Error;

/// How a blob is named. OCI registers these two; sha256 is what the world uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DigestAlgorithm {
    /// 32 bytes.
    Sha256,
    /// 64 bytes.
    Sha512,
}

impl DigestAlgorithm {
    /// Its name in a digest's text form.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// The name of a blob: the hash of all its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// By SHA-256.
    Sha256([u8; 32]),
    /// By SHA-512.
    Sha512([u8; 64]),
}

/// Why bytes or text are not a digest.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DigestError {
    /// Neither sha256 nor sha512.
    #[error("unknown digest algorithm: sha256 and sha512 are supported")]
    Algorithm,
    /// Too long, too short, or not lower-case hexadecimal.
    #[error("malformed digest: expected sha256:<64 lower-case hex digits> or sha512:<128>")]
    Malformed,
}

impl Digest {
    /// The digest of these bytes, for small things such as manifests.
    pub fn of(algorithm: DigestAlgorithm, bytes: &[u8]) -> Self {
        let mut hasher = DigestHasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// By which algorithm.
    pub const fn algorithm(&self) -> DigestAlgorithm {
        match self {
            Self::Sha256(_) => DigestAlgorithm::Sha256,
            Self::Sha512(_) => DigestAlgorithm::Sha512,
        }
    }

    /// The hash itself: 32 or 64 bytes.
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(hash) => hash,
            Self::Sha512(hash) => hash,
        }
    }

    /// The hash in lower-case hexadecimal, without the algorithm: fit for a file name.
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }

    /// The first twelve hex digits: for logs and people.
    pub fn short(&self) -> String {
        hex::encode(&self.as_bytes()[..6])
    }

    /// The wire and disk form: one byte for the algorithm (1 sha256, 2 sha512), then the hash.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(65);
        self.encode_to(&mut out);
        out.freeze()
    }

    pub(crate) fn encode_to(&self, out: &mut impl BufMut) {
        out.put_u8(match self {
            Self::Sha256(_) => 1,
            Self::Sha512(_) => 2,
        });
        out.put_slice(self.as_bytes());
    }

    /// Reads the wire and disk form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DigestError> {
        let (algorithm, hash) = bytes.split_first().ok_or(DigestError::Malformed)?;
        match algorithm {
            1 => Ok(Self::Sha256(
                hash.try_into().map_err(|_| DigestError::Malformed)?,
            )),
            2 => Ok(Self::Sha512(
                hash.try_into().map_err(|_| DigestError::Malformed)?,
            )),
            _ => Err(DigestError::Algorithm),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hash) = text.split_once(':').ok_or(DigestError::Malformed)?;
        if hash.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(DigestError::Malformed);
        }
        match algorithm {
            "sha256" => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(hash, &mut bytes).map_err(|_| DigestError::Malformed)?;
                Ok(Self::Sha256(bytes))
            }
            "sha512" => {
                let mut bytes = [0; 64];
                hex::decode_to_slice(hash, &mut bytes).map_err(|_| DigestError::Malformed)?;
                Ok(Self::Sha512(bytes))
            }
            _ => Err(DigestError::Algorithm),
        }
    }
}

/// Computes a digest as bytes come; cheap to clone, so that a prefix can be kept.
#[derive(Clone, Debug)]
pub struct DigestHasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl DigestHasher {
    /// Nothing hashed yet.
    pub fn new(algorithm: DigestAlgorithm) -> Self {
        Self(match algorithm {
            DigestAlgorithm::Sha256 => State::Sha256(Sha256::new()),
            DigestAlgorithm::Sha512 => State::Sha512(Box::new(Sha512::new())),
        })
    }

    /// The next bytes, in order.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all that was hashed.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            State::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_of_nothing_is_the_well_known_one() {
        assert_eq!(Digest::of(DigestAlgorithm::Sha256, b"").to_string(), EMPTY);
    }

    #[test]
    fn text_that_is_not_a_digest_is_refused() {
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:e3b0",
            "md5:e3b0",
            ":e3b0",
            &EMPTY.to_uppercase(),
            &EMPTY.replace('e', "E"),
            &format!("{EMPTY}0"),
            &EMPTY.replace("sha256", "sha512"),
            &EMPTY.replace("e3b0", "../."),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_wire_forms_come_back(hash: [u8; 32], long in prop::collection::vec(any::<u8>(), 64)) {
            for digest in [Digest::Sha256(hash), Digest::Sha512(long.try_into().unwrap())] {
                prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
                prop_assert_eq!(Digest::decode(&digest.encode()), Ok(digest));
            }
        }

        #[test]
        fn decoding_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), text in ".{0,150}") {
            if let Ok(digest) = Digest::decode(&bytes) {
                prop_assert_eq!(&digest.encode()[..], &bytes[..]);
            }
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn hashing_in_steps_is_hashing_at_once(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            for algorithm in [DigestAlgorithm::Sha256, DigestAlgorithm::Sha512] {
                let (head, tail) = bytes.split_at(cut.min(bytes.len()));
                let mut hasher = DigestHasher::new(algorithm);
                hasher.update(head);
                hasher.update(tail);
                prop_assert_eq!(hasher.finish(), Digest::of(algorithm, &bytes));
            }
        }
    }
}
