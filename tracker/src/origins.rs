//! Which origins live, with the memberships that vouch for them: what everybody is told as `Cluster`.
//!
//! Not for: choosing an owner (every peer does that by the ring) or checking a membership (the link has done it).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use shoal_proto::wire::{Cluster, FromTracker, Origin};
use shoal_proto::{PeerId, SignedMembership, limits};

use crate::directory::told_address;

/// Memberships of the origins that are connected.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    memberships: BTreeMap<PeerId, SignedMembership>,
}

impl Origins {
    pub(crate) fn vouched(&mut self, peer: PeerId, membership: SignedMembership) {
        if self.memberships.len() < limits::ORIGINS_MAX || self.memberships.contains_key(&peer) {
            self.memberships.insert(peer, membership);
        }
    }

    pub(crate) fn lost(&mut self, peer: &PeerId) {
        self.memberships.remove(peer);
    }

    /// The message for one that comes from `listener`.
    pub(crate) fn cluster(
        &self,
        live: impl Iterator<Item = (PeerId, SocketAddr)>,
        announce_interval: Duration,
        listener: SocketAddr,
    ) -> FromTracker {
        let origins = live.filter_map(|(peer, addr)| {
            let membership = self.memberships.get(&peer)?.clone();
            Some(Origin {
                membership,
                address: told_address(addr, listener),
            })
        });
        FromTracker::Cluster(Cluster {
            announce_interval,
            origins: origins.take(limits::ORIGINS_MAX).collect(),
        })
    }
}
