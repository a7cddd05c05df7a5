//! Takes a message apart: writes are submitted, reads queued, everything else is answered.

use std::sync::Arc;

use bytes::Bytes;
use rdb_proto::batch;
use rdb_proto::error::Fault;
use rdb_proto::errorpb::{Fate, region_error};
use rdb_proto::kvrpc::{
    BatchAnswer, BatchCommand, BatchRequest, CompareAndDeleteRequest, CompareAndSwapRequest,
    RawDeleteRequest, RawPutRequest, batch_command::Request,
};
use rdb_proto::metapb::Context;
use rdb_proto::transport::{BytesInFlight, Reservation};
use rdb_storage::{Command, PointRead};
use tonic::Code;

use super::answers::{AnswerGroup, answer};
use super::reads::{QueuedRead, ReadGroup};
use super::writes::{WriteGroup, WriteKind};
use crate::error::{Rejection, busy};
use crate::region::RegionHandle;
use crate::router::{Membership, Router};

/// What one decoded command takes in memory beside its share of the message, in bytes.
const COMMAND_OVERHEAD_BYTES: usize = 256;

/// What became of a message.
#[derive(Default)]
pub(super) struct Intake {
    pub(super) command_count: usize,
    /// What is answered already.
    pub(super) answered: Vec<AnswerGroup>,
    /// What is on its way to the disk, by region.
    pub(super) writes: Vec<WriteGroup>,
    /// What is to be read.
    pub(super) reads: Option<ReadGroup>,
}

/// Takes a message in.
pub(super) fn take(request: batch::Request, router: &Router, budgets: &BytesInFlight) -> Intake {
    let batch::Request {
        message,
        excess_ids,
        message_bytes,
    } = request;
    let mut intake = Intake {
        command_count: message.commands.len() + excess_ids.len(),
        ..Intake::default()
    };
    let bytes = message_bytes
        + message.commands.len() * COMMAND_OVERHEAD_BYTES
        + excess_ids.len() * size_of::<u64>();
    let Some(reservation) = budgets.try_reserve(bytes).map(Arc::new) else {
        let busy = region_error::Kind::ServerBusy(busy());
        intake.refuse(all_ids(&message, excess_ids), busy, None);
        return intake;
    };
    let membership = match router.membership() {
        Ok(membership) => membership,
        Err(not_ready) => {
            let not_ready = region_error::Kind::NotReady(not_ready);
            let ids = all_ids(&message, excess_ids);
            intake.refuse(ids, not_ready, Some(reservation));
            return intake;
        }
    };
    if !excess_ids.is_empty() {
        let busy = region_error::Kind::ServerBusy(busy());
        intake.refuse(excess_ids, busy, Some(Arc::clone(&reservation)));
    }
    let mut sorting = Sorting {
        membership: &membership,
        context: Context {
            cluster_id: message.cluster_id,
            store_id: message.store_id,
            ..Context::default()
        },
        answers: Vec::new(),
        writes: Vec::new(),
        reads: Vec::new(),
    };
    for command in message.commands {
        sorting.sort(command);
    }
    sorting.submit(message_bytes, &reservation, &mut intake);
    intake
}

fn all_ids(message: &BatchRequest, excess_ids: Vec<u64>) -> Vec<u64> {
    let ids = message.commands.iter().map(|command| command.id);
    ids.chain(excess_ids).collect()
}

impl Intake {
    /// Gives all of `ids` the same routing answer.
    fn refuse(
        &mut self,
        ids: Vec<u64>,
        kind: region_error::Kind,
        message: Option<Arc<Reservation>>,
    ) {
        self.answered
            .push(AnswerGroup::same(ids, kind.into(), message));
    }
}

/// Writes that go to one region as one submission.
struct RegionWrites {
    region: Arc<RegionHandle>,
    commands: Vec<Command>,
    kinds: Vec<(u64, WriteKind)>,
}

struct Sorting<'a> {
    membership: &'a Membership,
    context: Context,
    answers: Vec<BatchAnswer>,
    writes: Vec<RegionWrites>,
    reads: Vec<QueuedRead>,
}

