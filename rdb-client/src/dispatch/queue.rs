//! The commands of one lane: those that wait to be sent, and those that were sent and not answered yet.
//!
//! Both together are bounded in bytes. Room is taken before a command enters and given back when it leaves, even if its
//! call no longer waits. So a caller that drops its calls cannot fill the memory with dropped commands.
//!
//! A message holds commands for one store only. It holds as many as wait, up to limits in commands and bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use rdb_proto::batch::push_trace;
use rdb_proto::kvrpc::{BatchAnswer, BatchCommand, BatchRequest, batch_command::Request};
use rdb_proto::metapb::Context;
use rdb_proto::trace::TraceContext;
use slab::Slab;
use tokio::time::Instant;

use super::slot::{Interrupted, Slot};
use crate::stream::{Gate, Taken};

/// Most commands of one message, if the server accepts as many. It accepts more than this: with fewer, it can answer the
/// first message while the next is made.
pub(super) const MESSAGE_COMMANDS_MAX: usize = 512;

/// Soft limit on the size of a message, in bytes: one that has reached it takes no further command. The last command may be
/// as large as a value.
const MESSAGE_BYTES_FULL: usize = 256 << 10;

/// A command and where the caller believes its data to be.
#[derive(Debug)]
pub(crate) struct AddressedCommand {
    pub(crate) context: Context,
    pub(crate) request: Request,
    pub(crate) trace: Option<TraceContext>,
}

impl AddressedCommand {
    /// What it counts in the queue, in bytes.
    pub(super) fn room_bytes(&self) -> usize {
        /// Memory of the queue's entries and the slot, and the trace.
        const OVERHEAD_BYTES: usize = 256;
        OVERHEAD_BYTES + self.request.encoded_len()
    }
}

/// A command that was not handed to the transport yet.
#[derive(Debug)]
struct Waiting {
    command: AddressedCommand,
    slot: Arc<Slot>,
    room_bytes: usize,
}

/// A command that was handed to the transport and has no answer yet.
#[derive(Debug)]
struct Sent {
    /// Tells it from others that had its place in the slab.
    sequence: u32,
    /// The same for all commands of a message.
    sent_at: Instant,
    slot: Arc<Slot>,
    room_bytes: usize,
}

/// The commands of a lane, until they are answered.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) gate: Gate,
    waiting: VecDeque<Waiting>,
    sent: Slab<Sent>,
    next_sequence: u32,
    /// Most commands of one message, at least 1.
    message_commands_max: usize,
}

/// Slots of calls to end, and the room that their commands free, in bytes.
pub(super) type Removed = (Vec<Arc<Slot>>, usize);

/// What to do after a command was queued.
#[derive(Debug)]
pub(super) enum Next {
    /// Wake the transport, which waits for something to send.
    Wake(Waker),
    /// Start the task that keeps a stream; it counts as running from now on.
    Start,
    /// Nothing: the command will be taken with others.
    Nothing,
}

impl Queue {
    pub(super) fn new(message_commands_max: usize) -> Self {
        Self {
            gate: Gate::default(),
            waiting: VecDeque::new(),
            sent: Slab::new(),
            next_sequence: 0,
            message_commands_max,
        }
    }

