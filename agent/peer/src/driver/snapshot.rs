//! The driver as seen from outside: gauges after each event, a [`Status`] on request. Changes nothing.

use shoal_link::Link;
use shoal_proto::{Digest, OriginAddress};

use super::Driver;
use super::blobs::Entry;
use crate::metrics::Levels;
use crate::status::{LinkStatus, OriginStatus, Status, SwarmStatus, TrackerStatus};

impl Driver {
    pub(super) fn levels(&self) -> Levels {
        Levels {
            links: self.links.len(),
            swarms: self.blobs.len(),
            transfers: self.transfers.len(),
            uploads: self.uploads.len(),
            buffered_bytes: self.exchange.budget.lent(),
        }
    }

    pub(super) fn status(&self) -> Status {
        let stored = self.exchange.store.blobs();
        let complete_blobs = stored.iter().filter(|blob| blob.complete).count();
        Status {
            peer: self.me.to_string(),
            role: self.options.role.to_string(),
            zone: self.options.zone.as_str().to_owned(),
            tracker: TrackerStatus {
                connected: self.tracker_name.is_some(),
                address: self.tracker_name.clone(),
                joined: self.options.credentials.membership().is_some(),
            },
            origins: self.origins.borrow().iter().map(origin_status).collect(),
            links: self
                .links
                .iter()
                .map(|live| link_status(&live.link))
                .collect(),
            swarms: self.swarms(),
            complete_blobs,
            partial_blobs: stored.len() - complete_blobs,
            transfers: self.transfers.len(),
            uploads: self.uploads.len(),
            buffered_bytes: self.exchange.budget.lent(),
        }
    }

    fn swarms(&self) -> Vec<SwarmStatus> {
        let swarm = |(digest, entry): (&Digest, &Entry)| {
            let stored = self.exchange.store.lookup(digest);
            SwarmStatus {
                digest: digest.to_string(),
                blob_bytes: entry.info.map(|info| info.geometry.blob_bytes()),
                pieces: entry.info.map(|info| info.geometry.piece_count().get()),
                held: stored.as_ref().map_or(0, |blob| blob.held.count()),
                complete: stored.is_some_and(|blob| blob.complete),
                readers: entry.readers(),
            }
        };
        self.blobs.iter().map(swarm).collect()
    }
}

fn origin_status(origin: &OriginAddress) -> OriginStatus {
    OriginStatus {
        peer: origin.peer.to_string(),
        addr: origin.addr.to_string(),
    }
}

fn link_status(link: &Link) -> LinkStatus {
    LinkStatus {
        peer: link.peer().to_string(),
        role: link.role().to_string(),
        zone: link.zone().as_str().to_owned(),
        addr: link.remote_addr().to_string(),
        rtt_us: u64::try_from(link.rtt().as_micros()).unwrap_or(u64::MAX),
        dialed: link.dialed(),
    }
}
