//! One node's real containerd: own root, state and socket, asked through `ctr`.
//!
//! What for: showing and testing that an unchanged container runtime pulls and runs through Shoal. What not for: pods; the
//! CRI plugin, which wants a network plugin and a kubelet's care, is off unless a test asks it to pull. Invariant: what it
//! mounted is unmounted and what it started is ended before its folder goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::sleep;

use super::cri;
use super::needs::{CONTAINERD, CTR, Program, RUNC};
use super::process::{self, Process};

/// What a node needs on this machine.
pub const PROGRAMS: [Program; 3] = [CONTAINERD, CTR, RUNC];

const READY_WITHIN: Duration = Duration::from_secs(20);
/// A whole pull, on a slow line.
const PULL_WITHIN: Duration = Duration::from_secs(3600);
/// A container of the demonstration reads some hundred MiB and ends.
const RUN_WITHIN: Duration = Duration::from_secs(300);
/// A pull through the CRI, which has no word for progress.
const CRI_PULL_WITHIN: Duration = Duration::from_secs(180);
const ASK_WITHIN: Duration = Duration::from_secs(20);

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    name: String,
    folder: PathBuf,
    ctr: PathBuf,
    process: Process,
    snapshotter: &'static str,
}

impl Containerd {
    /// Starts one with everything below `folder`, a short path: its socket's name holds at most 107 bytes.
    pub async fn start(name: &str, folder: &Path) -> Result<Self> {
        let cri = json!({ "disabled_plugins": ["io.containerd.grpc.v1.cri"] });
        Self::start_with(name, folder, cri).await
    }

    /// The same with its CRI plugin, so that it pulls as for a kubelet.
    pub async fn start_with_cri(name: &str, folder: &Path) -> Result<Self> {
        let plugin = json!({
            "cni": { "bin_dir": folder.join("cni"), "conf_dir": folder.join("cni") },
            "containerd": { "snapshotter": "native" },
            "registry": { "config_path": folder.join("certs.d") },
        });
        let plugins = json!({ "plugins": { "io.containerd.grpc.v1.cri": plugin } });
        Self::start_with(name, folder, plugins).await
    }

    async fn start_with(name: &str, folder: &Path, plugins: serde_json::Value) -> Result<Self> {
        let mut config = json!({
            "version": 2,
            "root": folder.join("root"),
            "state": folder.join("state"),
            "grpc": { "address": folder.join("sock") },
        });
        if let (Some(config), Some(plugins)) = (config.as_object_mut(), plugins.as_object()) {
            config.extend(plugins.clone());
        }
        fs::create_dir_all(folder.join("certs.d"))?;
        let file = folder.join("config.toml");
        fs::write(&file, toml::to_string(&config)?)?;
        let args = ["--config".into(), file.into()];
        let process = Process::start(name, &CONTAINERD.path()?, &args, &[], &folder.join("log"))?;
        let (name, folder, ctr) = (name.to_owned(), folder.to_owned(), CTR.path()?);
        let mut node = Self {
            name,
            folder,
            ctr,
            process,
            snapshotter: "native",
        };
        let plugins = node.wait_ready().await?;
        if works(&plugins, "overlayfs") {
            node.snapshotter = "overlayfs";
        }
        Ok(node)
    }

