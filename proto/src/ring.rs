//! Which members own a digest: rendezvous hashing (Thaler and Ravishankar, 1998).
//!
//! Not a membership list: the caller says who is alive. Each member's score for a name depends on that member alone, so
//! when one leaves, only what it owned moves, and everybody who sees the same members agrees.

use crate::{Digest, PeerId};

/// The members in the order in which they own `digest`: the first owns it, the second takes over when it is gone.
pub fn owners<'a>(digest: &Digest, members: impl Iterator<Item = &'a PeerId>) -> Vec<PeerId> {
    rank(&digest.encode(), members)
}

/// The same for any other name, such as a repository's.
pub fn owners_of_name<'a>(name: &str, members: impl Iterator<Item = &'a PeerId>) -> Vec<PeerId> {
    rank(name.as_bytes(), members)
}

fn rank<'a>(name: &[u8], members: impl Iterator<Item = &'a PeerId>) -> Vec<PeerId> {
    let mut scored: Vec<([u8; 32], PeerId)> = members
        .map(|peer| {
            let mut hasher = blake3::Hasher::new_keyed(peer.as_bytes());
            hasher.update(name);
            (*hasher.finalize().as_bytes(), *peer)
        })
        .collect();
    scored.sort_unstable_by(|a, b| b.cmp(a));
    scored.dedup();
    scored.into_iter().map(|(_, peer)| peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(n: u8) -> Vec<PeerId> {
        (0..n).map(|i| PeerId::from_key([i; 32])).collect()
    }

    #[test]
    fn order_does_not_depend_on_the_order_of_members() {
        let digest = Digest::Sha256([7; 32]);
        let mut reversed = members(9);
        reversed.reverse();
        assert_eq!(
            owners(&digest, members(9).iter()),
            owners(&digest, reversed.iter())
        );
    }

    #[test]
    fn only_what_the_lost_member_owned_moves() {
        let all = members(5);
        let lost = all[2];
        let left: Vec<PeerId> = all.iter().copied().filter(|peer| *peer != lost).collect();
        let mut owned_by_lost = 0;
        for i in 0..=255 {
            let digest = Digest::Sha256([i; 32]);
            let before = owners(&digest, all.iter());
            let after = owners(&digest, left.iter());
            if before[0] == lost {
                owned_by_lost += 1;
                assert_eq!(after[0], before[1]);
            } else {
                assert_eq!(after[0], before[0]);
            }
        }
        assert!(
            (20..90).contains(&owned_by_lost),
            "one fifth of 256, give or take: {owned_by_lost}"
        );
    }
}
