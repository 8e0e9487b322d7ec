//! The one task that owns `Node` (I10).
//!
//! One loop: `select` waits and yields a typed [`Event`]; `apply` is synchronous and exclusive: it turns the event into
//! inputs, hands them to the core, and carries out every action that comes back until none is left. Whatever takes time
//! is a task, and reports. The price is that every step of a longer story is an event of its own; what it buys is that
//! no two steps ever see the state half changed, and that the loop can be read from top to bottom.
//!
//! The driver waits for nobody: where a queue towards a peer is full, the peer is hung up on; where a task must wait, it
//! waits in its own time. On shutdown it drains: see [`drain`](mod@drain).

mod act;
mod apply;
mod blobs;
mod drain;
mod links;
pub(crate) mod report;
mod snapshot;

use std::collections::HashMap;
use std::sync::Arc;

use shoal_link::{Acceptor, Endpoint};
use shoal_proto::limits::{COMMANDS_MAX, DIALS_MAX, REPORTS_MAX};
use shoal_proto::{
    Digest, Input, Instant, Node, NodeOptions, OriginAddress, PeerId, RequestId, TransferId,
};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant as Moment, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::blobs::Blobs;
use self::links::Links;
use self::report::{Command, Report};
use crate::exchange::Exchange;
use crate::exchange::asked::PendingAnswer;
use crate::exchange::budget::ByteBudget;
use crate::handle::{Handle, Shared};
use crate::options::PeerOptions;
use crate::store::Store;
use crate::tracker_client::{AnnounceQueue, TrackerClient};
use crate::trust::Trust;

/// What wakes the driver.
enum Event {
    /// A reader moved or left.
    Bell,
    Command(Command),
    Report(Report),
    Shutdown,
    Timeout,
}

/// Seconds since the driver's own start, in both worlds.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Moment,
}

impl Clock {
    fn now(self) -> Instant {
        let nanos = self.start.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn moment(self, at: Instant) -> Moment {
        self.start + std::time::Duration::from_nanos(at.as_nanos())
    }
}

/// One fetch under way.
struct Transfer {
    task: AbortHandle,
}

/// One upload under way.
struct Upload;

/// The state that one task owns.
struct Driver {
    node: Node,
    clock: Clock,
    me: PeerId,
    options: PeerOptions,
    exchange: Arc<Exchange>,
    endpoint: Endpoint,
    /// Dials under way at once.
    dials: Arc<Semaphore>,
    commands: mpsc::Receiver<Command>,
    reports: mpsc::Receiver<Report>,
    bell: Arc<Notify>,
    links: Links,
    blobs: Blobs,
    transfers: HashMap<TransferId, Transfer>,
    /// Questions that the core has not answered yet.
    questions: HashMap<RequestId, PendingAnswer>,
    next_request: u64,
    uploads: HashMap<RequestId, Upload>,
    origins: watch::Sender<Vec<OriginAddress>>,
    tracker_up: watch::Sender<bool>,
    tracker_name: Option<String>,
    announces: Arc<AnnounceQueue>,
    /// Everything that the driver started.
    tasks: TaskTracker,
    /// Ends those tasks that do not end by themselves.
    stop: CancellationToken,
    shutdown: CancellationToken,
}

/// Starts a member of swarms on an endpoint: its driver, its acceptor and its tracker client, as tasks of `tracker`.
/// `endpoint` is what [`Endpoint::bind`] gave. After `shutdown` they drain and end; the store is closed then.
#[expect(
    clippy::too_many_lines,
    reason = "everything is made here, in the order in which it is needed"
)]
pub fn start(
    endpoint: (Endpoint, Acceptor),
    store: Store,
    options: PeerOptions,
    shutdown: CancellationToken,
    tracker: &TaskTracker,
) -> Handle {
    let (endpoint, acceptor) = endpoint;
    let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
    let (reports_in, reports) = mpsc::channel(REPORTS_MAX);
    let trust = Arc::new(Trust::new(options.credentials.clone(), store.clone()));
    let bell = Arc::new(Notify::new());
    let half = options.buffer_budget_bytes / 2;
    let exchange = Arc::new(Exchange {
        zone: options.zone.clone(),
        store: store.clone(),
        trust: Arc::clone(&trust),
        budget: ByteBudget::new(half),
        seeder: options.seeder.clone(),
        uploads: Arc::default(),
        reports: reports_in.clone(),
    });
    let (origins_tx, origins) = watch::channel(Vec::new());
    let (tracker_tx, tracker_rx) = watch::channel(false);
    let announces = Arc::new(AnnounceQueue::default());
    let handle = Handle::new(Shared {
        commands: commands_in,
        store,
        identity: options.identity.clone(),
        seeder: options.seeder.clone(),
        bell: Arc::clone(&bell),
        origins,
        tracker: tracker_rx,
        read_budget: ByteBudget::new(half),
    });
    let me = options.identity.peer_id();
    let clock = Clock {
        start: Moment::now(),
    };
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let client = TrackerClient::new(
        endpoint.clone(),
        &options,
        trust,
        Arc::clone(&announces),
        Arc::clone(&exchange.uploads),
        reports_in.clone(),
    );
    tasks.spawn(stop.clone().run_until_cancelled_owned(client.run()));
    let accepting = accept(acceptor, reports_in);
    tasks.spawn(shutdown.clone().run_until_cancelled_owned(accepting));
    let driver = Driver {
        node: Node::new(
            NodeOptions::new(me, options.role, options.zone.clone(), options.seed),
            clock.now(),
        ),
        clock,
        me,
        options,
        exchange,
        endpoint,
        dials: Arc::new(Semaphore::new(DIALS_MAX)),
        commands,
        reports,
        bell,
        links: Links::default(),
        blobs: Blobs::default(),
        transfers: HashMap::new(),
        questions: HashMap::new(),
        next_request: 0,
        uploads: HashMap::new(),
        origins: origins_tx,
        tracker_up: tracker_tx,
        tracker_name: None,
        announces,
        tasks,
        stop,
        shutdown,
    };
    tracker.spawn(driver.run());
    handle
}

