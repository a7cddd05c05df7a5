use std::fs;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use rdb_proto::auth::{Guard, Token};
use rdb_proto::errorpb::{Fate, region_error};
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::{
    BatchAnswer, BatchCommand, CompareAndDeleteRequest, CompareAndSwapRequest, GetRequest,
    RawDeleteRequest, RawGetRequest, RawPutRequest,
};
use rdb_proto::metapb::Region;
use rdb_proto::transport::Call;
use rdb_proto::transport::limits::CONNECTION_BYTES_IN_FLIGHT_MAX;
use rdb_storage::limits::{CONFLICT_VALUE_BYTES_MAX, CONFLICT_VALUES_BYTES_MAX};
use rdb_storage::{Command, Role, Storage, StorageOptions, Submission};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::super::super::fixture::User;
use super::super::super::point::{Operation, operation};
use super::super::answers::{Packing, ReadyAnswers};
use super::super::writes::{COLD_KEYS_MAX, PORTION_BYTES_MAX, next_portion};
use super::*;
use crate::region::fixture::Led;
use crate::router::Membership;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

/// What the messages are said to have on the wire.
const MESSAGE_BYTES: usize = 6 << 20;

pub(in super::super) struct Fixture {
    pub(in super::super) router: Router,
    pub(in super::super) call: Arc<Call>,
    storage: Storage,
    _led: Led,
    _directory: tempfile::TempDir,
}

/// Region 1 holds the keys below "m", region 2 the others. The write queue holds one such message.
pub(in super::super) async fn fixture() -> Fixture {
    fixture_in(tempfile::tempdir().expect("the temporary directory can be written")).await
}

fn open(directory: &Path) -> Storage {
    let options = StorageOptions {
        write_queue_bytes_max: 8 << 20,
        ..StorageOptions::new(Role::Server)
    };
    Storage::open(directory, options).expect("it is new or whole")
}

async fn fixture_in(directory: tempfile::TempDir) -> Fixture {
    let storage = open(directory.path());
    let led = Led::begin(&storage, Region::default()).await;
    let handle = |id, start_key: &'static str, end_key: &'static str| {
        led.handle(Region {
            id,
            start_key: start_key.into(),
            end_key: end_key.into(),
            ..Region::default()
        })
    };
    let router = Router::new(CancellationToken::new());
    let regions = vec![handle(1, "", "m"), handle(2, "m", "")];
    router.set(Membership::new(1, 1, regions));
    Fixture {
        router,
        call: Call::unserved(Caller::anyone()),
        storage,
        _led: led,
        _directory: directory,
    }
}

impl Fixture {
    fn take(&self, request: batch::Request) -> Intake {
        self.take_from(&Caller::anyone(), request)
    }

    fn take_from(&self, caller: &Caller, request: batch::Request) -> Intake {
        let arrival = Arrival::of(&self.call);
        let budgets = self.call.bytes_in_flight();
        take(
            request,
            arrival,
            None,
            caller,
            &self.router,
            budgets,
            |_| None,
        )
    }

    pub(in super::super) fn bytes_taken(&self) -> usize {
        self.call.bytes_in_flight().connection.bytes_taken()
    }

    /// All answers to a message.
    async fn answers(&self, intake: Intake) -> Vec<BatchAnswer> {
        let mut groups = intake.answered;
        for write in intake.writes {
            groups.push(write.await);
        }
        self.packed(groups)
    }

    /// The answers of these groups.
    fn packed(&self, groups: Vec<AnswerGroup>) -> Vec<BatchAnswer> {
        let mut ready = ReadyAnswers::default();
        groups.into_iter().for_each(|group| ready.push(group));
        let responses = std::iter::from_fn(|| {
            let mut packing = Packing::new(&self.call);
            ready.pack(&mut packing);
            packing.finish()
        });
        let answers = responses.flat_map(|response| response.message.answers);
        answers.collect()
    }
}

fn put(key: &'static str) -> Request {
    put_of(key.into(), Bytes::new())
}

fn put_of(key: Bytes, value: Bytes) -> Request {
    let context = None;
    Request::RawPut(RawPutRequest {
        context,
        key,
        value,
    })
}

