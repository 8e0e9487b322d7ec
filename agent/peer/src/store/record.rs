//! Keys and values of the index: one letter for the kind, then what it is about; each value opens with a version byte.
//! Not here: when which of them is written. docs/STORAGE.md lists them.
//!
//! Invariant: a held piece has its proof recorded under its blob's present incarnation. A blob that is removed and begun
//! anew gets a new incarnation, so that no late write speaks for the new file. The reverse holds at a clean stop only, by
//! the bitfield written then: otherwise a recorded proof is a claim, and the bytes are hashed before it is believed.

use bytes::Bytes;
use prost::Message;
use shoal_proto::wire::schema;
use shoal_proto::{Bitfield, BlobInfo, Digest, Geometry, PeerId, PieceProof};

/// Raised when keys or values change so that an older program would misread them.
pub(super) const SCHEMA_VERSION: u32 = 1;
const VALUE_VERSION: u8 = 1;

pub(super) const SCHEMA_KEY: &[u8] = b"s/schema";
/// Present only between a clean stop and the next opening.
pub(super) const CLEAN_KEY: &[u8] = b"s/clean";

pub(super) const BLOB_PREFIX: &[u8] = b"b";
pub(super) const USE_PREFIX: &[u8] = b"a";
pub(super) const MANIFEST_PREFIX: &[u8] = b"m";
pub(super) const TAG_PREFIX: &[u8] = b"t";
pub(super) const VOUCHED_PREFIX: &[u8] = b"o";
/// Written at a clean stop, gone after the next opening.
pub(super) const HELD_PREFIX: &[u8] = b"h";
const PROOF_PREFIX: u8 = b'p';

/// What the index says of a blob; the name of its file decides where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordedState {
    Complete,
    Partial,
}

#[derive(Clone, Debug)]
pub(super) struct BlobRecord {
    pub(super) state: RecordedState,
    pub(super) incarnation: u64,
    pub(super) info: BlobInfo,
}

impl BlobRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let state = match self.state {
            RecordedState::Partial => 1,
            RecordedState::Complete => 2,
        };
        let mut value = vec![VALUE_VERSION, state];
        value.extend_from_slice(&self.incarnation.to_be_bytes());
        value.extend_from_slice(&self.info.to_wire().encode_to_vec());
        value
    }

    /// `None` for a value that this program cannot read: the blob is then treated as not recorded.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let [state, rest @ ..] = unversioned(value)? else {
            return None;
        };
        let state = match state {
            1 => RecordedState::Partial,
            2 => RecordedState::Complete,
            _ => return None,
        };
        let (incarnation, info) = rest.split_first_chunk()?;
        let info = BlobInfo::from_wire(&schema::BlobInfo::decode(info).ok()?).ok()?;
        Some(Self {
            state,
            incarnation: u64::from_be_bytes(*incarnation),
            info,
        })
    }
}

pub(super) fn blob_key(digest: &Digest) -> Vec<u8> {
    [BLOB_PREFIX, &digest.encode()].concat()
}

/// The digest of a key that begins with one letter and is a digest for the rest.
pub(super) fn digest_of_key(key: &[u8]) -> Option<Digest> {
    Digest::decode(key.get(1..)?).ok()
}

pub(super) fn use_key(digest: &Digest) -> Vec<u8> {
    [USE_PREFIX, &digest.encode()].concat()
}

/// Proofs of one blob, of all its incarnations. Digests of one algorithm are equally long and the algorithm's byte comes
/// first, so no blob's prefix begins another's.
pub(super) fn proofs_prefix(digest: &Digest) -> Vec<u8> {
    [&[PROOF_PREFIX], &digest.encode()[..]].concat()
}

pub(super) fn incarnation_prefix(digest: &Digest, incarnation: u64) -> Vec<u8> {
    let mut key = proofs_prefix(digest);
    key.extend_from_slice(&incarnation.to_be_bytes());
    key
}

pub(super) fn proof_key(digest: &Digest, incarnation: u64, piece: u32) -> Vec<u8> {
    let mut key = incarnation_prefix(digest, incarnation);
    key.extend_from_slice(&piece.to_be_bytes());
    key
}

pub(super) fn encode_proof(proof: &PieceProof) -> Vec<u8> {
    let mut value = vec![VALUE_VERSION];
    value.extend_from_slice(&proof.to_wire().encode_to_vec());
    value
}

pub(super) fn decode_proof(value: &[u8], geometry: &Geometry) -> Option<PieceProof> {
    PieceProof::from_wire(
        &schema::PieceProof::decode(unversioned(value)?).ok()?,
        geometry,
    )
    .ok()
}

pub(super) fn held_key(digest: &Digest) -> Vec<u8> {
    [HELD_PREFIX, &digest.encode()].concat()
}

pub(super) fn encode_held(incarnation: u64, held: &Bitfield) -> Vec<u8> {
    let mut value = versioned(&incarnation.to_be_bytes());
    value.extend_from_slice(&held.encode());
    value
}

/// What a clean stop noted as held of this incarnation.
pub(super) fn decode_held(value: &[u8], incarnation: u64, geometry: &Geometry) -> Option<Bitfield> {
    let (noted, held) = unversioned(value)?.split_first_chunk()?;
    if u64::from_be_bytes(*noted) != incarnation {
        return None;
    }
    Bitfield::decode(held, geometry.piece_count()).ok()
}

