//! Blobs of known bytes with real proofs. Not here: any judgement.

use bytes::Bytes;
use shoal_peer::store::{Store, StoreError};
use shoal_proto::{
    BlobInfo, Digest, DigestAlgorithm, Geometry, OriginKey, PieceHasher, PieceIndex, PieceProof,
};

use super::power::Chance;

#[derive(Clone, Debug)]
pub(crate) struct Specimen {
    key: OriginKey,
    pub(crate) bytes: Bytes,
    pub(crate) info: BlobInfo,
}

impl Specimen {
    pub(crate) fn new(seed: u64, blob_bytes: usize) -> Self {
        let mut chance = Chance::new(seed);
        let mut bytes: Vec<u8> = (0..=blob_bytes / 8)
            .flat_map(|_| chance.below(u64::MAX).to_le_bytes())
            .collect();
        bytes.truncate(blob_bytes);
        let key = OriginKey::from_secret(&[7; 32]);
        let digest = Digest::of(DigestAlgorithm::Sha256, &bytes);
        let geometry = Geometry::try_new(blob_bytes as u64, 1 << 20).unwrap();
        let info = BlobInfo::sign(&key, digest, geometry);
        Self {
            key,
            bytes: bytes.into(),
            info,
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.info.digest
    }

    pub(crate) fn piece(&self, number: u32) -> PieceIndex {
        self.info.geometry.piece(number).unwrap()
    }

    pub(crate) fn pieces(&self) -> u32 {
        self.info.geometry.piece_count().get()
    }

    pub(crate) fn piece_bytes(&self, number: u32) -> Bytes {
        let range = self.info.geometry.range_of(self.piece(number));
        self.bytes
            .slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
    }

    pub(crate) fn proof(&self, number: u32) -> PieceProof {
        let mut hasher = PieceHasher::new();
        hasher.update(&self.piece_bytes(number));
        PieceProof::sign(&self.key, &self.info, self.piece(number), hasher.finish())
    }

    pub(crate) fn store_piece(&self, store: &Store, number: u32) -> Result<(), StoreError> {
        let mut writer = store.writer(&self.digest(), self.piece(number))?;
        let mut bytes = self.piece_bytes(number);
        while !bytes.is_empty() {
            writer.write(&[bytes.split_to(bytes.len().min(300 << 10))])?;
        }
        writer.finish(&self.proof(number))
    }
}
