//! Ends a run in order when somebody wants it to end: Ctrl-C, SIGTERM, a closed terminal.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// Resolves at the first such signal; from the call on, none of them ends this program by itself.
pub fn listen() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            _ = hangup.recv() => (),
        }
    })
}
