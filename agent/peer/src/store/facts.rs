//! Small things kept beside the blobs: manifests, what tags pointed to, and the memberships of origins whose proofs are
//! stored. Not here: how old a fact may be and still count, or whether a membership still holds; that is for who asks.
//!
//! Invariant: facts of each kind are bounded in number and bytes; what was put longest ago goes first.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use shoal_proto::limits::{
    MANIFEST_BYTES_MAX, MANIFESTS_BYTES_MAX, MANIFESTS_MAX, TAG_ENTRY_BYTES_MAX, TAGS_BYTES_MAX,
    TAGS_MAX, VOUCHED_BYTES_MAX, VOUCHED_ORIGINS_MAX,
};
use shoal_proto::{Digest, SignedMembership};

use super::Store;
use super::error::StoreError;
use super::index::{Durability, Index, IndexError, IndexOp};
use super::record;

/// The turns of all facts; their bodies are in the index only.
#[derive(Debug)]
pub(super) struct Facts {
    manifests: Mutex<Turns>,
    tags: Mutex<Turns>,
    vouched: Mutex<Turns>,
}

impl Facts {
    pub(super) fn load(index: &dyn Index) -> Result<Self, IndexError> {
        let load = |prefix, count_max, bytes_max| {
            Turns::load(index, prefix, count_max, bytes_max).map(Mutex::new)
        };
        Ok(Self {
            manifests: load(record::MANIFEST_PREFIX, MANIFESTS_MAX, MANIFESTS_BYTES_MAX)?,
            tags: load(record::TAG_PREFIX, TAGS_MAX, TAGS_BYTES_MAX)?,
            vouched: load(
                record::VOUCHED_PREFIX,
                VOUCHED_ORIGINS_MAX,
                VOUCHED_BYTES_MAX,
            )?,
        })
    }
}

/// In which order facts of one kind were put, and how many bytes they take.
#[derive(Debug)]
struct Turns {
    count_max: usize,
    bytes_max: u64,
    by_turn: BTreeMap<u64, (Vec<u8>, u64)>,
    by_key: HashMap<Vec<u8>, u64>,
    bytes: u64,
}

impl Turns {
    fn load(
        index: &dyn Index,
        prefix: &[u8],
        count_max: usize,
        bytes_max: u64,
    ) -> Result<Self, IndexError> {
        let (by_turn, by_key) = (BTreeMap::new(), HashMap::new());
        let mut turns = Self {
            count_max,
            bytes_max,
            by_turn,
            by_key,
            bytes: 0,
        };
        let mut unreadable = Vec::new();
        index.scan(prefix, &mut |key, value| {
            match record::decode_fact(value) {
                Some((turn, body)) => turns.insert(turn, key, body.len() as u64),
                None => unreadable.push(IndexOp::Delete(key.to_vec())),
            }
            ControlFlow::Continue(())
        })?;
        if !unreadable.is_empty() {
            index.apply(unreadable, Durability::Lazy)?;
        }
        Ok(turns)
    }

    fn insert(&mut self, turn: u64, key: &[u8], bytes: u64) {
        self.forget(key);
        self.by_turn.insert(turn, (key.to_vec(), bytes));
        self.by_key.insert(key.to_vec(), turn);
        self.bytes += bytes;
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some((_, bytes)) = self
            .by_key
            .remove(key)
            .and_then(|turn| self.by_turn.remove(&turn))
        {
            self.bytes -= bytes;
        }
    }

    /// The changes that put a fact and take the oldest out for it.
    fn put(&mut self, key: &[u8], body: &[u8]) -> Vec<IndexOp> {
        let turn = self
            .by_turn
            .last_key_value()
            .map_or(1, |(turn, _)| turn + 1);
        self.insert(turn, key, body.len() as u64);
        let mut ops = vec![IndexOp::Put(key.to_vec(), record::encode_fact(turn, body))];
        while (self.by_turn.len() > self.count_max || self.bytes > self.bytes_max)
            && self.by_turn.len() > 1
        {
            let Some((_, (oldest, bytes))) = self.by_turn.pop_first() else {
                break;
            };
            self.by_key.remove(&oldest);
            self.bytes -= bytes;
            ops.push(IndexOp::Delete(oldest));
        }
        ops
    }
}

impl Store {
    /// Keeps a manifest. It must be what its digest names.
    pub fn put_manifest(
        &self,
        digest: &Digest,
        media_type: &str,
        body: &[u8],
    ) -> Result<(), StoreError> {
        if Digest::of(digest.algorithm(), body) != *digest {
            return Err(StoreError::WrongDigest { digest: *digest });
        }
        let encoded =
            record::encode_manifest(media_type, body).filter(|_| body.len() <= MANIFEST_BYTES_MAX);
        let encoded = encoded.ok_or(StoreError::OutOfRange {
            digest: *digest,
            at: body.len() as u64,
        })?;
        self.put_fact(&self.inner.facts.manifests, &manifest_key(digest), &encoded)
    }

    /// Media type and body. Hashed again on the way out: one that no longer matches is forgotten.
    pub fn manifest(&self, digest: &Digest) -> Option<(String, Bytes)> {
        let key = manifest_key(digest);
        let (media_type, body) = record::decode_manifest(&self.fact(&key)?)?;
        if Digest::of(digest.algorithm(), &body) == *digest {
            return Some((media_type, body));
        }
        tracing::warn!(digest = %digest.short(), "stored manifest no longer matches its digest; forgotten");
        lock(&self.inner.facts.manifests).forget(&key);
        // What cannot be deleted is hashed again next time.
        let _ = self.apply(vec![IndexOp::Delete(key)], Durability::Lazy);
        None
    }

