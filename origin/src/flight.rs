//! The shell of [`crate::coalesce`]: waiters that wait, and a leader that cannot forget them.
//!
//! For: work that goes on when the one that asked for it has gone. Not for: the rules of who leads and who waits.
//!
//! Invariants: a waiter is always told something: a [`Lead`] that is dropped, by a panic or a shutdown, tells them
//! that upstream is not available. No lock is held while anything waits.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_proto::Instant;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::coalesce::{Coalesce, CoalesceLimits, Turn};
use crate::upstream::UpstreamError;

type Answer<V> = Result<V, UpstreamError>;
type Book<K, V> = Coalesce<K, oneshot::Sender<Answer<V>>, V, UpstreamError>;

/// Work under way, by key.
pub(crate) struct Flights<K, V> {
    name: &'static str,
    book: Mutex<Book<K, V>>,
    started: tokio::time::Instant,
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// How one that asked gets its answer.
pub(crate) enum Seat<K: Clone + Ord, V: Clone> {
    /// At once.
    Told(Answer<V>),
    /// When somebody has done the work; with the lead, that is the asker's to see to.
    Waiting(oneshot::Receiver<Answer<V>>, Option<Lead<K, V>>),
}

/// The duty to do the work and to say how it went.
pub(crate) struct Lead<K: Clone + Ord, V: Clone> {
    flights: Arc<Flights<K, V>>,
    key: K,
    ended: bool,
}

impl<K: Clone + Ord, V: Clone> Flights<K, V> {
    pub(crate) fn new(name: &'static str, limits: CoalesceLimits) -> Arc<Self> {
        Arc::new(Self {
            name,
            book: Mutex::new(Coalesce::new(limits)),
            started: tokio::time::Instant::now(),
        })
    }

    /// Takes a seat for `key`.
    pub(crate) fn ask(self: &Arc<Self>, key: &K) -> Seat<K, V> {
        let (sender, receiver) = oneshot::channel();
        let now = self.now();
        let seat = match self.book().ask(key, sender, now) {
            Turn::Lead => Seat::Waiting(
                receiver,
                Some(Lead {
                    flights: Arc::clone(self),
                    key: key.clone(),
                    ended: false,
                }),
            ),
            Turn::Wait => Seat::Waiting(receiver, None),
            Turn::Known(_, value) => Seat::Told(Ok(value)),
            Turn::Refused(_, error) => Seat::Told(Err(error)),
            Turn::Full(_) => Seat::Told(Err(UpstreamError::Full)),
        };
        self.count();
        seat
    }

    /// Does `work` for `key`, once for all that ask meanwhile. The work runs on `tasks`, and ends even when nobody
    /// waits for it any more.
    pub(crate) async fn fly<W>(
        self: &Arc<Self>,
        key: &K,
        tasks: &TaskTracker,
        work: impl FnOnce() -> W,
    ) -> Answer<V>
    where
        K: Send + 'static,
        V: Send + 'static,
        W: Future<Output = Answer<V>> + Send + 'static,
    {
        match self.ask(key) {
            Seat::Told(answer) => answer,
            Seat::Waiting(receiver, lead) => {
                if let Some(lead) = lead {
                    let work = work();
                    tasks.spawn(async move {
                        match work.await {
                            Ok(value) => lead.land(value),
                            Err(error) => lead.fail(error),
                        }
                    });
                }
                wait(receiver).await
            }
        }
    }

    /// What was told of `key` has turned out otherwise: whoever asks soon is told this.
    pub(crate) fn refuse(&self, key: &K, error: &UpstreamError) {
        let now = self.now();
        self.book().refuse(key, error.clone(), error.hold(), now);
    }

    /// Keys being worked on.
    pub(crate) fn running(&self) -> usize {
        self.book().running()
    }

    fn book(&self) -> MutexGuard<'_, Book<K, V>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.started.elapsed()
    }

    fn count(&self) {
        let waiting = u32::try_from(self.book().waiting()).unwrap_or(u32::MAX);
        metrics::gauge!("shoal_origin_singleflight_waiters", "kind" => self.name)
            .set(f64::from(waiting));
    }
}

/// Waits for an answer that was promised.
pub(crate) async fn wait<V>(receiver: oneshot::Receiver<Answer<V>>) -> Answer<V> {
    receiver.await.unwrap_or_else(|_| Err(given_up()))
}

fn given_up() -> UpstreamError {
    UpstreamError::Unavailable {
        registry: "this origin".to_owned(),
        detail: "it is shutting down".to_owned(),
    }
}

impl<K: Clone + Ord, V: Clone> Lead<K, V> {
    /// Tells all that wait; later askers are told the same until the lead ends.
    pub(crate) fn opened(&self, value: V) {
        let waiters = self.flights.book().opened(&self.key, value.clone());
        tell(waiters, &Ok(value));
        self.flights.count();
    }

