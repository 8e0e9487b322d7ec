//! A real browser, headless: what it makes of a page, and what it complains of.
//!
//! What for: tests of the pages that people look at. What not for: clicking; none of our pages needs it. Invariant: a
//! browser has a profile of its own, which goes with it, and a deadline.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::needs;

/// A browser on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Without a sandbox, which a container cannot give, and without the calls home that a browser begins with.
const ARGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
];

/// A page as the browser has it in the end.
#[derive(Debug, Clone)]
pub struct Seen {
    pub dom: String,
    /// What the page made it say on its console.
    pub complaints: Vec<String>,
}

/// Opens a page and gives its scripts, if it has any, this much time of the browser's own.
///
/// # Errors
/// No browser, or one that fails or takes too long.
pub async fn see(url: &str, settled_after: Duration) -> Result<Seen> {
    let mut args = vec![OsString::from("--dump-dom")];
    // With none at all it would wait for ever.
    if !settled_after.is_zero() {
        args.push(format!("--virtual-time-budget={}", settled_after.as_millis()).into());
    }
    let (dom, log) = browse(url, &args).await?;
    let said = log.lines().filter(|line| line.contains("CONSOLE"));
    Ok(Seen {
        dom,
        complaints: said.map(str::to_owned).collect(),
    })
}

/// Takes a picture of a page, so many pixels wide and high, by day or by night.
///
/// # Errors
/// As [`see`].
pub async fn picture(url: &str, png: &Path, size: (u32, u32), dark: bool) -> Result<()> {
    let mut shot = OsString::from("--screenshot=");
    shot.push(png);
    let size = format!("--window-size={},{}", size.0, size.1);
    let scheme = u8::from(!dark);
    let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
    browse(url, &[shot, size.into(), scheme.into()]).await?;
    Ok(())
}

/// What it printed, and what it logged.
async fn browse(url: &str, args: &[OsString]) -> Result<(String, String)> {
    let profile = tempfile::tempdir()?;
    let mut data = OsString::from("--user-data-dir=");
    data.push(profile.path());
    let browser = tokio::process::Command::new(needs::CHROMIUM.path()?)
        .args(ARGS)
        .arg(data)
        .args(args)
        .arg(url)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, browser)
        .await
        .with_context(|| format!("the browser took longer than {DEADLINE:?}"))??;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let log = text(&output.stderr);
    ensure!(output.status.success(), "the browser failed: {log}");
    Ok((text(&output.stdout), log))
}
