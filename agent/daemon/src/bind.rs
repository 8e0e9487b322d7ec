//! Opening a listening port, with an error that says who to look for.
//!
//! The UDP port of the peers is bound by the crate that owns the connections; it wraps its error in a `BindError`
//! so that operators read the same line.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// A port that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {protocol} {addr} for {purpose}: {source}; {}", self.advice())]
pub struct BindError {
    /// What the port is for, as an operator says it: "the registry", "the admin port".
    pub purpose: &'static str,
    /// The key that sets it, as `section.key`.
    pub key: &'static str,
    /// The address asked for.
    pub addr: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What the system said.
    pub source: io::Error,
}

/// The transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP listeners.
    Tcp,
    /// QUIC sockets.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl BindError {
    fn advice(&self) -> String {
        let port = self.addr.port();
        let variable = format!("SHOAL_{}", self.key.replace('.', "_").to_ascii_uppercase());
        let elsewhere = format!("set `{}` ({variable}) to another address", self.key);
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                let flag = match self.protocol {
                    Protocol::Tcp => 't',
                    Protocol::Udp => 'u',
                };
                format!(
                    "`ss -l{flag}np sport = :{port}` shows who has it; stop that, or {elsewhere}"
                )
            }
            io::ErrorKind::AddrNotAvailable => {
                format!(
                    "no interface of this host has {}; {elsewhere}",
                    self.addr.ip()
                )
            }
            io::ErrorKind::PermissionDenied if port < 1024 => {
                format!("ports below 1024 need CAP_NET_BIND_SERVICE; grant it, or {elsewhere}")
            }
            _ => elsewhere,
        }
    }
}

/// Listens on `addr` for `purpose`, an address that the operator sets with `key`. Port 0 lets the system choose.
pub async fn tcp(
    purpose: &'static str,
    key: &'static str,
    addr: SocketAddr,
) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr).await.map_err(|source| BindError {
        purpose,
        key,
        addr,
        protocol: Protocol::Tcp,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_says_who_to_look_for_and_what_to_set() {
        let first = tcp(
            "the registry",
            "registry.listen",
            "127.0.0.1:0".parse().unwrap(),
        )
        .await
        .unwrap();
        let addr = first.local_addr().unwrap();
        let error = tcp("the registry", "registry.listen", addr)
            .await
            .unwrap_err();
        let text = error.to_string();
        for part in [
            &addr.to_string(),
            "the registry",
            &format!("ss -ltnp sport = :{}", addr.port()),
            "SHOAL_REGISTRY_LISTEN",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[tokio::test]
    async fn an_address_of_another_host_says_so() {
        let error = tcp(
            "the admin port",
            "admin.listen",
            "192.0.2.1:0".parse().unwrap(),
        )
        .await
        .unwrap_err();
        assert!(
            error.to_string().contains("no interface of this host"),
            "{error}"
        );
    }

    #[test]
    fn a_privileged_port_says_what_it_needs() {
        let error = BindError {
            purpose: "the peers",
            key: "peers.listen",
            addr: "0.0.0.0:443".parse().unwrap(),
            protocol: Protocol::Udp,
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert!(
            error.to_string().contains("CAP_NET_BIND_SERVICE"),
            "{error}"
        );
    }
}
