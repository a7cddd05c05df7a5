//! The commands of a message, sorted by region: writes are submitted, reads are queued, and commands that cannot be served are answered.

use std::sync::Arc;

use rdb_proto::auth::Pass;
use rdb_proto::kvrpc::{BatchAnswer, BatchCommand};
use rdb_proto::metapb::Context;
use rdb_proto::slow_log::KeyTag;
use rdb_proto::trace::TraceContext;
use rdb_proto::transport::{BytesInFlight, Reservation};
use rdb_storage::Command;

use super::super::super::point::{
    Operation, WriteResponse, check, conflict_bytes_max, operation, unknown_command,
};
use super::super::answers::{AnswerGroup, answer};
use super::super::reads::{QueuedRead, ReadGroup};
use super::super::writes::MessageWrites;
use super::{COMMAND_OVERHEAD_BYTES, Intake};
use crate::error::Rejection;
use crate::metrics::{
    Answered, Arrival, AuditedMessage, Denials, Details, Figures, Kind, Parts, Together,
};
use crate::region::RegionHandle;
use crate::router::Membership;

/// Sorts the commands of one message.
pub(super) struct Sorting<'a> {
    membership: &'a Membership,
    context: Context,
    /// What the sender may do.
    pass: Pass,
    figures: &'a Arc<Figures>,
    arrival: Arrival,
    regions: Vec<RegionCommands>,
    /// Memory of the reads without the message.
    read_bytes: usize,
    /// Most bytes that the values of all conflicts can have.
    conflict_bytes: usize,
    /// To commands that are refused.
    answers: Vec<BatchAnswer>,
    refused: Together<'a>,
    /// The key of the first of them. The key itself is gone with its command.
    first_key: Option<KeyTag>,
    /// `None`: there is no audit log.
    audited: Option<Arc<AuditedMessage>>,
    denials: Denials,
}

/// The commands of a message to one region.
struct RegionCommands {
    region: Arc<RegionHandle>,
    reads: Vec<QueuedRead>,
    /// Writes in their order, and their answers.
    commands: Vec<Command>,
    awaited: Vec<AwaitedWrite>,
}

/// A write that was submitted: what it is answered with.
pub(in super::super) struct AwaitedWrite {
    pub(in super::super) id: u64,
    pub(in super::super) kind: Kind,
    /// Boxed, since few have one.
    pub(in super::super) trace: Option<Box<TraceContext>>,
    /// Makes its answer.
    pub(in super::super) response: WriteResponse,
}

impl<'a> Sorting<'a> {
    /// `context` says whom the message is for, and `pass` what its sender may do. `audited` writes its entries of the audit log, if
    /// there is a log.
    pub(super) fn new(
        membership: &'a Membership,
        context: Context,
        pass: Pass,
        figures: &'a Arc<Figures>,
        arrival: Arrival,
        audited: Option<Arc<AuditedMessage>>,
    ) -> Self {
        Self {
            membership,
            context,
            pass,
            figures,
            arrival,
            regions: Vec::new(),
            read_bytes: 0,
            conflict_bytes: 0,
            answers: Vec::new(),
            refused: figures.commands.together(arrival),
            first_key: None,
            audited,
            denials: Denials::default(),
        }
    }

    pub(super) fn sort(&mut self, command: BatchCommand, trace: Option<TraceContext>) {
        let (id, kind) = (command.id, Kind::of_command(&command));
        let key_bytes = command.request.as_ref().map(|request| request.key().len());
        let request = command.request.as_ref().filter(|_| self.audited.is_some());
        let audited_key = request.map(|request| request.key().clone());
        if let Err(rejection) = self.route(command, kind, trace) {
            let answered = Answered::by(&rejection);
            if let Some(audited) = &self.audited {
                let (key, denials) = (audited_key.as_deref(), &mut self.denials);
                audited.note_refused(kind, key, answered, &rejection, denials);
            }
            self.refused.answered(kind, trace.as_ref(), answered);
            if self.answers.is_empty() {
                self.first_key = key_bytes.map(|bytes| KeyTag { bytes, hash: None });
            }
            self.answers.push(answer(id, Err(rejection)));
        }
    }

