//! What a store counts of its own work, and what it shows of itself over HTTP.
//!
//! - [`Figures`]: what is noted on the way of a command. `commands` counts answers, `proposals` what becomes of writes behind them.
//! - [`Together`]: how commands are noted whose answers are made together. Their durations begin with their [`Arrival`]. `slow` is the line
//!   of the log about commands that took long, `traced` has the spans of those that are parts of traces.
//! - `audit`: what the audit log has of commands.
//! - [`StoreSource`]: the store as its status pages show it. It names, describes and encodes all figures at the time of a scrape: those
//!   above, and those that storage, log, groups and transport have counted. `storage`, `database`, `replication` and `rights` have the
//!   names of the latter.
//! - [`LoadMeter`]: what the placement driver is told of it. `page` is what the store's page shows.
//!
//! Invariants:
//! - Noting costs some relaxed additions for each message, entry or unary call, not for each command of a message.
//! - An answer is counted before it is handed to the transport: whoever has got an answer finds it counted.
//! - No label takes a value from a key or a client.

mod arrival;
mod audit;
mod commands;
mod database;
mod load;
mod page;
mod proposals;
mod replication;
mod rights;
mod slow;
mod source;
mod storage;
mod together;
mod traced;

use rdb_proto::audit::AuditLog;
use rdb_proto::slow_log::SlowLog;
use rdb_proto::spans::Spans;
use rdb_proto::transport::{UnservedCall, UnservedCalls};

use audit::Audit;
use traced::Traced;

pub(crate) use arrival::Arrival;
pub(crate) use audit::{AuditedMessage, Denials};
pub(crate) use commands::{Answered, Begun, Commands, Kind};
pub(crate) use load::LoadMeter;
pub(crate) use proposals::Proposals;
pub(crate) use slow::Parts;
pub(crate) use source::StoreSource;
pub(crate) use together::{Details, Together};

/// What the services and regions of a store count and measure.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) commands: Commands,
    pub(crate) proposals: Proposals,
}

impl Figures {
    /// Figures whose slow commands are counted by `slow`, and told of. Those of sampled traces go to `spans`.
    pub(crate) fn told_by(slow: SlowLog, spans: Spans) -> Self {
        Self {
            commands: Commands::told_by(slow, spans),
            ..Self::default()
        }
    }

    /// The same, with an audit log.
    pub(crate) fn audited_by(mut self, log: Option<AuditLog>) -> Self {
        self.commands.audit = Audit::of(log);
        self
    }
}

/// Commands that found no room, or were given up while they waited for some. How many commands a message of a stream has is not known
/// then, so it is told of and not counted.
impl UnservedCalls for Figures {
    fn note(&self, call: UnservedCall) {
        let kind = Kind::of_method(call.service, call.method);
        let is_stream = (call.service, call.method) == ("kvrpc.KvBatch", "Batch");
        let answered = if call.is_refused {
            Answered::Busy
        } else {
            Answered::GivenUp
        };
        if let Some(kind) = kind {
            self.commands.note_unserved(kind, answered, call.waited);
        } else if !is_stream {
            return;
        }
        let kind = kind.map_or("message", Kind::name);
        self.commands.tell_unserved(kind, answered, &call);
    }
}
