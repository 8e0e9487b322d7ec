//! A link: an authenticated, encrypted connection between two processes of one cluster.
//!
//! What it promises: when a [`Link`] exists, both sides have proven their keys (TLS) and their memberships (handshake,
//! docs/PROTOCOL.md §1), the other side has the role it was dialed for, and every frame that is read from it was bounded
//! before it was read. What it knows nothing of: blobs, pieces, and what the messages mean.
//!
//! Everything here has a deadline or a bound: handshakes under way, links, streams, frames. A link ends when either side closes
//! it, when the last handle of it is dropped, or with [`Endpoint::close`]; dropping an [`Endpoint`] alone does not end it.

mod accept;
mod credentials;
mod dial;
mod endpoint;
mod framed;
mod handshake;
mod identity;
mod link;
mod socket;
mod tls;

#[cfg(test)]
mod tests;

pub use accept::{Acceptor, Refused};
pub use credentials::{Admit, AdmitError, Clock, Credentials};
pub use dial::{DialError, Expect};
pub use endpoint::{BindError, Endpoint, EndpointOptions};
pub use framed::{ControlReceiver, ControlSender, FrameError, Framed, RecvHalf, SendHalf};
pub use handshake::HandshakeError;
pub use identity::{Identity, IdentityError, random_bytes};
pub use link::{AnswerStream, AskStream, Connected, Link, LinkError};
pub use tls::TlsError;
