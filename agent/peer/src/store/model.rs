//! For tests: any sequence of operations on a store, against a model that keeps blobs in a map. Not here: crashes, which have
//! tests of their own (tests/crash.rs).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::specimen::{Bench, Specimen};
use super::{Pin, Recheck, Store, StoreError};

const MIB: u64 = 1 << 20;
const QUOTA_BYTES: u64 = 5 * MIB;
const LENGTHS: [u64; 5] = [0, 1, MIB, 2 * MIB + 1, 3 * MIB - 1];

#[derive(Clone, Copy, Debug)]
enum Op {
    Advance(usize),
    Commit(usize),
    Create(usize),
    Discard(usize),
    Kill,
    Pin(usize),
    Recheck(usize, u32),
    Restart,
    Rot(usize, u32),
    Touch(usize),
    Unpin(usize),
    Write(usize, u32, Source),
}

/// What comes instead of a piece.
#[derive(Clone, Copy, Debug)]
enum Source {
    Honest,
    Liar,
    Quitter,
}

fn op() -> impl Strategy<Value = Op> {
    let blob = 0..LENGTHS.len();
    let piece = 0_u32..3;
    let source =
        prop_oneof![6 => Just(Source::Honest), 1 => Just(Source::Liar), 1 => Just(Source::Quitter)];
    prop_oneof![
        8 => (blob.clone(), piece.clone(), source).prop_map(|(blob, piece, source)| Op::Write(blob, piece, source)),
        4 => blob.clone().prop_map(Op::Create),
        4 => blob.clone().prop_map(Op::Commit),
        1 => blob.clone().prop_map(Op::Discard),
        1 => blob.clone().prop_map(Op::Advance),
        1 => blob.clone().prop_map(Op::Touch),
        1 => blob.clone().prop_map(Op::Pin),
        1 => blob.clone().prop_map(Op::Unpin),
        2 => (blob.clone(), piece.clone()).prop_map(|(blob, piece)| Op::Rot(blob, piece)),
        2 => (blob, piece).prop_map(|(blob, piece)| Op::Recheck(blob, piece)),
        1 => Just(Op::Restart),
        1 => Just(Op::Kill),
    ]
}

#[derive(Clone, Debug, Default)]
struct Known {
    held: BTreeSet<u32>,
    rotten: BTreeSet<u32>,
    complete: bool,
    last_used: u64,
}

struct World {
    bench: Bench,
    store: Option<Store>,
    specimens: Vec<Specimen>,
    pins: Vec<Vec<Pin>>,
    known: BTreeMap<usize, Known>,
    uses: u64,
}

impl World {
    fn new() -> Self {
        let bench = Bench::with_quota(QUOTA_BYTES);
        let specimens = LENGTHS
            .map(|length| Specimen::new(&length.to_le_bytes(), length))
            .to_vec();
        let pins = LENGTHS.map(|_| Vec::new()).into();
        Self {
            store: Some(bench.open()),
            bench,
            specimens,
            pins,
            known: BTreeMap::new(),
            uses: 0,
        }
    }

    fn store(&self) -> Store {
        self.store.clone().unwrap()
    }

    fn used(&mut self, blob: usize) {
        self.uses += 1;
        let uses = self.uses;
        if let Some(known) = self.known.get_mut(&blob) {
            known.last_used = uses;
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Advance(blob) => self.advance(blob),
            Op::Commit(blob) => self.commit(blob),
            Op::Create(blob) => self.create(blob),
            Op::Discard(blob) => {
                self.store()
                    .discard(&self.specimens[blob].digest())
                    .unwrap();
                self.known.remove(&blob);
            }
            Op::Kill => self.reopen(false),
            Op::Pin(blob) => {
                let pin = self.store().pin(&self.specimens[blob].digest());
                self.pins[blob].push(pin);
                self.used(blob);
            }
            Op::Recheck(blob, piece) => self.recheck(blob, piece),
            Op::Restart => self.reopen(true),
            Op::Rot(blob, piece) => self.rot(blob, piece),
            Op::Touch(blob) => {
                self.store().touch(&self.specimens[blob].digest());
                self.used(blob);
            }
            Op::Unpin(blob) => drop(self.pins[blob].pop()),
            Op::Write(blob, piece, source) => self.write(blob, piece, source),
        }
    }

