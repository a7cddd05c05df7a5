//! What a queue does with commands, streams and answers.

use std::sync::Arc;
use std::task::Waker;

use futures::FutureExt;
use futures::task::{ArcWake, waker};
use rdb_proto::batch::Traces;
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::{
    BatchAnswer, BatchRequest, RawGetRequest, RawGetResponse, batch_command::Request,
};
use rdb_proto::metapb::Context;

use super::super::slot::{Answer, Interrupted, Slot};
use super::*;

/// What each command here takes of the room.
const ROOM_BYTES: usize = 10;

fn push_to(queue: &mut Queue, store_id: u64, key: &str) -> (Next, Answer) {
    push_traced(queue, store_id, key, None)
}

fn push_traced(
    queue: &mut Queue,
    store_id: u64,
    key: &str,
    trace: Option<TraceContext>,
) -> (Next, Answer) {
    let (slot, answer) = Slot::new();
    let context = Context {
        store_id,
        ..Context::default()
    };
    let get = RawGetRequest {
        context: None,
        key: key.to_owned().into(),
    };
    let command = AddressedCommand {
        context,
        request: Request::RawGet(get),
        trace,
    };
    (queue.push(command, slot, ROOM_BYTES), answer)
}

fn push(queue: &mut Queue, key: &str) -> Answer {
    push_to(queue, 1, key).1
}

/// A queue with a stream that takes from it, and the stream's generation.
fn open_queue() -> (Queue, u64) {
    let mut queue = Queue::new(MESSAGE_COMMANDS_MAX);
    let generation = queue.gate.open();
    (queue, generation)
}

/// The next message, and the room that came free.
fn take(queue: &mut Queue, generation: u64) -> Option<(BatchRequest, usize)> {
    match queue.take(generation, true, Waker::noop()) {
        (Taken::Request(request), freed_bytes) => Some((request, freed_bytes)),
        _ => None,
    }
}

fn is_over(queue: &mut Queue, generation: u64) -> bool {
    let (taken, _) = queue.take(generation, true, Waker::noop());
    matches!(taken, Taken::Over)
}

fn keys(request: &BatchRequest) -> Vec<&[u8]> {
    let keys = request.commands.iter().map(|command| {
        let Some(Request::RawGet(get)) = &command.request else {
            panic!("only reads were pushed");
        };
        get.key.as_ref()
    });
    keys.collect()
}

/// An answer that names its command in its value.
fn answer_to(id: u64) -> BatchAnswer {
    BatchAnswer {
        id,
        response: Some(response(id)),
    }
}

fn response(id: u64) -> Response {
    Response::RawGet(RawGetResponse {
        region_error: None,
        value: Some(id.to_string().into()),
    })
}

/// Completes the calls that are answered; returns how many, and the room that came free.
fn complete(queue: &mut Queue, ids: &[u64]) -> (usize, usize) {
    let answers = ids.iter().copied().map(answer_to).collect();
    let (completed, freed_bytes) = queue.answered(answers);
    let count = completed.len();
    for (slot, answer) in completed {
        slot.complete(Ok(answer.response.expect("just made")));
    }
    (count, freed_bytes)
}

#[test]
fn what_waits_is_taken_together_in_its_order_and_each_gets_its_own_answer() {
    let (mut queue, stream_id) = open_queue();
    let calls = ["a", "b", "c"].map(|key| push(&mut queue, key));
    let (request, freed_bytes) = take(&mut queue, stream_id).expect("three commands");
    assert_eq!((keys(&request).concat(), freed_bytes), (b"abc".to_vec(), 0));
    assert!(take(&mut queue, stream_id).is_none());

    let mut ids: Vec<u64> = request.commands.iter().map(|command| command.id).collect();
    let expected = ids.clone();
    ids.reverse();
    assert_eq!(complete(&mut queue, &ids), (3, 3 * ROOM_BYTES));
    for (call, id) in calls.into_iter().zip(expected) {
        assert_eq!(call.now_or_never(), Some(Ok(response(id))));
    }
}

