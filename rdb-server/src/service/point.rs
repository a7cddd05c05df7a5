//! Point commands: the operation of each, and the response that is made of its result. Unary calls and streams share them.
//! [`rdb_proto::point`] has the recipe for adding one.

use rdb_proto::auth::{Keyspace, Pass, Permission};
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::{
    self, CompareAndDeleteRequest, CompareAndDeleteResponse, CompareAndSwapRequest,
    CompareAndSwapResponse, Conflict, Deleted, GetRequest, GetResponse, RawDeleteRequest,
    RawDeleteResponse, RawGetRequest, RawGetResponse, RawPutRequest, RawPutResponse, Swapped,
    batch_answer::Response, batch_command::Request, compare_and_delete_response as deletion,
    compare_and_swap_response as swap,
};
use rdb_proto::transport::{Call, Reservation};
use rdb_storage::limits::CONFLICT_VALUE_BYTES_MAX;
use rdb_storage::{Command, Outcome, PointRead, PointValue};
use tonic::{Code, Status};

use super::room::{POINT_ROOM, answer_with_room, spare};
use crate::error::Rejection;
use crate::metrics::{Begun, Kind};
use crate::region::{ReadFailure, RegionHandle};
use crate::router::Router;

/// What a point command asks of its region, and the function that makes its response of the result.
#[derive(Debug)]
pub(super) enum Operation {
    Read(PointRead, ReadResponse),
    Write(Command, WriteResponse),
}

pub(super) type ReadResponse = fn(PointValue) -> Result<Response, Rejection>;
pub(super) type WriteResponse = fn(Outcome) -> Result<Response, Rejection>;

/// Validates a request and converts it into its operation.
pub(super) fn operation(request: Request) -> Result<Operation, Rejection> {
    let (command, response): (Command, WriteResponse) = match request {
        Request::RawGet(RawGetRequest { key, .. }) => {
            return Ok(Operation::Read(PointRead::raw(key)?, raw_found));
        }
        Request::Get(GetRequest { key, .. }) => {
            return Ok(Operation::Read(PointRead::versioned(key)?, versioned_found));
        }
        Request::RawPut(RawPutRequest { key, value, .. }) => {
            (Command::PutRaw { key, value }, raw_put)
        }
        Request::RawDelete(RawDeleteRequest { key, .. }) => {
            (Command::DeleteRaw { key }, raw_deleted)
        }
        Request::CompareAndSwap(CompareAndSwapRequest {
            key,
            expected_version,
            value,
            ..
        }) => {
            let command = Command::CompareAndSwap {
                key,
                expected_version,
                value,
            };
            (command, swapped)
        }
        Request::CompareAndDelete(CompareAndDeleteRequest {
            key,
            expected_version,
            ..
        }) => {
            let command = Command::CompareAndDelete {
                key,
                expected_version,
            };
            (command, deleted)
        }
    };
    command.validate()?;
    Ok(Operation::Write(command, response))
}

/// Checks that the caller may do to `key` what a command of this kind does. Called before routing, since where a key is, and whether it
/// exists, must not be revealed without the right.
pub(super) fn check(pass: &Pass, kind: Kind, key: &[u8]) -> Result<(), Rejection> {
    let (permission, keyspace) = needed(kind)?;
    let checked = pass.check_key(permission, keyspace, key);
    checked.map_err(Rejection::Denied)
}

/// The right that a command of this kind needs.
pub(super) fn needed(kind: Kind) -> Result<(Permission, Keyspace), Rejection> {
    kind.needs().ok_or_else(unknown_command)
}

/// The rejection of a command that says nothing that could be done.
pub(super) fn unknown_command() -> Rejection {
    let cause = "the command has no request that this release knows";
    Rejection::Fault(Fault::new(Code::Unimplemented, cause).with_fate(Fate::NotApplied))
}

