//! Openings of folders in all states but the torn ones, which are in `tests/crash.rs`.

use std::sync::Arc;

use super::*;
use crate::store::Store;
use crate::store::disk::OsDisk;
use crate::store::index::RocksIndex;
use crate::store::specimen::{Bench, Specimen};

fn reopen(bench: &Bench) -> Result<Store, StoreError> {
    Store::open(bench.options.clone(), Arc::new(OsDisk)).map(|(store, _)| store)
}

#[test]
fn a_clean_stop_is_believed_once() {
    let bench = Bench::new();
    let blob = Specimen::new(b"clean", 3 << 20);
    let (store, report) = bench.open_reported();
    assert!(report.clean_stop, "a new folder has nothing to mend");
    store.create(&blob.info).unwrap();
    blob.store_piece(&store, 1).unwrap();
    store.close().unwrap();
    assert!(matches!(store.create(&blob.info), Err(StoreError::Closed)));
    assert!(matches!(
        store.writer(&blob.digest(), blob.piece(0)),
        Err(StoreError::Closed)
    ));
    drop(store);
    let expected = RecoveryReport {
        clean_stop: true,
        partial_blobs: 1,
        ..RecoveryReport::default()
    };
    let (store, report) = bench.open_reported();
    assert_eq!(report, expected);
    drop(store); // killed
    let expected = RecoveryReport {
        partial_blobs: 1,
        pieces_hashed: 1,
        ..RecoveryReport::default()
    };
    let (store, report) = bench.open_reported();
    assert_eq!(report, expected);
    assert!(
        store
            .lookup(&blob.digest())
            .unwrap()
            .held
            .contains(blob.piece(1))
    );
}

#[test]
fn a_folder_in_use_is_refused_by_name() {
    let bench = Bench::new();
    let _first = bench.open();
    let error = reopen(&bench).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    let text = error.to_string();
    assert!(
        text.contains(bench.options.dir.to_str().unwrap()) && text.contains("data_dir"),
        "{text}"
    );
}

#[test]
fn a_folder_that_cannot_be_made_is_refused_by_name() {
    let mut bench = Bench::new();
    let file = bench.options.dir.with_file_name("a-file");
    std::fs::write(&file, b"").unwrap();
    for dir in [
        file.clone(),
        file.join("below"),
        bench.options.dir.join("no/parent"),
    ] {
        bench.options.dir.clone_from(&dir);
        let error = reopen(&bench).unwrap_err();
        assert!(matches!(error, StoreError::Unwritable { .. }), "{error}");
        assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let bench = Bench::new();
    drop(bench.open());
    let newer = IndexOp::Put(
        record::SCHEMA_KEY.to_vec(),
        record::encode_schema(record::SCHEMA_VERSION + 1),
    );
    {
        let index = RocksIndex::open(&bench.options.dir.join("meta")).unwrap();
        index.apply(vec![newer], Durability::Synced).unwrap();
    }
    for _ in 0..2 {
        let error = reopen(&bench).unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::NewerSchema {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn files_without_a_record_and_records_without_a_file_are_settled() {
    let bench = Bench::new();
    let [gone, short, kept] =
        [b"gone", b"shrt", b"kept"].map(|seed| Specimen::new(seed, (1 << 20) + 7));
    {
        let store = bench.open();
        for blob in [&gone, &short, &kept] {
            blob.store_all(&store).unwrap();
        }
    }
    std::fs::remove_file(bench.file_of(&gone.digest(), "")).unwrap();
    std::fs::write(bench.file_of(&short.digest(), ""), b"too short").unwrap();
    let orphan = Specimen::new(b"orphan", 5);
    let paths = ["", ".partial"].map(|suffix| bench.file_of(&orphan.digest(), suffix));
    std::fs::create_dir_all(paths[0].parent().unwrap()).unwrap();
    paths
        .iter()
        .for_each(|path| std::fs::write(path, b"?").unwrap());
    let foreign = paths[0].with_file_name("README");
    std::fs::write(&foreign, b"not ours").unwrap();

    let (store, report) = bench.open_reported();
    let expected = RecoveryReport {
        complete_blobs: 1,
        blobs_dropped: 2,
        orphan_files: 1,
        ..RecoveryReport::default()
    };
    assert_eq!(report, expected);
    assert!(foreign.exists() && paths.iter().all(|path| !path.exists()));
    assert!(!bench.file_of(&short.digest(), "").exists());
    assert_eq!(store.blobs().len(), 1);
    assert!(kept.read_all(&store).unwrap() == kept.bytes);
    assert_eq!(store.usage().used_bytes, (1 << 20) + 7);
}

#[test]
fn a_record_that_cannot_be_read_costs_its_blob_and_no_other() {
    let bench = Bench::new();
    let [good, bad] = [b"good", b"bad!"].map(|seed| Specimen::new(seed, 99));
    {
        let store = bench.open();
        good.store_all(&store).unwrap();
        bad.store_all(&store).unwrap();
        let garbage = IndexOp::Put(record::blob_key(&bad.digest()), b"\x01garbage".to_vec());
        store.apply(vec![garbage], Durability::Synced).unwrap();
    }
    let (store, report) = bench.open_reported();
    assert_eq!((report.complete_blobs, report.blobs_dropped), (1, 1));
    assert!(!bench.file_of(&bad.digest(), "").exists());
    bad.store_all(&store).unwrap();
}
