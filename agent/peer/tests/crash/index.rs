//! An index in memory that remembers which batches were synced, and gives the index that a crash would leave: all batches,
//! the synced ones, or some number in between, never one without those before it. Not here: any judgement.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use shoal_peer::store::index::{Durability, Index, IndexError, IndexErrorKind, IndexOp, Visitor};

use super::power::{Aftermath, Chance, Power, Reach};

#[derive(Clone, Debug)]
pub(crate) struct CrashIndex {
    power: Power,
    log: Arc<Mutex<Log>>,
}

#[derive(Clone, Debug, Default)]
struct Log {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    pending: Vec<Vec<IndexOp>>,
}

fn apply(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, ops: &[IndexOp]) {
    for op in ops {
        match op {
            IndexOp::Delete(key) => drop(map.remove(key)),
            IndexOp::DeletePrefix(prefix) => map.retain(|key, _| !key.starts_with(prefix)),
            IndexOp::Put(key, value) => drop(map.insert(key.clone(), value.clone())),
        }
    }
}

impl CrashIndex {
    pub(crate) fn new(power: Power) -> Self {
        Self {
            power,
            log: Arc::default(),
        }
    }

    /// The index as the next process finds it.
    pub(crate) fn after(&self, aftermath: Aftermath, power: Power) -> Self {
        let log = self.log.lock().unwrap();
        if aftermath == Aftermath::Kept {
            let log = Arc::new(Mutex::new(log.clone()));
            return Self { power, log };
        }
        let mut map = log.durable.clone();
        let survivors = match aftermath {
            Aftermath::Kept | Aftermath::Lost => 0,
            Aftermath::Torn(seed) => {
                let most = log.pending.len() as u64;
                usize::try_from(Chance::new(!seed).below(most + 1)).unwrap()
            }
        };
        log.pending[..survivors]
            .iter()
            .for_each(|ops| apply(&mut map, ops));
        let log = Log {
            durable: map.clone(),
            map,
            pending: Vec::new(),
        };
        Self {
            power,
            log: Arc::new(Mutex::new(log)),
        }
    }
}

impl Log {
    fn sync(&mut self) {
        self.pending.clear();
        self.durable = self.map.clone();
    }
}

fn failed(error: &io::Error) -> IndexError {
    let what = error.to_string();
    let kind = match error.kind() {
        io::ErrorKind::StorageFull => IndexErrorKind::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => IndexErrorKind::ReadOnly,
        _ => IndexErrorKind::Other,
    };
    IndexError { kind, what }
}

impl Index for CrashIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.log.lock().unwrap().map.get(key).cloned())
    }

    fn apply(&self, ops: Vec<IndexOp>, durability: Durability) -> Result<(), IndexError> {
        let reach = self.power.call("apply").map_err(|error| failed(&error))?;
        let mut log = self.log.lock().unwrap();
        apply(&mut log.map, &ops);
        log.pending.push(ops);
        if reach == Reach::Half {
            return Err(failed(&io::Error::other("the power went off")));
        }
        if durability == Durability::Synced {
            log.sync();
        }
        Ok(())
    }

    fn scan(&self, prefix: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
        let map = self.log.lock().unwrap().map.clone();
        for (key, value) in map
            .range(prefix.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
        {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), IndexError> {
        if self
            .power
            .call("index_sync")
            .map_err(|error| failed(&error))?
            == Reach::Half
        {
            return Err(failed(&io::Error::other("the power went off")));
        }
        self.log.lock().unwrap().sync();
        Ok(())
    }
}
