//! openraft's messages on the wire and back.
//!
//! Nothing that comes in is assumed to be well formed. A peer that asks is itself the candidate or leader, so its vote is
//! made from its id and term.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use rdb_proto::raftpb::answer::Outcome;
use rdb_proto::raftpb::{self, Answer, Kind};

use super::CAUSE_BYTES_MAX;
use crate::encoding::membership;
use crate::timing::APPEND_ENTRIES_MAX;
use crate::types::{Content, Entry, LogId, Payload, TypeConfig, Vote, entry_bytes};

/// Payloads of an append share the buffer of its message, unless that is larger by this factor: the log keeps the last
/// payloads of a group for long, and they would keep the messages of others.
const BUFFER_FACTOR_MAX: usize = 8;

/// What an append takes in memory beside its entries, in bytes.
const APPEND_OVERHEAD_BYTES: usize = 256;

/// A message cannot come from a peer of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is malformed: {0}")]
pub(super) struct Malformed(&'static str);

/// About what an append takes in memory.
pub(super) fn append_bytes(append: &AppendEntriesRequest<TypeConfig>) -> usize {
    APPEND_OVERHEAD_BYTES + append.entries.iter().map(entry_bytes).sum::<usize>()
}

/// The last entry that an append gives a peer, or that it says the peer has.
pub(super) fn last_log_id(append: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    let last = append.entries.last().map(|entry| entry.log_id);
    last.or(append.prev_log_id)
}

pub(super) fn append(append: AppendEntriesRequest<TypeConfig>) -> raftpb::Append {
    raftpb::Append {
        term: append.vote.leader_id.term,
        previous: append.prev_log_id.map(log_id),
        committed: append.leader_commit.map(log_id),
        entries: append.entries.into_iter().map(entry).collect(),
    }
}

/// The append of a peer. It came in a message of `message_bytes`.
pub(super) fn read_append(
    from_peer: u64,
    append: raftpb::Append,
    message_bytes: usize,
) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let raftpb::Append {
        term,
        previous,
        committed,
        entries,
    } = append;
    if entries.len() as u64 > APPEND_ENTRIES_MAX {
        return Err(Malformed("an append has too many entries"));
    }
    let payload_bytes = entries.iter().map(|entry| entry.payload.len());
    let is_copied = payload_bytes
        .sum::<usize>()
        .saturating_mul(BUFFER_FACTOR_MAX)
        < message_bytes;
    let prev_log_id = previous.map(read_log_id);
    let mut last_term = prev_log_id.map_or(0, |previous| previous.leader_id.term);
    let mut index = prev_log_id.map(|previous| previous.index);
    let entries = entries.into_iter().map(|mut entry| {
        if entry.term < last_term || entry.term > term {
            return Err(Malformed("the terms of entries do not fit"));
        }
        last_term = entry.term;
        let next = index.map_or(Some(0), |index| index.checked_add(1));
        index = next;
        if is_copied {
            entry.payload = Bytes::copy_from_slice(&entry.payload);
        }
        read_entry(next.ok_or(Malformed("the log ends"))?, entry)
    });
    Ok(AppendEntriesRequest {
        vote: Vote::new_committed(term, from_peer),
        prev_log_id,
        entries: entries.collect::<Result<_, _>>()?,
        leader_commit: committed.map(read_log_id),
    })
}

fn entry(entry: Entry) -> raftpb::Entry {
    let (kind, payload) = match entry.payload {
        Content::Blank => (Kind::Blank, Bytes::new()),
        Content::Normal(payload) => (Kind::Proposed, payload.0),
        Content::Membership(membership) => {
            let mut encoded = Vec::new();
            membership::encode(&membership, &mut encoded);
            (Kind::Membership, encoded.into())
        }
    };
    raftpb::Entry {
        term: entry.log_id.leader_id.term,
        kind: kind.into(),
        payload,
    }
}

fn read_entry(index: u64, entry: raftpb::Entry) -> Result<Entry, Malformed> {
    let payload = match entry.kind() {
        Kind::Blank if entry.payload.is_empty() => Content::Blank,
        Kind::Proposed => Content::Normal(Payload(entry.payload)),
        Kind::Membership => {
            let membership = membership::decode(&entry.payload);
            Content::Membership(membership.map_err(|error| Malformed(error.problem))?)
        }
        Kind::Blank | Kind::Unspecified => return Err(Malformed("the kind of an entry is wrong")),
    };
    Ok(Entry {
        log_id: LogId::new_term_index(entry.term, index),
        payload,
    })
}

