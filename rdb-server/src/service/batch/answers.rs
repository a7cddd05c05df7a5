//! Answers: made from results, and packed into responses of a bounded size.

use std::collections::VecDeque;
use std::sync::Arc;

use prost::Message;
use rdb_proto::auth::Caller;
use rdb_proto::batch;
use rdb_proto::kvrpc::{BatchAnswer, BatchResponse, batch_answer::Response};
use rdb_proto::transport::{Call, Reservation};

use super::super::room::RESPONSE_ROOM;
use crate::error::Rejection;
use crate::region::Refused;

/// Bytes at which a response without room is full. They hold many short answers, such as "the store is busy".
const RESPONSE_BYTES_UNRESERVED: usize = 4 << 10;

/// Answers at which a response is full. The client can work on one response while the next is made.
const RESPONSE_ANSWERS_FULL: usize = 512;

/// Reads at which a response is full, found in memory or not.
const RESPONSE_READS_FULL: usize = 1024;

/// Memory of an answer beside its bytes on the wire, in bytes.
const ANSWER_OVERHEAD_BYTES: usize = 64;

/// The answer to a command of a stream.
pub(super) fn answer(id: u64, result: Result<Response, Rejection>) -> BatchAnswer {
    BatchAnswer {
        id,
        response: Some(result.unwrap_or_else(Response::from)),
    }
}

/// Memory of an answer, in bytes.
fn answer_bytes(answer: &BatchAnswer) -> usize {
    ANSWER_OVERHEAD_BYTES + answer.encoded_len()
}

/// A response in the making, with room for its answers. Without room it takes a few answers.
pub(super) struct Packing<'a> {
    call: &'a Call,
    room: Option<Reservation>,
    response: BatchResponse,
    /// Memory of its answers.
    bytes: usize,
    /// The part of `bytes` that is reserved by room that came with the answers.
    covered_bytes: usize,
    /// How many reads were tried for this response.
    reads: usize,
}

impl<'a> Packing<'a> {
    pub(super) fn new(call: &'a Call) -> Self {
        Self {
            call,
            room: RESPONSE_ROOM.try_reserve(call.bytes_in_flight()),
            response: BatchResponse::default(),
            bytes: 0,
            covered_bytes: 0,
            reads: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max()
            || self.answer_count() >= RESPONSE_ANSWERS_FULL
            || self.reads >= RESPONSE_READS_FULL
    }

    fn bytes_max(&self) -> usize {
        let room = self.room.as_ref();
        room.map_or(RESPONSE_BYTES_UNRESERVED, Reservation::bytes)
    }

    /// Room for the value of one more read. `None`: nothing could be reserved.
    pub(super) fn value_room(&self) -> Option<usize> {
        let room = self.room.as_ref()?.bytes();
        Some(room.saturating_sub(self.bytes + ANSWER_OVERHEAD_BYTES))
    }

    /// Whether a value that does not fit any more fits into the next response.
    pub(super) fn would_fit_alone(&self, value_bytes: usize) -> bool {
        self.answer_count() > 0 && value_bytes + ANSWER_OVERHEAD_BYTES <= self.bytes_max()
    }

    pub(super) fn answer_count(&self) -> usize {
        self.response.answers.len()
    }

    /// Whom the response is for.
    pub(super) fn caller(&self) -> &Caller {
        self.call.caller()
    }

    pub(super) fn count_read(&mut self) {
        self.reads += 1;
    }

    pub(super) fn push(&mut self, answer: BatchAnswer) {
        self.bytes += answer_bytes(&answer);
        self.response.answers.push(answer);
    }

    /// Adds room of answers that were pushed.
    fn cover(&mut self, room: Reservation) {
        self.covered_bytes += room.bytes();
        self.call.hold_until_sent(room);
    }

    /// Tells the client that the stream is about to end.
    pub(super) fn set_closing(&mut self) {
        self.response.closing = true;
    }

    /// The response; `None` if it would say nothing. The transport takes over its room.
    pub(super) fn finish(self) -> Option<batch::Response> {
        if self.response.answers.is_empty() && !self.response.closing {
            return None;
        }
        if let Some(mut room) = self.room {
            room.shrink_to(self.bytes.saturating_sub(self.covered_bytes));
            self.call.hold_until_sent(room);
        }
        Some(self.response.into())
    }
}

/// Answers that wait for a response with room, in groups.
#[derive(Default)]
pub(super) struct ReadyAnswers {
    groups: VecDeque<AnswerGroup>,
}

/// Answers that became ready together.
pub(super) struct AnswerGroup {
    answers: Box<dyn Iterator<Item = BatchAnswer> + Send>,
    /// What is reserved for the message that their commands came in. `None`: nothing, a small message was refused.
    _message: Option<Arc<Reservation>>,
    /// Room for the values of the answers that are left.
    room: Option<Reservation>,
}

impl AnswerGroup {
    /// `room` is for the values of the answers. The reservation of the message covers the rest of each.
    pub(super) fn new(
        answers: Vec<BatchAnswer>,
        message: Arc<Reservation>,
        mut room: Option<Reservation>,
    ) -> Self {
        if let Some(room) = &mut room {
            room.shrink_to(answers.iter().map(answer_bytes).sum());
        }
        Self {
            answers: Box::new(answers.into_iter()),
            _message: Some(message),
            room,
        }
    }