pub(in super::super) fn get(key: &'static str) -> Request {
    let (context, key) = (None, key.into());
    Request::RawGet(RawGetRequest { context, key })
}

/// A message of these, with ids from 0.
fn message(requests: impl IntoIterator<Item = Request>) -> batch::Request {
    let commands = requests
        .into_iter()
        .zip(0..)
        .map(|(request, id)| BatchCommand {
            id,
            request: Some(request),
            ..BatchCommand::default()
        });
    let message = BatchRequest {
        commands: commands.collect(),
        ..BatchRequest::default()
    };
    batch::Request {
        message,
        message_bytes: MESSAGE_BYTES,
    }
}

#[tokio::test]
async fn a_message_for_several_regions_is_charged_once() {
    let fixture = fixture().await;
    let intake = fixture.take(message([put("a"), put("n")]));
    assert!(intake.answered.is_empty(), "the queue had room for both");
    assert_eq!(intake.writes.len(), 2);
    let taken = fixture.bytes_taken();
    assert!(
        (MESSAGE_BYTES..MESSAGE_BYTES + 1024).contains(&taken),
        "{taken}"
    );
    for write in intake.writes {
        drop(write.await);
    }
    assert_eq!(fixture.bytes_taken(), 0);
}

/// How many of these writes each portion has.
fn portions(requests: impl IntoIterator<Item = Request>, is_cold: bool) -> Vec<usize> {
    let writes = requests.into_iter().map(|request| {
        let Operation::Write(command, response) = operation(request).expect("valid") else {
            panic!("it is a read");
        };
        let awaited = AwaitedWrite {
            id: 0,
            kind: Kind::RawPut,
            trace: None,
            response,
        };
        (command, awaited)
    });
    let mut left = writes.peekable();
    let portions = std::iter::from_fn(|| next_portion(&mut left, is_cold));
    portions.map(|(commands, _)| commands.len()).collect()
}

#[test]
fn writes_are_submitted_in_portions_that_fit_into_an_entry() {
    let of_sizes = |sizes: &[usize]| {
        let puts = sizes.iter();
        let puts = puts.map(|&bytes| put_of("k".into(), vec![0; bytes - 1].into()));
        portions(puts, false)
    };
    let half = PORTION_BYTES_MAX / 2;
    assert_eq!(of_sizes(&[half, half, 1, 1]), [2, 2]);
    assert_eq!(of_sizes(&[1, PORTION_BYTES_MAX, 1]), [1, 1, 1]);
    assert!(of_sizes(&[]).is_empty());
}

#[test]
fn a_portion_that_is_not_in_memory_reads_few_keys_however_many_commands_it_has() {
    let keys = || (0..2 * COLD_KEYS_MAX).map(|number| Bytes::from(number.to_string()));
    assert_eq!(portions(keys().map(swap), true), [COLD_KEYS_MAX; 2]);
    assert_eq!(portions(keys().map(swap), false), [2 * COLD_KEYS_MAX]);
    let of_two_keys = keys().flat_map(|_| [swap("a".into()), put("k"), swap("b".into())]);
    assert_eq!(portions(of_two_keys, true), [6 * COLD_KEYS_MAX]);
}

#[tokio::test]
async fn a_message_without_room_in_the_write_queue_is_refused_and_not_applied() {
    let fixture = fixture().await;
    let by_others = fixture.storage.take_write_room(MESSAGE_BYTES);
    let by_others = by_others.expect("the queue is empty");
    let intake = fixture.take(message([put("a"), put("b")]));
    assert!(intake.writes.is_empty());
    let answers = fixture.packed(intake.answered);
    let is_busy = |answer: &BatchAnswer| match &answer.response {
        Some(Response::RegionError(error)) => {
            matches!(error.kind, Some(region_error::Kind::ServerBusy(_)))
        }
        _ => false,
    };
    assert!(answers.len() == 2 && answers.iter().all(is_busy));
    drop(by_others);
    assert_eq!(fixture.take(message([put("a")])).writes.len(), 1);
}

/// Stores these versioned keys, at version 1.
fn store(storage: &Storage, keys: &[Bytes], value: impl Fn() -> Bytes) {
    let swaps = keys.iter().map(|key| Command::CompareAndSwap {
        key: key.clone(),
        expected_version: 0,
        value: value(),
    });
    let submission = Submission::new(1, swaps.collect());
    let stored = storage.submit(submission).expect("there is room").wait();
    stored.expect("stored");
}