fn raw_found(found: PointValue) -> Result<Response, Rejection> {
    match found {
        PointValue::Raw(value) => Ok(Response::RawGet(RawGetResponse {
            region_error: None,
            value,
        })),
        PointValue::Versioned(_) => Err(unexpected()),
    }
}

fn versioned_found(found: PointValue) -> Result<Response, Rejection> {
    match found {
        PointValue::Versioned(found) => Ok(Response::Get(GetResponse {
            region_error: None,
            entry: found.map(|found| kvrpc::Versioned {
                version: found.version,
                value: found.value,
            }),
        })),
        PointValue::Raw(_) => Err(unexpected()),
    }
}

fn raw_put(outcome: Outcome) -> Result<Response, Rejection> {
    done(outcome)?;
    Ok(Response::RawPut(RawPutResponse::default()))
}

fn raw_deleted(outcome: Outcome) -> Result<Response, Rejection> {
    done(outcome)?;
    Ok(Response::RawDelete(RawDeleteResponse::default()))
}

fn swapped(outcome: Outcome) -> Result<Response, Rejection> {
    let result = match outcome {
        Outcome::Swapped { version } => swap::Result::Swapped(Swapped { version }),
        outcome => swap::Result::Conflict(conflict(outcome)?),
    };
    Ok(Response::CompareAndSwap(CompareAndSwapResponse {
        region_error: None,
        result: Some(result),
    }))
}

fn deleted(outcome: Outcome) -> Result<Response, Rejection> {
    let result = match outcome {
        Outcome::Done => deletion::Result::Deleted(Deleted {}),
        outcome => deletion::Result::Conflict(conflict(outcome)?),
    };
    Ok(Response::CompareAndDelete(CompareAndDeleteResponse {
        region_error: None,
        result: Some(result),
    }))
}

fn done(outcome: Outcome) -> Result<(), Rejection> {
    if outcome == Outcome::Done {
        Ok(())
    } else {
        Err(unexpected())
    }
}

fn conflict(outcome: Outcome) -> Result<Conflict, Rejection> {
    match outcome {
        Outcome::Conflict {
            current_version,
            current_value,
        } => Ok(Conflict {
            current_version,
            value_omitted: current_version > 0 && current_value.is_none(),
            current_value,
        }),
        Outcome::Done
        | Outcome::Swapped { .. }
        | Outcome::EpochChanged { .. }
        | Outcome::Invalid { .. } => Err(unexpected()),
    }
}

/// The rejection for an outcome that the command cannot have: a bug, and the write may have been applied.
pub(super) fn unexpected() -> Rejection {
    let cause = "the storage gave an outcome that the command cannot have";
    Rejection::Fault(Fault::new(Code::Internal, cause).with_fate(Fate::Unknown))
}

/// Most bytes of a value that the conflict of a command may carry.
pub(super) fn conflict_bytes_max(command: &Command) -> usize {
    match command {
        Command::CompareAndSwap { .. } | Command::CompareAndDelete { .. } => {
            CONFLICT_VALUE_BYTES_MAX
        }
        Command::PutRaw { .. }
        | Command::DeleteRaw { .. }
        | Command::PutBatchRaw { .. }
        | Command::DeleteRangeRaw { .. }
        | Command::PutRegion(_) => 0,
    }
}

/// Serves a point command as a unary call.
pub(super) async fn call<T, R>(
    router: &Router,
    request: tonic::Request<T>,
) -> Result<tonic::Response<R>, Status>
where
    T: Into<Request>,
    R: TryFrom<Response, Error = Status>,
{
    let call = Call::of(&request);
    let request: Request = request.into_inner().into();
    let mut begun = router.figures().commands.begin(Kind::of(&request), &call);
    begun.note_key(request.key());
    let result = execute(router, &mut begun, request).await;
    let response = begun.end_point(result);
    let response = response.unwrap_or_else(Response::from);
    R::try_from(response).map(tonic::Response::new)
}

