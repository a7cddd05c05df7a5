//! Faults: `errorpb::Error` in the details of a gRPC status, and back.
//!
//! Each process turns its own errors into [`Fault`]s once, where it answers. A fault travels as a `google.rpc.Status` with
//! exactly one `errorpb.Error`, so that generic gRPC tools can show it. A status that tonic makes carries no details:
//! [`details`] returns `None`, and a write that got such a status has an unknown fate.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

use crate::errorpb::{self, Fate, RegionError, ServerBusy, region_error};
use crate::kvrpc;

/// Longest cause that is sent, in bytes. The details have to fit beside other headers.
const CAUSE_BYTES_MAX: usize = 2048;

/// The type of the details in `google.protobuf.Any`.
const TYPE_URL: &str = "type.googleapis.com/errorpb.Error";

/// A failure on its way to the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The gRPC code.
    pub code: Code,
    /// The request's field that is wrong; empty when no single field is to blame.
    pub field: &'static str,
    /// The limit that was exceeded, in the field's unit.
    pub limit: Option<u64>,
    /// What happened and what would be right. Never holds keys or values.
    pub cause: String,
    /// Whether a write may have been applied; `Unspecified` for anything else.
    pub fate: Fate,
}

impl Fault {
    /// A fault with no field, no limit and no fate.
    pub fn new(code: Code, cause: impl Into<String>) -> Self {
        Self {
            code,
            field: "",
            limit: None,
            cause: cause.into(),
            fate: Fate::Unspecified,
        }
    }

    /// A request that is wrong in any state of the server. It is never applied.
    pub fn invalid_argument(
        field: &'static str,
        limit: Option<u64>,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            field,
            limit,
            fate: Fate::NotApplied,
            ..Self::new(Code::InvalidArgument, cause)
        }
    }

    /// The same fault, saying whether the write may have been applied.
    pub fn with_fate(self, fate: Fate) -> Self {
        Self { fate, ..self }
    }
}

impl From<Fault> for errorpb::Error {
    fn from(fault: Fault) -> Self {
        Self {
            field: fault.field.to_owned(),
            limit: fault.limit,
            cause: truncated(&fault.cause, CAUSE_BYTES_MAX).to_owned(),
            fate: fault.fate.into(),
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        status(fault.code, &fault.into())
    }
}

impl From<Fault> for kvrpc::Fault {
    fn from(fault: Fault) -> Self {
        Self {
            code: fault.code as u32,
            error: Some(fault.into()),
        }
    }
}

/// The status that the command would have got as a unary call.
impl From<kvrpc::Fault> for Status {
    fn from(fault: kvrpc::Fault) -> Self {
        let code = match i32::try_from(fault.code).map(Code::from_i32) {
            Ok(code) if code != Code::Ok => code,
            _ => Code::Unknown,
        };
        status(code, &fault.error.unwrap_or_default())
    }
}

fn status(code: Code, error: &errorpb::Error) -> Status {
    // The message is already in the status line of the response; here it would only take room.
    let rich = tonic_types::Status {
        code: code.into(),
        message: String::new(),
        details: vec![prost_types::Any {
            type_url: TYPE_URL.to_owned(),
            value: error.encode_to_vec(),
        }],
    };
    Status::with_details(code, error.cause.clone(), rich.encode_to_vec().into())
}

/// The `errorpb::Error` that a status carries, if it carries one.
pub fn details(status: &Status) -> Option<errorpb::Error> {
    let rich = tonic_types::Status::decode(status.details()).ok()?;
    rich.details
        .iter()
        .filter(|any| any.type_url == TYPE_URL)
        .find_map(|any| errorpb::Error::decode(any.value.as_slice()).ok())
}

/// The routing answer of a server whose queue or budget is used up. The client comes again `after` that time, with jitter.
pub fn busy(after: Duration) -> region_error::Kind {
    region_error::Kind::ServerBusy(ServerBusy {
        backoff_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
    })
}

impl From<region_error::Kind> for RegionError {
    fn from(kind: region_error::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

/// The longest prefix of `text` that has at most `bytes_max` bytes and ends between characters.
fn truncated(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fault_survives_the_wire() {
        let fault = Fault::invalid_argument("key", Some(8192), "key has 8193 bytes");
        let status = Status::from(fault);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "key has 8193 bytes");
        let error = details(&status).expect("details");
        assert_eq!(error.field, "key");
        assert_eq!(error.limit, Some(8192));
        assert_eq!(error.fate(), Fate::NotApplied);
    }

    #[test]
    fn a_fault_in_a_stream_becomes_the_status_of_a_call() {
        let fault = Fault::invalid_argument("key", Some(8192), "key has 8193 bytes");
        let in_stream = Status::from(kvrpc::Fault::from(fault.clone()));
        let of_a_call = Status::from(fault);
        assert_eq!(in_stream.code(), of_a_call.code());
        assert_eq!(in_stream.message(), of_a_call.message());
        assert_eq!(in_stream.details(), of_a_call.details());
        for code in [0, 17, u32::MAX] {
            let fault = kvrpc::Fault { code, error: None };
            assert_eq!(Status::from(fault).code(), Code::Unknown, "{code}");
        }
    }

    #[test]
    fn foreign_or_damaged_details_are_no_details() {
        assert_eq!(details(&Status::internal("bare")), None);
        let damaged = Status::with_details(Code::Internal, "x", vec![0xff; 9].into());
        assert_eq!(details(&damaged), None);
    }

    proptest! {
        #[test]
        fn details_stay_under_4_kib(cause in ".{0,4000}") {
            let status = Status::from(Fault::new(Code::Internal, cause));
            prop_assert!(status.details().len() < 4096);
            prop_assert!(details(&status).is_some());
        }
    }
}
