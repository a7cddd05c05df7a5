//! The commands of one lane: those that wait to be sent, and those that were sent and not answered yet.
//!
//! Both together are bounded in bytes. Room is taken before a command enters and given back when it leaves, whether its
//! call still waits for it or not: a caller that drops its calls cannot fill the memory with what it dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use rdb_proto::kvrpc::{BatchAnswer, BatchCommand, BatchRequest, batch_command::Request};
use rdb_proto::metapb::Context;
use slab::Slab;

use super::slot::{Interrupted, Slot};

/// Most commands of one message. The server accepts more; with fewer it can answer the first while the next are made.
const MESSAGE_COMMANDS_MAX: usize = 512;

/// No further command goes into a message with so many bytes. The last one may be as large as a value.
const MESSAGE_BYTES_FULL: usize = 256 << 10;

/// A command and where the caller believes its data to be.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) context: Context,
    pub(crate) request: Request,
}

impl Command {
    /// What it counts in the queue, in bytes.
    pub(super) fn room_bytes(&self) -> usize {
        /// Of the queue's entries and the slot.
        const OVERHEAD_BYTES: usize = 256;
        OVERHEAD_BYTES + self.request.encoded_len()
    }
}

/// A command that waits.
#[derive(Debug)]
struct Waiting {
    command: Command,
    slot: Arc<Slot>,
    room_bytes: usize,
}

/// A command that was sent.
#[derive(Debug)]
struct Sent {
    /// Tells it from others that had its place in the slab.
    sequence: u32,
    /// The same for all commands of a message.
    sent_at: Instant,
    slot: Arc<Slot>,
    room_bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    sent: Slab<Sent>,
    next_sequence: u32,
    /// Of the stream that takes from this queue; grows with each, so that an earlier one can tell that its time is over.
    stream_id: u64,
    /// Whether that stream takes.
    open: bool,
    /// Whoever has found nothing to take.
    taker: Option<Waker>,
    /// Whether there is a task that keeps a stream.
    running: bool,
}

/// What is to be done after a command was queued.
#[derive(Debug)]
pub(super) enum Next {
    /// Wake the transport, which waits for something to send.
    Wake(Waker),
    /// Start the task that keeps a stream; it counts as running from now on.
    Start,
    /// Nothing: the command will be taken with others.
    Nothing,
}

/// What a stream gets when it asks for a message.
#[derive(Debug)]
pub(super) enum Taken {
    /// At least one command; room for so many bytes came free by calls that have gone.
    Message {
        request: BatchRequest,
        freed_bytes: usize,
    },
    /// Nothing to send; the waker will be woken.
    Nothing { freed_bytes: usize },
    /// The stream is to end.
    Over,
}

impl Queue {
    /// Puts a command at the end.
    pub(super) fn push(&mut self, command: Command, slot: Arc<Slot>, room_bytes: usize) -> Next {
        self.waiting.push_back(Waiting {
            command,
            slot,
            room_bytes,
        });
        if !self.running {
            self.running = true;
            return Next::Start;
        }
        self.taker.take().map_or(Next::Nothing, Next::Wake)
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a task is to keep a stream.
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// The task asks whether it may end. If so, the next command starts another.
    pub(super) fn stop_when_idle(&mut self) -> bool {
        if self.waiting.is_empty() {
            self.running = false;
        }
        !self.running
    }

    /// The task ends whatever there is to do. The slots of all commands, sent or not, and the room that came free.
    pub(super) fn stop(&mut self) -> [(Vec<Arc<Slot>>, usize); 2] {
        self.running = false;
        self.open = false;
        [self.lose_sent(), self.drop_waiting()]
    }

    /// A new stream takes from now on. Its id.
    pub(super) fn open_stream(&mut self) -> u64 {
        self.stream_id += 1;
        self.open = true;
        self.stream_id
    }

    /// The present stream takes nothing more. Whoever is returned is to be woken.
    pub(super) fn close_stream(&mut self) -> Option<Waker> {
        self.open = false;
        self.taker.take()
    }

    /// Takes a message for the stream with this id.
    pub(super) fn take(&mut self, stream_id: u64, waker: &Waker) -> Taken {
        if !self.open || self.stream_id != stream_id {
            return Taken::Over;
        }
        let mut request = BatchRequest {
            commands: Vec::with_capacity(self.waiting.len().min(MESSAGE_COMMANDS_MAX)),
            ..BatchRequest::default()
        };
        let (mut message_bytes, mut freed_bytes) = (0, 0);
        let sent_at = Instant::now();
        while request.commands.len() < MESSAGE_COMMANDS_MAX && message_bytes < MESSAGE_BYTES_FULL {
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
            request.commands.push(self.sent(waiting, sent_at));
        }
        if request.commands.is_empty() {
            self.taker = Some(waker.clone());
            return Taken::Nothing { freed_bytes };
        }
        Taken::Message {
            request,
            freed_bytes,
        }
    }

    /// Notes a command as sent, and gives it its id.
    fn sent(&mut self, waiting: Waiting, sent_at: Instant) -> BatchCommand {
        let Waiting {
            command: Command { context, request },
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

    /// Whether a command was sent longer than `age` ago and has no answer yet.
    pub(super) fn has_sent_before(&self, age: Duration) -> bool {
        let mut sent = self.sent.iter();
        sent.any(|(_, sent)| sent.sent_at.elapsed() >= age)
    }

    /// Takes out the commands that are answered, with their answers, and says how much room came free. An answer to no
    /// command that is known is passed over: its stream has been given up.
    pub(super) fn answered(
        &mut self,
        stream_id: u64,
        answers: Vec<BatchAnswer>,
    ) -> (Vec<(Arc<Slot>, BatchAnswer)>, usize) {
        let mut completed = Vec::with_capacity(answers.len());
        let mut freed_bytes = 0;
        if self.stream_id != stream_id {
            return (completed, freed_bytes);
        }
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

    /// Takes out everything that was sent: its stream is over. Returns the slots and the room that came free.
    pub(super) fn lose_sent(&mut self) -> (Vec<Arc<Slot>>, usize) {
        let sent: Vec<_> = self.sent.drain().collect();
        let freed_bytes = sent.iter().map(|sent| sent.room_bytes).sum();
        (
            sent.into_iter().map(|sent| sent.slot).collect(),
            freed_bytes,
        )
    }

    /// Takes out everything that waits: there is no stream to be had. Returns the slots and the room that came free.
    pub(super) fn drop_waiting(&mut self) -> (Vec<Arc<Slot>>, usize) {
        let waiting = std::mem::take(&mut self.waiting);
        let freed_bytes = waiting.iter().map(|waiting| waiting.room_bytes).sum();
        let slots = waiting.into_iter().map(|waiting| waiting.slot).collect();
        (slots, freed_bytes)
    }
}

/// Ends calls that have no answer to wait for.
pub(super) fn interrupt(slots: Vec<Arc<Slot>>, interrupted: &Interrupted) {
    for slot in slots {
        slot.complete(Err(interrupted.clone()));
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
