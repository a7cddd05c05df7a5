//! What a store counts of its own work, and what it shows of itself over HTTP.
//!
//! - [`Figures`]: what is noted on the way of a command. `commands` counts answers, `proposals` what becomes of writes behind them.
//! - [`StoreSource`]: the store as its status pages show it. It names, describes and encodes all figures at the time of a scrape: those
//!   above, and those that storage, log, groups and transport have counted. `database` and `replication` have the names of the latter.
//!
//! Invariants:
//! - Noting costs some relaxed additions for each message, entry or unary call, not for each command of a message.
//! - An answer is counted before it is handed to the transport: whoever has got an answer finds it counted.
//! - No label takes a value from a key or a client.

mod commands;
mod database;
mod proposals;
mod replication;
mod source;

pub(crate) use commands::{Answered, Begun, Commands, Kind, Tally};
pub(crate) use proposals::Proposals;
pub(crate) use source::StoreSource;

/// What the services and regions of a store count and measure.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) commands: Commands,
    pub(crate) proposals: Proposals,
}
