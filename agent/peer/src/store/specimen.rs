//! For tests: blobs of known bytes with real proofs, and a folder to put a store in. Not here: any test.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use shoal_proto::{
    BlobInfo, Digest, DigestAlgorithm, Geometry, OriginKey, PieceHasher, PieceIndex, PieceProof,
};
use tempfile::TempDir;

use super::disk::{DirEntry, DirLock, Disk, DiskFile, OsDisk};
use super::{RecoveryReport, Store, StoreError, StoreOptions};

/// What all specimens are cut in: longer than a batch of the writer, so that a piece takes several.
const PIECE_BYTES: u32 = 1 << 20;

/// Blob lengths at every boundary of a piece, each with its reason.
pub(crate) const SIZES: [(&str, u64); 7] = [
    ("no pieces at all", 0),
    ("one byte", 1),
    ("one byte short of a piece", (1 << 20) - 1),
    ("exactly a piece", 1 << 20),
    ("one byte into the second piece", (1 << 20) + 1),
    ("several pieces and a short last", (3 << 20) + 4096 + 1),
    ("several whole pieces", 5 << 20),
];

/// A blob with everything that an origin would say of it.
#[derive(Clone, Debug)]
pub(crate) struct Specimen {
    key: OriginKey,
    pub(crate) bytes: Bytes,
    pub(crate) info: BlobInfo,
}

impl Specimen {
    pub(crate) fn new(seed: &[u8], blob_bytes: u64) -> Self {
        Self::named_by(DigestAlgorithm::Sha256, seed, blob_bytes)
    }

    pub(crate) fn named_by(algorithm: DigestAlgorithm, seed: &[u8], blob_bytes: u64) -> Self {
        let mut state = seed.iter().fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
            (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut bytes = Vec::with_capacity(usize::try_from(blob_bytes).unwrap() + 8);
        while (bytes.len() as u64) < blob_bytes {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&(state >> 16).to_le_bytes());
        }
        bytes.truncate(usize::try_from(blob_bytes).unwrap());
        let key = OriginKey::from_secret(&[7; 32]);
        let digest = Digest::of(algorithm, &bytes);
        let geometry = Geometry::try_new(blob_bytes, PIECE_BYTES).unwrap();
        let info = BlobInfo::sign(&key, digest, geometry);
        Self {
            key,
            bytes: bytes.into(),
            info,
        }
    }

    /// The same proofs under another name: pieces that add up to the wrong blob.
    pub(crate) fn misnamed(mut self) -> Self {
        self.info = BlobInfo::sign(&self.key, Digest::Sha256([0xee; 32]), self.info.geometry);
        self
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

    /// Writes one piece in parts of 64 KiB, as it would come from a link.
    pub(crate) fn store_piece(&self, store: &Store, number: u32) -> Result<(), StoreError> {
        let mut writer = store.writer(&self.digest(), self.piece(number))?;
        let mut bytes = self.piece_bytes(number);
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(64 << 10));
            writer.write(&[part])?;
        }
        writer.finish(&self.proof(number))
    }

    pub(crate) fn store_all(&self, store: &Store) -> Result<(), StoreError> {
        store.create(&self.info)?;
        for number in 0..self.pieces() {
            self.store_piece(store, number)?;
        }
        store.commit(&self.digest())
    }

    /// All bytes of the blob as the store gives them.
    pub(crate) fn read_all(&self, store: &Store) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < self.info.geometry.blob_bytes() {
            bytes.extend_from_slice(&store.read(&self.digest(), bytes.len() as u64, usize::MAX)?);
        }
        Ok(bytes)
    }
}

/// A folder of its own, gone with the test.
#[derive(Debug)]
pub(crate) struct Bench {
    dir: TempDir,
    pub(crate) options: StoreOptions,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(dir.path().join("store"));
        Self { dir, options }
    }

    pub(crate) fn with_quota(quota_bytes: u64) -> Self {
        let mut bench = Self::new();
        bench.options.quota_bytes = Some(quota_bytes);
        bench
    }

    pub(crate) fn open(&self) -> Store {
        self.open_reported().0
    }

    pub(crate) fn open_on(&self, disk: &WatchedDisk) -> Store {
        Store::open(self.options.clone(), Arc::new(disk.clone()))
            .unwrap()
            .0
    }

    pub(crate) fn open_reported(&self) -> (Store, RecoveryReport) {
        assert!(self.dir.path().exists());
        Store::open(self.options.clone(), Arc::new(OsDisk)).unwrap()
    }

    /// Bit rot.
    pub(crate) fn flip(&self, path: &Path, offset: u64) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[usize::try_from(offset).unwrap()] ^= 0x40;
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&bytes, 0).unwrap(); // in place: whoever has it open sees it
    }

    /// Where a blob's file is now.
    pub(crate) fn file_of(&self, digest: &Digest, suffix: &str) -> std::path::PathBuf {
        let hex = digest.hex();
        let algorithm = digest.algorithm().name();
        self.options
            .dir
            .join("blobs")
            .join(algorithm)
            .join(&hex[..2])
            .join(hex + suffix)
    }
}

/// The real disk, with a count of bytes read, and a switch that makes reads fail as a broken medium does.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchedDisk {
    pub(crate) read_bytes: Arc<AtomicU64>,
    pub(crate) unreadable: Arc<AtomicBool>,
}

#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn DiskFile>,
    disk: WatchedDisk,
}

impl WatchedDisk {
    fn watch(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(WatchedFile {
            file,
            disk: self.clone(),
        })
    }
}

impl Disk for WatchedDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        OsDisk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        OsDisk.list(dir)
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.watch(OsDisk.create(path, bytes)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.watch(OsDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        OsDisk.free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        OsDisk.lock(path)
    }
}

impl DiskFile for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if self.disk.unreadable.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        self.disk
            .read_bytes
            .fetch_add(len as u64, Ordering::Relaxed);
        self.file.read_at(offset, len)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}
