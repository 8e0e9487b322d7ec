//! Events to inputs: what commands of handles and reports of tasks mean to the core. Synchronous; awaits nothing.

use shoal_link::Connected;
use shoal_proto::limits::OUTBOX_MAX;
use shoal_proto::wire::{CloseCode, PeerMessage};
use shoal_proto::{Bitfield, BlobInfo, ByteRange, Digest, Input, Role};
use tokio::sync::{mpsc, oneshot, watch};

use super::Driver;
use super::links::Welcome;
use super::report::{Command, Report, TrackerReport};
use crate::exchange::link_task::LinkTask;
use crate::exchange::serve::Ended;
use crate::metrics::{self, CheckedAt};
use crate::store::StoreError;
use crate::view::{BlobView, Phase};

impl Driver {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Completed { digest } => self.completed(digest),
            Command::Connect { peer, reply } => self.connect(peer, reply),
            Command::Evicted { digest } => self.input(Input::Evicted { digest }),
            Command::Ingested { digest, piece } => self.input(Input::Ingested { digest, piece }),
            Command::Open {
                digest,
                source,
                range,
                cursor,
                reply,
            } => {
                let view = self.open(digest, source);
                let reader = self.blobs.seat(digest, cursor);
                // An answer that nobody takes belongs to a reader that is gone; its cursor says so.
                let _ = reply.send(view);
                self.wanted(digest, reader, range);
            }
            Command::Poisoned { digest } => {
                self.discard(digest);
                self.input(Input::Poisoned { digest });
            }
            Command::Recheck { digest } => self.reload(digest),
            Command::Seed {
                info,
                held,
                complete,
            } => self.seed(info, held, complete),
            Command::Shape { digest, reply } => {
                let _ = reply.send(self.blobs.get(&digest).and_then(|entry| entry.info));
            }
            Command::Status { reply } => {
                let _ = reply.send(self.status());
            }
        }
    }

    /// The entry of a blob that somebody wants, brought up to what the store holds.
    fn open(
        &mut self,
        digest: Digest,
        source: shoal_proto::wire::Source,
    ) -> watch::Receiver<BlobView> {
        let stored = self.exchange.store.lookup(&digest);
        let entry = self.blobs.entry(digest);
        entry.source = Some(source);
        let view = entry.viewed.subscribe();
        if let Some(blob) = stored {
            entry.info = Some(blob.info);
            if entry.viewed.is_opening() {
                entry.pin = (!blob.complete).then(|| self.exchange.store.pin(&digest));
                entry.viewed.enter(if blob.complete {
                    Phase::Complete(blob.info)
                } else {
                    Phase::Arriving(blob.info)
                });
            }
            self.input(Input::Loaded {
                info: blob.info,
                held: blob.held,
                complete: blob.complete,
            });
        }
        view
    }

    fn wanted(&mut self, digest: Digest, reader: shoal_proto::ReaderId, range: Option<ByteRange>) {
        self.input(Input::Wanted {
            digest,
            reader,
            range,
        });
        let complete = self.exchange.store.lookup(&digest);
        if complete.is_some_and(|blob| blob.complete) {
            self.fulfil(digest);
        }
    }

    fn seed(&mut self, info: BlobInfo, held: Bitfield, complete: bool) {
        let digest = info.digest;
        let entry = self.blobs.entry(digest);
        entry.info = Some(info);
        if complete {
            entry.viewed.enter(Phase::Complete(info));
        } else {
            entry.pin = Some(self.exchange.store.pin(&digest));
            entry.viewed.enter(Phase::Arriving(info));
        }
        if complete || !held.is_empty() {
            self.input(Input::Loaded {
                info,
                held,
                complete,
            });
        }
        if !complete {
            self.input(Input::Seeded { info });
        }
    }

    pub(super) fn connect(
        &mut self,
        peer: shoal_proto::PeerId,
        reply: oneshot::Sender<Option<shoal_link::Link>>,
    ) {
        if let Some(live) = self.links.get(&peer) {
            let _ = reply.send(Some(live.link.clone()));
            return;
        }
        let known = self
            .origins
            .borrow()
            .iter()
            .find(|o| o.peer == peer)
            .copied();
        match known {
            Some(origin) if peer != self.me => {
                self.links.wait_for(peer, reply);
                self.dial(peer, origin.addr, false);
            }
            Some(_) | None => {
                let _ = reply.send(None);
            }
        }
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each report, each a step"
    )]
    pub(super) fn hear(&mut self, report: Report) {
        match report {
            Report::Asked {
                peer,
                digest,
                index,
                answer,
            } => {
                let request = self.next_request();
                self.questions.insert(request, answer);
                self.input(Input::Asked {
                    request,
                    peer,
                    digest,
                    index,
                });
            }
            Report::Committed { digest, result } => self.committed(digest, &result),
            Report::Created { info, result } => self.created(info, result),
            Report::DialFailed { peer } => {
                if self.links.end_dial(&peer) && self.links.get(&peer).is_none() {
                    self.input(Input::DialFailed { peer });
                }
            }
            Report::Fetched { transfer, result } => {
                self.transfers.remove(&transfer);
                self.input(match result {
                    Ok(()) => Input::Fetched { transfer },
                    Err(failure) => Input::FetchFailed { transfer, failure },
                });
            }
            Report::LinkLost { peer, serial } => {
                if self.links.remove(&peer, serial).is_some() {
                    tracing::debug!(peer = %peer.short(), "link lost");
                    self.input(Input::PeerLost { peer });
                }
            }
            Report::Linked(connected) => self.linked(*connected),
            Report::Opened {
                digest,
                origin,
                result,
            } => self.input(Input::Opened {
                digest,
                origin,
                result,
            }),
            Report::Said {
                peer,
                serial,
                message,
            } => {
                if self
                    .links
                    .get(&peer)
                    .is_some_and(|live| live.serial == serial)
                {
                    self.input(Input::PeerSaid { peer, message });
                }
            }
            Report::Served {
                request,
                digest,
                ended,
            } => {
                self.uploads.remove(&request);
                self.exchange.uploads.end();
                self.input(Input::Served {
                    request,
                    sent: ended == Ended::Sent,
                });
                if ended == Ended::Lost {
                    self.reload(digest);
                }
            }
            Report::Tracker(report) => self.tracker(report),
        }
    }

    /// A link is up, dialed by either side.
    fn linked(&mut self, connected: Connected) {
        let Connected {
            link,
            sender,
            receiver,
        } = connected;
        let peer = link.peer();
        let welcome = self.links.judge(&self.me, &link);
        if link.dialed() {
            self.links.dialed(&peer);
        }
        if peer == self.me || welcome == Welcome::Refuse {
            link.close(CloseCode::Duplicate);
            return;
        }
        if welcome == Welcome::Replace
            && let Some(old) = self.links.give_up(&peer)
        {
            old.link.close(CloseCode::Duplicate);
            self.input(Input::PeerLost { peer });
        }
        if link.role() == Role::Origin
            && let Err(error) = self.exchange.trust.vouch(link.membership())
        {
            tracing::warn!(%error, peer = %peer.short(), "an origin's membership does not hold");
        }
        let (outbox_in, outbox) = mpsc::channel(OUTBOX_MAX);
        let serial = self.links.stand(link.clone(), outbox_in);
        tracing::debug!(peer = %peer.short(), role = %link.role(), dialed = link.dialed(), "link up");
        let task = LinkTask {
            exchange: std::sync::Arc::clone(&self.exchange),
            link: link.clone(),
            serial,
            sender,
            receiver,
            outbox,
            stop: self.stop.clone(),
        };
        self.tasks.spawn(task.run());
        self.input(Input::Connected {
            peer,
            role: link.role(),
            zone: link.zone().clone(),
            addr: link.peer_addr().unwrap_or_else(|| link.remote_addr()),
        });
    }

    fn created(&mut self, info: BlobInfo, result: Result<Vec<Digest>, StoreError>) {
        let digest = info.digest;
        match result {
            Ok(evicted) => {
                for digest in evicted {
                    self.input(Input::Evicted { digest });
                }
                if let Some(entry) = self.blobs.get(&digest)
                    && entry.viewed.is_opening()
                {
                    entry.viewed.enter(Phase::Arriving(info));
                }
            }
            Err(error) => {
                tracing::warn!(%error, digest = %digest.short(), "no place for a blob; its client goes elsewhere");
                if let Some(entry) = self.blobs.get(&digest) {
                    let reason = shoal_proto::FailReason::StoreFailed;
                    entry.viewed.enter(Phase::Failed(reason));
                }
            }
        }
    }

    fn committed(&mut self, digest: Digest, result: &Result<(), StoreError>) {
        match result {
            Ok(()) => self.completed(digest),
            Err(StoreError::WrongDigest { .. }) => {
                metrics::verify_failed(CheckedAt::Commit);
                tracing::error!(digest = %digest.short(), "every piece was signed by an origin, and the blob is wrong");
                self.input(Input::CommitFailed { digest });
            }
            Err(error) => {
                // What can be read can still be given away; what the disk lost is brought again.
                tracing::warn!(%error, digest = %digest.short(), "a blob could not be committed");
                self.reload(digest);
            }
        }
    }

    fn completed(&mut self, digest: Digest) {
        if let Some(entry) = self.blobs.get_mut(&digest) {
            entry.pin = None;
            entry.source = None;
            if let Some(info) = entry.info {
                entry.viewed.enter(Phase::Complete(info));
            }
        }
        self.input(Input::Completed { digest });
        self.fulfil(digest);
    }

    fn fulfil(&mut self, digest: Digest) {
        for input in self.blobs.fulfil(&digest) {
            self.input(input);
        }
    }

    fn tracker(&mut self, report: TrackerReport) {
        match report {
            TrackerReport::Down => {
                self.tracker_name = None;
                self.tracker_up.send_replace(false);
                self.input(Input::TrackerDown);
            }
            TrackerReport::Handed {
                digest,
                info,
                peers,
                injected,
            } => self.input(Input::Handed {
                digest,
                info,
                peers,
                injected,
            }),
            TrackerReport::Origins(origins) => {
                self.origins.send_replace(origins.clone());
                self.input(Input::OriginsChanged { origins });
            }
            TrackerReport::Up { tracker } => {
                self.tracker_name = Some(tracker);
                self.tracker_up.send_replace(true);
                self.input(Input::TrackerUp);
            }
        }
    }

    /// Shows a peer who signed what it is about to hear of.
    pub(super) fn vouch_first(&mut self, peer: &shoal_proto::PeerId, message: &PeerMessage) {
        let PeerMessage::Info { info } = message else {
            return;
        };
        let origin = info.origin;
        let Some(live) = self.links.get_mut(peer) else {
            return;
        };
        if *peer == origin || !live.vouched.insert(origin) {
            return;
        }
        if let Some(membership) = self.exchange.trust.membership_of(&origin) {
            // A full outbox is noticed by the message that follows.
            let _ = live.outbox.try_send(PeerMessage::Vouch { membership });
        }
    }
}
