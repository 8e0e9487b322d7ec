//! Pieces on their way to the disk: who wins, who is refused, and that nobody overwrites what is held. Not here: the end of a
//! blob ([`super::super::complete`]).

use shoal_proto::DigestAlgorithm;

use super::*;
use crate::store::specimen::{Bench, SIZES, Specimen};

/// Bytes of a piece's length that are not the piece.
fn wrong(blob: &Specimen, piece: u32) -> Bytes {
    blob.piece_bytes(piece).iter().map(|byte| !byte).collect()
}

fn begun(bench: &Bench, blob_bytes: u64) -> (Store, Specimen) {
    let store = bench.open();
    let blob = Specimen::new(b"begun", blob_bytes);
    store.create(&blob.info).unwrap();
    (store, blob)
}

#[test]
fn blobs_of_every_boundary_length_are_stored_and_read_back() {
    let bench = Bench::new();
    let store = bench.open();
    for (why, blob_bytes) in SIZES {
        for algorithm in [DigestAlgorithm::Sha256, DigestAlgorithm::Sha512] {
            let blob = Specimen::named_by(algorithm, why.as_bytes(), blob_bytes);
            blob.store_all(&store)
                .unwrap_or_else(|error| panic!("{why}: {error}"));
            let stored = store.lookup(&blob.digest()).unwrap();
            assert!(stored.complete && stored.held.is_full(), "{why}");
            assert!(blob.read_all(&store).unwrap() == blob.bytes, "{why}");
            assert!(bench.file_of(&blob.digest(), "").exists(), "{why}");
        }
    }
}

#[test]
fn a_piece_that_does_not_match_its_proof_stays_missing() {
    let bench = Bench::new();
    let (store, blob) = begun(&bench, (2 << 20) + 9);
    let digest = blob.digest();
    let cases = [
        ("one byte short", blob.piece_bytes(0).slice(1..), 0),
        ("other bytes", wrong(&blob, 0), 0),
        ("the proof of another piece", blob.piece_bytes(0), 1),
        ("nothing", Bytes::new(), 0),
    ];
    for (what, bytes, proof) in cases {
        let mut writer = store.writer(&digest, blob.piece(0)).unwrap();
        writer.write(&[bytes]).unwrap();
        let error = writer.finish(&blob.proof(proof)).unwrap_err();
        assert!(error.is_senders_fault(), "{what}: {error}");
        assert!(store.lookup(&digest).unwrap().held.is_empty(), "{what}");
    }
    blob.store_piece(&store, 0).unwrap();
    assert_eq!(store.lookup(&digest).unwrap().held.count(), 1);
}

#[test]
fn more_bytes_than_a_piece_has_are_refused_at_once() {
    let bench = Bench::new();
    let (store, blob) = begun(&bench, (1 << 20) + 9);
    let mut writer = store.writer(&blob.digest(), blob.piece(1)).unwrap();
    writer.write(&[blob.piece_bytes(1)]).unwrap();
    let error = writer.write(&[Bytes::from_static(b"x")]).unwrap_err();
    assert!(matches!(
        error,
        StoreError::WrongLength {
            expected: 9,
            got: 10,
            ..
        }
    ));
}

#[test]
fn the_first_to_verify_wins_and_the_loser_overwrites_nothing() {
    let bench = Bench::new();
    let (store, blob) = begun(&bench, 3 << 20);
    let (digest, piece, proof) = (blob.digest(), blob.piece(1), blob.proof(1));
    let half = blob.piece_bytes(1).len() / 2;

    let mut liar = store.writer(&digest, piece).unwrap();
    liar.write(&[wrong(&blob, 1).slice(..half)]).unwrap();
    let mut second = store.writer(&digest, piece).unwrap();
    second.write(&[blob.piece_bytes(1)]).unwrap();
    let mut third = store.writer(&digest, piece).unwrap();
    third.write(&[blob.piece_bytes(1)]).unwrap();

    second.finish(&proof).unwrap();
    liar.write(&[wrong(&blob, 1).slice(half..)]).unwrap();
    assert!(matches!(
        liar.finish(&proof),
        Err(StoreError::Corrupt { piece: 1, .. })
    ));
    third.finish(&proof).unwrap(); // held already is as good as held by me
    assert!(store.read(&digest, 1 << 20, 1 << 20).unwrap() == blob.piece_bytes(1));
}

