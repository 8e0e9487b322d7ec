//! Counted blocking work: disk calls and hashing of more than a few pieces' worth, off the tasks that move packets. Not
//! here: what the work is, and any order among it.
//!
//! Invariant: at most [`BLOCKING_WORK_MAX`] pieces of work run at once, in the whole process; more of them wait in turn, so
//! a slow disk fills neither threads nor memory. Work that has begun runs to its end, also when nobody waits for it.

use std::panic::resume_unwind;

use shoal_proto::limits::BLOCKING_WORK_MAX;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

static TURNS: Semaphore = Semaphore::const_new(BLOCKING_WORK_MAX);

/// Does the work on a blocking thread when its turn comes. A panic of the work goes on in the caller. Cancel safe before the
/// turn comes; after that the work is done and its result dropped.
pub async fn run<T, F>(work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let turn = TURNS.acquire().await;
    let done = spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    match done.await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is going away and the work never began: so is whoever waits.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Does short work where the caller is: hashing and writing bytes that are still in cache, which a change of threads would
/// make dearer. At most one write batch (1 MiB) at a time.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn no_more_work_runs_at_once_than_is_counted() {
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let mut all = JoinSet::new();
        for _ in 0..8 * BLOCKING_WORK_MAX {
            let (running, most) = (running.clone(), most.clone());
            all.spawn(run(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
            }));
        }
        timeout(DEADLINE, all.join_all()).await.unwrap();
        assert!((1..=BLOCKING_WORK_MAX).contains(&most.load(Ordering::SeqCst)));
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_turn_back() {
        let mut work = JoinSet::new();
        work.spawn(run(|| panic!("the work failed")));
        let ended = timeout(DEADLINE, work.join_next()).await.unwrap().unwrap();
        assert!(ended.unwrap_err().is_panic());
        assert_eq!(timeout(DEADLINE, run(|| 7)).await.unwrap(), 7);
    }
}
