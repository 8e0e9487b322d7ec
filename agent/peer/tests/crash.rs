//! A crash is a test: the power goes off in every call that a store makes to disk or index, and whatever is left, the next
//! opening is sound. Not here: what a store does while the power is on, except for disks that fail without going away.
//!
//! Sound means: every held piece has its bytes and its proof; complete means the whole blob is there (I5); what was
//! committed before the crash is still complete; no file is nobody's; and the store works on as if nothing had been.

#![cfg(test)]

#[path = "crash/disk.rs"]
mod disk;
#[path = "crash/index.rs"]
mod index;
#[path = "crash/power.rs"]
mod power;
#[path = "crash/specimen.rs"]
mod specimen;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_peer::store::{Recheck, RecoveryReport, Store, StoreError, StoreOptions};
use shoal_proto::Digest;

use disk::CrashDisk;
use index::CrashIndex;
use power::{Aftermath, Power};
use specimen::Specimen;

const MIB: usize = 1 << 20;
const AFTERMATHS: [Aftermath; 4] = [
    Aftermath::Kept,
    Aftermath::Lost,
    Aftermath::Torn(1),
    Aftermath::Torn(2),
];

/// One machine: what its processes share from one to the next.
struct Machine {
    power: Power,
    disk: CrashDisk,
    index: CrashIndex,
}

fn root() -> PathBuf {
    PathBuf::from("/data")
}

fn options() -> StoreOptions {
    StoreOptions {
        quota_bytes: Some(6 * MIB as u64),
        flush_bytes: MIB as u64,
        ..StoreOptions::new(root().join("store"))
    }
}

impl Machine {
    fn new(power: Power) -> Self {
        let disk = CrashDisk::new(power.clone(), &root());
        Self {
            disk,
            index: CrashIndex::new(power.clone()),
            power,
        }
    }

    fn open(&self) -> Result<(Store, RecoveryReport), StoreError> {
        let index = self.index.clone();
        Store::open_with(options(), Arc::new(self.disk.clone()), &move |_| {
            Ok(Arc::new(index.clone()))
        })
    }

    /// The machine after a crash, with the power on again, at least until the given call.
    fn after(&self, aftermath: Aftermath, power: Power) -> Self {
        let disk = self.disk.after(aftermath, power.clone());
        Self {
            disk,
            index: self.index.after(aftermath, power.clone()),
            power,
        }
    }
}

/// All blobs of the story, and which of them must be complete whatever happens now.
struct Story {
    blobs: Vec<Specimen>,
    promised: BTreeSet<Digest>,
    /// Bit rot in its first piece: nobody can know before it is hashed again.
    rotten: Option<Digest>,
}

impl Story {
    fn new() -> Self {
        let lengths = [2 * MIB + 5, MIB + 1, 2 * MIB, 0, 2 * MIB - 1];
        let blobs = lengths
            .iter()
            .zip(0..)
            .map(|(length, seed)| Specimen::new(seed, *length))
            .collect();
        Self {
            blobs,
            promised: BTreeSet::new(),
            rotten: None,
        }
    }

    fn commit(&mut self, store: &Store, blob: usize) -> Result<(), StoreError> {
        let digest = self.blobs[blob].digest();
        store.commit(&digest)?;
        self.promised.insert(digest);
        Ok(())
    }

    /// Creates, and takes back the promise of whatever had to go for it. Eviction may have begun when the call fails.
    fn create(
        &mut self,
        store: &Store,
        blob: usize,
        may_evict: &[usize],
    ) -> Result<(), StoreError> {
        for victim in may_evict {
            self.promised.remove(&self.blobs[*victim].digest());
        }
        let evicted = store.create(&self.blobs[blob].info)?;
        let expected: Vec<Digest> = may_evict
            .iter()
            .map(|victim| self.blobs[*victim].digest())
            .collect();
        assert_eq!(evicted, expected);
        Ok(())
    }

    /// Two processes' lives. Any error is the power's.
    fn run(&mut self, machine: &Machine) -> Result<(), StoreError> {
        let (store, _) = machine.open()?;
        self.first_process(machine, &store)?;
        store.close()?;
        drop(store);
        let (store, report) = machine.open()?;
        assert!(report.clean_stop && report.pieces_hashed == 0, "{report:?}");
        self.second_process(&store)
    }

