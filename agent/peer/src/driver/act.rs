//! Actions carried out: each either at once, or by a task that reports. Synchronous; awaits nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use shoal_link::{Endpoint, Expect};
use shoal_proto::wire::{CloseCode, PeerMessage, Refusal, RefusalCode, Source};
use shoal_proto::{
    Action, BlobInfo, Digest, FailReason, FetchFailure, Input, PeerId, PieceIndex, RequestId,
    TransferId,
};
use tokio::sync::oneshot;

use super::report::Report;
use super::{Driver, Transfer, Upload};
use crate::exchange::fetch::{Errand, fetch};
use crate::exchange::origins;
use crate::exchange::serve::{refuse, serve};
use crate::metrics;
use crate::options::OpenAnswer;
use crate::pool;
use crate::view::Phase;

impl Driver {
    /// Carries out everything that the core asks for, until it asks for nothing more.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.node.poll_action() {
            self.perform(action);
        }
        self.levels().show();
    }

    fn perform(&mut self, action: Action) {
        tracing::trace!(?action);
        match action {
            Action::Announce { swarms, full } => self.announces.push(swarms, full),
            Action::CancelFetch { transfer } => {
                if let Some(transfer) = self.transfers.remove(&transfer) {
                    transfer.task.abort();
                    metrics::piece_cancelled();
                }
            }
            Action::Closed { digest } => {
                self.blobs.forget(&digest);
            }
            Action::Commit { digest } => self.commit(digest),
            Action::Dial { peer, addr } => self.dial(peer, addr, true),
            Action::Failed { digest, reason } => self.failed(digest, reason),
            Action::Fetch {
                transfer,
                peer,
                digest,
                piece,
            } => self.fetch(transfer, peer, digest, piece),
            Action::Hangup { peer, code } => self.hang_up(&peer, code),
            Action::Hold { digest, .. } => self.held(digest),
            Action::Learned { info } => self.learned(info),
            Action::Open { digest, origin } => self.open_at(digest, origin),
            Action::Refuse { request, refusal } => {
                if let Some(question) = self.questions.remove(&request) {
                    self.tasks.spawn(async move {
                        let _place = question.place;
                        refuse(question.stream, refusal).await;
                    });
                }
            }
            Action::Say { peer, message } => self.say(&peer, message),
            Action::Serve {
                request,
                digest,
                piece,
            } => self.serve(request, digest, piece),
        }
    }

    /// A blob without pieces is whole before there is a place for it: the place is waited for.
    fn commit(&mut self, digest: Digest) {
        let exchange = Arc::clone(&self.exchange);
        let placed = self
            .blobs
            .get(&digest)
            .map(|entry| entry.viewed.subscribe());
        self.tasks.spawn(async move {
            if let Some(mut view) = placed {
                let settled = view.wait_for(|view| view.phase != Phase::Opening).await;
                if settled.map_or(true, |view| matches!(view.phase, Phase::Failed(_))) {
                    return;
                }
            }
            let store = exchange.store.clone();
            let result = pool::run(move || store.commit(&digest)).await;
            exchange.report(Report::Committed { digest, result }).await;
        });
    }

    /// Brings a link up, unless one stands or is on its way. Dials wait in line for one of the places.
    pub(super) fn dial(&mut self, peer: PeerId, addr: SocketAddr, for_core: bool) {
        if self.links.get(&peer).is_some() || !self.links.begin_dial(peer, for_core) {
            return;
        }
        let (endpoint, exchange) = (self.endpoint.clone(), Arc::clone(&self.exchange));
        let (dials, stop) = (Arc::clone(&self.dials), self.stop.clone());
        let dialed = async move {
            let place = dials.acquire_owned().await;
            let report = dial(&endpoint, peer, addr).await;
            drop(place);
            exchange.report(report).await;
        };
        self.tasks.spawn(stop.run_until_cancelled_owned(dialed));
    }

    fn failed(&mut self, digest: Digest, reason: FailReason) {
        tracing::debug!(digest = %digest.short(), ?reason, "a blob cannot be had");
        if let Some(entry) = self.blobs.forget(&digest) {
            entry.viewed.enter(Phase::Failed(reason));
        }
    }

    fn fetch(&mut self, transfer: TransferId, peer: PeerId, digest: Digest, piece: PieceIndex) {
        let live = self.links.get(&peer);
        let entry = self.blobs.get(&digest);
        let (Some(live), Some(entry)) = (live, entry) else {
            let failure = FetchFailure::Lost;
            return self.input(Input::FetchFailed { transfer, failure });
        };
        let Some(info) = entry.info else {
            let failure = FetchFailure::StoreFailed;
            return self.input(Input::FetchFailed { transfer, failure });
        };
        let errand = Errand {
            link: live.link.clone(),
            info,
            piece,
            view: entry.viewed.subscribe(),
        };
        let exchange = Arc::clone(&self.exchange);
        let task = self.tasks.spawn(async move {
            let result = fetch(&exchange, errand).await;
            exchange.report(Report::Fetched { transfer, result }).await;
        });
        let task = task.abort_handle();
        self.transfers.insert(transfer, Transfer { task });
    }

    fn hang_up(&mut self, peer: &PeerId, code: CloseCode) {
        if let Some(live) = self.links.give_up(peer) {
            metrics::hung_up(code);
            tracing::debug!(peer = %peer.short(), code = code.name(), "hung up");
            live.link.close(code);
        }
    }

    /// Wakes the readers, and lets the whole digest follow the pieces, so that little of it is left for the end.
    fn held(&self, digest: Digest) {
        if let Some(entry) = self.blobs.get(&digest) {
            entry.viewed.landed();
        }
        let store = self.exchange.store.clone();
        self.tasks.spawn(async move {
            if let Err(error) = pool::run(move || store.advance(&digest)).await {
                tracing::debug!(%error, digest = %digest.short(), "the whole digest did not advance");
            }
        });
    }

    /// Makes room for a blob; its headers go out and its pieces come in when there is room.
    fn learned(&mut self, info: BlobInfo) {
        let exchange = Arc::clone(&self.exchange);
        let entry = self.blobs.entry(info.digest);
        entry.info = Some(info);
        if !entry.viewed.is_opening() {
            return;
        }
        entry.pin = Some(exchange.store.pin(&info.digest));
        self.tasks.spawn(async move {
            let store = exchange.store.clone();
            let result = pool::run(move || store.create(&info)).await;
            exchange.report(Report::Created { info, result }).await;
        });
    }

    fn open_at(&mut self, digest: Digest, origin: PeerId) {
        let source = self
            .blobs
            .get(&digest)
            .and_then(|entry| entry.source.clone());
        let Some(source) = source else {
            let refusal =
                Refusal::new(RefusalCode::NotFound).with_detail("nobody said where it comes from");
            return self.input(Input::Opened {
                digest,
                origin,
                result: Err(refusal),
            });
        };
        if origin == self.me {
            return self.open_here(digest, source);
        }
        let (reply, link) = oneshot::channel();
        self.connect(origin, reply);
        let (exchange, stop) = (Arc::clone(&self.exchange), self.stop.clone());
        let opened = async move {
            let result = origins::open(&exchange, link, digest, source).await;
            exchange
                .report(Report::Opened {
                    digest,
                    origin,
                    result,
                })
                .await;
        };
        self.tasks.spawn(stop.run_until_cancelled_owned(opened));
    }

    /// At an origin, the owner may be ourselves.
    fn open_here(&mut self, digest: Digest, source: Source) {
        let (exchange, stop, me) = (Arc::clone(&self.exchange), self.stop.clone(), self.me);
        let opened = async move {
            let result = match &exchange.seeder {
                Some(seeder) => seeder.open(me, digest, source, false).await,
                None => Err(origins::unavailable("we are no origin")),
            };
            let told_no_shape = || origins::unavailable("the seeder told no shape");
            let result = result.and_then(|OpenAnswer { info, .. }| info.ok_or_else(told_no_shape));
            exchange
                .report(Report::Opened {
                    digest,
                    origin: me,
                    result,
                })
                .await;
        };
        self.tasks.spawn(stop.run_until_cancelled_owned(opened));
    }

    /// A peer that does not take what it is told is too slow to be a peer.
    fn say(&mut self, peer: &PeerId, message: PeerMessage) {
        self.vouch_first(peer, &message);
        let Some(live) = self.links.get(peer) else {
            return;
        };
        if live.outbox.try_send(message).is_err() {
            let code = CloseCode::TooSlow;
            self.hang_up(peer, code);
            self.input(Input::PeerLost { peer: *peer });
        }
    }

    fn serve(&mut self, request: RequestId, digest: Digest, piece: PieceIndex) {
        let Some(question) = self.questions.remove(&request) else {
            return self.input(Input::Served {
                request,
                sent: false,
            });
        };
        self.exchange.uploads.begin();
        self.uploads.insert(request, Upload);
        let exchange = Arc::clone(&self.exchange);
        self.tasks.spawn(async move {
            let _place = question.place;
            let ended = serve(&exchange, question.stream, digest, piece).await;
            exchange
                .report(Report::Served {
                    request,
                    digest,
                    ended,
                })
                .await;
        });
    }

    /// Removes a blob whose bytes turned out wrong.
    pub(super) fn discard(&mut self, digest: Digest) {
        let store = self.exchange.store.clone();
        self.tasks.spawn(async move {
            if let Err(error) = pool::run(move || store.discard(&digest)).await {
                tracing::warn!(%error, digest = %digest.short(), "a wrong blob could not be removed");
            }
        });
    }

    pub(super) fn next_request(&mut self) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        request
    }
}

async fn dial(endpoint: &Endpoint, peer: PeerId, addr: SocketAddr) -> Report {
    match endpoint.dial(addr, Expect::Peer(peer)).await {
        Ok(connected) => Report::Linked(Box::new(connected)),
        Err(error) => {
            metrics::dial_failed();
            tracing::debug!(%error, peer = %peer.short(), "could not dial");
            Report::DialFailed { peer }
        }
    }
}
