//! The core under test: two nodes, crowds, properties. A virtual clock; no I/O.

mod bench;
mod crowd;
mod crowd_flows;
mod giving;
mod pair;
mod properties;
mod scenarios;
mod waiting;