    fn create(&mut self, blob: usize) {
        let created = self.store().create(&self.specimens[blob].info);
        if self.known.contains_key(&blob) {
            assert_eq!(created.unwrap(), []);
            return;
        }
        match self.expect_victims(LENGTHS[blob]) {
            None => assert!(matches!(created, Err(StoreError::NoSpace { .. }))),
            Some(victims) => {
                let digests: Vec<_> = victims
                    .iter()
                    .map(|victim| self.specimens[*victim].digest())
                    .collect();
                assert_eq!(created.unwrap(), digests);
                victims
                    .iter()
                    .for_each(|victim| drop(self.known.remove(victim)));
                self.known.insert(blob, Known::default());
                self.used(blob);
            }
        }
    }

    /// Whom a blob of this length drives out, oldest first; `None` when there is no room to be made.
    fn expect_victims(&self, bytes: u64) -> Option<Vec<usize>> {
        let used: u64 = self.known.keys().map(|blob| LENGTHS[*blob]).sum();
        if used + bytes <= QUOTA_BYTES {
            return Some(Vec::new());
        }
        let mut idle: Vec<usize> = self
            .known
            .keys()
            .copied()
            .filter(|blob| self.pins[*blob].is_empty())
            .collect();
        idle.sort_by_key(|blob| (self.known[blob].last_used, self.specimens[*blob].digest()));
        if used + bytes - idle.iter().map(|blob| LENGTHS[*blob]).sum::<u64>() > QUOTA_BYTES {
            return None;
        }
        let wanted = used + bytes - (QUOTA_BYTES - QUOTA_BYTES / 100 * 10);
        let mut freed = 0;
        let enough = |blob: &usize| {
            let go_on = freed < wanted;
            freed += LENGTHS[*blob];
            go_on
        };
        Some(idle.into_iter().take_while(enough).collect())
    }

    fn write(&mut self, blob: usize, piece: u32, source: Source) {
        let specimen = self.specimens[blob].clone();
        if piece >= specimen.pieces() {
            return;
        }
        let store = self.store();
        let writer = store.writer(&specimen.digest(), specimen.piece(piece));
        let Some(known) = self.known.get_mut(&blob) else {
            assert!(matches!(writer, Err(StoreError::NotFound { .. })));
            return;
        };
        let mut writer = writer.unwrap();
        let bytes = specimen.piece_bytes(piece);
        match source {
            Source::Honest => {
                writer.write(&[bytes]).unwrap();
                writer.finish(&specimen.proof(piece)).unwrap();
                known.held.insert(piece);
            }
            Source::Liar => {
                writer
                    .write(&[bytes.iter().map(|byte| !byte).collect::<Bytes>()])
                    .unwrap();
                assert!(
                    writer
                        .finish(&specimen.proof(piece))
                        .unwrap_err()
                        .is_senders_fault()
                );
            }
            Source::Quitter => writer.write(&[bytes.slice(..bytes.len() / 2)]).unwrap(),
        }
        self.used(blob);
    }

    fn advance(&mut self, blob: usize) {
        let advanced = self.store().advance(&self.specimens[blob].digest());
        assert_eq!(advanced.is_ok(), self.known.contains_key(&blob));
    }

