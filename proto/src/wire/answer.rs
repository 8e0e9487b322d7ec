//! Answers: one [`Answer`] to each [`Ask`](super::Ask), on the same stream.
//!
//! Not here: the bytes of a piece, which follow its proof raw. A refusal is an answer like any other, so that it needs no
//! correlation and cannot be late (docs/adr/0002-refusals-on-the-request-stream.md).

use core::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::schema::{self, answer};
use super::{DecodeError, ListAnswer, RefusalCode, bounded, encode_frame, span_to_wire};
use crate::limits::{
    CHALLENGE_BYTES_MAX, MANIFEST_BYTES_MAX, MEDIA_TYPE_BYTES_MAX, REFUSAL_DETAIL_BYTES_MAX,
    REFUSAL_HOLDERS_MAX, VERDICT_HOLD_MAX,
};
use crate::{BlobInfo, Digest, Geometry, PeerId, PieceProof};

/// Who may have what an origin answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever asks.
    Anyone,
    /// The caller whose credential came with the question, for so long. Nobody keeps the answer for others.
    Caller {
        /// At most [`VERDICT_HOLD_MAX`].
        hold: Duration,
    },
}

impl Audience {
    fn to_wire(self) -> u32 {
        match self {
            Self::Anyone => 0,
            // Less than a millisecond is still not for anyone.
            Self::Caller { hold } => span_to_wire(hold).max(1),
        }
    }

    fn from_wire(hold_ms: u32) -> Self {
        match hold_ms {
            0 => Self::Anyone,
            hold_ms => Self::Caller {
                hold: Duration::from_millis(hold_ms.into()).min(VERDICT_HOLD_MAX),
            },
        }
    }
}

/// An origin's word on a blob: it can be had, and this is its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenAnswer {
    /// Its shape; absent only in answer to a stat.
    pub info: Option<BlobInfo>,
    /// Its length in bytes.
    pub blob_bytes: u64,
    /// Who may have it from this repository.
    pub audience: Audience,
}

/// A manifest, or its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestAnswer {
    /// Its name: the digest of its bytes.
    pub digest: Digest,
    /// As upstream said.
    pub media_type: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its bytes; none when only the head was asked.
    pub body: Bytes,
    /// Since upstream last confirmed the tag.
    pub age: Duration,
    /// Upstream could not be asked.
    pub stale: bool,
    /// Who may have it.
    pub audience: Audience,
}

/// A no, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// Not to be asked again before.
    pub retry_after: Duration,
    /// Others who may have it; at most [`REFUSAL_HOLDERS_MAX`].
    pub holders: Vec<PeerId>,
    /// For people. Never a secret.
    pub detail: String,
    /// With [`RefusalCode::Denied`]: upstream's challenges to be relayed, one a line.
    pub challenge: String,
}

impl Refusal {
    /// A plain no.
    pub fn new(code: RefusalCode) -> Self {
        Self {
            code,
            retry_after: Duration::ZERO,
            holders: Vec::new(),
            detail: String::new(),
            challenge: String::new(),
        }
    }

    /// With a word for people, cut to what the wire carries.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = cut(detail.into(), REFUSAL_DETAIL_BYTES_MAX);
        self
    }

    fn to_wire(&self) -> schema::Refusal {
        schema::Refusal {
            code: self.code.to_wire(),
            retry_after_ms: span_to_wire(self.retry_after),
            holders: self
                .holders
                .iter()
                .map(|peer| Bytes::copy_from_slice(peer.as_bytes()))
                .collect(),
            detail: self.detail.clone(),
            challenge: self.challenge.clone(),
        }
    }

    fn from_wire(wire: schema::Refusal) -> Result<Self, DecodeError> {
        if wire.holders.len() > REFUSAL_HOLDERS_MAX {
            return Err(DecodeError::Field("holders"));
        }
        Ok(Self {
            code: RefusalCode::from_wire(wire.code),
            retry_after: Duration::from_millis(wire.retry_after_ms.into()),
            holders: wire
                .holders
                .iter()
                .map(|peer| PeerId::from_bytes(peer))
                .collect::<Result<_, _>>()?,
            detail: bounded(wire.detail, REFUSAL_DETAIL_BYTES_MAX, "detail")?,
            challenge: bounded(wire.challenge, CHALLENGE_BYTES_MAX, "challenge")?,
        })
    }
}

fn cut(mut text: String, max: usize) -> String {
    while text.len() > max {
        text.pop();
    }
    text
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// What a repository holds.
    List(ListAnswer),
    /// The proof of the piece; its bytes follow. Read it with [`Answer::proof`].
    Piece(schema::PieceProof),
    /// The blob can be had.
    Open(OpenAnswer),
    /// The manifest.
    Manifest(ManifestAnswer),
    /// No.
    Refusal(Refusal),
}

impl Answer {
    /// The answer that a piece follows.
    pub fn piece(proof: &PieceProof) -> Self {
        Self::Piece(proof.to_wire())
    }