/// The same for as many keys, whose names begin so.
async fn stored(fixture: &Fixture, name: &str, count: usize, value_bytes: usize) -> Vec<Bytes> {
    let keys = (0..count).map(|number| format!("{name}/{number}").into());
    let keys: Vec<Bytes> = keys.collect();
    let (storage, stored) = (fixture.storage.clone(), keys.clone());
    let storing = move || store(&storage, &stored, || vec![0; value_bytes].into());
    spawn_blocking(storing).await.expect("no panic");
    keys
}

fn swap(key: Bytes) -> Request {
    swap_at(1, key)
}

fn swap_at(expected_version: u64, key: Bytes) -> Request {
    Request::CompareAndSwap(CompareAndSwapRequest {
        key,
        expected_version,
        ..CompareAndSwapRequest::default()
    })
}

#[tokio::test]
async fn swaps_that_have_much_to_read_are_submitted_in_parts_and_others_together() {
    let fixture = fixture().await;
    // With the larger ones a submission of all of them reads more than a thread may that drives tasks.
    for (value_bytes, submissions) in [(1, 1), (70 << 10, 2)] {
        let (name, count) = (format!("{value_bytes}"), COLD_KEYS_MAX + 1);
        let keys = stored(&fixture, &name, count, value_bytes).await;
        let mut request = message(keys.into_iter().map(swap));
        request.message_bytes = 1024;
        let intake = fixture.take(request);
        assert!(intake.answered.is_empty());
        assert_eq!(intake.writes.len(), submissions, "of {value_bytes} bytes");
        let answers = fixture.answers(intake).await;
        assert!(answers.len() == count && answers.iter().all(is_applied));
    }
}

fn is_applied(answer: &BatchAnswer) -> bool {
    match &answer.response {
        None | Some(Response::RegionError(_) | Response::Fault(_)) => false,
        Some(response) => !response.is_conflict(),
    }
}

#[tokio::test]
async fn a_write_does_not_pass_one_before_it_in_its_message_that_waits_for_its_keys() {
    let fixture = fixture().await;
    // More keys than one submission may read for, and more bytes than it may have.
    let (many, much) = ((COLD_KEYS_MAX + 1, 0), (COLD_KEYS_MAX, PORTION_BYTES_MAX));
    for (count, value_bytes) in [many, much] {
        let keys = stored(&fixture, &count.to_string(), count, 70 << 10).await;
        let before = [put_of("k".into(), "before".into())];
        let swaps = keys.into_iter().map(swap);
        let behind = [
            put_of("large".into(), vec![0; value_bytes].into()),
            put_of("k".into(), "behind".into()),
        ];
        let mut request = message(before.into_iter().chain(swaps).chain(behind));
        request.message_bytes = 1024;
        let intake = fixture.take(request);
        assert!(intake.answered.is_empty());
        assert!(intake.writes.len() > 1, "one submission would be in order");
        let answers = fixture.answers(intake).await;
        assert!(answers.len() == count + 3 && answers.iter().all(is_applied));
        let storage = fixture.storage.clone();
        let read = spawn_blocking(move || storage.get_raw(b"k")).await;
        let value = read.expect("no panic").expect("read");
        assert_eq!(value.as_deref(), Some(&b"behind"[..]));
    }
}

#[tokio::test]
async fn the_conflicts_of_a_message_in_parts_share_what_a_message_may_have() {
    let fixture = fixture().await;
    let (count, value_bytes) = (COLD_KEYS_MAX + 2, CONFLICT_VALUE_BYTES_MAX);
    let keys = stored(&fixture, "k", count, value_bytes).await;
    let mut request = message(keys.into_iter().map(|key| swap_at(7, key)));
    request.message_bytes = 1024;
    let intake = fixture.take(request);
    assert_eq!(intake.writes.len(), 2);
    let mut answers = fixture.answers(intake).await;
    assert_eq!(answers.len(), count);
    let responses = answers.iter_mut();
    let responses = responses.filter_map(|answer| answer.response.as_mut());
    let values = responses.filter_map(Response::value_mut);
    let bytes: usize = values.map(|value| value.len()).sum();
    let most = CONFLICT_VALUES_BYTES_MAX;
    assert!((most / 2..=most).contains(&bytes), "{bytes}");
}