    fn commit(&mut self, blob: usize) {
        let specimen = self.specimens[blob].clone();
        let committed = self.store().commit(&specimen.digest());
        let Some(known) = self.known.get_mut(&blob) else {
            assert!(matches!(committed, Err(StoreError::NotFound { .. })));
            return;
        };
        let missing = specimen.pieces() - u32::try_from(known.held.len()).unwrap();
        match committed {
            Ok(()) => {
                assert_eq!(missing, 0);
                // Rot that came after a piece was hashed in cache is not seen by the commit; a recheck will.
                known.complete = true;
            }
            Err(StoreError::Incomplete { missing: told, .. }) => {
                assert!(told == missing && told > 0)
            }
            Err(StoreError::PieceLost { .. }) => {
                assert!(!known.rotten.is_empty());
                let rotten = std::mem::take(&mut known.rotten);
                known.held.retain(|piece| !rotten.contains(piece));
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn rot(&mut self, blob: usize, piece: u32) {
        let Some(known) = self.known.get_mut(&blob) else {
            return;
        };
        if known.held.contains(&piece) && known.rotten.insert(piece) {
            let suffix = if known.complete { "" } else { ".partial" };
            let path = self.bench.file_of(&self.specimens[blob].digest(), suffix);
            self.bench.flip(&path, u64::from(piece) * MIB);
        }
    }

    fn recheck(&mut self, blob: usize, piece: u32) {
        let specimen = &self.specimens[blob];
        if piece >= specimen.pieces() {
            return;
        }
        let found = self
            .store()
            .recheck(&specimen.digest(), specimen.piece(piece));
        let Some(known) = self.known.get_mut(&blob) else {
            assert!(matches!(found, Err(StoreError::NotFound { .. })));
            return;
        };
        let expected = match (known.held.contains(&piece), known.rotten.contains(&piece)) {
            (false, _) => Recheck::NotHeld,
            (true, false) => Recheck::Sound,
            (true, true) => {
                known.rotten.remove(&piece);
                known.held.remove(&piece);
                known.complete = false;
                Recheck::Lost
            }
        };
        assert_eq!(found.unwrap(), expected);
    }

    fn reopen(&mut self, clean: bool) {
        self.pins.iter_mut().for_each(Vec::clear);
        let store = self.store.take().unwrap();
        if clean {
            store.close().unwrap();
        }
        drop(store);
        let (store, report) = self.bench.open_reported();
        assert_eq!(report.clean_stop, clean);
        assert_eq!((report.blobs_dropped, report.orphan_files), (0, 0));
        self.store = Some(store);
        let mut dropped = 0;
        for known in self
            .known
            .values_mut()
            .filter(|known| !clean && !known.complete)
        {
            let rotten = std::mem::take(&mut known.rotten);
            dropped += rotten.len() as u64;
            known.held.retain(|piece| !rotten.contains(piece));
        }
        assert_eq!(report.pieces_dropped, dropped);
    }

    fn check(&self) {
        let store = self.store();
        assert_eq!(store.blobs().len(), self.known.len());
        for (blob, known) in &self.known {
            let specimen = &self.specimens[*blob];
            let stored = store.lookup(&specimen.digest()).unwrap();
            let held: BTreeSet<u32> = stored.held.iter().map(|piece| piece.get()).collect();
            assert_eq!(
                (stored.complete, &held),
                (known.complete, &known.held),
                "blob {blob}"
            );
            for piece in 0..specimen.pieces() {
                let bytes = specimen.piece_bytes(piece);
                let read = store.read(&specimen.digest(), u64::from(piece) * MIB, bytes.len());
                match (held.contains(&piece), known.rotten.contains(&piece)) {
                    (false, _) => assert!(matches!(read, Err(StoreError::NotHeld { .. }))),
                    (true, false) => assert!(read.unwrap() == bytes, "blob {blob}, piece {piece}"),
                    (true, true) => assert!(
                        read.unwrap()[1..] == bytes[1..],
                        "blob {blob}, piece {piece}"
                    ),
                }
            }
        }
        let used: u64 = self.known.keys().map(|blob| LENGTHS[*blob]).sum();
        assert_eq!(store.usage().used_bytes, used);
        assert!(used <= QUOTA_BYTES);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_store_does_what_a_map_would(ops in proptest::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
            world.check();
        }
    }
}