    fn first_process(&mut self, machine: &Machine, store: &Store) -> Result<(), StoreError> {
        let (large, small, empty) = (
            self.blobs[0].clone(),
            self.blobs[1].clone(),
            self.blobs[3].clone(),
        );
        self.create(store, 0, &[])?;
        large.store_piece(store, 1)?;
        store.advance(&large.digest())?;
        drop(wrong_bytes(store, &large, 0)?); // a source that gives up half way
        large.store_piece(store, 0)?;
        store.advance(&large.digest())?;
        large.store_piece(store, 2)?;
        self.commit(store, 0)?;

        self.create(store, 3, &[])?;
        self.commit(store, 3)?;
        assert_eq!(empty.pieces(), 0);

        self.create(store, 1, &[])?;
        let slow = wrong_bytes(store, &small, 0)?;
        small.store_piece(store, 0)?; // a second source overtakes the first
        let overtaken = slow.finish(&small.proof(0));
        assert!(matches!(
            overtaken,
            Err(StoreError::Corrupt { .. } | StoreError::WrongLength { .. })
        ));
        small.store_piece(store, 1)?;
        self.commit(store, 1)?;

        self.promised.remove(&small.digest());
        machine.disk.flip(&file_of(&small.digest(), ""), 7);
        self.rotten = Some(small.digest());
        assert_eq!(
            store.recheck(&small.digest(), small.piece(0))?,
            Recheck::Lost
        );
        self.rotten = None;
        small.store_piece(store, 0)?;
        self.commit(store, 1)?;
        self.create(store, 2, &[])?;
        self.blobs[2].store_piece(store, 1)
    }

    fn second_process(&mut self, store: &Store) -> Result<(), StoreError> {
        let (doomed, last) = (self.blobs[2].clone(), self.blobs[4].clone());
        store.touch(&self.blobs[1].digest());
        store.touch(&self.blobs[2].digest());
        self.create(store, 4, &[0])?;
        last.store_piece(store, 0)?;
        doomed.store_piece(store, 0)?;
        store.discard(&doomed.digest())?;
        store.create(&doomed.info)?;
        doomed.store_piece(store, 1)?;
        last.store_piece(store, 1)?;
        self.commit(store, 4)?;
        store.close()
    }
}

/// A writer that has put bytes of another piece where those of this one belong.
fn wrong_bytes(
    store: &Store,
    blob: &Specimen,
    piece: u32,
) -> Result<shoal_peer::store::PieceWriter, StoreError> {
    let mut writer = store.writer(&blob.digest(), blob.piece(piece))?;
    let wrong: Vec<u8> = blob.piece_bytes(piece).iter().map(|byte| !byte).collect();
    writer.write(&[wrong.into()])?;
    Ok(writer)
}

fn file_of(digest: &Digest, suffix: &str) -> PathBuf {
    let hex = digest.hex();
    root()
        .join("store/blobs/sha256")
        .join(&hex[..2])
        .join(hex + suffix)
}

/// Everything that must hold after an opening.
fn check_sound(story: &Story, machine: &Machine, store: &Store, context: &str) {
    if let Some(blob) = story.rotten.and_then(|rotten| store.lookup(&rotten)) {
        let first = blob.held.iter().next().filter(|piece| piece.get() == 0);
        let found = first.map(|piece| store.recheck(&blob.info.digest, piece).expect(context));
        assert_ne!(
            found,
            Some(Recheck::Sound),
            "{context}: rotten bytes found sound"
        );
    }
    let stored = store.blobs();
    for blob in &stored {
        let specimen = story
            .blobs
            .iter()
            .find(|specimen| specimen.digest() == blob.info.digest)
            .expect(context);
        for piece in blob.held.iter() {
            let range = specimen.info.geometry.range_of(piece);
            let len = usize::try_from(range.len()).unwrap();
            let bytes = store
                .read(&blob.info.digest, range.start, len)
                .expect(context);
            assert!(
                bytes == specimen.piece_bytes(piece.get()),
                "{context}: held piece {}",
                piece.get()
            );
            assert_eq!(
                store.proof(&blob.info.digest, piece).expect(context),
                specimen.proof(piece.get()),
                "{context}"
            );
        }
        assert!(
            !blob.complete || blob.held.is_full(),
            "{context}: complete and not full"
        );
    }
    let complete: BTreeSet<Digest> = stored
        .iter()
        .filter(|blob| blob.complete)
        .map(|blob| blob.info.digest)
        .collect();
    assert!(
        story.promised.is_subset(&complete),
        "{context}: a committed blob is not complete"
    );
    let expected: BTreeSet<PathBuf> = stored
        .iter()
        .map(|blob| {
            file_of(
                &blob.info.digest,
                if blob.complete { "" } else { ".partial" },
            )
        })
        .collect();
    let blobs_dir = root().join("store/blobs");
    let found: BTreeSet<PathBuf> = machine
        .disk
        .files()
        .into_keys()
        .filter(|path| path.starts_with(&blobs_dir))
        .collect();
    assert_eq!(found, expected, "{context}: files and blobs differ");
    let used: u64 = stored
        .iter()
        .map(|blob| blob.info.geometry.blob_bytes())
        .sum();
    assert_eq!(store.usage().used_bytes, used, "{context}");
}

