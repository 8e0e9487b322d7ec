//! A network of our own: one namespace per host, each behind a link shaped both ways, around a router in a namespace
//! that holds nothing else.
//!
//! A router and not a bridge, because of who is held to account: a kernel counts what a socket has sent until it has left
//! the host, as it leaves through a network card. Through a bridge between namespaces it would be counted until the other
//! host has taken it in, and a socket whose peer is slow would be full for all its peers.
//!
//! What for: links whose rate is known, on one machine. What not for: loss, delay, or more than one router. Invariants:
//! nothing of the machine's own network is touched; a network goes when it is dropped; one that was left behind by a
//! run that is dead is recognised by its name and removed by the next run.

pub mod machine;
pub mod room;

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cluster::needs::{self, Program};
use crate::sim::Rate;

/// Makes namespaces and links.
pub const IP: Program = Program {
    name: "ip",
    package: "iproute2",
};
/// Shapes links.
pub const TC: Program = Program {
    name: "tc",
    package: "iproute2",
};

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
const PREFIX: &str = "shoal-";
/// Of the namespace that writes it.
const FORWARDS: &str = "/proc/sys/net/ipv4/ip_forward";
const ROUTER: &str = "router";
/// The router's address on every port; a link-local one, since a host need not know others.
const GATEWAY: &str = "169.254.1.1";
/// The only interface of a host, besides loopback.
const INTERFACE: &str = "eth0";
/// What leaves a host at once, a train of 64 KiB, passes the shaper whole; otherwise it is taken apart, which costs CPU.
const BURST_BYTES_MIN: f64 = 65_536.0;
/// How long bytes wait in the shaper before they are dropped.
const QUEUE: &str = "20ms";

/// A host to be.
#[derive(Debug, Clone)]
pub struct HostPlan {
    /// At most 10 letters, digits and dashes.
    pub name: String,
    pub address: Ipv4Addr,
    /// Of its link, each way; none: as fast as the machine.
    pub link: Option<Rate>,
}

/// Namespaces that exist.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    spaces: Vec<String>,
    mtu: u16,
}

impl Network {
    /// Makes all hosts and their links.
    ///
    /// # Errors
    /// No root, no iproute2, or a kernel without namespaces, forwarding or the `tbf` shaper.
    pub fn create(hosts: &[HostPlan], mtu: u16) -> Result<Self> {
        ready()?;
        remove_leftovers();
        let own = std::process::id();
        let began = began(own).context("/proc does not know this process")?;
        let mut network = Self {
            prefix: format!("{PREFIX}{own}-{began}-"),
            spaces: Vec::new(),
            mtu,
        };
        network.add_space(ROUTER)?;
        room::inside(&network.space(ROUTER), || fs::write(FORWARDS, "1"))?
            .with_context(|| format!("cannot write {FORWARDS}"))?;
        for host in hosts {
            network.add_host(host)?;
        }
        Ok(network)
    }

    /// The name of a host's namespace.
    #[must_use]
    pub fn space(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    fn add_space(&mut self, host: &str) -> Result<()> {
        let space = self.space(host);
        ip(&format!("netns add {space}"))?;
        self.spaces.push(space);
        Ok(())
    }

    fn add_host(&mut self, host: &HostPlan) -> Result<()> {
        self.add_space(&host.name)?;
        let (space, router, mtu) = (self.space(&host.name), self.space(ROUTER), self.mtu);
        let (port, address) = (format!("p-{}", host.name), host.address);
        ip(&format!(
            "-n {router} link add name {port} mtu {mtu} type veth peer name {INTERFACE} mtu {mtu} netns {space}"
        ))?;
        // No IPv6: its router solicitations would be the only traffic that nobody asked for.
        ip(&format!("-n {space} link set {INTERFACE} addrgenmode none"))?;
        ip(&format!("-n {router} link set {port} addrgenmode none"))?;
        ip(&format!("-n {router} link set {port} up"))?;
        ip(&format!("-n {router} address add {GATEWAY}/32 dev {port}"))?;
        ip(&format!("-n {router} route add {address}/32 dev {port}"))?;
        ip(&format!(
            "-n {space} address add {address}/32 dev {INTERFACE}"
        ))?;
        ip(&format!("-n {space} link set lo up"))?;
        ip(&format!("-n {space} link set {INTERFACE} up"))?;
        ip(&format!(
            "-n {space} route add {GATEWAY}/32 dev {INTERFACE} scope link"
        ))?;
        ip(&format!("-n {space} route add default via {GATEWAY}"))?;
        if let Some(rate) = host.link {
            shape(&space, INTERFACE, rate)?;
            shape(&router, &port, rate)?;
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for space in self.spaces.drain(..).rev() {
            if let Err(error) = ip(&format!("netns delete {space}")) {
                warn(&format!("{error:#}"));
            }
        }
    }
}

/// There is no log here, and a name that stays behind must not go unnoticed; the next run removes it.
fn warn(text: &str) {
    eprintln!("shoal-loadtest: {text}");
}

/// Whether a network can be made at all, and if not, what is missing.
///
/// # Errors
/// Says what, and how to mend it.
pub fn ready() -> Result<()> {
    needs::root("a network namespace")?;
    needs::programs(&[IP, TC])?;
    fs::create_dir_all(NAMES).with_context(|| format!("cannot make {NAMES}"))
}

/// Removes the namespaces of runs that ended without removing them. What cannot be removed is left to the next run.
fn remove_leftovers() {
    let Ok(names) = fs::read_dir(NAMES) else {
        return;
    };
    for name in names.flatten() {
        let Some(name) = name.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        if owner(&name).is_some_and(|(pid, then)| began(pid) != Some(then)) {
            // Another run may have removed it first.
            let _gone = ip(&format!("netns delete {name}"));
        }
    }
}

/// The process that made a namespace, by its name: its number, and when it began.
fn owner(space: &str) -> Option<(u32, u64)> {
    let mut parts = space.strip_prefix(PREFIX)?.splitn(3, '-');
    let owner = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().map(|_host| owner)
}

/// When a process began, in ticks since the machine did: numbers of processes are used again, this is not.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

fn shape(space: &str, interface: &str, rate: Rate) -> Result<()> {
    let burst = (rate.bytes_per_sec() / 1000.0).max(BURST_BYTES_MIN);
    run(
        TC,
        &format!(
            "-n {space} qdisc add dev {interface} root tbf rate {:.0}bit burst {burst:.0} latency {QUEUE}",
            rate.bits_per_sec()
        ),
    )
}

fn ip(arguments: &str) -> Result<()> {
    run(IP, arguments)
}

fn run(program: Program, arguments: &str) -> Result<()> {
    let output = Command::new(program.path()?)
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.name))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{} {arguments}`: {}", program.name, said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_tells_who_made_it_and_a_strangers_is_left_alone() {
        assert_eq!(owner("shoal-12-3456-agent-1"), Some((12, 3456)));
        for stranger in [
            "shoal-12",
            "shoal-x-1-a",
            "other-12-3456-a",
            "shoal-12-3456",
        ] {
            assert_eq!(owner(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_process_began_once() {
        let own = std::process::id();
        assert!(began(own).is_some());
        assert_eq!(began(own), began(own));
        assert_eq!(began(u32::MAX), None);
    }
}