impl<'a> Sorting<'a> {
    fn sort(&mut self, command: BatchCommand) {
        let id = command.id;
        if let Err(rejection) = self.admit(command) {
            self.answers.push(answer(id, Err(rejection)));
        }
    }

    /// What comes to the wrong place is told so before it is looked at. Reads are routed once more when they are executed.
    fn admit(&mut self, command: BatchCommand) -> Result<(), Rejection> {
        let BatchCommand {
            id,
            region_id,
            region_epoch,
            request,
        } = command;
        let request = request.ok_or_else(unknown_command)?;
        let context = Context {
            region_id,
            region_epoch,
            ..self.context
        };
        let region = self.membership.for_key(&context, key(&request))?;
        match request {
            Request::RawGet(request) => self.read(id, context, PointRead::raw(request.key)?),
            Request::Get(request) => self.read(id, context, PointRead::versioned(request.key)?),
            Request::RawPut(RawPutRequest { key, value, .. }) => {
                let command = Command::PutRaw { key, value };
                self.write(region, id, WriteKind::RawPut, command)?;
            }
            Request::RawDelete(RawDeleteRequest { key, .. }) => {
                let command = Command::DeleteRaw { key };
                self.write(region, id, WriteKind::RawDelete, command)?;
            }
            Request::CompareAndSwap(request) => {
                let CompareAndSwapRequest {
                    key,
                    expected_version,
                    value,
                    ..
                } = request;
                let command = Command::CompareAndSwap {
                    key,
                    expected_version,
                    value,
                };
                self.write(region, id, WriteKind::CompareAndSwap, command)?;
            }
            Request::CompareAndDelete(request) => {
                let CompareAndDeleteRequest {
                    key,
                    expected_version,
                    ..
                } = request;
                let command = Command::CompareAndDelete {
                    key,
                    expected_version,
                };
                self.write(region, id, WriteKind::CompareAndDelete, command)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, id: u64, context: Context, read: PointRead) {
        self.reads.push(QueuedRead { id, context, read });
    }

    fn write(
        &mut self,
        region: &'a Arc<RegionHandle>,
        id: u64,
        kind: WriteKind,
        command: Command,
    ) -> Result<(), Rejection> {
        // Alone: a submission is refused as a whole.
        command.validate()?;
        let known = self.writes.iter_mut();
        let known = known
            .rev()
            .find(|writes| Arc::ptr_eq(&writes.region, region));
        match known {
            Some(writes) => {
                writes.commands.push(command);
                writes.kinds.push((id, kind));
            }
            None => self.writes.push(RegionWrites {
                region: Arc::clone(region),
                commands: vec![command],
                kinds: vec![(id, kind)],
            }),
        }
        Ok(())
    }

    /// Hands the writes to the writer. The reservation is held until the last command is answered.
    fn submit(mut self, message_bytes: usize, reservation: &Arc<Reservation>, intake: &mut Intake) {
        for writes in self.writes {
            let RegionWrites {
                region,
                commands,
                kinds,
            } = writes;
            match region.submit(commands, message_bytes) {
                Ok(pending) => {
                    let group = WriteGroup::new(pending, kinds, Arc::clone(reservation));
                    intake.writes.push(group);
                }
                Err(rejection) => {
                    let refused = kinds.into_iter();
                    let refused = refused.map(|(id, _)| answer(id, Err(rejection.clone())));
                    self.answers.extend(refused);
                }
            }
        }
        if !self.reads.is_empty() {
            intake.reads = Some(ReadGroup::new(self.reads, Arc::clone(reservation)));
        }
        if !self.answers.is_empty() {
            let group = AnswerGroup::different(self.answers, Arc::clone(reservation));
            intake.answered.push(group);
        }
    }
}

fn key(request: &Request) -> &Bytes {
    match request {
        Request::RawPut(request) => &request.key,
        Request::RawGet(request) => &request.key,
        Request::RawDelete(request) => &request.key,
        Request::CompareAndSwap(request) => &request.key,
        Request::Get(request) => &request.key,
        Request::CompareAndDelete(request) => &request.key,
    }
}

fn unknown_command() -> Rejection {
    let cause = "the command has no request that this release knows";
    Rejection::Fault(Fault::new(Code::Unimplemented, cause).with_fate(Fate::NotApplied))
}