    /// Reads the proof of a piece of a blob of this shape.
    pub fn proof(
        wire: &schema::PieceProof,
        geometry: &Geometry,
    ) -> Result<PieceProof, DecodeError> {
        PieceProof::from_wire(wire, geometry)
    }

    /// The frame.
    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Self::List(list) => answer::Kind::List(list.to_wire()),
            Self::Piece(proof) => answer::Kind::Piece(proof.clone()),
            Self::Open(open) => answer::Kind::Open(schema::OpenAnswer {
                blob: open.info.as_ref().map(BlobInfo::to_wire),
                blob_bytes: open.blob_bytes,
                caller_hold_ms: open.audience.to_wire(),
            }),
            Self::Manifest(manifest) => answer::Kind::Manifest(schema::ManifestAnswer {
                digest: manifest.digest.encode(),
                media_type: manifest.media_type.clone(),
                length: manifest.length,
                body: manifest.body.clone(),
                age_ms: u64::try_from(manifest.age.as_millis()).unwrap_or(u64::MAX),
                stale: manifest.stale,
                caller_hold_ms: manifest.audience.to_wire(),
            }),
            Self::Refusal(refusal) => answer::Kind::Refusal(refusal.to_wire()),
        };
        encode_frame(&schema::Answer { kind: Some(kind) })
    }

    /// Reads a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        Ok(
            match schema::Answer::decode(body)?
                .kind
                .ok_or(DecodeError::Kind)?
            {
                answer::Kind::List(list) => Self::List(ListAnswer::from_wire(list)?),
                answer::Kind::Piece(proof) => Self::Piece(proof),
                answer::Kind::Open(m) => {
                    let info = m.blob.as_ref().map(BlobInfo::from_wire).transpose()?;
                    Self::Open(OpenAnswer {
                        info,
                        blob_bytes: m.blob_bytes,
                        audience: Audience::from_wire(m.caller_hold_ms),
                    })
                }
                answer::Kind::Manifest(m) if m.body.len() > MANIFEST_BYTES_MAX => {
                    return Err(DecodeError::Field("body"));
                }
                answer::Kind::Manifest(m) => Self::Manifest(ManifestAnswer {
                    digest: Digest::decode(&m.digest)?,
                    media_type: bounded(m.media_type, MEDIA_TYPE_BYTES_MAX, "media_type")?,
                    length: m.length,
                    body: m.body,
                    age: Duration::from_millis(m.age_ms),
                    stale: m.stale,
                    audience: Audience::from_wire(m.caller_hold_ms),
                }),
                answer::Kind::Refusal(refusal) => Self::Refusal(Refusal::from_wire(refusal)?),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::OriginKey;

    #[test]
    fn answers_come_back() {
        let digest = Digest::Sha256([9; 32]);
        let key = OriginKey::from_secret(&[1; 32]);
        let info = BlobInfo::sign(&key, digest, Geometry::for_blob(5 << 20).unwrap());
        let proof = PieceProof::sign(
            &key,
            &info,
            info.geometry.piece(4).unwrap(),
            crate::PieceHash::from_bytes([1; 32]),
        );
        let refusal = Refusal {
            retry_after: Duration::from_millis(40),
            holders: vec![key.peer_id()],
            challenge: "Bearer realm=\"x\"".into(),
            ..Refusal::new(RefusalCode::Injected).with_detail("é".repeat(REFUSAL_DETAIL_BYTES_MAX))
        };
        let manifest = ManifestAnswer {
            digest,
            media_type: "application/json".into(),
            length: 2,
            body: Bytes::from_static(b"{}"),
            age: Duration::from_millis(31),
            stale: true,
            audience: Audience::Caller {
                hold: Duration::from_secs(7),
            },
        };
        for answer in [
            Answer::piece(&proof),
            Answer::Open(OpenAnswer {
                info: Some(info),
                blob_bytes: 5 << 20,
                audience: Audience::Anyone,
            }),
            Answer::Open(OpenAnswer {
                info: None,
                blob_bytes: 3,
                audience: Audience::Caller {
                    hold: VERDICT_HOLD_MAX,
                },
            }),
            Answer::Manifest(manifest),
            Answer::Refusal(refusal),
        ] {
            assert_eq!(Answer::decode(&answer.encode()[4..]).as_ref(), Ok(&answer));
        }
        assert_eq!(Answer::proof(&proof.to_wire(), &info.geometry), Ok(proof));
    }

    #[test]
    fn an_answer_for_one_caller_never_turns_into_one_for_anyone() {
        let told = |hold| Audience::from_wire(Audience::Caller { hold }.to_wire());
        for hold in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            assert_ne!(told(hold), Audience::Anyone);
        }
        assert_eq!(
            told(Duration::MAX),
            Audience::Caller {
                hold: VERDICT_HOLD_MAX
            }
        );
    }

    proptest! {
        #[test]
        fn decoding_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Answer::decode(&bytes);
        }
    }
}
