//! The agent: the mirror that container clients ask, and a member of the swarms that feed it.
//!
//! `run` binds every port first and only then starts anything, so that a port in use is told before work begins.
//! Not here: pieces and peers (`shoal_peer`), process matters (`shoal_daemon`).

pub mod cli;
pub mod client;
pub mod config;
pub mod hosts;
pub mod mirror;
pub mod snippets;

mod run;
mod status;

pub use run::{Agent, AgentError, run};