/// Takes incoming links until the endpoint is closed.
async fn accept(mut acceptor: Acceptor, reports: mpsc::Sender<Report>) {
    while let Some(incoming) = acceptor.next().await {
        match incoming {
            Ok(connected) => {
                if reports
                    .send(Report::Linked(Box::new(connected)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(refused) => {
                crate::metrics::handshake_refused(refused.reason);
                tracing::debug!(from = %refused.from, reason = refused.reason, "refused a link");
            }
        }
    }
}

impl Driver {
    async fn run(mut self) {
        self.load();
        loop {
            match self.select().await {
                Event::Shutdown => break,
                event => self.apply(event),
            }
            self.act();
        }
        self.drain().await;
    }

    /// Cancel safe: each arm waits for one thing and takes it whole.
    async fn select(&mut self) -> Event {
        let timeout = self.node.next_timeout().map(|at| self.clock.moment(at));
        let elapsed = async {
            match timeout {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shutdown.cancelled() => Event::Shutdown,
            Some(report) = self.reports.recv() => Event::Report(report),
            Some(command) = self.commands.recv() => Event::Command(command),
            () = self.bell.notified() => Event::Bell,
            () = elapsed => Event::Timeout,
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Bell => {
                for input in self.blobs.moves() {
                    self.input(input);
                }
            }
            Event::Command(command) => self.obey(command),
            Event::Report(report) => self.hear(report),
            Event::Shutdown => {}
            Event::Timeout => {
                let now = self.clock.now();
                self.node.handle_timeout(now);
            }
        }
    }

    fn input(&mut self, input: Input) {
        tracing::trace!(?input);
        let now = self.clock.now();
        self.node.handle(input, now);
    }

    /// What the store holds is what we have to give.
    fn load(&mut self) {
        for blob in self.exchange.store.blobs() {
            self.input(Input::Loaded {
                info: blob.info,
                held: blob.held,
                complete: blob.complete,
            });
        }
        self.act();
    }

    /// A blob's pieces changed under the core's feet: it forgets them and is told anew.
    fn reload(&mut self, digest: Digest) {
        self.input(Input::Evicted { digest });
        if let Some(blob) = self.exchange.store.lookup(&digest) {
            self.input(Input::Loaded {
                info: blob.info,
                held: blob.held,
                complete: blob.complete,
            });
        }
    }
}
