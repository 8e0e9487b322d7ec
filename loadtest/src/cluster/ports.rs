//! Free ports on loopback for processes whose ports must be known before they start.
//!
//! What for: configuration files that name each other's ports. What not for: a promise: a port is free when it is noted
//! and may be taken before its process binds it, so whoever starts a process tries again with other ports.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::Result;

/// Ports that were free together a moment ago, all different.
#[derive(Debug, Default)]
pub struct Ports {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Ports {
    /// A free TCP port; kept until this value is dropped.
    pub fn tcp(&mut self) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        self.tcp.push(listener);
        Ok(addr)
    }

    /// A free UDP port; kept until this value is dropped.
    pub fn udp(&mut self) -> Result<SocketAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = socket.local_addr()?;
        self.udp.push(socket);
        Ok(addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noted_ports_differ_and_can_be_bound_once_they_are_let_go() {
        let mut ports = Ports::default();
        let first = ports.tcp().expect("a port");
        let second = ports.tcp().expect("a port");
        let third = ports.udp().expect("a port");
        assert_ne!(first, second);
        assert!(TcpListener::bind(first).is_err(), "held");
        drop(ports);
        TcpListener::bind(first).expect("free again");
        UdpSocket::bind(third).expect("free again");
    }
}