async fn execute(
    router: &Router,
    begun: &mut Begun<'_>,
    request: Request,
) -> Result<Response, Rejection> {
    let call = begun.call();
    let pass = call.caller().pass().map_err(Rejection::Denied);
    check(&pass?, begun.kind(), request.key())?;
    let (context, key) = (request.context().copied(), request.key().clone());
    let operation = operation(request)?;
    let region = router.for_key(context.as_ref(), &key)?;
    drop(key);
    begun.note_region(region.region().id);
    let budgets = call.bytes_in_flight();
    match operation {
        Operation::Read(read, response) => {
            let read = read.detached();
            call.release_arrived();
            if let Some(answer) = answer_from_memory(&region, &read, response, call)? {
                return Ok(answer);
            }
            let read = |room| {
                let (region, read) = (&region, read.clone());
                async move {
                    let permit = region.permit_read().await?;
                    Ok(response(permit.read(read, room).await?)?)
                }
            };
            let answer = answer_with_room(call, POINT_ROOM, Response::encoded_len, read);
            // Boxed, so that the calls that are answered from memory do not carry it.
            Box::pin(answer).await
        }
        Operation::Write(command, response) => {
            let conflict_room = spare(budgets, conflict_bytes_max(&command));
            let conflict_bytes = conflict_room.as_ref().map_or(0, Reservation::bytes);
            let mut pending = region.submit(vec![command], conflict_bytes)?;
            begun.note_submitted(&mut pending);
            call.release_arrived();
            let outcome = pending.await?.pop().ok_or_else(unexpected)?;
            let response = response(outcome)?;
            if let Some(mut room) = conflict_room {
                room.shrink_to(response.encoded_len());
                call.hold_until_sent(room);
            }
            Ok(response)
        }
    }
}