/// What was found is enough to go on from: every blob can be brought to its end, and a clean stop is believed.
fn check_useful(story: &Story, machine: &Machine, store: Store, context: &str) {
    for blob in store.blobs() {
        let specimen = story
            .blobs
            .iter()
            .find(|specimen| specimen.digest() == blob.info.digest)
            .expect(context);
        if !blob.complete {
            for piece in blob.held.iter_missing() {
                specimen.store_piece(&store, piece.get()).expect(context);
            }
            store.commit(&blob.info.digest).expect(context);
        }
        let mut bytes = Vec::new();
        while bytes.len() < specimen.bytes.len() {
            bytes.extend_from_slice(
                &store
                    .read(&specimen.digest(), bytes.len() as u64, usize::MAX)
                    .expect(context),
            );
        }
        assert!(
            bytes == specimen.bytes,
            "{context}: wrong bytes in a finished blob"
        );
    }
    for specimen in &story.blobs {
        if store.lookup(&specimen.digest()).is_none() {
            store.create(&specimen.info).expect(context);
            for piece in 0..specimen.pieces() {
                specimen.store_piece(&store, piece).expect(context);
            }
            store.commit(&specimen.digest()).expect(context);
        }
    }
    let blobs = store.blobs().len();
    store.close().expect(context);
    drop(store);
    let (_, report) = machine
        .after(Aftermath::Lost, Power::default())
        .open()
        .expect(context);
    assert!(
        report.clean_stop && report.complete_blobs == blobs,
        "{context}: {report:?}"
    );
}

/// How many calls the story makes when nothing goes wrong.
fn calls_of_the_whole_story() -> u64 {
    let machine = Machine::new(Power::default());
    let mut story = Story::new();
    story.run(&machine).unwrap();
    assert_eq!(story.promised.len(), 3);
    machine.power.calls()
}

#[test]
fn every_cut_opens_sound() {
    let calls = calls_of_the_whole_story();
    assert!(calls > 80, "the story makes {calls} calls only");
    for cut in 1..=calls {
        let machine = Machine::new(Power::off_at(cut));
        let mut story = Story::new();
        let ended = story.run(&machine);
        assert!(machine.power.is_off() && (ended.is_err() || cut == calls || ended.is_ok()));
        for aftermath in AFTERMATHS {
            let context = format!("cut in call {cut}, {aftermath:?}");
            let next = machine.after(aftermath, Power::default());
            let (store, _) = next
                .open()
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            check_sound(&story, &next, &store, &context);
            // What this process calls complete is so for good, though the last one had no time to see to it.
            let complete: BTreeSet<Digest> = store
                .blobs()
                .iter()
                .filter(|blob| blob.complete)
                .map(|blob| blob.info.digest)
                .collect();
            let later = next.after(Aftermath::Lost, Power::default());
            let (later, _) = later
                .open()
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(
                complete
                    .iter()
                    .all(|digest| later.lookup(digest).is_some_and(|blob| blob.complete)),
                "{context}"
            );
            check_useful(&story, &next, store, &context);
        }
    }
}

#[test]
fn a_cut_while_recovering_from_a_cut_opens_sound() {
    let calls = calls_of_the_whole_story();
    for cut in (1..=calls).step_by(5) {
        let machine = Machine::new(Power::off_at(cut));
        let mut story = Story::new();
        let _ = story.run(&machine);
        for aftermath in [Aftermath::Kept, Aftermath::Torn(cut)] {
            for second_cut in 1.. {
                let again = machine.after(aftermath, Power::off_at(second_cut));
                let opened = again.open();
                if !again.power.is_off() {
                    break; // recovery ended before the second cut
                }
                drop(opened);
                let context = format!(
                    "cut in call {cut}, {aftermath:?}, then in call {second_cut} of recovery"
                );
                let last = again.after(Aftermath::Torn(second_cut), Power::default());
                let (store, _) = last
                    .open()
                    .unwrap_or_else(|error| panic!("{context}: {error}"));
                check_sound(&story, &last, &store, &context);
            }
        }
    }
}

/// A store with one blob of three pieces, of which two are held.
fn arriving() -> (Machine, Store, Specimen) {
    let machine = Machine::new(Power::default());
    let (store, _) = machine.open().unwrap();
    let blob = Specimen::new(40, 2 * MIB + 5);
    store.create(&blob.info).unwrap();
    blob.store_piece(&store, 0).unwrap();
    blob.store_piece(&store, 2).unwrap();
    (machine, store, blob)
}