    /// The work is done, and what it gave is to be had elsewhere.
    pub(crate) fn done(mut self) {
        self.end(None, Duration::ZERO);
    }

    /// The work is done, and this is what it gave. In one step: nobody who asks after a waiter was told may still be
    /// told the same without new work.
    pub(crate) fn land(mut self, value: V) {
        self.ended = true;
        let waiters = self.flights.book().finished(&self.key);
        tell(waiters, &Ok(value));
        self.flights.count();
    }

    /// The work failed; those that ask again soon are told so without more work.
    pub(crate) fn fail(mut self, error: UpstreamError) {
        let hold = error.hold();
        self.end(Some(error), hold);
    }

    /// The work failed for those that wait; the next that asks leads.
    pub(crate) fn fail_once(mut self, error: UpstreamError) {
        self.end(Some(error), Duration::ZERO);
    }

    fn end(&mut self, error: Option<UpstreamError>, hold: Duration) {
        self.ended = true;
        let now = self.flights.now();
        let waiters = match &error {
            Some(error) => self
                .flights
                .book()
                .failed(&self.key, error.clone(), hold, now),
            None => self.flights.book().finished(&self.key),
        };
        tell(waiters, &Err(error.unwrap_or_else(given_up)));
        self.flights.count();
    }
}

impl<K: Clone + Ord, V: Clone> Drop for Lead<K, V> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Some(given_up()), Duration::ZERO);
        }
    }
}

fn tell<V: Clone>(waiters: Vec<oneshot::Sender<Answer<V>>>, answer: &Answer<V>) {
    for waiter in waiters {
        // One that has gone needs no answer.
        let _ = waiter.send(answer.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LIMITS: CoalesceLimits = CoalesceLimits {
        keys_max: 8,
        waiters_max: 1_000,
    };

    fn missing() -> UpstreamError {
        UpstreamError::NotFound {
            registry: "r".into(),
        }
    }

    #[tokio::test]
    async fn a_hundred_askers_cause_one_piece_of_work() {
        let flights = Flights::<u8, u8>::new("test", LIMITS);
        let tasks = TaskTracker::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let asks = (0..100).map(|_| {
            flights.fly(&1, &tasks, || {
                let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
                async move {
                    let _open = gate.acquire().await;
                    runs.fetch_add(1, Ordering::Relaxed);
                    Ok(7)
                }
            })
        });
        let asks = futures_util::future::join_all(asks);
        let open = async { gate.add_permits(100) };
        let (answers, ()) = tokio::join!(asks, open);
        assert!(answers.iter().all(|answer| *answer == Ok(7)));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn work_goes_on_when_its_asker_has_gone() {
        let flights = Flights::<u8, u8>::new("test", LIMITS);
        let tasks = TaskTracker::new();
        let (finished, done) = oneshot::channel();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let opened = Arc::clone(&gate);
        let mut ask = Box::pin(flights.fly(&1, &tasks, || async move {
            let _open = opened.acquire().await;
            let _ = finished.send(());
            Ok(7)
        }));
        assert!(futures_util::poll!(&mut ask).is_pending());
        drop(ask);
        gate.add_permits(1);
        tokio::time::timeout(Duration::from_secs(10), done)
            .await
            .unwrap()
            .expect("the work went on");
    }

    #[tokio::test]
    async fn failure_is_held() {
        let flights = Flights::<u8, u8>::new("test", LIMITS);
        let tasks = TaskTracker::new();
        assert_eq!(
            flights.fly(&1, &tasks, || async { Err(missing()) }).await,
            Err(missing())
        );
        assert_eq!(
            flights.fly(&1, &tasks, || async { Ok(1) }).await,
            Err(missing())
        );
    }

    /// The waiters of a tag's HEAD were told before the flight had left the book, and an ask that came in between was
    /// told the old answer as if it were new.
    #[tokio::test]
    async fn ask_after_the_landing_starts_new_work() {
        let flights = Flights::<u8, u8>::new("test", LIMITS);
        let Seat::Waiting(first, Some(lead)) = flights.ask(&1) else {
            panic!("the first leads")
        };
        lead.land(1);
        assert!(matches!(flights.ask(&1), Seat::Waiting(_, Some(_))));
        assert_eq!(wait(first).await, Ok(1));
    }

    #[tokio::test]
    async fn leader_that_dies_tells_its_waiters() {
        let flights = Flights::<u8, u8>::new("test", LIMITS);
        let Seat::Waiting(first, Some(lead)) = flights.ask(&1) else {
            panic!("the first leads")
        };
        let Seat::Waiting(second, None) = flights.ask(&1) else {
            panic!("the second waits")
        };
        drop(lead);
        assert_eq!(wait(first).await, Err(given_up()));
        assert_eq!(wait(second).await, Err(given_up()));
        assert!(
            matches!(flights.ask(&1), Seat::Waiting(_, Some(_))),
            "the next one leads"
        );
    }
}
