//! One child process of ours: started in a group of its own, its output kept, ended by its own id.
//!
//! What for: the binaries under test and the programs around them. What not for: finding or ending anything that was not
//! started here. Invariant: no child outlives its `Process`, and none outlives this program, however it ends.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a child may take to end after it was told to, before it is killed.
const GRACE: Duration = Duration::from_secs(8);
/// Ends the child when the thread that started it ends; part of util-linux, which every Debian has.
const SETPRIV: &str = "/usr/bin/setpriv";

/// A running (or ended) child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; everything that it prints goes to the file `log`, after what is there.
    pub fn start(
        name: &str,
        program: &Path,
        args: &[OsString],
        env: &[(String, String)],
        log: &Path,
    ) -> Result<Self> {
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("{}", log.display()))?;
        let mut command = guarded(program);
        command
            .args(args)
            .envs(env.iter().map(|(key, value)| (key, value)));
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", program.display()))?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let pid = pid.context("the child ended before its process id was read")?;
        Ok(Self {
            name: name.to_owned(),
            child,
            pid,
            log: log.to_owned(),
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All that the child printed so far.
    pub fn output(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// The last lines that the child printed, for an error message.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> String {
        tail(&self.log, count)
    }

    /// How the child ended, when it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the child to end by itself.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        match timeout(within, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} was still running after {within:?}", self.name),
        }
    }

    /// Sends a signal; STOP freezes the child until CONT.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("{signal:?} to {}", self.name))
    }

    /// SIGKILL, as a crash would do it; returns when the child is gone.
    pub async fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            // It may end between the check and the signal.
            let _already_gone = kill_process(self.pid, Signal::KILL);
        }
        self.child.wait().await?;
        Ok(())
    }

    /// SIGTERM, then SIGKILL when that does not help.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            // It may end between the check and the signal.
            let _already_gone = kill_process(self.pid, Signal::TERM);
        }
        match timeout(GRACE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                self.kill().await?;
                Ok(self.child.wait().await?)
            }
        }
    }

    /// The most resident memory that the child has had.
    pub fn memory_high_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .context("no VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The group holds what the child itself may have started; gone already is as good.
            let _already_gone = kill_process_group(self.pid, Signal::KILL);
        }
    }
}

/// `program`, so wrapped that the kernel ends it when this program is killed outright.
#[must_use]
pub fn guarded(program: &Path) -> Command {
    if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// The last `count` lines of a file, empty when it cannot be read.
#[must_use]
pub fn tail(path: &Path, count: usize) -> String {
    const ENOUGH_BYTES: u64 = 16 * 1024;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(ENOUGH_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Runs a program to its end and returns what it printed to stdout; an error carries what it printed to stderr.
pub async fn run(program: &Path, args: &[&str], within: Duration) -> Result<String> {
    let mut command = guarded(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let shown = format!("{} {}", program.display(), args.join(" "));
    let output = match timeout(within, command.output()).await {
        Ok(output) => output.with_context(|| format!("cannot run {shown}"))?,
        Err(_) => bail!("`{shown}` did not end within {within:?}"),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = if said.trim().is_empty() {
            String::from_utf8_lossy(&output.stdout)
        } else {
            said
        };
        bail!("`{shown}` ended with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str, folder: &Path) -> Process {
        let args = ["-c".into(), script.into()];
        Process::start("sh", Path::new("/bin/sh"), &args, &[], &folder.join("log")).expect("starts")
    }

    #[tokio::test]
    async fn a_dropped_process_takes_its_own_children_with_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let process = start("sleep 300 & echo $!; wait", folder.path());
        let grandchild = loop {
            if let Ok(pid) = process.output().expect("readable").trim().parse::<i32>() {
                break pid;
            }
            tokio::task::yield_now().await;
        };
        drop(process);
        let gone = async {
            while fs::read_to_string(format!("/proc/{grandchild}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), gone)
            .await
            .expect("the grandchild ended");
    }

    #[tokio::test]
    async fn what_a_process_printed_is_kept_with_how_it_ended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut process = start("echo one; echo two >&2; exit 3", folder.path());
        let status = process.wait(Duration::from_secs(10)).await.expect("ends");
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.last_lines(1), "two");
        assert_eq!(process.output().expect("readable"), "one\ntwo\n");
    }

    #[tokio::test]
    async fn a_failed_run_tells_what_the_program_said() {
        let error = run(
            Path::new("/bin/sh"),
            &["-c", "echo because >&2; exit 1"],
            GRACE,
        )
        .await
        .expect_err("fails");
        assert!(error.to_string().contains("because"), "{error}");
    }
}