    /// Keeps what a tag pointed to, in whatever form the caller reads it again.
    pub fn put_tag(&self, tag: &str, value: &str) -> Result<(), StoreError> {
        if tag.len() + value.len() > TAG_ENTRY_BYTES_MAX {
            let why = "a tag's name and record are longer than any registry's";
            return Err(StoreError::NoSpace {
                needed_bytes: (tag.len() + value.len()) as u64,
                why,
            });
        }
        self.put_fact(&self.inner.facts.tags, &tag_key(tag), value.as_bytes())
    }

    pub fn tag(&self, tag: &str) -> Option<String> {
        String::from_utf8(self.fact(&tag_key(tag))?).ok()
    }

    /// Keeps the membership of an origin, so that its stored proofs still count after a restart.
    pub fn put_vouched(&self, membership: &SignedMembership) -> Result<(), StoreError> {
        let Some(origin) = membership.peek() else {
            return Ok(());
        };
        let key = record::vouched_key(&origin.peer);
        self.put_fact(&self.inner.facts.vouched, &key, &membership.encode())
    }

    /// All memberships kept; none of them is checked here.
    pub fn vouched(&self) -> Result<Vec<SignedMembership>, StoreError> {
        let mut memberships = Vec::new();
        let scanned = self
            .inner
            .index
            .scan(record::VOUCHED_PREFIX, &mut |_, value| {
                let membership = record::decode_fact(value)
                    .and_then(|(_, body)| SignedMembership::decode(body).ok());
                memberships.extend(membership);
                ControlFlow::Continue(())
            });
        scanned.map_err(|e| self.index_error(e))?;
        Ok(memberships)
    }

    fn put_fact(&self, turns: &Mutex<Turns>, key: &[u8], body: &[u8]) -> Result<(), StoreError> {
        let ops = lock(turns).put(key, body);
        self.apply(ops, Durability::Lazy)
    }

    fn fact(&self, key: &[u8]) -> Option<Vec<u8>> {
        let value = self
            .inner
            .index
            .get(key)
            .inspect_err(|error| tracing::warn!(%error, "index"))
            .ok()??;
        record::decode_fact(&value).map(|(_, body)| body.to_vec())
    }
}

fn lock(turns: &Mutex<Turns>) -> MutexGuard<'_, Turns> {
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

fn manifest_key(digest: &Digest) -> Vec<u8> {
    [record::MANIFEST_PREFIX, &digest.encode()].concat()
}

fn tag_key(tag: &str) -> Vec<u8> {
    [record::TAG_PREFIX, tag.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use shoal_proto::{ClusterKey, DigestAlgorithm, Membership, OriginKey, Role, Zone};

    use super::*;
    use crate::store::specimen::Bench;

    fn turns(count_max: usize, bytes_max: u64) -> Turns {
        Turns {
            count_max,
            bytes_max,
            by_turn: BTreeMap::new(),
            by_key: HashMap::new(),
            bytes: 0,
        }
    }

    #[test]
    fn what_was_put_longest_ago_goes_first() {
        let mut turns = turns(2, 100);
        turns.put(b"a", b"1");
        turns.put(b"b", b"1");
        turns.put(b"a", b"22"); // again: now b is the oldest
        let ops = turns.put(b"c", b"1");
        assert_eq!(ops[1..], [IndexOp::Delete(b"b".to_vec())]);
        let ops = turns.put(b"d", &[0; 100]);
        assert_eq!(
            ops[1..],
            [
                IndexOp::Delete(b"a".to_vec()),
                IndexOp::Delete(b"c".to_vec())
            ]
        );
        assert_eq!((turns.bytes, turns.by_key.len()), (100, 1));
    }

    #[test]
    fn facts_outlive_a_restart() {
        let bench = Bench::new();
        let manifest = b"{\"schemaVersion\":2}";
        let digest = Digest::of(DigestAlgorithm::Sha256, manifest);
        let key = ClusterKey::from_secret(&[3; 32]);
        let membership = Membership {
            peer: OriginKey::from_secret(&[5; 32]).peer_id(),
            role: Role::Origin,
            zone: Zone::default(),
            not_after_unix_s: 9,
        };
        let vouched = key.sign(&membership);
        {
            let store = bench.open();
            store
                .put_manifest(&digest, "application/x", manifest)
                .unwrap();
            store
                .put_tag("docker.io/library/busybox:1", "sha256:aa 5")
                .unwrap();
            store.put_vouched(&vouched).unwrap();
            store.put_vouched(&vouched).unwrap();
        }
        let store = bench.open();
        assert_eq!(
            store.manifest(&digest),
            Some(("application/x".into(), Bytes::from_static(manifest)))
        );
        assert_eq!(
            store.tag("docker.io/library/busybox:1").as_deref(),
            Some("sha256:aa 5")
        );
        assert_eq!(store.tag("docker.io/library/busybox:2"), None);
        assert_eq!(store.vouched().unwrap(), [vouched]);
    }

    #[test]
    fn a_manifest_that_is_not_what_its_digest_names_is_neither_kept_nor_given() {
        let bench = Bench::new();
        let store = bench.open();
        let digest = Digest::of(DigestAlgorithm::Sha256, b"good");
        assert!(matches!(
            store.put_manifest(&digest, "x", b"bad"),
            Err(StoreError::WrongDigest { .. })
        ));
        let rotten = record::encode_fact(1, &record::encode_manifest("x", b"bad").unwrap());
        store
            .apply(
                vec![IndexOp::Put(manifest_key(&digest), rotten)],
                Durability::Lazy,
            )
            .unwrap();
        assert_eq!(store.manifest(&digest), None);
        assert_eq!(store.inner.index.get(&manifest_key(&digest)).unwrap(), None);
    }
}
