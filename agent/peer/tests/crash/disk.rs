//! A disk in memory that remembers what was synced, and gives the disk that a crash would leave. Not here: any judgement.
//!
//! It promises no more than docs/STORAGE.md assumes: written bytes are durable after a sync of the file, names after a sync
//! of their folder, and changes of names in one folder take effect in order.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use shoal_peer::store::disk::{DirEntry, DirLock, Disk, DiskFile};

use super::power::{Aftermath, Chance, Power, Reach};

const PAGE_BYTES: usize = 4096;

#[derive(Clone, Debug)]
pub(crate) struct CrashDisk {
    power: Power,
    world: Arc<Mutex<World>>,
}

#[derive(Clone, Debug, Default)]
struct World {
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    /// Changes of names since their folder was synced, in order.
    pending: Vec<Change>,
    free_bytes: u64,
}

#[derive(Clone, Debug, Default)]
struct Names {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Create(PathBuf, usize),
    Dir(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    fn touches(&self, dir: &Path) -> bool {
        let (Self::Create(path, _) | Self::Dir(path) | Self::Remove(path) | Self::Rename(path, _)) =
            self;
        path.parent() == Some(dir)
    }
}

impl Names {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Create(path, inode) => drop(self.files.insert(path.clone(), *inode)),
            Change::Dir(path) => drop(self.dirs.insert(path.clone())),
            Change::Remove(path) => drop(self.files.remove(path)),
            Change::Rename(from, to) => {
                if let Some(inode) = self.files.remove(from) {
                    self.files.insert(to.clone(), inode);
                }
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Arc<Vec<u8>>,
    bytes: Arc<Vec<u8>>,
    /// Written since the last sync; the whole file while it was never synced.
    dirty: Vec<(usize, usize)>,
}

impl Inode {
    fn after(&self, aftermath: Aftermath, chance: &mut Chance) -> Self {
        let bytes = match aftermath {
            Aftermath::Kept | Aftermath::Lost => self.durable.clone(),
            Aftermath::Torn(_) => {
                let mut torn = self.durable.to_vec();
                if torn.len() < self.bytes.len() && chance.below(2) == 0 {
                    torn.resize(self.bytes.len(), 0); // the length came through, what was written did not
                }
                for (start, end) in &self.dirty {
                    for page in (*start..*end).step_by(PAGE_BYTES) {
                        let end = (page + PAGE_BYTES).min(*end).min(torn.len());
                        if page < end && chance.below(2) == 0 {
                            torn[page..end].copy_from_slice(&self.bytes[page..end]);
                        }
                    }
                }
                Arc::new(torn)
            }
        };
        Self {
            durable: bytes.clone(),
            bytes,
            dirty: Vec::new(),
        }
    }
}

impl CrashDisk {
    /// An empty disk with one folder.
    pub(crate) fn new(power: Power, root: &Path) -> Self {
        let mut names = Names::default();
        names.dirs.insert(root.to_owned());
        let world = World {
            names: names.clone(),
            durable_names: names,
            free_bytes: 1 << 40,
            ..World::default()
        };
        Self {
            power,
            world: Arc::new(Mutex::new(world)),
        }
    }

    /// The disk as the next process finds it.
    pub(crate) fn after(&self, aftermath: Aftermath, power: Power) -> Self {
        let world = self.world();
        if aftermath == Aftermath::Kept {
            // Nothing became durable by it: the machine may still lose power later.
            let world = Arc::new(Mutex::new(world.clone()));
            return Self { power, world };
        }
        let mut chance = Chance::new(if let Aftermath::Torn(seed) = aftermath {
            seed
        } else {
            0
        });
        let mut names = world.durable_names.clone();
        let survivors = match aftermath {
            Aftermath::Kept | Aftermath::Lost => 0,
            Aftermath::Torn(_) => {
                let most = world.pending.len() as u64;
                usize::try_from(chance.below(most + 1)).unwrap()
            }
        };
        for change in &world.pending[..survivors] {
            names.apply(change);
        }
        let inodes = world
            .inodes
            .iter()
            .map(|inode| inode.after(aftermath, &mut chance))
            .collect();
        let world = World {
            inodes,
            durable_names: names.clone(),
            names,
            pending: Vec::new(),
            free_bytes: world.free_bytes,
        };
        Self {
            power,
            world: Arc::new(Mutex::new(world)),
        }
    }

