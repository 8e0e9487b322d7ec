//! A closed port beats a hung one: a thread that aborts the process when its runtime no longer runs.
//!
//! A task on the runtime ticks; a thread outside it counts how often it woke without seeing a tick. It counts
//! its own wake-ups and reads no clock, so a process that was frozen as a whole (SIGSTOP, a suspended machine)
//! is not taken for a stalled one when it goes on. The same task tells systemd that the service lives.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinSet;

/// Looks per limit: a stall is noticed at most an eighth of the limit late.
const LOOKS: u32 = 8;

/// Watches the runtime until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    /// Dropping it ends the thread.
    _alive: SyncSender<()>,
    /// Dropping it ends the ticking task.
    _ticker: JoinSet<()>,
}

/// Aborts the process once the runtime this is called on has not run for `limit`.
///
/// # Errors
/// The thread cannot be started.
pub fn start(limit: Duration) -> io::Result<Watchdog> {
    start_with(limit, move || {
        // The logger may hang on the very thing that stalled the runtime: straight to standard error.
        eprintln!(
            "the runtime has not run for {limit:?}: aborting, so that clients fall through to the upstream"
        );
        std::process::abort();
    })
}

fn start_with(limit: Duration, on_stall: impl FnOnce() + Send + 'static) -> io::Result<Watchdog> {
    let interval = limit / LOOKS;
    let ticks = Arc::new(AtomicU64::new(0));
    let (alive, dropped) = sync_channel::<()>(0);

    let mut ticker = JoinSet::new();
    let ticking = Arc::clone(&ticks);
    let under_systemd = sd_notify::watchdog_enabled().is_some();
    ticker.spawn(async move {
        let mut interval = tokio::time::interval(interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            ticking.fetch_add(1, Ordering::Relaxed);
            if under_systemd {
                notify(&[NotifyState::Watchdog]);
            }
        }
    });

    let watch = move || {
        let mut seen = ticks.load(Ordering::Relaxed);
        let mut missed = 0;
        while dropped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            let now = ticks.load(Ordering::Relaxed);
            missed = if now == seen { missed + 1 } else { 0 };
            seen = now;
            if missed >= LOOKS {
                on_stall();
                return;
            }
        }
    };
    thread::Builder::new()
        .name("watchdog".into())
        .spawn(watch)?;
    Ok(Watchdog {
        _alive: alive,
        _ticker: ticker,
    })
}

/// Tells systemd, if it is there, that the daemon serves.
pub fn say_ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd, if it is there, that the daemon is ending.
pub(crate) fn say_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};
    use std::sync::mpsc::TryRecvError;

    const LIMIT: Duration = Duration::from_millis(200);
    const DEADLINE: Duration = Duration::from_secs(30);

    #[test]
    fn a_blocked_runtime_is_noticed_and_a_running_one_is_not() {
        let (stalled, noticed) = sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let watchdog = start_with(LIMIT, move || stalled.send(()).unwrap()).unwrap();
            tokio::time::sleep(2 * LIMIT).await;
            assert_eq!(noticed.try_recv(), Err(TryRecvError::Empty));
            // Blocks the only worker until the watchdog has spoken.
            noticed.recv_timeout(DEADLINE).unwrap();
            drop(watchdog);
        });
    }

    #[test]
    fn a_dropped_watchdog_watches_no_longer() {
        let (stalled, noticed) = sync_channel::<()>(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            drop(start_with(LIMIT, move || stalled.send(()).unwrap()).unwrap());
            // The closure, and the sender in it, are gone with the thread: it never fired.
            assert_eq!(
                noticed.recv_timeout(DEADLINE),
                Err(RecvTimeoutError::Disconnected)
            );
        });
    }

    /// What systemd's watchdog goes by, from a process of its own: this same test, told to live. One that is stopped says
    /// nothing, and is ended by it.
    #[test]
    fn under_systemd_a_process_says_that_it_is_ready_and_then_that_it_lives_again_and_again() {
        const LIVE: &str = "SHOAL_TEST_LIVE_IN_CHILD";
        if std::env::var_os(LIVE).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let _watchdog = start(LIMIT).unwrap();
                say_ready();
                tokio::time::sleep(DEADLINE).await;
            });
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let name = "watchdog::tests::under_systemd_a_process_says_that_it_is_ready_and_then_that_it_lives_again_and_again";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(LIVE, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "30000000")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (mut ready, mut lives) = (false, 0);
        let mut datagram = [0; 256];
        while !ready || lives < 3 {
            let said = socket.recv(&mut datagram).unwrap();
            match std::str::from_utf8(&datagram[..said]).unwrap().trim_end() {
                "READY=1" => ready = true,
                "WATCHDOG=1" => lives += 1,
                other => panic!("systemd was told {other:?}"),
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The real thing, in a process of its own: this same test, told to stall.
    #[test]
    fn a_stalled_process_is_aborted() {
        const STALL: &str = "SHOAL_TEST_STALL_IN_CHILD";
        if std::env::var_os(STALL).is_some() {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut stuck = JoinSet::new();
                let _watchdog = start(LIMIT).unwrap();
                stuck.spawn(async { thread::park_timeout(DEADLINE) });
                stuck.join_next().await;
            });
            return;
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "watchdog::tests::a_stalled_process_is_aborted",
            ])
            .env(STALL, "1")
            .output()
            .unwrap();
        assert!(!child.status.success());
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(said.contains("the runtime has not run for 200ms"), "{said}");
    }
}
