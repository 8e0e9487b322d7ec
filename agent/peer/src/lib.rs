//! A member of swarms: carries out what `shoal_proto::Node` decides. An agent and an origin are both made of it.
//!
//! # Map
//!
//! | room | does |
//! | --- | --- |
//! | [`Handle`], [`BlobReader`] | what the mirror and the origin hold: open a blob, read it in order, ask for a manifest |
//! | `driver` | the one task that owns `Node` (I10): select an event, apply it, drain the actions, sleep until the next timeout |
//! | `exchange` | bytes over links: one connection a pair of peers, one stream a piece |
//! | `tracker_client` | keeps one link to a tracker, joins and renews, batches announces, hands back handouts |
//! | `trust` | the border: whose signatures count; nothing signed reaches `Node` before it is checked here |
//! | [`store`] | bytes on disk, synchronous on purpose |
//!
//! Not here: which piece to ask of whom (that is `shoal_proto`), what a client is answered (the mirror), and how
//! upstreams are spoken to (the origin, behind [`Seeder`]).
//!
//! # What a driver owes its `Node`
//!
//! 1. Every input is handed over with the time at which it is handed over; time never runs backwards.
//! 2. After each input, all actions are taken until none is left, and then the next timeout is obeyed.
//! 3. Each `Fetch`, `Serve`, `Open`, `Dial` and `Commit` ends in exactly one answering input, unless it was cancelled.
//! 4. A `BlobInfo` is verified and its origin vouched before the core hears of it; a piece is verified and stored
//!    before the core is told that it was fetched.
//! 5. The driver never waits for a task; tasks wait for the driver. So no cycle of full queues can form.

mod cursor;
mod driver;
mod exchange;
mod handle;
mod metrics;
mod options;
mod reader;
mod status;
mod step;
mod tracker_client;
mod trust;
mod view;

pub mod pool;
pub mod store;

pub use driver::start;
pub use handle::{Handle, ManifestError, OpenError, SeedError};
pub use options::{
    Audience, ListAnswer, ListAsk, ManifestAnswer, ManifestAsk, OpenAnswer, PeerOptions, Seeder,
};
pub use reader::{BlobReader, ReadError};
pub use status::{LinkStatus, OriginStatus, Status, SwarmStatus, TrackerStatus};
