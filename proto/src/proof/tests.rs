//! Proofs that hold, and every way in which they do not.

use super::*;
use crate::DigestAlgorithm;

fn blob(key: &OriginKey, bytes: u64) -> BlobInfo {
    BlobInfo::sign(
        key,
        Digest::of(DigestAlgorithm::Sha256, b"x"),
        Geometry::for_blob(bytes).unwrap(),
    )
}

#[test]
fn a_guard_can_be_neither_taken_off_nor_put_on_nor_changed() {
    let key = OriginKey::from_secret(&[1; 32]);
    let open = blob(&key, 3 << 20);
    let guard = Some(Guard::of_registry("a.test"));
    let guarded = BlobInfo::sign_guarded(&key, open.digest, open.geometry, guard);
    assert_eq!(guarded.verify(), Ok(()));
    assert_eq!(BlobInfo::from_wire(&guarded.to_wire()), Ok(guarded));
    let other = Some(Guard::of_registry("b.test"));
    for forged in [
        BlobInfo {
            guard: None,
            ..guarded
        },
        BlobInfo {
            guard: other,
            ..guarded
        },
        BlobInfo { guard, ..open },
    ] {
        assert_eq!(forged.verify(), Err(ProofError::Signature));
    }
}

#[test]
fn proof_holds_for_its_piece_and_for_nothing_else() {
    let key = OriginKey::from_secret(&[1; 32]);
    let info = blob(&key, 3 << 20);
    let index = info.geometry.piece(1).unwrap();
    let hash = PieceHasher::new().finish();
    let proof = PieceProof::sign(&key, &info, index, hash);
    assert_eq!(proof.verify(&info), Ok(()));
    assert_eq!(info.verify(), Ok(()));

    let moved = PieceProof {
        index: info.geometry.piece(2).unwrap(),
        ..proof
    };
    let other_bytes = PieceProof {
        hash: PieceHash([9; 32]),
        ..proof
    };
    let other_signer = PieceProof {
        origin: OriginKey::from_secret(&[2; 32]).peer_id(),
        ..proof
    };
    for forged in [moved, other_bytes, other_signer] {
        assert_eq!(forged.verify(&info), Err(ProofError::Signature));
    }
    assert_eq!(
        proof.verify(&blob(&key, 4 << 20)),
        Err(ProofError::Signature),
        "another length"
    );
    let stretched = BlobInfo {
        geometry: Geometry::for_blob(4 << 20).unwrap(),
        ..info
    };
    assert_eq!(stretched.verify(), Err(ProofError::Signature));
}

#[test]
fn any_flipped_bit_breaks_a_proof() {
    let key = OriginKey::from_secret(&[1; 32]);
    let info = blob(&key, 3 << 20);
    let proof = PieceProof::sign(
        &key,
        &info,
        info.geometry.piece(0).unwrap(),
        PieceHash([5; 32]),
    );
    for byte in 0..64 {
        let mut forged = proof;
        forged.signature[byte] ^= 1;
        assert!(forged.verify(&info).is_err(), "{byte}");
    }
}

#[test]
fn wire_forms_come_back_and_bad_ones_are_refused() {
    let key = OriginKey::from_secret(&[1; 32]);
    let info = blob(&key, 3 << 20);
    assert_eq!(BlobInfo::from_wire(&info.to_wire()), Ok(info));
    let proof = PieceProof::sign(
        &key,
        &info,
        info.geometry.piece(2).unwrap(),
        PieceHash([5; 32]),
    );
    assert_eq!(
        PieceProof::from_wire(&proof.to_wire(), &info.geometry),
        Ok(proof)
    );
    let past = schema::PieceProof {
        index: info.geometry.piece_count().get(),
        ..proof.to_wire()
    };
    assert!(PieceProof::from_wire(&past, &info.geometry).is_err());
    for wire in [
        schema::BlobInfo {
            piece_bytes: 3,
            ..info.to_wire()
        },
        schema::BlobInfo {
            blob_bytes: u64::MAX,
            ..info.to_wire()
        },
        schema::BlobInfo {
            piece_hash: 2,
            ..info.to_wire()
        },
        schema::BlobInfo {
            origin: Bytes::new(),
            ..info.to_wire()
        },
        schema::BlobInfo {
            signature: Bytes::from_static(b"short"),
            ..info.to_wire()
        },
    ] {
        assert!(BlobInfo::from_wire(&wire).is_err());
    }
}
