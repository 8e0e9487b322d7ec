//! A thread that lives in a network namespace, and does there what it is given.
//!
//! What for: clients, upstreams and readings of ports that are reachable from inside only; and parts whose CPU is
//! measured, because a room is one thread. What not for: the processes under test. Invariants: every socket that work
//! in a room opens belongs to the room's namespace; work ends with the room.

use std::fs::{self, File};
use std::future::Future;
use std::os::fd::AsFd as _;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

/// A room; left when it is dropped.
#[derive(Debug)]
pub struct Room {
    runtime: Handle,
    leave: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

impl Room {
    /// Starts a thread in the namespace of this name.
    ///
    /// # Errors
    /// There is none, or it may not be entered.
    pub fn enter(space: &str) -> Result<Self> {
        let path = format!("/run/netns/{space}");
        let name = File::open(&path).with_context(|| path.clone())?;
        let leave = CancellationToken::new();
        let left = leave.clone();
        let (tell, told) = mpsc::sync_channel(1);
        let inside = move || match begin(&name) {
            Ok(runtime) => {
                if tell.send(Ok(runtime.handle().clone())).is_ok() {
                    runtime.block_on(left.cancelled());
                }
            }
            Err(error) => {
                // Whoever waits for it gets an error in any case.
                let _nobody_waits = tell.send(Err(error));
            }
        };
        let thread = thread::Builder::new()
            .name("room".into())
            .spawn(inside)
            .context("no thread")?;
        let runtime = told
            .recv()
            .context("the room's thread ended")?
            .with_context(|| format!("cannot enter {path}"))?;
        Ok(Self {
            runtime,
            leave,
            thread: Some(thread),
        })
    }

    /// Does this in the room and waits for it. Dropping the future ends the work.
    ///
    /// # Errors
    /// The work panicked, or the room was left.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let mut task = AbortOnDrop(self.runtime.spawn(work));
        (&mut task.0).await.context("work in a namespace")
    }

    /// CPU time that the room's thread has taken.
    ///
    /// # Errors
    /// A kernel that does not account for threads.
    pub async fn cpu(&self) -> Result<Duration> {
        self.run(async { cpu_of_this_thread() }).await?
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.leave.cancel();
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell, and a panic in it was told by whoever waited for the work.
            let _ended = thread.join();
        }
    }
}

/// Does this on a thread of its own in the namespace of this name, and waits for it.
///
/// # Errors
/// There is no such namespace, it may not be entered, or the work panicked.
pub fn inside<T: Send>(space: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = format!("/run/netns/{space}");
    let name = File::open(&path).with_context(|| path.clone())?;
    let there = || {
        move_into_link_name_space(name.as_fd(), Some(LinkNameSpaceType::Network))
            .map(|()| work())
            .with_context(|| format!("cannot enter {path}"))
    };
    let done = thread::scope(|scope| scope.spawn(there).join());
    done.map_err(|_panic| anyhow::anyhow!("work in a namespace panicked"))?
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn begin(name: &File) -> std::io::Result<Runtime> {
    move_into_link_name_space(name.as_fd(), Some(LinkNameSpaceType::Network))?;
    Builder::new_current_thread().enable_all().build()
}

/// User and system time together, to the nanosecond.
///
/// # Errors
/// A kernel without scheduling statistics.
pub fn cpu_of_this_thread() -> Result<Duration> {
    let path = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(path).context(path)?;
    let nanos = text.split_whitespace().next().context(path)?;
    Ok(Duration::from_nanos(nanos.parse().context(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_takes_cpu_time() {
        let before = cpu_of_this_thread().expect("readable");
        let mut spent = before;
        while spent == before {
            spent = cpu_of_this_thread().expect("readable");
        }
        assert!(spent > before);
    }
}
