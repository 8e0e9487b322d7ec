//! What a store gives out, and what it does when the disk has lost some of it. Not here: crashes.

use super::*;
use crate::store::specimen::{Bench, Specimen, WatchedDisk};

fn complete(bench: &Bench) -> (Store, Specimen) {
    let store = bench.open();
    let blob = Specimen::new(b"complete", (3 << 20) + 100);
    blob.store_all(&store).unwrap();
    (store, blob)
}

fn missing(store: &Store, blob: &Specimen) -> Vec<u32> {
    store
        .lookup(&blob.digest())
        .unwrap()
        .held
        .iter_missing()
        .map(PieceIndex::get)
        .collect()
}

#[test]
fn nothing_outside_held_pieces_is_read() {
    let bench = Bench::new();
    let store = bench.open();
    let blob = Specimen::new(b"holes", (3 << 20) + 100);
    store.create(&blob.info).unwrap();
    blob.store_piece(&store, 0).unwrap();
    blob.store_piece(&store, 2).unwrap();
    let mib = 1 << 20;
    let read = |offset, len| {
        store
            .read(&blob.digest(), offset, len)
            .map(|bytes| bytes.len())
    };
    assert_eq!(read(0, mib).unwrap(), mib);
    assert_eq!(read(2 << 20, usize::MAX).unwrap(), mib);
    assert_eq!(read((3 << 20) - 1, 1).unwrap(), 1);
    assert_eq!(read(5, 0).unwrap(), 0);
    for (offset, len, hole) in [
        (mib as u64 - 1, 2, mib),
        (mib as u64, 1, mib),
        (3 << 20, 1, 3 << 20),
    ] {
        let error = read(offset, len).unwrap_err();
        assert!(
            matches!(error, StoreError::NotHeld { offset, .. } if offset == hole as u64),
            "{error}"
        );
    }
    assert_eq!(read((3 << 20) + 100, 1).unwrap(), 0);
    assert!(matches!(
        read((3 << 20) + 101, 1),
        Err(StoreError::OutOfRange { .. })
    ));
    assert!(matches!(
        store.read(&Digest::Sha256([0; 32]), 0, 1),
        Err(StoreError::NotFound { .. })
    ));
}

#[test]
fn a_rotten_piece_is_found_on_recheck_set_aside_and_healed() {
    let bench = Bench::new();
    let (store, blob) = complete(&bench);
    let digest = blob.digest();
    bench.flip(&bench.file_of(&digest, ""), (2 << 20) + 5);
    let pin = store.pin(&digest);
    assert_eq!(
        store.recheck(&digest, blob.piece(1)).unwrap(),
        Recheck::Sound
    );
    assert_eq!(
        store.recheck(&digest, blob.piece(2)).unwrap(),
        Recheck::Lost
    );
    assert_eq!(
        store.recheck(&digest, blob.piece(2)).unwrap(),
        Recheck::NotHeld
    );
    assert_eq!(missing(&store, &blob), [2]);
    assert!(!bench.file_of(&digest, "").exists() && bench.file_of(&digest, ".partial").exists());
    let kept = std::fs::read(store.inner.layout.quarantined(&digest, 2)).unwrap();
    assert_eq!(kept.len(), 1 << 20);
    assert_eq!(store.faults().pieces_lost, 1);

    blob.store_piece(&store, 2).unwrap();
    store.commit(&digest).unwrap();
    assert!(blob.read_all(&store).unwrap() == blob.bytes);
    drop(pin);
}

#[test]
fn a_lost_piece_stays_lost_over_a_restart() {
    let bench = Bench::new();
    let (store, blob) = complete(&bench);
    bench.flip(&bench.file_of(&blob.digest(), ""), 0);
    assert_eq!(
        store.recheck(&blob.digest(), blob.piece(0)).unwrap(),
        Recheck::Lost
    );
    store.close().unwrap();
    drop(store);
    let (store, report) = bench.open_reported();
    assert_eq!((report.partial_blobs, report.pieces_dropped), (1, 0));
    assert_eq!(missing(&store, &blob), [0]);
}

#[test]
fn a_file_that_was_cut_short_loses_the_pieces_past_its_end_and_only_those() {
    let bench = Bench::new();
    let (store, blob) = complete(&bench);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(bench.file_of(&blob.digest(), ""))
        .unwrap();
    file.set_len((2 << 20) + 9).unwrap();
    assert_eq!(store.read(&blob.digest(), 2 << 20, 9).unwrap().len(), 9);
    let error = store.read(&blob.digest(), 2 << 20, 10).unwrap_err();
    assert!(
        matches!(error, StoreError::PieceLost { piece: 2, .. }),
        "{error}"
    );
    assert!(matches!(
        store.read(&blob.digest(), 3 << 20, 1),
        Err(StoreError::PieceLost { piece: 3, .. })
    ));
    assert_eq!(missing(&store, &blob), [2, 3]);
    for piece in [2, 3] {
        blob.store_piece(&store, piece).unwrap();
    }
    store.commit(&blob.digest()).unwrap();
    assert!(blob.read_all(&store).unwrap() == blob.bytes);
}

#[test]
fn a_read_error_costs_the_piece_and_is_counted() {
    let (bench, disk) = (Bench::new(), WatchedDisk::default());
    let store = bench.open_on(&disk);
    let blob = Specimen::new(b"unreadable", 2 << 20);
    blob.store_all(&store).unwrap();
    disk.unreadable.store(true, Ordering::Relaxed);
    assert!(matches!(
        store.read(&blob.digest(), 0, 1),
        Err(StoreError::PieceLost { piece: 0, .. })
    ));
    disk.unreadable.store(false, Ordering::Relaxed);
    assert_eq!(missing(&store, &blob), [0]);
    assert!(matches!(
        store.read(&blob.digest(), 0, 1),
        Err(StoreError::NotHeld { .. })
    ));
    assert_eq!(store.read(&blob.digest(), 1 << 20, 1).unwrap().len(), 1);
    assert_eq!(
        (store.faults().read_errors, store.faults().pieces_lost),
        (1, 1)
    );
}

#[test]
fn a_blob_whose_file_somebody_removed_is_forgotten() {
    let bench = Bench::new();
    let (store, blob) = complete(&bench);
    std::fs::remove_file(bench.file_of(&blob.digest(), "")).unwrap();
    assert!(matches!(
        store.read(&blob.digest(), 0, 1),
        Err(StoreError::NotFound { .. })
    ));
    assert!(store.lookup(&blob.digest()).is_none());
    blob.store_all(&store).unwrap();
}

#[test]
fn quarantine_keeps_a_bounded_number_of_pieces() {
    let bench = Bench::new();
    let (store, blob) = complete(&bench);
    for piece in 0..u32::try_from(QUARANTINED_MAX).unwrap() + 5 {
        store.quarantine(
            &Digest::Sha256([u8::try_from(piece).unwrap(); 32]),
            blob.piece(0),
            &[],
        );
    }
    let kept = bench
        .options
        .dir
        .join("quarantine")
        .read_dir()
        .unwrap()
        .count();
    assert_eq!(kept, QUARANTINED_MAX);
}