/// The answer to a read whose value is in memory and fits into the first room.
fn answer_from_memory(
    region: &RegionHandle,
    read: &PointRead,
    response: ReadResponse,
    call: &Call,
) -> Result<Option<Response>, Rejection> {
    let Some(mut room) = POINT_ROOM.try_reserve(call.bytes_in_flight()) else {
        return Ok(None);
    };
    let found = match region.read_from_memory(read, room.bytes()) {
        Ok(Some(found)) => found,
        Ok(None) | Err(ReadFailure::NeedsRoom { .. }) => return Ok(None),
        Err(ReadFailure::Rejected(rejection)) => return Err(rejection),
    };
    let answer = response(found)?;
    room.shrink_to(answer.encoded_len());
    call.hold_until_sent(room);
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use rdb_storage::Versioned;

    use super::*;

    fn bytes(length: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), length).prop_map(Bytes::from)
    }

    macro_rules! requests {
        ($($command:ident($request:ident -> $response:ident) $call:tt)*) => {
            /// An empty request of each row of the table.
            fn requests() -> Vec<Request> {
                vec![$(Request::$command(kvrpc::$request::default())),*]
            }
        };
    }
    rdb_proto::point_commands!(requests);

    /// Any valid request, with the operation that it has to become.
    fn request() -> impl Strategy<Value = (Request, Result<PointRead, Command>)> {
        let kinds = prop::sample::select(requests());
        let parts = (kinds, bytes(1..=64), bytes(0..=64), 1..=u64::MAX);
        parts.prop_map(|(kind, key, value, expected_version)| {
            let context = None;
            match kind {
                Request::RawPut(_) => (
                    RawPutRequest {
                        context,
                        key: key.clone(),
                        value: value.clone(),
                    }
                    .into(),
                    Err(Command::PutRaw { key, value }),
                ),
                Request::RawGet(_) => (
                    RawGetRequest {
                        context,
                        key: key.clone(),
                    }
                    .into(),
                    Ok(PointRead::raw(key).expect("valid")),
                ),
                Request::RawDelete(_) => (
                    RawDeleteRequest {
                        context,
                        key: key.clone(),
                    }
                    .into(),
                    Err(Command::DeleteRaw { key }),
                ),
                Request::CompareAndSwap(_) => (
                    CompareAndSwapRequest {
                        context,
                        key: key.clone(),
                        expected_version,
                        value: value.clone(),
                    }
                    .into(),
                    Err(Command::CompareAndSwap {
                        key,
                        expected_version,
                        value,
                    }),
                ),
                Request::Get(_) => (
                    GetRequest {
                        context,
                        key: key.clone(),
                    }
                    .into(),
                    Ok(PointRead::versioned(key).expect("valid")),
                ),
                Request::CompareAndDelete(_) => (
                    CompareAndDeleteRequest {
                        context,
                        key: key.clone(),
                        expected_version,
                    }
                    .into(),
                    Err(Command::CompareAndDelete {
                        key,
                        expected_version,
                    }),
                ),
            }
        })
    }

    /// Whether the answer is that of the request.
    fn is_answered_by(request: &Request, response: &Response) -> bool {
        match request {
            Request::RawPut(_) => matches!(response, Response::RawPut(_)),
            Request::RawGet(_) => matches!(response, Response::RawGet(_)),
            Request::RawDelete(_) => matches!(response, Response::RawDelete(_)),
            Request::CompareAndSwap(_) => matches!(response, Response::CompareAndSwap(_)),
            Request::Get(_) => matches!(response, Response::Get(_)),
            Request::CompareAndDelete(_) => matches!(response, Response::CompareAndDelete(_)),
        }
    }

    proptest! {
        #[test]
        fn a_request_asks_for_what_it_says_and_each_result_is_an_answer_to_it(
            (request, expected) in request(),
            value in bytes(0..=64),
        ) {
            let key = request.key().clone();
            match (operation(request.clone()).expect("valid"), expected) {
                (Operation::Read(read, response), Ok(expected)) => {
                    prop_assert_eq!(&read, &expected);
                    prop_assert_eq!(read.key(), &key);
                    let versioned = Versioned { version: 7, value: value.clone() };
                    let found = [PointValue::Raw(Some(value.clone())), PointValue::Versioned(Some(versioned))];
                    let answers: Vec<_> = found.into_iter().filter_map(|found| response(found).ok()).collect();
                    prop_assert_eq!(answers.len(), 1, "of one keyspace");
                    for mut answer in answers {
                        prop_assert!(is_answered_by(&request, &answer));
                        prop_assert_eq!(answer.value_mut(), Some(&mut value.clone()));
                    }
                }
                (Operation::Write(command, response), Err(expected)) => {
                    prop_assert_eq!(&command, &expected);
                    let current_value = Some(value.clone());
                    let conflict = Outcome::Conflict { current_version: 9, current_value };
                    let outcomes = [Outcome::Done, Outcome::Swapped { version: 1 }, conflict];
                    let answers: Vec<_> = outcomes.into_iter().filter_map(|outcome| response(outcome).ok()).collect();
                    let can_conflict = conflict_bytes_max(&command) > 0;
                    prop_assert_eq!(answers.len(), 1 + usize::from(can_conflict));
                    let values = answers.into_iter().map(|mut answer| {
                        assert!(is_answered_by(&request, &answer));
                        answer.value_mut().cloned()
                    });
                    prop_assert_eq!(values.flatten().collect::<Vec<_>>(), vec![value; usize::from(can_conflict)]);
                }
                (operation, expected) => prop_assert!(false, "{operation:?} for {expected:?}"),
            }
        }
    }

    #[test]
    fn what_breaks_a_limit_is_refused_before_it_is_routed() {
        let refused = |request: Request| match operation(request) {
            Err(Rejection::Fault(fault)) => (fault.field, fault.fate),
            other => panic!("{other:?}"),
        };
        let no_key = RawGetRequest::default().into();
        assert_eq!(refused(no_key), ("key", Fate::NotApplied));
        let no_version = CompareAndDeleteRequest {
            key: "k".into(),
            ..CompareAndDeleteRequest::default()
        };
        let expected = ("expected_version", Fate::NotApplied);
        assert_eq!(refused(no_version.into()), expected);
    }
}
