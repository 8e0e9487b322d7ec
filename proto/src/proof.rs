//! What an origin signs: the shape of a blob, and each piece's hash and place.
//!
//! A signature alone proves who signed, not that the signer is an origin: that is [`VouchedOrigins`]' part, and the
//! caller asks both. Not here: the digest of the whole blob, which the store checks when all pieces are held. Signed
//! bytes begin with a domain of their own, so that no statement can be taken for another.
//!
//! [`VouchedOrigins`]: crate::VouchedOrigins

use core::fmt;

use bytes::{BufMut, Bytes};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use thiserror::Error;

use crate::wire::{DecodeError, schema};
use crate::{Digest, Geometry, Guard, PeerId, PieceIndex};

const BLOB_DOMAIN: &[u8] = b"shoal blob v1\0";
/// A domain of its own, so that a version that knows no guards refuses the shape instead of losing its guard.
const GUARDED_BLOB_DOMAIN: &[u8] = b"shoal guarded blob v1\0";
const PIECE_DOMAIN: &[u8] = b"shoal piece v1\0";

/// How pieces are hashed. On the wire and on disk it has a number, so that another one can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PieceHashAlgorithm {
    /// BLAKE3, 256 bits: 0.27 CPU-seconds a GiB where SHA-256 takes 0.69.
    Blake3,
}

impl PieceHashAlgorithm {
    const fn number(self) -> u8 {
        match self {
            Self::Blake3 => 1,
        }
    }

    fn from_number(number: u32) -> Result<Self, DecodeError> {
        if number == 1 {
            Ok(Self::Blake3)
        } else {
            Err(DecodeError::Field("piece_hash"))
        }
    }
}

/// The hash of one piece's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PieceHash([u8; 32]);

impl PieceHash {
    /// A hash that was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be stored.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PieceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..6]))
    }
}

/// Hashes a piece as its bytes come.
#[derive(Clone, Debug, Default)]
pub struct PieceHasher(blake3::Hasher);

impl PieceHasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes, in order.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all that came.
    pub fn finish(&self) -> PieceHash {
        PieceHash(*self.0.finalize().as_bytes())
    }
}

/// Why a statement proves nothing.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProofError {
    /// The signature is not the named origin's.
    #[error("signature is not by the origin it names")]
    Signature,
}

/// An origin's signing key: the secret half of its identity.
#[derive(Clone)]
pub struct OriginKey(SigningKey);

impl OriginKey {
    /// From the 32 bytes of an Ed25519 secret.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// Whose key it is.
    pub fn peer_id(&self) -> PeerId {
        PeerId::from_key(self.0.verifying_key().to_bytes())
    }
}

impl fmt::Debug for OriginKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OriginKey({:?})", self.peer_id())
    }
}

/// The shape of a blob, as an origin signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Which blob.
    pub digest: Digest,
    /// How it is cut.
    pub geometry: Geometry,
    /// How its pieces are hashed.
    pub piece_hash: PieceHashAlgorithm,
    /// Whose word decides who may have it; nobody's, when anybody may.
    pub guard: Option<Guard>,
    /// Who signed.
    pub origin: PeerId,
    /// Ed25519, over everything above but the signer.
    pub signature: [u8; 64],
}

impl BlobInfo {
    /// States the shape of a blob that anybody may have.
    pub fn sign(key: &OriginKey, digest: Digest, geometry: Geometry) -> Self {
        Self::sign_guarded(key, digest, geometry, None)
    }

    /// States the shape of a blob, and whose word decides who may have it.
    pub fn sign_guarded(
        key: &OriginKey,
        digest: Digest,
        geometry: Geometry,
        guard: Option<Guard>,
    ) -> Self {
        let mut info = Self {
            digest,
            geometry,
            piece_hash: PieceHashAlgorithm::Blake3,
            guard,
            origin: key.peer_id(),
            signature: [0; 64],
        };
        info.signature = key.0.sign(&info.statement()).to_bytes();
        info
    }

    /// Did the origin that it names sign it?
    pub fn verify(&self) -> Result<(), ProofError> {
        verify(&self.origin, &self.statement(), &self.signature)
    }

    fn statement(&self) -> Vec<u8> {
        let domain = match self.guard {
            None => BLOB_DOMAIN,
            Some(_) => GUARDED_BLOB_DOMAIN,
        };
        let mut out = blob_statement(domain, &self.digest, &self.geometry, self.piece_hash);
        if let Some(guard) = &self.guard {
            out.put_slice(guard.as_bytes());
        }
        out
    }