    /// Every file and its length.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, usize> {
        let world = self.world();
        let length = |inode: &usize| world.inodes[*inode].bytes.len();
        world
            .names
            .files
            .iter()
            .map(|(path, inode)| (path.clone(), length(inode)))
            .collect()
    }

    /// Bit rot: one bit of a file, whether synced or not.
    pub(crate) fn flip(&self, path: &Path, offset: usize) {
        let mut world = self.world();
        let inode = world.names.files[path];
        let inode = &mut world.inodes[inode];
        Arc::make_mut(&mut inode.bytes)[offset] ^= 1;
        if offset < inode.durable.len() {
            Arc::make_mut(&mut inode.durable)[offset] ^= 1;
        }
    }

    pub(crate) fn set_free_bytes(&self, free_bytes: u64) {
        self.world().free_bytes = free_bytes;
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// A change of names happens wholly or not at all; when the power goes in the middle, the caller hears nothing.
    fn change(&self, name: &'static str, change: Change) -> io::Result<()> {
        let reach = self.power.call(name)?;
        let mut world = self.world();
        world.names.apply(&change);
        world.pending.push(change);
        whole(reach)
    }

    fn inode_of(&self, path: &Path) -> io::Result<usize> {
        self.world()
            .names
            .files
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(CrashFile {
            disk: self.clone(),
            inode,
        })
    }
}

fn whole(reach: Reach) -> io::Result<()> {
    match reach {
        Reach::Half => Err(io::Error::other("the power went off")),
        Reach::Whole => Ok(()),
    }
}

impl Disk for CrashDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        if self.world().names.dirs.contains(path) {
            return Ok(false);
        }
        self.change("create_dir", Change::Dir(path.to_owned()))?;
        Ok(true)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let world = self.world();
        if !world.names.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entry = |path: &PathBuf, is_dir| DirEntry {
            name: path.file_name().unwrap().to_owned(),
            is_dir,
        };
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        let dirs = world
            .names
            .dirs
            .iter()
            .filter(inside)
            .map(|path| entry(path, true));
        Ok(dirs
            .chain(
                world
                    .names
                    .files
                    .keys()
                    .filter(inside)
                    .map(|path| entry(path, false)),
            )
            .collect())
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        if !self.world().names.dirs.contains(path.parent().unwrap()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = {
            let mut world = self.world();
            let zeros = vec![0; usize::try_from(bytes).unwrap()];
            world.inodes.push(Inode {
                bytes: Arc::new(zeros),
                ..Inode::default()
            });
            world.inodes.len() - 1
        };
        self.change("create", Change::Create(path.to_owned(), inode))?;
        Ok(self.file(inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.inode_of(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inode_of(from)?;
        self.change("rename", Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inode_of(path)?;
        self.change("remove", Change::Remove(path.to_owned()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        whole(self.power.call("sync_dir")?)?;
        let mut world = self.world();
        let (synced, pending) = std::mem::take(&mut world.pending)
            .into_iter()
            .partition(|change| change.touches(dir));
        world.pending = pending;
        let synced: Vec<Change> = synced;
        synced
            .iter()
            .for_each(|change| world.durable_names.apply(change));
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.world().free_bytes)
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn DirLock>> {
        Ok(Box::new(CrashLock))
    }
}

#[derive(Debug)]
struct CrashLock;

impl DirLock for CrashLock {}

#[derive(Debug)]
struct CrashFile {
    disk: CrashDisk,
    inode: usize,
}

impl DiskFile for CrashFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.world().inodes[self.inode].bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let bytes = self.disk.world().inodes[self.inode].bytes.clone();
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        let end = (start + len).min(bytes.len());
        Ok(Bytes::copy_from_slice(&bytes[start..end]))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let reach = self.disk.power.call("write")?;
        let mut written = bytes;
        if reach == Reach::Half {
            written = &written[..written.len() / 2];
        }
        let mut world = self.disk.world();
        let inode = &mut world.inodes[self.inode];
        let start = usize::try_from(offset).unwrap();
        let end = start + written.len();
        let kept = Arc::make_mut(&mut inode.bytes);
        kept.resize(kept.len().max(end), 0);
        kept[start..end].copy_from_slice(written);
        inode.dirty.push((start, end));
        whole(reach)
    }

    fn sync(&self) -> io::Result<()> {
        whole(self.disk.power.call("sync")?)?;
        let mut world = self.disk.world();
        let inode = &mut world.inodes[self.inode];
        inode.durable = inode.bytes.clone();
        inode.dirty.clear();
        Ok(())
    }
}
