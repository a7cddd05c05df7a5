//! What the storage answers, as it goes over the wire: the same in a call of its own and in a stream.

use bytes::Bytes;
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::{
    CompareAndDeleteResponse, CompareAndSwapResponse, Conflict, Deleted, GetResponse, Swapped,
    Versioned, compare_and_delete_response as deletion, compare_and_swap_response as swap,
};
use rdb_storage::Outcome;
use tonic::Code;

use crate::error::Rejection;

/// Of a compare-and-swap.
pub(super) fn swapped(outcome: Outcome) -> Result<CompareAndSwapResponse, Rejection> {
    let result = match outcome {
        Outcome::Swapped { version } => swap::Result::Swapped(Swapped { version }),
        Outcome::Conflict {
            current_version,
            current_value,
        } => swap::Result::Conflict(conflict(current_version, current_value)),
        Outcome::Done | Outcome::EpochChanged { .. } | Outcome::Invalid { .. } => {
            return Err(unexpected());
        }
    };
    Ok(CompareAndSwapResponse {
        result: Some(result),
        region_error: None,
    })
}

/// Of a compare-and-delete.
pub(super) fn deleted(outcome: Outcome) -> Result<CompareAndDeleteResponse, Rejection> {
    let result = match outcome {
        Outcome::Done => deletion::Result::Deleted(Deleted {}),
        Outcome::Conflict {
            current_version,
            current_value,
        } => deletion::Result::Conflict(conflict(current_version, current_value)),
        Outcome::Swapped { .. } | Outcome::EpochChanged { .. } | Outcome::Invalid { .. } => {
            return Err(unexpected());
        }
    };
    Ok(CompareAndDeleteResponse {
        result: Some(result),
        region_error: None,
    })
}

/// Of a read from the versioned keyspace.
pub(super) fn versioned(found: Option<rdb_storage::Versioned>) -> GetResponse {
    let entry = found.map(|found| Versioned {
        version: found.version,
        value: found.value,
    });
    GetResponse {
        entry,
        region_error: None,
    }
}

fn conflict(current_version: u64, current_value: Option<Bytes>) -> Conflict {
    Conflict {
        current_version,
        value_omitted: current_version > 0 && current_value.is_none(),
        current_value,
    }
}

/// A fault in this process: something was written, but its outcome makes no sense. Nothing is submitted under an epoch, and
/// what is invalid is not submitted.
pub(super) fn unexpected() -> Rejection {
    let cause = "the storage gave an outcome that the command cannot have";
    Rejection::Fault(Fault::new(Code::Internal, cause).with_fate(Fate::Unknown))
}