#[test]
fn after_kill_9_verified_pieces_are_kept_and_torn_ones_are_not() {
    let (machine, store, blob) = arriving();
    let torn = wrong_bytes(&store, &blob, 1).unwrap();
    let next = machine.after(Aftermath::Kept, Power::default());
    drop((torn, store));
    let (store, report) = next.open().unwrap();
    let expected = RecoveryReport {
        partial_blobs: 1,
        pieces_hashed: 2,
        ..RecoveryReport::default()
    };
    assert_eq!(report, expected);
    let held: Vec<u32> = store
        .lookup(&blob.digest())
        .unwrap()
        .held
        .iter()
        .map(|piece| piece.get())
        .collect();
    assert_eq!(held, [0, 2]);
    assert!(matches!(
        store.read(&blob.digest(), MIB as u64, 1),
        Err(StoreError::NotHeld { .. })
    ));
}

#[test]
fn a_claimed_piece_whose_bytes_did_not_reach_the_disk_is_dropped() {
    let (machine, store, blob) = arriving();
    machine
        .disk
        .flip(&file_of(&blob.digest(), ".partial"), 2 * MIB + 1);
    let next = machine.after(Aftermath::Kept, Power::default());
    drop(store);
    let (store, report) = next.open().unwrap();
    assert_eq!((report.pieces_hashed, report.pieces_dropped), (2, 1));
    assert!(
        !store
            .lookup(&blob.digest())
            .unwrap()
            .held
            .contains(blob.piece(2))
    );
}

#[test]
fn a_failed_sync_is_not_repeated_and_its_blob_not_believed() {
    let (machine, store, blob) = arriving();
    blob.store_piece(&store, 1).unwrap();
    machine.power.fail_next("sync", 5); // EIO
    assert!(matches!(
        store.commit(&blob.digest()),
        Err(StoreError::Io { op: "sync", .. })
    ));
    assert!(store.lookup(&blob.digest()).is_none());
    assert!(matches!(
        store.commit(&blob.digest()),
        Err(StoreError::NotFound { .. })
    ));
    assert_eq!(store.usage().used_bytes, 0);
    assert!(
        machine
            .disk
            .files()
            .keys()
            .all(|path| !path.starts_with(root().join("store/blobs")))
    );
}

#[test]
fn a_full_or_read_only_disk_fails_a_piece_and_nothing_else() {
    for (number, call) in [(28, "write"), (28, "apply"), (30, "write"), (30, "apply")] {
        let (machine, store, blob) = arriving();
        let mut writer = store.writer(&blob.digest(), blob.piece(1)).unwrap();
        machine.power.fail_next(call, number);
        let failed = writer
            .write(&[blob.piece_bytes(1)])
            .and_then(|()| writer.finish(&blob.proof(1)));
        match number {
            28 => assert!(
                matches!(failed, Err(StoreError::NoSpace { .. })),
                "{call}: {failed:?}"
            ),
            _ => assert!(
                matches!(failed, Err(StoreError::ReadOnly { .. })),
                "{call}: {failed:?}"
            ),
        }
        assert_eq!(store.lookup(&blob.digest()).unwrap().held.count(), 2);
        blob.store_piece(&store, 1).unwrap(); // room again: no restart needed
        store.commit(&blob.digest()).unwrap();
    }
}

#[test]
fn a_disk_without_room_refuses_the_blob_and_leaves_no_trace() {
    let machine = Machine::new(Power::default());
    let (store, _) = machine.open().unwrap();
    let blob = Specimen::new(1, MIB);
    machine.disk.set_free_bytes(MIB as u64 - 1);
    assert!(matches!(
        store.create(&blob.info),
        Err(StoreError::NoSpace { .. })
    ));
    machine.disk.set_free_bytes(MIB as u64);
    machine.power.fail_next("create", 28);
    assert!(matches!(
        store.create(&blob.info),
        Err(StoreError::NoSpace { .. })
    ));
    assert_eq!((store.usage().used_bytes, store.blobs().len()), (0, 0));
    store.create(&blob.info).unwrap();
    assert_eq!(store.usage().used_bytes, MIB as u64);
}

#[test]
fn a_commit_whose_rename_fails_gives_the_blob_up() {
    for call in ["rename", "sync_dir"] {
        let (machine, store, blob) = arriving();
        blob.store_piece(&store, 1).unwrap();
        machine.power.fail_next(call, 5);
        assert!(matches!(
            store.commit(&blob.digest()),
            Err(StoreError::Io { .. })
        ));
        assert!(store.lookup(&blob.digest()).is_none());
        let blobs_dir: &Path = &root().join("store/blobs");
        assert!(
            machine
                .disk
                .files()
                .keys()
                .all(|path| !path.starts_with(blobs_dir)),
            "after {call}"
        );
    }
}