    async fn wait_ready(&mut self) -> Result<String> {
        let started = Instant::now();
        loop {
            match self.ctr(&["plugins", "ls"], ASK_WITHIN).await {
                Ok(plugins) => return Ok(plugins),
                Err(error) if started.elapsed() > READY_WITHIN => {
                    return Err(error.context(format!(
                        "{} is not ready: {}",
                        self.name,
                        self.process.last_lines(5)
                    )));
                }
                Err(_) => {}
            }
            if let Some(status) = self.process.ended()? {
                bail!(
                    "{} ended with {status}: {}",
                    self.name,
                    self.process.last_lines(5)
                );
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The folder for `hosts.toml` files.
    #[must_use]
    pub fn hosts_dir(&self) -> PathBuf {
        self.folder.join("certs.d")
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    #[must_use]
    pub fn snapshotter(&self) -> &'static str {
        self.snapshotter
    }

    /// What a person types to use this node by hand.
    #[must_use]
    pub fn ctr_by_hand(&self) -> String {
        format!(
            "ctr -a {} images pull --hosts-dir {} IMAGE",
            self.socket().display(),
            self.hosts_dir().display()
        )
    }

    /// Pulls and unpacks; returns how long that took.
    pub async fn pull(&self, image: &str) -> Result<Duration> {
        self.pull_with(image, &[]).await
    }

    /// The same for a user, as `name:password`, who is told to whoever asks for one.
    pub async fn pull_as(&self, image: &str, user: &str) -> Result<Duration> {
        self.pull_with(image, &["--user", user]).await
    }

    async fn pull_with(&self, image: &str, more: &[&str]) -> Result<Duration> {
        let (started, hosts) = (Instant::now(), self.hosts_dir());
        let hosts = hosts
            .to_str()
            .context("the temporary folder's name is not UTF-8")?;
        let mut args = vec![
            "images",
            "pull",
            "--snapshotter",
            self.snapshotter,
            "--hosts-dir",
            hosts,
        ];
        args.extend(more);
        args.push(image);
        self.ctr(&args, PULL_WITHIN).await?;
        Ok(started.elapsed())
    }

    /// The digest of what an image's name stands for here.
    pub async fn image_digest(&self, image: &str) -> Result<String> {
        let filter = format!("name=={image}");
        let said = self.ctr(&["images", "ls", &filter], ASK_WITHIN).await?;
        let digest = said
            .split_whitespace()
            .find(|word| word.starts_with("sha256:"));
        Ok(digest.context("no such image")?.to_owned())
    }

    /// Has the CRI plugin pull, as a kubelet does; returns the image's id.
    pub async fn cri_pull(&self, image: &str, auth: Option<cri::AuthConfig>) -> Result<String> {
        cri::pull_image(&self.socket(), image, auth, CRI_PULL_WITHIN).await
    }

    /// Writes a `hosts.toml` for a registry, `_default` or `host:port`: the hosts in order, then `server`.
    pub fn set_hosts(&self, registry: &str, hosts: &[&str], server: Option<&str>) -> Result<()> {
        let folder = self.hosts_dir().join(registry);
        fs::create_dir_all(&folder)?;
        let mut text = server.map_or_else(String::new, |server| format!("server = \"{server}\"\n"));
        for host in hosts {
            text.push_str(&format!(
                "[host.\"{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
            ));
        }
        fs::write(folder.join("hosts.toml"), text)?;
        Ok(())
    }

    /// Runs the image's own command, or `command`, and returns what it printed.
    pub async fn run(&self, image: &str, id: &str, command: &[&str]) -> Result<String> {
        let node = format!("NODE={}", self.name);
        let mut args = vec![
            "run",
            "--rm",
            "--net-host",
            "--env",
            &node,
            "--snapshotter",
            self.snapshotter,
            image,
            id,
        ];
        args.extend(command);
        self.ctr(&args, RUN_WITHIN).await
    }

    /// `ctr` with our socket.
    async fn ctr(&self, args: &[&str], within: Duration) -> Result<String> {
        let socket = self.socket();
        let mut all = vec![
            "-a",
            socket
                .to_str()
                .context("the temporary folder's name is not UTF-8")?,
        ];
        all.extend(args);
        process::run(&self.ctr, &all, within).await
    }

    /// Ends containerd, then what it left running and mounted.
    pub async fn stop(&mut self) -> Result<()> {
        let ended = self.process.stop().await;
        end_shims(&self.folder);
        unmount_below(&self.folder);
        ended.map(|_status| ())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // An orderly `stop` came before, unless a test failed: then this is all the care that there is.
        end_shims(&self.folder);
        unmount_below(&self.folder);
    }
}

/// Whether `ctr plugins ls` lists a snapshotter as ok.
fn works(plugins: &str, snapshotter: &str) -> bool {
    plugins.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words
            .first()
            .is_some_and(|kind| kind.ends_with("snapshotter.v1"))
            && words.get(1) == Some(&snapshotter)
            && words.last() == Some(&"ok")
    })
}

/// Ends the shims of this containerd alone: they carry its socket's address, which is ours, in their command line.
fn end_shims(folder: &Path) {
    let ours = folder.join("sock").into_os_string().into_encoded_bytes();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw)
        else {
            continue;
        };
        let Ok(command) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let mut words = command.split(|byte| *byte == 0);
        let is_shim = words
            .next()
            .is_some_and(|word| word.windows(15).any(|part| part == b"containerd-shim"));
        if is_shim && words.any(|word| word.starts_with(&ours)) {
            // It may end between the look and the signal.
            let _already_gone = kill_process(pid, Signal::KILL);
        }
    }
}

/// Detaches every mount below a folder of ours, the innermost first.
pub(super) fn unmount_below(folder: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
        return;
    };
    for line in mounts.lines().rev() {
        if let Some(point) = line
            .split(' ')
            .nth(4)
            .filter(|point| Path::new(point).starts_with(folder))
        {
            // What is left mounted shows when the folder cannot be removed.
            let _still_there = unmount(point, UnmountFlags::DETACH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshotter_is_used_only_when_containerd_says_that_it_works() {
        let plugins = "TYPE                            ID          PLATFORMS      STATUS    \n\
                       io.containerd.snapshotter.v1    devmapper   linux/amd64    error     \n\
                       io.containerd.snapshotter.v1    native      linux/amd64    ok        \n\
                       io.containerd.service.v1        overlayfs   -              ok        \n\
                       io.containerd.snapshotter.v1    overlayfs   linux/amd64    ok        \n";
        assert!(works(plugins, "overlayfs"));
        assert!(works(plugins, "native"));
        assert!(!works(plugins, "devmapper"));
        let broken = plugins.replace(
            "overlayfs   linux/amd64    ok",
            "overlayfs   linux/amd64    skip",
        );
        assert!(!works(&broken, "overlayfs"));
    }
}
