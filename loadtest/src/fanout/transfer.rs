//! One tuned QUIC transfer over the same links: what a fan-out is held against.
//!
//! Both ends are endpoints as the product makes them (`shoal-link`), so that the transfer is tuned exactly as the
//! product is; nothing is hashed, stored or decided. Not here: what the rest of the floor costs.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use shoal_link::{Acceptor, Credentials, Endpoint, EndpointOptions, Expect, Identity};
use shoal_proto::limits::SERVE_STEP_BYTES;
use shoal_proto::wire::CloseCode;
use shoal_proto::{ClusterKey, Membership, Role, Zone};

use crate::network::room::Room;

/// The least and the most that is moved; between them, what takes [`AIM`].
const BYTES_MIN: u64 = 16 << 20;
const BYTES_MAX: u64 = 1 << 30;
/// Long against slow start, short against a fan-out.
const AIM: Duration = Duration::from_secs(6);
/// A transfer at a hundredth of the rate that was hoped for is a failure.
const WITHIN: Duration = Duration::from_secs(120);
const MEMBERSHIP_LIFE_S: u64 = 3600;

/// What it took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfer {
    pub(super) bytes: u64,
    pub(super) took: Duration,
    /// Of both ends.
    pub(super) cpu: Duration,
}

/// What bare transfers reached before the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfers {
    pub(super) one: Transfer,
    /// Not measured where links are not shaped: there the machine would be.
    pub(super) both: Option<Transfer>,
}

impl Transfer {
    pub(super) fn bits_per_sec(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.took.as_secs_f64()
    }

    pub(super) fn cpu_s_per_gib(&self) -> f64 {
        super::seconds(self.cpu) / (self.bytes as f64 / f64::from(1u32 << 30))
    }
}

/// How much to move over a link of this rate.
pub(super) fn bytes_for(bytes_per_sec: Option<u64>, blob_bytes: u64) -> u64 {
    let in_time = bytes_per_sec.map_or(BYTES_MAX, |rate| rate.saturating_mul(AIM.as_secs()));
    in_time
        .clamp(BYTES_MIN, BYTES_MAX)
        .min(blob_bytes.max(BYTES_MIN))
}

/// Moves `bytes` from a process in one room to one in the other; `address` is the sender's.
pub(super) async fn transfer(
    from: &Room,
    to: &Room,
    address: SocketAddr,
    bytes: u64,
) -> Result<Transfer> {
    let key = ClusterKey::from_secret(&[7; 32]);
    let sender = member(&key, Role::Origin)?;
    let taker = member(&key, Role::Agent)?;
    let (_endpoint, acceptor) = from.run(async move { bind(address, sender) }).await??;
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let before = from.cpu().await? + to.cpu().await?;
    let sending = from.run(give(acceptor, bytes));
    let taking = to.run(take(any, taker, address, bytes));
    let both = async { tokio::try_join!(sending, taking) };
    let (gave, took) = tokio::time::timeout(WITHIN, both)
        .await
        .context("a bare QUIC transfer did not end")??;
    gave?;
    let took = took?;
    let cpu = (from.cpu().await? + to.cpu().await?).saturating_sub(before);
    Ok(Transfer { bytes, took, cpu })
}

/// The same both ways at once, as every host of a fan-out takes and gives at once: acknowledgements wait behind what
/// goes the same way. The slower of the two counts.
pub(super) async fn both_ways(
    ends: [&Room; 2],
    addresses: [SocketAddr; 2],
    bytes: u64,
) -> Result<Transfer> {
    let [one, other] = ends;
    let (there, back) = tokio::try_join!(
        transfer(one, other, addresses[0], bytes),
        transfer(other, one, addresses[1], bytes),
    )?;
    let slower = there.took.max(back.took);
    Ok(Transfer {
        took: slower,
        ..there
    })
}

fn member(key: &ClusterKey, role: Role) -> Result<(Identity, Credentials)> {
    let identity = Identity::generate().context("no key could be made")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let membership = key.sign(&Membership {
        peer: identity.peer_id(),
        role,
        zone: Zone::default(),
        not_after_unix_s: now + MEMBERSHIP_LIFE_S,
    });
    let credentials = Credentials::new(vec![key.public()], Some(membership));
    Ok((identity, credentials))
}

fn bind(
    address: SocketAddr,
    (identity, credentials): (Identity, Credentials),
) -> Result<(Endpoint, Acceptor)> {
    Ok(Endpoint::bind(EndpointOptions::new(
        address,
        identity,
        credentials,
    ))?)
}

async fn give(mut acceptor: Acceptor, bytes: u64) -> Result<()> {
    let accepted = acceptor.next().await.context("the endpoint is closed")?;
    let connected = accepted
        .map_err(|refused| anyhow::anyhow!("a bare QUIC pair did not meet: {}", refused.reason))?;
    let mut stream = connected.link.accept_ask().await?;
    let step = Bytes::from(vec![0x5a; SERVE_STEP_BYTES]);
    let mut left = bytes;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(step.len());
        stream.send.write_bytes(step.slice(..take)).await?;
        left -= take as u64;
    }
    stream.send.finish();
    ensure!(stream.send.taken().await, "the taker gave up");
    Ok(())
}

async fn take(
    bind_to: SocketAddr,
    who: (Identity, Credentials),
    address: SocketAddr,
    bytes: u64,
) -> Result<Duration> {
    let (endpoint, _acceptor) = bind(bind_to, who)?;
    let connected = endpoint.dial(address, Expect::Role(Role::Origin)).await?;
    let mut stream = connected.link.open_ask().await?;
    let started = Instant::now();
    // The other side hears of a stream with its first byte.
    stream.send.write_bytes(Bytes::from_static(b"?")).await?;
    let mut taken = 0;
    while let Some(read) = stream.recv.read_bytes(SERVE_STEP_BYTES).await? {
        taken += read.len() as u64;
    }
    let took = started.elapsed();
    ensure!(taken == bytes, "{taken} of {bytes} bytes came");
    endpoint.close(CloseCode::Done).await;
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_as_long_as_its_link_deserves() {
        assert_eq!(bytes_for(Some(12_500_000), 256 << 20), 75_000_000);
        assert_eq!(bytes_for(Some(1), 256 << 20), BYTES_MIN);
        assert_eq!(bytes_for(None, 2 << 30), BYTES_MAX);
        assert_eq!(bytes_for(None, 64 << 20), 64 << 20);
    }
}
