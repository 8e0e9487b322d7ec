//! From a signal to a token, and from the token to an orderly end with a deadline.
//!
//! SIGTERM and SIGINT cancel the token once; whoever holds it stops taking in work and ends what is under way.
//! A second signal ends the process at once. Not here: what has to be ended, and in which order.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The code of a process that a second signal cut short.
const CUT_SHORT: i32 = 1;

/// A token that SIGTERM or SIGINT cancels. To be called once, by the daemon; commands that end by themselves
/// leave the signals as they are.
///
/// # Errors
/// The system refuses a signal handler.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    // The one task without an end: it listens for as long as the process lives, and ends with the runtime.
    TaskTracker::new().spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "shutting down; a second signal ends at once");
        crate::watchdog::say_stopping();
        cancelled.cancel();
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "second signal: ending at once");
        end_at_once();
    });
    Ok(token)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    // Cancel-safe: a signal that arrives between two calls is reported by the next.
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[expect(
    clippy::exit,
    reason = "the operator asked twice; whatever hangs must not be waited for"
)]
fn end_at_once() {
    std::process::exit(CUT_SHORT);
}

/// Waits until every task of `tasks` has ended, but no longer than `grace`. False: some are still running.
pub async fn drain(tasks: &TaskTracker, grace: Duration) -> bool {
    tasks.close();
    let ended = tokio::time::timeout(grace, tasks.wait()).await.is_ok();
    if !ended {
        tracing::warn!(
            tasks = tasks.len(),
            ?grace,
            "tasks are still running at the deadline; leaving them"
        );
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal as Number, getpid, kill_process};

    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_signal_cancels_the_token() {
        let token = on_signal().unwrap();
        assert!(!token.is_cancelled());
        kill_process(getpid(), Number::TERM).unwrap();
        tokio::time::timeout(DEADLINE, token.cancelled())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_drain_waits_for_tasks_that_end_and_leaves_those_that_do_not() {
        let tasks = TaskTracker::new();
        tasks.spawn(tokio::task::yield_now());
        assert!(drain(&tasks, DEADLINE).await);
        assert!(tasks.is_empty());

        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        tasks.spawn(stop.clone().cancelled_owned());
        assert!(!drain(&tasks, Duration::from_millis(1)).await);
        stop.cancel();
        assert!(drain(&tasks, DEADLINE).await);
    }
}
