//! Answers: made from results, and packed into responses of a bounded size.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use prost::Message;
use rdb_proto::batch;
use rdb_proto::errorpb::RegionError;
use rdb_proto::kvrpc::{
    BatchAnswer, BatchResponse, RawGetResponse, batch_answer::Response,
    compare_and_delete_response as deletion, compare_and_swap_response as swap,
};
use rdb_proto::transport::Reservation;
use rdb_storage::PointValue;

use super::super::outcome;
use crate::error::Rejection;

/// A response is full when its answers have about so many bytes. The last one may be as large as a value, which still
/// stays far below the message limit.
const RESPONSE_BYTES_FULL: usize = 256 << 10;

/// A response is full with so many answers: the client gets on with the first while the next are made.
const RESPONSE_ANSWERS_FULL: usize = 512;

/// A response is full when so many reads were tried for it, found in memory or not.
const RESPONSE_READS_FULL: usize = 1024;

/// What an answer takes beside its value, in bytes.
const ANSWER_OVERHEAD_BYTES: usize = 64;

/// The result of one command.
pub(super) fn answer(id: u64, result: Result<Response, Rejection>) -> BatchAnswer {
    let response = result.unwrap_or_else(|rejection| match rejection {
        Rejection::Routing(kind) => Response::RegionError(Box::new(kind.into())),
        Rejection::Fault(fault) => Response::Fault(Box::new(fault.into())),
    });
    BatchAnswer {
        id,
        response: Some(response),
    }
}

/// The result of a read.
pub(super) fn found(value: PointValue) -> Response {
    match value {
        PointValue::Raw(value) => Response::RawGet(RawGetResponse {
            region_error: None,
            value,
        }),
        PointValue::Versioned(found) => Response::Get(outcome::versioned(found)),
    }
}

/// About how many bytes an answer has.
pub(super) fn answer_bytes(answer: &BatchAnswer) -> usize {
    let value = match &answer.response {
        Some(Response::RawGet(found)) => found.value.as_ref(),
        Some(Response::Get(found)) => found.entry.as_ref().map(|entry| &entry.value),
        Some(Response::CompareAndSwap(answer)) => match &answer.result {
            Some(swap::Result::Conflict(conflict)) => conflict.current_value.as_ref(),
            _ => None,
        },
        Some(Response::CompareAndDelete(answer)) => match &answer.result {
            Some(deletion::Result::Conflict(conflict)) => conflict.current_value.as_ref(),
            _ => None,
        },
        // Regions, whose bounds are as long as keys may be.
        Some(Response::RegionError(error)) => return ANSWER_OVERHEAD_BYTES + error.encoded_len(),
        Some(Response::Fault(fault)) => return ANSWER_OVERHEAD_BYTES + fault.encoded_len(),
        Some(Response::RawPut(_) | Response::RawDelete(_)) | None => None,
    };
    ANSWER_OVERHEAD_BYTES + value.map_or(0, |value| value.len())
}

/// A response in the making.
#[derive(Default)]
pub(super) struct Packing {
    response: BatchResponse,
    bytes: usize,
    reads: usize,
}

impl Packing {
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= RESPONSE_BYTES_FULL
            || self.answer_count() >= RESPONSE_ANSWERS_FULL
            || self.reads >= RESPONSE_READS_FULL
    }

    pub(super) fn answer_count(&self) -> usize {
        self.response.answers.len()
    }

    pub(super) fn count_read(&mut self) {
        self.reads += 1;
    }

    pub(super) fn push(&mut self, answer: BatchAnswer) {
        self.bytes += answer_bytes(&answer);
        self.response.answers.push(answer);
    }

    /// Says that the stream is about to end.
    pub(super) fn set_closing(&mut self) {
        self.response.closing = true;
    }

    /// The response, if there is anything to say.
    pub(super) fn finish(self) -> Option<batch::Response> {
        let is_empty = self.response.answers.is_empty() && !self.response.closing;
        (!is_empty).then(|| self.response.into())
    }
}

/// Answers that wait for a response with room.
#[derive(Default)]
pub(super) struct ReadyAnswers {
    groups: VecDeque<AnswerGroup>,
}

/// Answers that became ready together.
pub(super) struct AnswerGroup {
    answers: Answers,
    /// What the message of their commands holds; absent where it was not admitted.
    _message: Option<Arc<Reservation>>,
    /// What the answers hold.
    _values: Option<Reservation>,
}

enum Answers {
    Different(vec::IntoIter<BatchAnswer>),
    /// Made only when there is room, since there may be far more of these than there are commands in a message.
    Same(vec::IntoIter<u64>, RegionError),
}

impl AnswerGroup {
    pub(super) fn different(answers: Vec<BatchAnswer>, message: Arc<Reservation>) -> Self {
        let bytes = answers.iter().map(answer_bytes).sum();
        Self {
            _values: Some(message.more(bytes)),
            _message: Some(message),
            answers: Answers::Different(answers.into_iter()),
        }
    }

    /// The same routing answer for all of `ids`.
    pub(super) fn same(
        ids: Vec<u64>,
        region_error: RegionError,
        message: Option<Arc<Reservation>>,
    ) -> Self {
        Self {
            answers: Answers::Same(ids.into_iter(), region_error),
            _message: message,
            _values: None,
        }
    }
}

impl Iterator for AnswerGroup {
    type Item = BatchAnswer;

    fn next(&mut self) -> Option<BatchAnswer> {
        match &mut self.answers {
            Answers::Different(answers) => answers.next(),
            Answers::Same(ids, region_error) => ids.next().map(|id| BatchAnswer {
                id,
                response: Some(Response::RegionError(Box::new(region_error.clone()))),
            }),
        }
    }
}

impl ReadyAnswers {
    pub(super) fn push(&mut self, group: AnswerGroup) {
        self.groups.push_back(group);
    }

    /// Moves answers into the response until it is full.
    pub(super) fn pack(&mut self, packing: &mut Packing) {
        while let Some(group) = self.groups.front_mut() {
            for answer in group {
                packing.push(answer);
                if packing.is_full() {
                    return;
                }
            }
            self.groups.pop_front();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use rdb_proto::errorpb::{EpochNotMatch, ServerBusy, region_error::Kind};
    use rdb_proto::metapb::Region;
    use rdb_proto::transport::limits::{BATCH_COMMANDS_MAX, MESSAGE_BYTES_MAX};

    use super::*;

    /// Packs everything, one response after the other.
    fn packed(mut ready: ReadyAnswers) -> Vec<BatchResponse> {
        let responses = std::iter::from_fn(|| {
            let mut packing = Packing::default();
            ready.pack(&mut packing);
            packing.finish().map(|response| response.message)
        });
        responses.collect()
    }

    fn same(kind: Kind, count: usize) -> ReadyAnswers {
        let mut ready = ReadyAnswers::default();
        let ids = (0..count as u64).collect();
        ready.push(AnswerGroup::same(ids, kind.into(), None));
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
        let kind = Kind::EpochNotMatch(EpochNotMatch { current_regions });
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
        assert!(Packing::default().finish().is_none());
    }

    #[test]
    fn the_news_of_closing_needs_no_answer_to_be_sent_with() {
        let mut packing = Packing::default();
        packing.set_closing();
        let response = packing.finish().expect("there is something to say");
        assert!(response.message.closing && response.message.answers.is_empty());
    }
}