/// A directory in which these versioned keys are stored, the first of them in a damaged block and the last in another one.
fn damaged(keys: &[Bytes]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let storage = open(directory.path());
    // It does not compress.
    store(&storage, keys, || {
        std::iter::repeat_with(|| fastrand::u8(..))
            .take(1000)
            .collect()
    });
    storage.close().expect("flushed");
    drop(storage);
    let files = fs::read_dir(directory.path().join("db")).expect("a database");
    let mut files = files.map(|file| file.expect("read").path());
    let table = files.find(|file| file.extension().is_some_and(|name| name == "sst"));
    let table = table.expect("one that was flushed");
    let mut contents = fs::read(&table).expect("read");
    contents[100] ^= 0x10;
    fs::write(&table, contents).expect("written");
    directory
}

#[tokio::test]
async fn damage_that_one_command_meets_is_told_to_that_one_and_the_others_can_be_retried() {
    // The second message is submitted in two parts.
    for (keys_before_last, submissions) in [(1, 1), (COLD_KEYS_MAX, 2)] {
        let keys: Vec<Bytes> = (0..100)
            .map(|number| format!("{number:04}").into())
            .collect();
        let swapped = keys[..keys_before_last].iter().chain(keys.last());
        let swaps: Vec<_> = swapped.cloned().map(swap).collect();
        let directory = spawn_blocking(move || damaged(&keys));
        let fixture = fixture_in(directory.await.expect("no panic")).await;
        let intake = fixture.take(message([put("a")].into_iter().chain(swaps)));
        assert_eq!(intake.writes.len(), submissions);
        let answers = fixture.answers(intake).await.into_iter();
        let told: Vec<_> = answers
            .map(|answer| match answer.response {
                Some(Response::Fault(fault)) => {
                    let fate = fault.error.as_ref().map(|error| error.fate());
                    (answer.id, fault.code, fate)
                }
                other => panic!("{}: {other:?}", answer.id),
            })
            .collect();
        let ids = 0..keys_before_last as u64 + 2;
        let expected = ids.map(|id| {
            let code = if id == 1 {
                Code::DataLoss
            } else {
                Code::Unavailable
            };
            (id, code as u32, Some(Fate::NotApplied))
        });
        assert_eq!(told, expected.collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_message_that_was_admitted_is_taken_while_others_wait_for_room() {
    let fixture = fixture().await;
    let budgets = fixture.call.bytes_in_flight();
    let arrived = budgets.try_reserve(MESSAGE_BYTES);
    let mut waiting = pin!(budgets.reserve(CONNECTION_BYTES_IN_FLIGHT_MAX, LONG));
    assert!(waiting.as_mut().now_or_never().is_none());
    let request = message([put("a")]);
    let arrival = Arrival::of(&fixture.call);
    let (caller, router) = (Caller::anyone(), &fixture.router);
    let unaudited = |_: Option<&Pass>| None;
    let intake = take(
        request, arrival, arrived, &caller, router, budgets, unaudited,
    );
    assert_eq!((intake.writes.len(), intake.answered.len()), (1, 0));
    for write in intake.writes {
        drop(write.await);
    }
    waiting.await.expect("its turn comes, too");
}

#[tokio::test]
async fn a_read_does_not_keep_the_large_message_that_it_came_with() {
    let fixture = fixture().await;
    let intake = fixture.take(message([put("a"), get("b")]));
    for write in intake.writes {
        drop(write.await);
    }
    let taken = fixture.bytes_taken();
    assert!((1..1024).contains(&taken), "{taken} bytes for one key");
    drop(intake.reads);
    assert_eq!(fixture.bytes_taken(), 0);
}

#[tokio::test]
async fn a_command_that_breaks_a_limit_or_is_misrouted_is_answered_alone() {
    let fixture = fixture().await;
    let no_key = Request::Get(GetRequest::default());
    let mut request = message([put("a"), no_key, put("b"), put("n")]);
    request.message.commands[2].region_id = 9;
    let intake = fixture.take(request);
    assert_eq!(intake.writes.len(), 2, "one region each");
    let answers = fixture.packed(intake.answered).into_iter();
    let answers: Vec<_> = answers.map(|answer| (answer.id, answer.response)).collect();
    assert!(matches!(
        &answers[..],
        [
            (1, Some(Response::Fault(_))),
            (2, Some(Response::RegionError(_)))
        ]
    ));
}

#[tokio::test]
async fn conflicts_carry_no_more_than_was_reserved_for_them() {
    const VALUE_BYTES: usize = 64 << 10;
    const SWAPS: usize = 64;
    let fixture = fixture().await;
    let storage = fixture.storage.clone();
    let stored =
        spawn_blocking(move || storage.compare_and_swap("hot", 0, vec![b'v'; VALUE_BYTES]));
    stored.await.expect("no panic").expect("stored");
    let stale_swaps = || {
        let swap = CompareAndSwapRequest {
            key: "hot".into(),
            expected_version: 7,
            ..CompareAndSwapRequest::default()
        };
        let mut request = message(vec![Request::CompareAndSwap(swap); SWAPS]);
        request.message_bytes = 1024;
        request
    };
    let conflicts = async || {
        let mut groups = Vec::new();
        for write in fixture.take(stale_swaps()).writes {
            groups.push(write.await);
        }
        let reserved = fixture.bytes_taken();
        let mut answers = fixture.packed(groups);
        assert_eq!(answers.len(), SWAPS);
        let responses = answers
            .iter_mut()
            .filter_map(|answer| answer.response.as_mut());
        let values = responses.filter_map(Response::value_mut);
        let value_bytes: usize = values.map(|value| value.len()).sum();
        assert!(
            value_bytes <= reserved,
            "{value_bytes} bytes of values in {reserved}"
        );
        value_bytes
    };
    assert_eq!(
        conflicts().await,
        SWAPS * VALUE_BYTES,
        "there was room for all"
    );

    let budgets = fixture.call.bytes_in_flight();
    let by_others = CONNECTION_BYTES_IN_FLIGHT_MAX / 2 - VALUE_BYTES - fixture.bytes_taken();
    let by_others = budgets.try_reserve(by_others).expect("there is room");
    assert!(conflicts().await <= VALUE_BYTES, "nobody can spare more");
    drop(by_others);
}

fn noted(fixture: &Fixture) -> (u64, u64) {
    fixture.router.figures().commands.noted_durations()
}

#[tokio::test]
async fn commands_that_are_refused_have_durations_as_those_that_are_served() {
    let fixture = fixture().await;
    let no_key = || Request::Get(GetRequest::default());
    let mut misrouted = message([put("a"), no_key(), get("b")]);
    misrouted.message.commands[2].region_id = 9;
    let intake = fixture.take(misrouted);
    assert_eq!(noted(&fixture), (2, 0), "the write is on its way");
    for write in intake.writes {
        drop(write.await);
    }
    assert_eq!(noted(&fixture), (2, 1));
    let elsewhere = fixture.call.bytes_in_flight();
    let taken = elsewhere.try_reserve(CONNECTION_BYTES_IN_FLIGHT_MAX - fixture.bytes_taken());
    let _taken = taken.expect("there is room");
    let intake = fixture.take(message([put("a"), get("b")]));
    assert!(intake.writes.is_empty() && intake.reads.is_empty());
    assert_eq!(noted(&fixture), (3, 2));
}

#[tokio::test]
async fn writes_whose_stream_ends_are_given_up_and_counted_once() {
    let fixture = fixture().await;
    let intake = fixture.take(message([put("a"), put("b"), put("n")]));
    let mut writes = intake.writes.into_iter();
    drop(writes.next().expect("one region").await);
    assert_eq!(noted(&fixture), (0, 2));
    drop(writes);
    assert_eq!(noted(&fixture), (0, 3));
    let given_up = fixture.router.figures().commands.counted(Kind::RawPut);
    assert_eq!(given_up, [(Answered::Done, 2), (Answered::GivenUp, 1)]);
}

/// Each kind of command, for this key.
fn each_kind(key: &'static str) -> [Request; 6] {
    [
        put(key),
        Request::RawDelete(RawDeleteRequest {
            key: key.into(),
            ..RawDeleteRequest::default()
        }),
        Request::CompareAndSwap(CompareAndSwapRequest {
            key: key.into(),
            ..CompareAndSwapRequest::default()
        }),
        Request::CompareAndDelete(CompareAndDeleteRequest {
            key: key.into(),
            expected_version: 1,
            ..CompareAndDeleteRequest::default()
        }),
        get(key),
        Request::Get(GetRequest {
            key: key.into(),
            ..GetRequest::default()
        }),
    ]
}

/// The ids of commands that were denied, and nothing else was answered.
fn denied(fixture: &Fixture, groups: Vec<AnswerGroup>) -> Vec<u64> {
    let answers = fixture.packed(groups).into_iter();
    let denied = answers.map(|answer| match answer.response {
        Some(Response::Fault(fault)) if fault.code == Code::PermissionDenied as u32 => {
            let error = fault.error.expect("it has details");
            assert_eq!(error.fate(), Fate::NotApplied);
            assert!(error.cause.contains("ada lacks the right"), "{error:?}");
            answer.id
        }
        other => panic!("{}: {other:?}", answer.id),
    });
    denied.collect()
}

#[tokio::test]
async fn a_command_that_its_sender_may_not_give_is_answered_alone_and_the_others_are_taken() {
    let fixture = fixture().await;
    let count = |intake: &Intake| {
        let reads = intake.reads.iter().map(|group| group.reads.len());
        (intake.writes.len(), reads.sum::<usize>())
    };
    let both = || message(each_kind("own/a").into_iter().chain(each_kind("other")));
    let caller = User::writer("own/").caller();
    let intake = fixture.take_from(&caller, both());
    assert_eq!(count(&intake), (1, 2), "one submission, two reads");
    assert_eq!(denied(&fixture, intake.answered), [6, 7, 8, 9, 10, 11]);
    for write in intake.writes {
        drop(write.await);
    }
    let counted = fixture.router.figures().commands.counted(Kind::RawPut);
    assert_eq!(counted, [(Answered::Done, 1), (Answered::Denied, 1)]);

    let caller = User::reader("own/").caller();
    let intake = fixture.take_from(&caller, both());
    assert_eq!(count(&intake), (0, 2), "it only reads");
    let others = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11];
    assert_eq!(denied(&fixture, intake.answered), others);
}

#[tokio::test]
async fn whether_a_key_is_here_is_not_told_to_who_may_not_read_it() {
    let fixture = fixture().await;
    let caller = User::writer("own/").caller();
    let mut elsewhere = message([get("other"), put("other")]);
    for command in &mut elsewhere.message.commands {
        command.region_id = 9;
    }
    let intake = fixture.take_from(&caller, elsewhere);
    assert_eq!(denied(&fixture, intake.answered), [0, 1]);
}

#[tokio::test]
async fn a_message_sees_the_rights_of_its_own_moment() {
    let fixture = fixture().await;
    let user = User::writer("own/");
    let caller = user.caller();
    let own = || message([put("own/a"), get("own/a")]);
    assert!(fixture.take_from(&caller, own()).answered.is_empty());
    user.grant_elsewhere();
    let intake = fixture.take_from(&caller, own());
    assert_eq!(denied(&fixture, intake.answered), [0, 1]);
    assert!(intake.writes.is_empty() && intake.reads.is_empty());
}

#[tokio::test]
async fn without_rights_that_hold_a_message_is_refused_as_a_whole_and_may_be_sent_again() {
    let fixture = fixture().await;
    let guard = Arc::new(Guard::refusing());
    let caller = Caller::with_token(guard, &Token::random());
    let intake = fixture.take_from(&caller, message([put("a"), get("b")]));
    assert!(intake.writes.is_empty() && intake.reads.is_empty());
    let answers = fixture.packed(intake.answered).into_iter();
    let codes = answers.map(|answer| match answer.response {
        Some(Response::Fault(fault)) => {
            let fate = fault.error.as_ref().map(|error| error.fate());
            assert_eq!(fate, Some(Fate::NotApplied));
            fault.code
        }
        other => panic!("{}: {other:?}", answer.id),
    });
    assert_eq!(codes.collect::<Vec<_>>(), [Code::Unavailable as u32; 2]);
}