#[test]
fn each_command_takes_its_trace_along_and_those_without_one_take_nothing() {
    let (mut queue, stream_id) = open_queue();
    let trace = |byte| TraceContext::new([byte; 16], [byte; 8], true).expect("no zeros");
    let traces = [None, Some(trace(1)), Some(trace(2)), None, Some(trace(3))];
    let mut calls: Vec<_> = traces
        .iter()
        .zip(["a", "left", "b", "c", "d"])
        .map(|(&trace, key)| push_traced(&mut queue, 1, key, trace).1)
        .collect();
    drop(calls.remove(1));
    let (request, _) = take(&mut queue, stream_id).expect("four commands");
    assert_eq!(keys(&request).concat(), b"abcd");
    let mut found = Traces::of(&request);
    let found: Vec<_> = (0..4).map(|position| found.at(position)).collect();
    assert_eq!(found, [None, Some(trace(2)), None, Some(trace(3))]);

    let _call = push(&mut queue, "e");
    let (request, _) = take(&mut queue, stream_id).expect("a command");
    assert!(request.traces.is_empty());
}

#[test]
fn an_answer_counts_once_and_only_for_a_command_that_is_known() {
    let (mut queue, stream_id) = open_queue();
    let _call = push(&mut queue, "a");
    let id = take(&mut queue, stream_id).expect("a command").0.commands[0].id;
    assert_eq!(complete(&mut queue, &[id + 1, id ^ 1 << 32]), (0, 0));
    assert_eq!(complete(&mut queue, &[id, id]), (1, ROOM_BYTES));
    assert_eq!(complete(&mut queue, &[id]), (0, 0));
}

#[test]
fn a_late_answer_does_not_reach_the_command_that_has_its_place_now() {
    let (mut queue, stream_id) = open_queue();
    let _earlier = push(&mut queue, "a");
    let earlier = take(&mut queue, stream_id).expect("a command").0.commands[0].id;
    complete(&mut queue, &[earlier]);
    let later = push(&mut queue, "b");
    let id = take(&mut queue, stream_id).expect("a command").0.commands[0].id;
    assert_eq!(id as u32, earlier as u32, "the place is used again");
    assert_ne!(id, earlier);
    assert_eq!(complete(&mut queue, &[earlier]), (0, 0));
    assert!(later.now_or_never().is_none());
}

#[test]
fn a_stream_whose_time_is_over_takes_nothing_and_what_it_took_is_lost() {
    let (mut queue, earlier) = open_queue();
    let lost = push(&mut queue, "a");
    let id = take(&mut queue, earlier).expect("a command").0.commands[0].id;
    let _ = queue.gate.close();
    let _waits = push(&mut queue, "b");
    assert!(is_over(&mut queue, earlier));

    let (slots, freed_bytes) = queue.remove_sent();
    assert_eq!((slots.len(), freed_bytes), (1, ROOM_BYTES));
    let cause: Arc<str> = "cut".into();
    interrupt(
        slots,
        &Interrupted::Lost {
            cause: cause.clone(),
        },
    );
    assert_eq!(lost.now_or_never(), Some(Err(Interrupted::Lost { cause })));

    let generation = queue.gate.open();
    assert!(is_over(&mut queue, earlier));
    let (request, _) = take(&mut queue, generation).expect("what waited");
    assert_eq!(keys(&request), [b"b"]);
    assert_eq!(complete(&mut queue, &[id]), (0, 0));
}

#[test]
fn a_closed_stream_still_answers_what_it_has_taken() {
    let (mut queue, stream_id) = open_queue();
    let call = push(&mut queue, "a");
    let id = take(&mut queue, stream_id).expect("a command").0.commands[0].id;
    let _ = queue.gate.close();
    assert_eq!(complete(&mut queue, &[id]), (1, ROOM_BYTES));
    assert_eq!(call.now_or_never(), Some(Ok(response(id))));
}

#[test]
fn abandoned_calls_are_not_sent_and_give_their_room_back() {
    let (mut queue, stream_id) = open_queue();
    let gone = push(&mut queue, "a");
    let _stays = push(&mut queue, "b");
    drop(gone);
    let (request, freed_bytes) = take(&mut queue, stream_id).expect("a command");
    assert_eq!((keys(&request), freed_bytes), (vec![&b"b"[..]], ROOM_BYTES));

    drop(push(&mut queue, "c"));
    let taken = queue.take(stream_id, true, Waker::noop());
    let only_room = matches!(taken, (Taken::Nothing, ROOM_BYTES));
    assert!(only_room, "{taken:?}");

    // Sent before it was abandoned: its room comes free with its answer.
    let sent = push(&mut queue, "d");
    let id = take(&mut queue, stream_id).expect("a command").0.commands[0].id;
    drop(sent);
    assert_eq!(complete(&mut queue, &[id]), (1, ROOM_BYTES));
}

