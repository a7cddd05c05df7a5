//! Takes a message in: reserves its memory, or refuses it as a whole, then has its commands sorted.

mod sorting;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

use futures::future::BoxFuture;
use rdb_proto::auth::{Caller, Pass};
use rdb_proto::batch::{self, Traces};
use rdb_proto::error::busy;
use rdb_proto::kvrpc::BatchRequest;
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::metapb::Context;
use rdb_proto::transport::limits::BYTES_BACKOFF;
use rdb_proto::transport::{BytesInFlight, Reservation};

use super::answers::AnswerGroup;
use super::reads::ReadGroup;
use crate::error::Rejection;
use crate::metrics::{Answered, Arrival, AuditedMessage, Details, Figures, Kind, Parts};
use crate::router::Router;
pub(super) use sorting::AwaitedWrite;
use sorting::Sorting;

/// Memory of one decoded command and of an answer without a value, beside their share of the message, in bytes.
const COMMAND_OVERHEAD_BYTES: usize = 256;

/// The commands of a message, sorted by what to do.
#[derive(Default)]
pub(super) struct Intake {
    pub(super) command_count: usize,
    /// Answers that are ready.
    pub(super) answered: Vec<AnswerGroup>,
    /// Writes that were submitted, by region. Dropping them takes back at most those that wait for their turn.
    pub(super) writes: Vec<BoxFuture<'static, AnswerGroup>>,
    /// Reads to be executed, by region.
    pub(super) reads: Vec<ReadGroup>,
}

/// Takes a message in. `caller` has sent it, and its pass is taken once for all commands. `arrived` is what the transport has charged
/// for it. `audited` is called with the pass that it is checked against, if there is one, and returns what writes the audit log.
pub(super) fn take(
    request: batch::Request,
    arrival: Arrival,
    arrived: Option<Reservation>,
    caller: &Caller,
    router: &Router,
    budgets: &BytesInFlight,
    audited: impl FnOnce(Option<&Pass>) -> Option<Arc<AuditedMessage>>,
) -> Intake {
    let batch::Request {
        message,
        message_bytes,
    } = request;
    let figures = router.figures();
    let pass = caller.pass();
    let audited = audited(pass.as_ref().ok());
    let pass = match pass {
        Ok(pass) => pass,
        Err(fault) => {
            let (rejection, audited) = (Rejection::Denied(fault), audited.as_deref());
            return Intake::refused(message, rejection, arrival, arrived, figures, audited);
        }
    };
    let membership = match router.membership() {
        Ok(membership) => membership,
        Err(not_ready) => {
            let (rejection, audited) = (not_ready.into(), audited.as_deref());
            return Intake::refused(message, rejection, arrival, arrived, figures, audited);
        }
    };
    let bytes = message_bytes + message.commands.len() * COMMAND_OVERHEAD_BYTES;
    let mut reserved = arrived;
    let fits = match &mut reserved {
        // A message that was admitted is not refused because others wait for room.
        Some(arrived) => arrived.try_grow_to(bytes),
        none => {
            *none = budgets.try_reserve(bytes);
            none.is_some()
        }
    };
    let reservation = match reserved {
        Some(reservation) if fits => reservation,
        arrived => {
            let full = Rejection::Routing(busy(BYTES_BACKOFF));
            let audited = audited.as_deref();
            return Intake::refused(message, full, arrival, arrived, figures, audited);
        }
    };
    let BatchRequest {
        cluster_id,
        store_id,
        commands,
        traces: of_commands,
    } = message;
    let mut intake = Intake {
        command_count: commands.len(),
        ..Intake::default()
    };
    let context = Context {
        cluster_id,
        store_id,
        ..Context::default()
    };
    let mut sorting = Sorting::new(&membership, context, pass, figures, arrival, audited);
    let mut traces = Traces::new(&of_commands);
    for (position, command) in commands.into_iter().enumerate() {
        sorting.sort(command, traces.at(position));
    }
    sorting.hand_over(message_bytes, reservation, budgets, &mut intake);
    intake
}

impl Intake {
    /// Gives all commands of a message the same answer.
    fn refused(
        message: BatchRequest,
        rejection: Rejection,
        arrival: Arrival,
        arrived: Option<Reservation>,
        figures: &Figures,
        audited: Option<&AuditedMessage>,
    ) -> Self {
        let (commands, answered) = (&figures.commands, Answered::by(&rejection));
        let (mut together, mut traces) = (commands.together(arrival), Traces::of(&message));
        for (position, command) in message.commands.iter().enumerate() {
            let trace = traces.at(position);
            together.answered(Kind::of_command(command), trace.as_ref(), answered);
        }
        together.end(|arrival, now| {
            let first = message.commands.first();
            let key = first.and_then(|first| first.request.as_ref().map(Request::key));
            Details {
                key: key.map(|key| commands.slow().tag(key)),
                region_id: None,
                parts: Parts::of_write(arrival, None, now),
            }
        });
        if let Some(audited) = audited {
            audited.note_all_refused(&message.commands, answered, &rejection);
        }
        let ids = message.commands.iter().map(|command| command.id);
        let (refused, reserved) = (rejection.into(), arrived.map(Arc::new));
        let answered = AnswerGroup::refused(ids.collect(), refused, reserved);
        Self {
            command_count: message.commands.len(),
            answered: vec![answered],
            ..Self::default()
        }
    }
}