pub(super) fn campaign(request: &VoteRequest<TypeConfig>) -> raftpb::Campaign {
    raftpb::Campaign {
        term: request.vote.leader_id.term,
        last: request.last_log_id.map(log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn read_campaign(
    from_peer: u64,
    campaign: &raftpb::Campaign,
) -> VoteRequest<TypeConfig> {
    let vote = Vote::new(campaign.term, from_peer);
    let mut request = VoteRequest::new(vote, campaign.last.map(read_log_id));
    request.leadership_transfer = campaign.leadership_transfer;
    request
}

pub(super) fn voted(response: &VoteResponse<TypeConfig>) -> Outcome {
    Outcome::Voted(raftpb::Voted {
        vote: Some(vote(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.map(log_id),
    })
}

pub(super) fn read_voted(voted: raftpb::Voted) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let vote = voted.vote.ok_or(Malformed("a vote is missing"))?;
    let last = voted.last.map(read_log_id);
    Ok(VoteResponse::new(read_vote(vote), last, voted.granted))
}

pub(super) fn transfer(request: &TransferLeaderRequest<TypeConfig>) -> raftpb::Transfer {
    raftpb::Transfer {
        term: request.from_leader().leader_id.term,
        next_leader: *request.to_node_id(),
        last: request.last_log_id().copied().map(log_id),
    }
}

pub(super) fn read_transfer(
    from_peer: u64,
    transfer: &raftpb::Transfer,
) -> TransferLeaderRequest<TypeConfig> {
    let vote = Vote::new_committed(transfer.term, from_peer);
    TransferLeaderRequest::new(vote, transfer.next_leader, transfer.last.map(read_log_id))
}

/// The answer to an item that was served, or why it was not.
pub(super) fn answer(session: u64, sequence: u64, served: Result<Outcome, String>) -> Answer {
    let outcome = served.unwrap_or_else(|mut cause| {
        if cause.len() > CAUSE_BYTES_MAX {
            let ends = cause.char_indices().map(|(index, _)| index);
            let end = ends.take_while(|end| *end <= CAUSE_BYTES_MAX).last();
            cause.truncate(end.unwrap_or_default());
        }
        Outcome::Refusal(raftpb::Refusal { cause })
    });
    Answer {
        session,
        sequence,
        outcome: Some(outcome),
    }
}

pub(super) fn appended(result: StreamAppendResult<TypeConfig>) -> Outcome {
    match result {
        Ok(_) => Outcome::Appended(raftpb::Appended {}),
        Err(StreamAppendError::Conflict(_)) => Outcome::Conflict(raftpb::Conflict {}),
        Err(StreamAppendError::HigherVote(higher)) => Outcome::HigherVote(vote(&higher)),
    }
}

/// The result of the append that follows `previous` and ends with `last`.
pub(super) fn read_appended(
    outcome: Outcome,
    previous: Option<LogId>,
    last: Option<LogId>,
) -> Result<StreamAppendResult<TypeConfig>, super::RpcError> {
    match outcome {
        Outcome::Appended(_) => Ok(Ok(last)),
        Outcome::Conflict(_) => {
            let previous = previous.ok_or_else(|| super::broken("nothing can conflict"))?;
            Ok(Err(StreamAppendError::Conflict(previous)))
        }
        Outcome::HigherVote(higher) => Ok(Err(StreamAppendError::HigherVote(read_vote(higher)))),
        Outcome::Refusal(refusal) => Err(super::unreachable(refusal.cause)),
        Outcome::Voted(_) | Outcome::Transferred(_) => {
            Err(super::broken("the answer is not to an append"))
        }
    }
}

pub(super) fn log_id(log_id: LogId) -> raftpb::LogId {
    raftpb::LogId {
        term: log_id.leader_id.term,
        index: log_id.index,
    }
}

pub(super) fn read_log_id(log_id: raftpb::LogId) -> LogId {
    LogId::new_term_index(log_id.term, log_id.index)
}

pub(super) fn vote(vote: &Vote) -> raftpb::Vote {
    raftpb::Vote {
        term: vote.leader_id.term,
        peer_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(super) fn read_vote(vote: raftpb::Vote) -> Vote {
    let raftpb::Vote {
        term,
        peer_id,
        committed,
    } = vote;
    match committed {
        true => Vote::new_committed(term, peer_id),
        false => Vote::new(term, peer_id),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encoding::membership::tests::membership;

    fn content() -> impl Strategy<Value = Content> {
        let payload = prop::collection::vec(any::<u8>(), 0..50);
        prop_oneof![
            Just(Content::Blank),
            payload.prop_map(|payload| Content::Normal(Payload(payload.into()))),
            membership().prop_map(Content::Membership),
        ]
    }

    fn request(previous: Option<u64>, contents: Vec<Content>) -> AppendEntriesRequest<TypeConfig> {
        let first_index = previous.map_or(0, |previous| previous + 1);
        let entries = (first_index..).zip(contents).map(|(index, payload)| Entry {
            log_id: LogId::new_term_index(index / 3, index),
            payload,
        });
        let entries: Vec<_> = entries.collect();
        AppendEntriesRequest {
            vote: Vote::new_committed(1000, 7),
            prev_log_id: previous.map(|index| LogId::new_term_index(index / 3, index)),
            leader_commit: previous.map(|index| LogId::new_term_index(0, index / 2)),
            entries,
        }
    }

    #[test]
    fn a_payload_shares_the_buffer_of_its_message_unless_it_is_a_small_part_of_it() {
        let payload = Bytes::from(vec![1; 1000]);
        let content = Content::Normal(Payload(payload.clone()));
        let append = append(request(Some(0), vec![content]));
        for (message_bytes, is_shared) in [(1100, true), (8000, true), (8001, false)] {
            let read = read_append(7, append.clone(), message_bytes).unwrap();
            let Content::Normal(read) = &read.entries[0].payload else {
                panic!("a payload was sent");
            };
            assert_eq!(read.0, payload);
            assert_eq!(read.0.as_ptr() == payload.as_ptr(), is_shared);
        }
    }

    #[test]
    fn a_long_cause_is_cut_between_two_characters() {
        let long = "\u{e4}".repeat(200);
        for (cause, bytes) in [(long.clone(), 256), (format!("a{long}"), 255)] {
            let answer = answer(1, 0, Err(cause.clone()));
            let Some(Outcome::Refusal(refusal)) = answer.outcome else {
                panic!("{answer:?}");
            };
            assert_eq!(refusal.cause, cause[..bytes]);
        }
    }

    proptest! {
        #[test]
        fn an_append_is_read_as_it_was_written(
            previous in prop::option::of(0_u64..2000),
            contents in prop::collection::vec(content(), 0..20),
        ) {
            let sent = request(previous, contents);
            let read = read_append(7, append(sent.clone()), 0).unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{sent:?}"));
            prop_assert_eq!(read.entries, sent.entries);
        }
    }
}
