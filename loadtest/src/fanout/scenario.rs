//! The conditions of a fan-out, and what follows from them alone: sizes, addresses, bounds, deadlines.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shoal_proto::Geometry;

use crate::cluster::config::Addresses;
use crate::network::HostPlan;
use crate::sim::Rate;

/// Names of hosts.
pub(super) const UPSTREAM: &str = "upstream";
pub(super) const ORIGIN: &str = "origin";

/// Layers of mixed sizes: shares of the whole, in the order in which the manifest names them. Images look like this: a
/// base that is large, a few large layers, and small ones between them.
const SHARES: [u64; 8] = [16, 2, 32, 1, 8, 4, 16, 1];
/// Tar archives are made of blocks of this size.
const BLOCK_BYTES: u64 = 512;
const LAYER_BYTES_MIN: u64 = 4 * BLOCK_BYTES;
/// What an unshaped link is taken to carry at least, for deadlines only.
const SLOW_MACHINE_BYTES_PER_SEC: f64 = 40e6;

/// A link's rate; none: as fast as the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkRate(Option<Rate>);

impl LinkRate {
    #[must_use]
    pub fn rate(self) -> Option<Rate> {
        self.0
    }
}

impl FromStr for LinkRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        text.parse()
            .map(|rate| Self(Some(rate)))
            .map_err(|error| format!("{error}, or none"))
    }
}

impl fmt::Display for LinkRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => rate.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// What is run.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub agents: usize,
    pub link: LinkRate,
    pub mtu: u16,
    /// Bytes of each layer.
    pub layers: Vec<u64>,
    pub zones: usize,
    pub upstream_rate: Option<Rate>,
    pub freeze: usize,
    pub stagger: Duration,
    pub seeded: bool,
    pub warm: bool,
    pub preheat: bool,
    pub baseline: bool,
    pub floor: bool,
    pub seed: u64,
    pub keep: bool,
}

impl Scenario {
    /// All layers together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layers.iter().sum()
    }

    /// Of the layer with the longest pieces.
    ///
    /// # Errors
    /// A layer that cannot be cut.
    pub fn piece_bytes(&self) -> Result<u64> {
        let longest = self.layers.iter().copied().max().unwrap_or(0);
        let geometry = Geometry::for_blob(longest).context("a layer cannot be cut into pieces")?;
        Ok(u64::from(geometry.piece_bytes()))
    }

    /// Seconds that the bytes of the image take over one link; on links that are not shaped, over a slow machine.
    #[must_use]
    pub fn line_time(&self) -> Duration {
        let rate = self
            .link
            .rate()
            .map_or(SLOW_MACHINE_BYTES_PER_SEC, Rate::bytes_per_sec);
        Duration::from_secs_f64(self.bytes() as f64 / rate)
    }

    /// What the upstream takes to give everything once, where it is limited.
    #[must_use]
    pub fn upstream_time(&self) -> Option<Duration> {
        let rate = self.upstream_rate?;
        Some(Duration::from_secs_f64(
            self.bytes() as f64 / rate.bytes_per_sec(),
        ))
    }

    /// After this long, who has not got everything has failed.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let copies = if self.baseline { self.agents } else { 1 };
        let copies = u32::try_from(copies).unwrap_or(u32::MAX);
        let upstream = self.upstream_time().unwrap_or_default() * copies;
        self.stagger + (self.line_time() * copies + upstream) * 3 + Duration::from_secs(60)
    }

    /// The zone of the agent with this index; the origin is in that of index 0.
    #[must_use]
    pub fn zone_of(&self, index: usize) -> String {
        format!("zone-{}", index % self.zones)
    }

    /// Every host and its link.
    #[must_use]
    pub fn hosts(&self) -> Vec<HostPlan> {
        let shaped = self.link.rate();
        let host = |name: &str, address, link| HostPlan {
            name: name.to_owned(),
            address,
            link,
        };
        let upstream = if self.baseline { shaped } else { None };
        let mut hosts = vec![host(UPSTREAM, upstream_ip(), upstream)];
        if !self.baseline {
            hosts.push(host(ORIGIN, origin_ip(), shaped));
        }
        hosts.extend((0..self.agents).map(|index| host(&agent(index), agent_ip(index), shaped)));
        hosts
    }
}