    /// The rejections of all of `ids`. Each answer is made when a response has room for it: a refused message has none.
    pub(super) fn refused(
        ids: Vec<u64>,
        refused: Refused,
        message: Option<Arc<Reservation>>,
    ) -> Self {
        let rejected = move |(position, id)| answer(id, Err(refused.of(position).clone()));
        Self {
            answers: Box::new(ids.into_iter().enumerate().map(rejected)),
            _message: message,
            room: None,
        }
    }

    /// Moves answers and their room into the response until it is full. Returns whether the group is empty.
    fn pack(&mut self, packing: &mut Packing<'_>) -> bool {
        let bytes_before = packing.bytes;
        let mut is_emptied = false;
        while !is_emptied && !packing.is_full() {
            match self.answers.next() {
                Some(answer) => packing.push(answer),
                None => is_emptied = true,
            }
        }
        if let Some(room) = &mut self.room {
            packing.cover(room.split_off(packing.bytes - bytes_before));
        }
        is_emptied
    }
}

impl ReadyAnswers {
    pub(super) fn push(&mut self, group: AnswerGroup) {
        self.groups.push_back(group);
    }

    /// Moves answers into the response until it is full.
    pub(super) fn pack(&mut self, packing: &mut Packing<'_>) {
        while let Some(group) = self.groups.front_mut()
            && group.pack(packing)
        {
            self.groups.pop_front();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use rdb_proto::errorpb::{EpochNotMatch, RegionLeader, ServerBusy, region_error::Kind};
    use rdb_proto::metapb::{Region, Store};
    use rdb_proto::transport::limits::{BATCH_COMMANDS_MAX, MESSAGE_BYTES_MAX};

    use super::*;

    fn call() -> Arc<Call> {
        Call::of(&tonic::Request::new(()))
    }

    /// Packs everything, one response after the other.
    fn packed(mut ready: ReadyAnswers) -> Vec<BatchResponse> {
        let call = call();
        let responses = std::iter::from_fn(|| {
            let mut packing = Packing::new(&call);
            ready.pack(&mut packing);
            packing.finish().map(|response| response.message)
        });
        responses.collect()
    }

    fn same(kind: Kind, count: usize) -> ReadyAnswers {
        let mut ready = ReadyAnswers::default();
        let ids = (0..count as u64).collect();
        let refused = Rejection::Routing(kind).into();
        ready.push(AnswerGroup::refused(ids, refused, None));
        ready
    }

    fn ids(responses: &[BatchResponse]) -> Vec<u64> {
        let answers = responses.iter().flat_map(|response| &response.answers);
        answers.map(|answer| answer.id).collect()
    }

    #[test]
    fn routing_answers_with_the_longest_bounds_stay_under_the_message_limit() {
        let region = Region {
            start_key: vec![b'k'; 8192].into(),
            end_key: vec![b'l'; 8192].into(),
            ..Region::default()
        };
        let current_regions = vec![region; 2];
        let leader = RegionLeader {
            leader: Some(Store {
                address: "a".repeat(255),
                ..Store::default()
            }),
            term: u64::MAX,
        };
        let kind = Kind::EpochNotMatch(EpochNotMatch {
            current_regions,
            leaders: vec![leader; 2],
        });
        let responses = packed(same(kind, BATCH_COMMANDS_MAX));
        let largest = responses.iter().map(Message::encoded_len).max();
        assert!(largest < Some(MESSAGE_BYTES_MAX / 2), "{largest:?} bytes");
        let all: Vec<u64> = (0..BATCH_COMMANDS_MAX as u64).collect();
        assert_eq!(ids(&responses), all, "each once");
    }

    #[test]
    fn a_response_has_a_bounded_number_of_answers_and_an_empty_one_is_none() {
        let busy = Kind::ServerBusy(ServerBusy { backoff_ms: 1 });
        let responses = packed(same(busy, RESPONSE_ANSWERS_FULL + 1));
        let counts = responses.iter().map(|response| response.answers.len());
        assert_eq!(counts.collect::<Vec<_>>(), [RESPONSE_ANSWERS_FULL, 1]);
        assert!(Packing::new(&call()).finish().is_none());
    }

    #[test]
    fn the_news_of_closing_needs_no_answer_to_be_sent_with() {
        let call = call();
        let mut packing = Packing::new(&call);
        packing.set_closing();
        let response = packing.finish().expect("there is something to say");
        assert!(response.message.closing && response.message.answers.is_empty());
    }
}