    /// Routes a command, if its sender has the right to it. It is not routed again: its region refuses it if the region has changed
    /// meanwhile.
    fn route(
        &mut self,
        command: BatchCommand,
        kind: Kind,
        trace: Option<TraceContext>,
    ) -> Result<(), Rejection> {
        let BatchCommand {
            id,
            region_id,
            region_epoch,
            request,
        } = command;
        let request = request.ok_or_else(unknown_command)?;
        check(&self.pass, kind, request.key())?;
        let context = Context {
            region_id,
            region_epoch,
            ..self.context
        };
        let region = self.membership.for_key(&context, request.key())?;
        let trace = trace.map(Box::new);
        // Each command is validated here, since a submission with an invalid one is refused as a whole.
        match operation(request)? {
            Operation::Read(read, response) => {
                self.read_bytes += COMMAND_OVERHEAD_BYTES + read.key().len();
                let queued = QueuedRead {
                    id,
                    kind,
                    trace,
                    read,
                    response,
                };
                self.of(region).reads.push(queued);
            }
            Operation::Write(command, response) => {
                self.conflict_bytes += conflict_bytes_max(&command);
                let of_region = self.of(region);
                of_region.commands.push(command);
                of_region.awaited.push(AwaitedWrite {
                    id,
                    kind,
                    trace,
                    response,
                });
            }
        }
        Ok(())
    }

    fn of(&mut self, region: &'a Arc<RegionHandle>) -> &mut RegionCommands {
        let mut known = self.regions.iter();
        let known = known.rposition(|commands| Arc::ptr_eq(&commands.region, region));
        let position = known.unwrap_or_else(|| {
            self.regions.push(RegionCommands {
                region: Arc::clone(region),
                reads: Vec::new(),
                commands: Vec::new(),
                awaited: Vec::new(),
            });
            self.regions.len() - 1
        });
        &mut self.regions[position]
    }

    /// Notes the refusals, queues the reads and submits the writes. The message stays reserved until its last write is
    /// answered. If reads are most of it, it also stays reserved until its last read is answered; otherwise their keys are
    /// copied out of it.
    pub(super) fn hand_over(
        self,
        message_bytes: usize,
        mut reservation: Reservation,
        budgets: &BytesInFlight,
        intake: &mut Intake,
    ) {
        if let Some(audited) = &self.audited {
            audited.note_denials(self.denials, None);
        }
        self.refused.end(|arrival, now| Details {
            key: self.first_key,
            region_id: None,
            parts: Parts::of_write(arrival, None, now),
        });
        let copies_keys = message_bytes / 2 > self.read_bytes;
        let of_reads = copies_keys.then(|| Arc::new(reservation.split_off(self.read_bytes)));
        let message = Arc::new(reservation);
        let of_reads = of_reads.unwrap_or_else(|| Arc::clone(&message));
        let mut writes = MessageWrites::new(
            message_bytes,
            self.conflict_bytes,
            Arc::clone(&message),
            budgets,
            self.figures,
            self.arrival,
            self.audited.clone(),
        );
        for of_region in self.regions {
            let RegionCommands {
                region,
                mut reads,
                commands,
                awaited,
            } = of_region;
            if !commands.is_empty() {
                writes.submit(&region, commands, awaited, intake);
            }
            if copies_keys {
                reads = reads.into_iter().map(QueuedRead::detached).collect();
            }
            if !reads.is_empty() {
                intake.reads.push(ReadGroup {
                    region,
                    reads: reads.into_iter(),
                    message: Arc::clone(&of_reads),
                    arrival: self.arrival,
                    pass: self.pass.clone(),
                    audited: self.audited.clone(),
                });
            }
        }
        if !self.answers.is_empty() {
            let group = AnswerGroup::new(self.answers, message, None);
            intake.answered.push(group);
        }
    }
}