    /// The wire form.
    pub fn to_wire(&self) -> schema::BlobInfo {
        schema::BlobInfo {
            digest: self.digest.encode(),
            blob_bytes: self.geometry.blob_bytes(),
            piece_bytes: self.geometry.piece_bytes(),
            piece_hash: u32::from(self.piece_hash.number()),
            guard: self
                .guard
                .map_or_else(Bytes::new, |guard| Bytes::copy_from_slice(guard.as_bytes())),
            origin: Bytes::copy_from_slice(self.origin.as_bytes()),
            signature: Bytes::copy_from_slice(&self.signature),
        }
    }

    /// Reads the wire form; the signature is not checked here.
    pub fn from_wire(wire: &schema::BlobInfo) -> Result<Self, DecodeError> {
        Ok(Self {
            digest: Digest::decode(&wire.digest)?,
            geometry: Geometry::try_new(wire.blob_bytes, wire.piece_bytes)?,
            piece_hash: PieceHashAlgorithm::from_number(wire.piece_hash)?,
            guard: Guard::decode(&wire.guard)?,
            origin: PeerId::from_bytes(&wire.origin)?,
            signature: signature_from(&wire.signature)?,
        })
    }
}

/// What proves a piece: its hash and its place, as an origin signed them. Travels with the piece, is stored with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceProof {
    /// Its place.
    pub index: PieceIndex,
    /// Its hash.
    pub hash: PieceHash,
    /// Who signed; not necessarily who signed the shape.
    pub origin: PeerId,
    /// Ed25519, over the blob's shape, the place and the hash.
    pub signature: [u8; 64],
}

impl PieceProof {
    /// States the hash of a piece.
    pub fn sign(key: &OriginKey, blob: &BlobInfo, index: PieceIndex, hash: PieceHash) -> Self {
        let signature = key.0.sign(&piece_statement(blob, index, &hash)).to_bytes();
        Self {
            index,
            hash,
            origin: key.peer_id(),
            signature,
        }
    }

    /// Did the origin that it names sign it, for this blob?
    pub fn verify(&self, blob: &BlobInfo) -> Result<(), ProofError> {
        verify(
            &self.origin,
            &piece_statement(blob, self.index, &self.hash),
            &self.signature,
        )
    }

    /// The wire form.
    pub fn to_wire(&self) -> schema::PieceProof {
        schema::PieceProof {
            index: self.index.get(),
            hash: Bytes::copy_from_slice(&self.hash.0),
            origin: Bytes::copy_from_slice(self.origin.as_bytes()),
            signature: Bytes::copy_from_slice(&self.signature),
        }
    }

    /// Reads the wire form; the signature is not checked here.
    pub fn from_wire(wire: &schema::PieceProof, geometry: &Geometry) -> Result<Self, DecodeError> {
        Ok(Self {
            index: geometry
                .piece(wire.index)
                .ok_or(DecodeError::Field("index"))?,
            hash: PieceHash(
                wire.hash[..]
                    .try_into()
                    .map_err(|_| DecodeError::Field("hash"))?,
            ),
            origin: PeerId::from_bytes(&wire.origin)?,
            signature: signature_from(&wire.signature)?,
        })
    }
}

fn blob_statement(
    domain: &[u8],
    digest: &Digest,
    geometry: &Geometry,
    hash: PieceHashAlgorithm,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    out.put_slice(domain);
    digest.encode_to(&mut out);
    out.put_u64(geometry.blob_bytes());
    out.put_u32(geometry.piece_bytes());
    out.put_u8(hash.number());
    out
}

fn piece_statement(blob: &BlobInfo, index: PieceIndex, hash: &PieceHash) -> Vec<u8> {
    let mut out = blob_statement(PIECE_DOMAIN, &blob.digest, &blob.geometry, blob.piece_hash);
    out.put_u32(index.get());
    out.put_slice(&hash.0);
    out
}

fn verify(origin: &PeerId, statement: &[u8], signature: &[u8; 64]) -> Result<(), ProofError> {
    let key = VerifyingKey::from_bytes(origin.as_bytes()).map_err(|_| ProofError::Signature)?;
    key.verify_strict(statement, &Signature::from_bytes(signature))
        .map_err(|_| ProofError::Signature)
}

fn signature_from(bytes: &[u8]) -> Result<[u8; 64], DecodeError> {
    bytes
        .try_into()
        .map_err(|_| DecodeError::Field("signature"))
}

#[cfg(test)]
mod tests;