    /// Puts a command at the end.
    pub(super) fn push(
        &mut self,
        command: AddressedCommand,
        slot: Arc<Slot>,
        room_bytes: usize,
    ) -> Next {
        self.waiting.push_back(Waiting {
            command,
            slot,
            room_bytes,
        });
        if self.gate.start() {
            return Next::Start;
        }
        self.gate.wake().map_or(Next::Nothing, Next::Wake)
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes a message for the stream of this generation, and says how much room calls left that have gone.
    pub(super) fn take(
        &mut self,
        generation: u64,
        has_yielded: bool,
        waker: &Waker,
    ) -> (Taken<BatchRequest>, usize) {
        if !self.gate.admits(generation) {
            return (Taken::Over, 0);
        }
        if self.has_waiting() && !has_yielded {
            return (Taken::Yield, 0);
        }
        let mut request = BatchRequest {
            commands: Vec::with_capacity(self.waiting.len().min(self.message_commands_max)),
            ..BatchRequest::default()
        };
        let (mut message_bytes, mut freed_bytes) = (0, 0);
        let mut traces = Vec::new();
        let sent_at = Instant::now();
        while request.commands.len() < self.message_commands_max
            && message_bytes < MESSAGE_BYTES_FULL
        {
            let Some(next) = self.waiting.front() else {
                break;
            };
            let Context {
                cluster_id,
                store_id,
                ..
            } = next.command.context;
            if request.commands.is_empty() {
                (request.cluster_id, request.store_id) = (cluster_id, store_id);
            } else if (request.cluster_id, request.store_id) != (cluster_id, store_id) {
                // Another store has taken over the address: the two do not share a message.
                break;
            }
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            if !waiting.slot.send() {
                freed_bytes += waiting.room_bytes;
                continue;
            }
            message_bytes += waiting.room_bytes;
            if let Some(trace) = &waiting.command.trace {
                push_trace(&mut traces, request.commands.len(), trace);
            }
            request.commands.push(self.sent(waiting, sent_at));
        }
        request.traces = traces.into();
        if request.commands.is_empty() {
            // The one before is of the same transport.
            let _ = self.gate.sleep(waker.clone());
            return (Taken::Nothing, freed_bytes);
        }
        (Taken::Request(request), freed_bytes)
    }

    /// Notes a command as sent, and gives it its id.
    fn sent(&mut self, waiting: Waiting, sent_at: Instant) -> BatchCommand {
        let Waiting {
            command: AddressedCommand {
                context, request, ..
            },
            slot,
            room_bytes,
        } = waiting;
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        let index = self.sent.insert(Sent {
            sequence,
            sent_at,
            slot,
            room_bytes,
        });
        BatchCommand {
            id: u64::from(sequence) << 32 | index as u64,
            region_id: context.region_id,
            region_epoch: context.region_epoch,
            request: Some(request),
        }
    }

    /// When the oldest command was sent that has no answer.
    pub(super) fn owed_since(&self) -> Option<Instant> {
        self.sent.iter().map(|(_, sent)| sent.sent_at).min()
    }

    /// Takes out the commands that are answered, with their answers, and says how much room came free. Answers to
    /// unknown commands are ignored.
    pub(super) fn answered(
        &mut self,
        answers: Vec<BatchAnswer>,
    ) -> (Vec<(Arc<Slot>, BatchAnswer)>, usize) {
        let mut completed = Vec::with_capacity(answers.len());
        let mut freed_bytes = 0;
        for answer in answers {
            let (sequence, index) = ((answer.id >> 32) as u32, answer.id as u32 as usize);
            let known = self.sent.get(index);
            if known.is_some_and(|sent| sent.sequence == sequence) {
                let sent = self.sent.remove(index);
                freed_bytes += sent.room_bytes;
                completed.push((sent.slot, answer));
            }
        }
        (completed, freed_bytes)
    }

    /// Takes out everything that was sent: its stream is over.
    pub(super) fn remove_sent(&mut self) -> Removed {
        let sent = self.sent.drain().map(|sent| (sent.slot, sent.room_bytes));
        summed(sent)
    }

    /// Takes out everything that waits: there is no stream to be had.
    pub(super) fn remove_waiting(&mut self) -> Removed {
        let waiting = self.waiting.drain(..);
        summed(waiting.map(|waiting| (waiting.slot, waiting.room_bytes)))
    }
}

fn summed(removed: impl Iterator<Item = (Arc<Slot>, usize)>) -> Removed {
    let mut freed_bytes = 0;
    let slots = removed.map(|(slot, room_bytes)| {
        freed_bytes += room_bytes;
        slot
    });
    (slots.collect(), freed_bytes)
}

/// Ends calls that have no answer to wait for.
pub(super) fn interrupt(slots: Vec<Arc<Slot>>, interrupted: &Interrupted) {
    for slot in slots {
        slot.complete(Err(interrupted.clone()));
    }
}

#[cfg(test)]
mod tests;