#[test]
fn a_piece_that_is_held_is_checked_and_not_written() {
    let bench = Bench::new();
    let (store, blob) = begun(&bench, 1 << 20);
    blob.store_piece(&store, 0).unwrap();
    let mut late = store.writer(&blob.digest(), blob.piece(0)).unwrap();
    late.write(&[wrong(&blob, 0)]).unwrap();
    assert!(matches!(
        late.finish(&blob.proof(0)),
        Err(StoreError::Corrupt { .. })
    ));
    blob.store_piece(&store, 0).unwrap();
    assert!(store.read(&blob.digest(), 0, 1 << 20).unwrap() == blob.bytes);
}

#[test]
fn a_writer_that_is_dropped_leaves_its_place_to_the_next() {
    let bench = Bench::new();
    let (store, blob) = begun(&bench, 1 << 20);
    for _ in 0..3 {
        let mut writer = store.writer(&blob.digest(), blob.piece(0)).unwrap();
        writer
            .write(&[blob.piece_bytes(0).slice(..700 << 10)])
            .unwrap();
        assert!(matches!(
            writer.sink,
            Sink::File {
                written_bytes: 716_800,
                ..
            }
        ));
    }
    assert_eq!(store.shelf().writers, 0);
    blob.store_piece(&store, 0).unwrap();
    store.commit(&blob.digest()).unwrap();
}

#[test]
fn writers_on_threads_agree_on_one_piece() {
    let bench = Bench::new();
    let (store, blob) = begun(&bench, 2 << 20);
    let (digest, good, bad) = (blob.digest(), blob.piece_bytes(0), wrong(&blob, 0));
    for _ in 0..20 {
        std::thread::scope(|threads| {
            for sender in 0..6 {
                let bytes = if sender % 2 == 0 { &good } else { &bad };
                let (store, blob) = (&store, &blob);
                threads.spawn(move || {
                    let mut writer = store.writer(&digest, blob.piece(0)).unwrap();
                    let parts = (0..16).map(|part| bytes.slice(part << 16..(part + 1) << 16));
                    parts.for_each(|part| writer.write(&[part]).unwrap());
                    match writer.finish(&blob.proof(0)) {
                        Ok(()) | Err(StoreError::Superseded { .. }) => {
                            assert_eq!(sender % 2, 0)
                        }
                        Err(error) => {
                            assert!(sender % 2 == 1 && error.is_senders_fault(), "{error}")
                        }
                    }
                });
            }
        });
        assert!(store.read(&digest, 0, 1 << 20).unwrap() == good);
        store.discard(&digest).unwrap();
        store.create(&blob.info).unwrap();
    }
}

#[test]
fn a_late_writer_of_a_discarded_blob_does_not_speak_for_the_new_one() {
    let bench = Bench::new();
    let (store, blob) = begun(&bench, 1 << 20);
    let mut late = store.writer(&blob.digest(), blob.piece(0)).unwrap();
    late.write(&[blob.piece_bytes(0)]).unwrap();
    store.discard(&blob.digest()).unwrap();
    store.create(&blob.info).unwrap();
    assert!(matches!(
        late.finish(&blob.proof(0)),
        Err(StoreError::NotFound { .. })
    ));
    assert!(store.lookup(&blob.digest()).unwrap().held.is_empty());
    store.close().unwrap();
    drop(store);
    let (store, report) = bench.open_reported();
    assert!(report.clean_stop);
    assert!(store.lookup(&blob.digest()).unwrap().held.is_empty());
}

#[test]
fn the_same_blob_may_be_created_again_and_one_of_another_shape_not() {
    let bench = Bench::new();
    let (store, blob) = begun(&bench, 9 << 20);
    blob.store_piece(&store, 3).unwrap();
    store.create(&blob.info).unwrap();
    assert_eq!(store.lookup(&blob.digest()).unwrap().held.count(), 1);
    let mut other = blob.info;
    other.geometry = Geometry::try_new(9 << 20, 2 << 20).unwrap();
    assert!(matches!(
        store.create(&other),
        Err(StoreError::GeometryConflict { .. })
    ));
}