#[test]
fn commands_for_another_store_do_not_share_a_message() {
    let (mut queue, stream_id) = open_queue();
    let calls = [(1, "a"), (1, "b"), (2, "c"), (1, "d")];
    let _calls = calls.map(|(store_id, key)| push_to(&mut queue, store_id, key).1);
    // The first of a message may be one that is not sent.
    drop(push_to(&mut queue, 2, "gone").1);
    let _last = push_to(&mut queue, 1, "e").1;
    let messages: Vec<_> = std::iter::from_fn(|| take(&mut queue, stream_id)).collect();
    let messages = messages
        .iter()
        .map(|(request, _)| (request.store_id, keys(request).concat()));
    let expected = [(1, "ab"), (2, "c"), (1, "d"), (1, "e")];
    let expected = expected.map(|(store_id, keys)| (store_id, keys.as_bytes().to_vec()));
    assert_eq!(messages.collect::<Vec<_>>(), expected);
}

#[test]
fn what_a_stalled_transport_leaves_waiting_goes_into_as_few_messages_as_can_be() {
    for count in [1_usize, 511, 512, 513, 1_300] {
        let (mut queue, stream) = open_queue();
        let _answers: Vec<_> = (0..count).map(|_| push(&mut queue, "k")).collect();
        let messages = std::iter::from_fn(|| take(&mut queue, stream));
        let sizes: Vec<_> = messages.map(|(taken, _)| taken.commands.len()).collect();
        assert_eq!(sizes.len(), count.div_ceil(MESSAGE_COMMANDS_MAX), "{count}");
        assert_eq!(sizes.iter().sum::<usize>(), count);
    }
}

#[test]
fn a_message_is_bounded_in_commands_and_bytes() {
    let (mut queue, stream_id) = open_queue();
    let count = MESSAGE_COMMANDS_MAX + 1;
    let _calls: Vec<_> = (0..count).map(|_| push(&mut queue, "k")).collect();
    let taken = take(&mut queue, stream_id).expect("commands").0;
    assert_eq!(taken.commands.len(), MESSAGE_COMMANDS_MAX);
    assert_eq!(
        take(&mut queue, stream_id)
            .expect("the last")
            .0
            .commands
            .len(),
        1
    );

    let mut calls = Vec::new();
    for _ in 0..3 {
        let (slot, answer) = Slot::new();
        let command = AddressedCommand {
            context: Context::default(),
            request: Request::RawGet(RawGetRequest::default()),
            trace: None,
        };
        queue.push(command, slot, MESSAGE_BYTES_FULL - 1);
        calls.push(answer);
    }
    let taken = take(&mut queue, stream_id).expect("commands").0;
    assert_eq!(taken.commands.len(), 2, "full with the second");
}

#[test]
fn a_message_has_no_more_commands_than_the_store_accepts() {
    let mut queue = Queue::new(3);
    let generation = queue.gate.open();
    let _calls: Vec<_> = (0..7).map(|_| push(&mut queue, "k")).collect();
    let messages = std::iter::from_fn(|| take(&mut queue, generation));
    let sizes: Vec<_> = messages.map(|(taken, _)| taken.commands.len()).collect();
    assert_eq!(sizes, [3, 3, 1]);
}

#[test]
fn the_first_command_starts_a_task_and_a_later_one_wakes_who_has_found_nothing() {
    struct Woken;
    impl ArcWake for Woken {
        fn wake_by_ref(_: &Arc<Self>) {}
    }
    let mut queue = Queue::new(MESSAGE_COMMANDS_MAX);
    let (next, _first) = push_to(&mut queue, 1, "a");
    assert!(matches!(next, Next::Start));
    let (next, _second) = push_to(&mut queue, 1, "b");
    assert!(matches!(next, Next::Nothing), "it was started already");

    let generation = queue.gate.open();
    let taker = waker(Arc::new(Woken));
    let (taken, _) = queue.take(generation, false, &taker);
    assert!(matches!(taken, Taken::Yield), "others may come");
    assert!(take(&mut queue, generation).is_some());
    let (taken, _) = queue.take(generation, false, &taker);
    assert!(matches!(taken, Taken::Nothing));
    let (next, _third) = push_to(&mut queue, 1, "c");
    assert!(matches!(next, Next::Wake(woken) if woken.will_wake(&taker)));
    let (next, _fourth) = push_to(&mut queue, 1, "d");
    assert!(matches!(next, Next::Nothing), "it was woken already");
}