/// The name of the agent with this index.
pub(super) fn agent(index: usize) -> String {
    format!("agent-{}", index + 1)
}

fn upstream_ip() -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 2)
}

fn origin_ip() -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10)
}

fn agent_ip(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, u8::try_from(index + 1).unwrap_or(u8::MAX))
}

/// Where the upstream registry answers.
pub(super) fn upstream_address() -> SocketAddr {
    (upstream_ip(), 5000).into()
}

/// Where bare QUIC transfers are taken from, of the origin and of the first agent: each time from other ports, because
/// an endpoint that was closed lingers on its own.
pub(super) fn transfer_addresses(time: u16) -> [SocketAddr; 2] {
    [origin_ip(), agent_ip(0)].map(|ip| (ip, 7900 + time).into())
}

/// The ports of the origin.
pub(super) fn origin_addresses() -> Addresses {
    addresses(origin_ip(), 5051, 7051, 9051)
}

/// The ports of the agent with this index.
pub(super) fn agent_addresses(index: usize) -> Addresses {
    addresses(agent_ip(index), 5050, 7050, 9050)
}

fn addresses(ip: Ipv4Addr, registry: u16, peers: u16, admin: u16) -> Addresses {
    let inside = Ipv4Addr::LOCALHOST;
    Addresses {
        registry: (inside, registry).into(),
        peers: (ip, peers).into(),
        admin: (inside, admin).into(),
        bound: (inside, 5060).into(),
        tracker: (origin_ip(), 7052).into(),
    }
}

/// Sizes of so many layers that are `bytes` together, each one that a tar archive can have.
///
/// # Errors
/// Too few bytes for so many layers.
pub(super) fn layer_sizes(bytes: u64, layers: usize) -> Result<Vec<u64>> {
    let bytes = bytes / BLOCK_BYTES * BLOCK_BYTES;
    let shares: Vec<u64> = SHARES.iter().copied().cycle().take(layers).collect();
    let all: u64 = shares.iter().sum();
    let mut sizes: Vec<u64> = shares
        .iter()
        .map(|share| bytes / all * share / BLOCK_BYTES * BLOCK_BYTES)
        .collect();
    let rest = bytes - sizes.iter().sum::<u64>();
    if let Some(first) = sizes.first_mut() {
        *first += rest;
    }
    ensure!(
        sizes.iter().all(|size| *size >= LAYER_BYTES_MIN),
        "--blob is too little for {layers} layers"
    );
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_the_whole_together_and_of_mixed_sizes() {
        for (bytes, layers) in [(256 << 20, 1), (512 << 20, 6), (512 << 20, 20)] {
            let sizes = layer_sizes(bytes, layers).expect("enough");
            assert_eq!(sizes.len(), layers);
            assert_eq!(sizes.iter().sum::<u64>(), bytes);
            assert!(sizes.iter().all(|size| size % BLOCK_BYTES == 0));
        }
        let sizes = layer_sizes(512 << 20, 6).expect("enough");
        let largest = sizes.iter().max().expect("six");
        let smallest = sizes.iter().min().expect("six");
        assert!(largest / smallest >= 30, "{sizes:?}");
        assert!(layer_sizes(4096, 6).is_err());
    }

    #[test]
    fn a_link_is_a_rate_or_none() {
        let link: LinkRate = "100mbit".parse().expect("a rate");
        assert_eq!(link.rate().map(Rate::bits_per_sec), Some(1e8));
        let none: LinkRate = "none".parse().expect("none");
        assert_eq!(none.rate(), None);
        assert_eq!(format!("{link} {none}"), "100mbit none");
        assert!("fast".parse::<LinkRate>().is_err());
    }
}
