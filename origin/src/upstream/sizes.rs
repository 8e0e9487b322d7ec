//! What manifests say about the lengths of blobs, for registries that do not say it themselves.
//!
//! Not for: believing a manifest against its registry: a length is used only where the registry tells none, and only
//! in the repository whose manifest told it, so that no manifest can spoil another repository's blob.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use shoal_proto::{Digest, limits};

/// Lengths remembered for one registry; the oldest go first. About 200 bytes each.
const SIZES_MAX: usize = 16_384;
/// Descriptors read of one manifest.
const DESCRIPTORS_MAX: usize = 1_024;

type Key = (String, Digest);

/// The lengths that manifests of one registry told.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    sizes: BTreeMap<Key, u64>,
    order: VecDeque<Key>,
}

impl Sizes {
    /// Remembers what a manifest of a repository says.
    pub(crate) fn note(&self, repository: &str, manifest: &[u8]) {
        let told = described(manifest);
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        for (digest, bytes) in told {
            let key = (repository.to_owned(), digest);
            if book.sizes.insert(key.clone(), bytes).is_none() {
                book.order.push_back(key);
            }
            if book.order.len() > SIZES_MAX
                && let Some(oldest) = book.order.pop_front()
            {
                book.sizes.remove(&oldest);
            }
        }
    }

    /// The length of a blob, if a manifest told it.
    pub(crate) fn of(&self, repository: &str, digest: &Digest) -> Option<u64> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.sizes.get(&(repository.to_owned(), *digest)).copied()
    }
}

/// The blobs that a manifest names, with their lengths. What is no manifest names none.
pub(crate) fn described(manifest: &[u8]) -> Vec<(Digest, u64)> {
    #[derive(Deserialize)]
    struct Shape {
        config: Option<Descriptor>,
        #[serde(default)]
        layers: Vec<Descriptor>,
    }
    #[derive(Deserialize)]
    struct Descriptor {
        digest: Option<String>,
        size: Option<u64>,
    }
    let Ok(shape) = serde_json::from_slice::<Shape>(manifest) else {
        return Vec::new();
    };
    let descriptors = shape.config.into_iter().chain(shape.layers);
    descriptors
        .take(DESCRIPTORS_MAX)
        .filter_map(|told| Some((told.digest?.parse().ok()?, told.size?)))
        .filter(|(_, bytes)| *bytes <= limits::BLOB_BYTES_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(letter: char) -> String {
        format!("sha256:{}", letter.to_string().repeat(64))
    }

    #[test]
    fn lengths_hold_for_their_repository_alone() {
        let sizes = Sizes::default();
        let manifest = format!(
            r#"{{"config":{{"digest":"{}","size":7}},"layers":[{{"digest":"{}","size":9}},{{"digest":"{}","size":-1}}]}}"#,
            digest('a'),
            digest('b'),
            digest('c')
        );
        sizes.note("team/app", manifest.as_bytes());
        // One wrong descriptor spoils what would have to be guessed.
        assert_eq!(sizes.of("team/app", &digest('a').parse().unwrap()), None);

        let manifest = manifest.replace("-1", "99999999999999999");
        sizes.note("team/app", manifest.as_bytes());
        let of = |repository, letter| sizes.of(repository, &digest(letter).parse().unwrap());
        assert_eq!(of("team/app", 'a'), Some(7));
        assert_eq!(of("team/app", 'b'), Some(9));
        assert_eq!(of("team/app", 'c'), None, "beyond all limits");
        assert_eq!(of("team/other", 'a'), None);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let sizes = Sizes::default();
        let manifest = format!(r#"{{"layers":[{{"digest":"{}","size":9}}]}}"#, digest('a'));
        for number in 0..=SIZES_MAX {
            sizes.note(&format!("team/{number}"), manifest.as_bytes());
        }
        let of = |number: usize| sizes.of(&format!("team/{number}"), &digest('a').parse().unwrap());
        assert_eq!((of(0), of(1), of(SIZES_MAX)), (None, Some(9), Some(9)));
    }
}