pub(super) fn encode_use(last_used: u64) -> Vec<u8> {
    versioned(&last_used.to_be_bytes())
}

pub(super) fn decode_use(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(unversioned(value)?.try_into().ok()?))
}

pub(super) fn encode_schema(version: u32) -> Vec<u8> {
    version.to_be_bytes().to_vec()
}

pub(super) fn decode_schema(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

pub(super) fn vouched_key(origin: &PeerId) -> Vec<u8> {
    [VOUCHED_PREFIX, origin.as_bytes()].concat()
}

/// A fact with its turn (what was put later has a larger one) and its body.
pub(super) fn encode_fact(turn: u64, body: &[u8]) -> Vec<u8> {
    let mut value = vec![VALUE_VERSION];
    value.extend_from_slice(&turn.to_be_bytes());
    value.extend_from_slice(body);
    value
}

pub(super) fn decode_fact(value: &[u8]) -> Option<(u64, &[u8])> {
    let (turn, body) = unversioned(value)?.split_first_chunk()?;
    Some((u64::from_be_bytes(*turn), body))
}

/// A manifest's body in a fact: one byte for the length of its media type, the media type, the manifest.
pub(super) fn encode_manifest(media_type: &str, manifest: &[u8]) -> Option<Vec<u8>> {
    let mut body = vec![u8::try_from(media_type.len()).ok()?];
    body.extend_from_slice(media_type.as_bytes());
    body.extend_from_slice(manifest);
    Some(body)
}

pub(super) fn decode_manifest(body: &[u8]) -> Option<(String, Bytes)> {
    let (len, rest) = body.split_first()?;
    let (media_type, manifest) = rest.split_at_checked(usize::from(*len))?;
    Some((
        String::from_utf8(media_type.to_vec()).ok()?,
        Bytes::copy_from_slice(manifest),
    ))
}

fn versioned(body: &[u8]) -> Vec<u8> {
    [&[VALUE_VERSION], body].concat()
}

fn unversioned(value: &[u8]) -> Option<&[u8]> {
    match value {
        [VALUE_VERSION, body @ ..] => Some(body),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shoal_proto::{Guard, OriginKey};

    use super::*;
    use crate::store::specimen::Specimen;

    #[test]
    fn records_and_proofs_come_back_as_they_were_written() {
        let specimen = Specimen::new(b"records", 3 << 20);
        for state in [RecordedState::Complete, RecordedState::Partial] {
            let record = BlobRecord {
                state,
                incarnation: 7,
                info: specimen.info,
            };
            let back = BlobRecord::decode(&record.encode()).unwrap();
            assert_eq!(
                (back.state, back.incarnation, back.info),
                (state, 7, specimen.info)
            );
        }
        let (key, guard) = (
            OriginKey::from_secret(&[1; 32]),
            Guard::of_registry("a.test"),
        );
        let record = BlobRecord {
            state: RecordedState::Complete,
            incarnation: 8,
            info: BlobInfo::sign_guarded(
                &key,
                specimen.info.digest,
                specimen.info.geometry,
                Some(guard),
            ),
        };
        let back = BlobRecord::decode(&record.encode()).unwrap();
        assert_eq!(
            back.info, record.info,
            "who guards a blob outlives a restart"
        );
        let proof = specimen.proof(1);
        assert_eq!(
            decode_proof(&encode_proof(&proof), &specimen.info.geometry),
            Some(proof)
        );
    }

    #[test]
    fn a_value_of_an_unknown_version_is_not_read() {
        let specimen = Specimen::new(b"records", 1);
        let record = BlobRecord {
            state: RecordedState::Partial,
            incarnation: 1,
            info: specimen.info,
        };
        let mut value = record.encode();
        value[0] = VALUE_VERSION + 1;
        assert!(BlobRecord::decode(&value).is_none());
        assert_eq!(
            decode_use(&[VALUE_VERSION + 1, 0, 0, 0, 0, 0, 0, 0, 1]),
            None
        );
    }

    #[test]
    fn keys_of_one_blob_stand_together_and_in_order_of_pieces() {
        let digest = Digest::Sha256([0xff; 32]);
        let keys: Vec<_> = [0, 1, 255, 256, 65536]
            .map(|piece| proof_key(&digest, 3, piece))
            .to_vec();
        assert!(keys.is_sorted());
        assert!(
            keys.iter()
                .all(|key| key.starts_with(&incarnation_prefix(&digest, 3)))
        );
        assert_eq!(digest_of_key(&blob_key(&digest)), Some(digest));
    }

    proptest! {
        #[test]
        fn no_bytes_on_disk_make_decoding_panic(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let geometry = Geometry::for_blob(3 << 20).unwrap();
            let _ = BlobRecord::decode(&value);
            let _ = decode_proof(&value, &geometry);
            let _ = decode_use(&value);
            let _ = decode_schema(&value);
            let _ = decode_fact(&value).map(|(_, body)| decode_manifest(body));
        }

        #[test]
        fn manifests_come_back_as_they_were_written(kind in "[a-z/+.]{0,255}", body in proptest::collection::vec(any::<u8>(), 0..100), turn: u64) {
            let fact = encode_fact(turn, &encode_manifest(&kind, &body).unwrap());
            let (back_turn, back) = decode_fact(&fact).unwrap();
            prop_assert_eq!(back_turn, turn);
            prop_assert_eq!(decode_manifest(back), Some((kind, Bytes::from(body))));
        }
    }
}
