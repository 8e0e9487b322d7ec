//! The UDP socket of an endpoint, with a bound on what waits in the host's own queue.
//!
//! What a socket has sent and its host has not stands in the queue before the host's link, which everything on the host
//! shares. With megabytes of it, acknowledgements of what the host takes in wait behind: at 100 Mbit/s 25 ms, and an origin
//! that gave over the same link took in 86 Mbit/s from its upstream instead of 96. And what the queue has no room for is
//! dropped, though no link but the own one was full. So a socket may only have under way what its host sends in about
//! [`QUEUE_TIME`]; after that it says that it is full, QUIC waits for it, and nothing is lost. Kernels do the same for each
//! TCP connection ("small queues").
//!
//! The bound follows the rate, since what is a long queue for a slow link is an empty one for a fast link before a busy
//! process has had its turn. Not here: how much each peer may have under way, which is congestion control's.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};
use socket2::SockRef;

/// What may wait before the link, in time. A process on a busy machine has its next turn within it.
const QUEUE_TIME: Duration = Duration::from_millis(5);
/// Never less, in bytes with the kernel's own share of them: eight trains of packets.
const QUEUE_BYTES_MIN: u64 = 128 << 10;
/// Never more, in bytes: what had been enough for any rate that two cores reach, and a bound on the kernel's memory.
const QUEUE_BYTES_MAX: u64 = 8 << 20;
/// How often the rate is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The highest rate loses one part in so many with each look at a lower one: a second's pause does not make a link slow.
const FADE_ONE_IN: u64 = 20;
/// The kernel is told when the bound is off by more than one part in so many.
const OFF_ONE_IN: u64 = 4;

/// A socket that says it is full before its host's queue is.
#[derive(Debug)]
pub(crate) struct ShallowSocket {
    io: Arc<dyn AsyncUdpSocket>,
    /// The same socket, for its options.
    socket: UdpSocket,
    meter: Mutex<Meter>,
}

impl ShallowSocket {
    /// Of a socket that is bound and does not block.
    pub(crate) fn new(socket: UdpSocket, runtime: &dyn Runtime) -> io::Result<Self> {
        let shallow = Self {
            io: runtime.wrap_udp_socket(socket.try_clone()?)?,
            socket,
            meter: Mutex::new(Meter::new(Instant::now())),
        };
        shallow.bound(QUEUE_BYTES_MIN);
        Ok(shallow)
    }

    fn count(&self, bytes: usize) {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = meter.sent(bytes as u64, Instant::now()) {
            self.bound(bound);
        }
    }

    fn bound(&self, bytes: u64) {
        // The kernel makes twice of it what one asks for, and grants what it allows.
        let half = usize::try_from(bytes / 2).unwrap_or(usize::MAX);
        if let Err(error) = SockRef::from(&self.socket).set_send_buffer_size(half) {
            tracing::debug!(%error, bytes, "the send buffer stays as it is");
        }
    }
}

impl AsyncUdpSocket for ShallowSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.io).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_send(transmit)?;
        self.count(transmit.contents.len());
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.io.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.io.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.io.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.io.may_fragment()
    }
}

/// Which bound the rate of late asks for.
#[derive(Debug)]
struct Meter {
    looked_at: Instant,
    /// Since then.
    bytes: u64,
    /// The highest of late, fading, in bytes a second.
    rate: u64,
    bound: u64,
}

impl Meter {
    fn new(now: Instant) -> Self {
        Self {
            looked_at: now,
            bytes: 0,
            rate: 0,
            bound: QUEUE_BYTES_MIN,
        }
    }

    /// Counts what was sent; a new bound when it is time for one.
    fn sent(&mut self, bytes: u64, now: Instant) -> Option<u64> {
        self.bytes = self.bytes.saturating_add(bytes);
        let since = now.saturating_duration_since(self.looked_at);
        if since < LOOK_EVERY {
            return None;
        }
        let rate = self.bytes.saturating_mul(1000) / millis(since);
        self.rate = rate.max(self.rate - self.rate / FADE_ONE_IN);
        self.bytes = 0;
        self.looked_at = now;
        let wanted = self.rate.saturating_mul(millis(QUEUE_TIME)) / 1000;
        let wanted = wanted.clamp(QUEUE_BYTES_MIN, QUEUE_BYTES_MAX);
        let off = wanted.abs_diff(self.bound) > self.bound / OFF_ONE_IN;
        off.then(|| {
            self.bound = wanted;
            wanted
        })
    }
}

/// At least one.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends at a rate for a time, in steps of a millisecond; the bound afterwards.
    fn send(meter: &mut Meter, now: &mut Instant, bytes_per_sec: u64, millis: u64) -> u64 {
        for _ in 0..millis {
            *now += Duration::from_millis(1);
            meter.sent(bytes_per_sec / 1000, *now);
        }
        meter.bound
    }

    #[test]
    fn a_slow_link_has_a_short_queue_and_a_fast_one_what_it_sends_in_its_time() {
        let mut now = Instant::now();
        let mut meter = Meter::new(now);
        assert_eq!(send(&mut meter, &mut now, 12_500_000, 500), QUEUE_BYTES_MIN);
        let fast = send(&mut meter, &mut now, 125_000_000, 500);
        assert!((600_000..=640_000).contains(&fast), "{fast}");
        let faster = send(&mut meter, &mut now, 5_000_000_000, 500);
        assert_eq!(faster, QUEUE_BYTES_MAX);
    }

    #[test]
    fn a_pause_leaves_the_queue_and_a_slower_link_shortens_it() {
        let mut now = Instant::now();
        let mut meter = Meter::new(now);
        let fast = send(&mut meter, &mut now, 125_000_000, 200);
        now += Duration::from_secs(10);
        assert_eq!(send(&mut meter, &mut now, 125_000_000, 100), fast);
        let slow = send(&mut meter, &mut now, 1_000_000, 5_000);
        assert!(slow <= QUEUE_BYTES_MIN * 5 / 4, "{slow}");
    }

    #[test]
    fn time_that_stands_still_or_goes_back_is_no_rate() {
        let now = Instant::now();
        let mut meter = Meter::new(now + Duration::from_secs(1));
        assert_eq!(meter.sent(u64::MAX, now), None);
        assert_eq!(meter.sent(u64::MAX, now), None);
        let later = now + Duration::from_secs(2);
        assert_eq!(meter.sent(1, later), Some(QUEUE_BYTES_MAX));
    }

    #[tokio::test]
    async fn the_kernel_is_told_of_each_bound() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = ShallowSocket::new(socket, &quinn::TokioRuntime).unwrap();
        let granted = || SockRef::from(&socket.socket).send_buffer_size().unwrap() as u64;
        assert_eq!(granted(), QUEUE_BYTES_MIN);
        socket.bound(2 * QUEUE_BYTES_MIN);
        assert_eq!(granted(), 2 * QUEUE_BYTES_MIN);
    }
}
