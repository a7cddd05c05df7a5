//! The bytes of what a log keeps. All integers are big-endian.
//!
//! Every value begins with its format. A release reads every older format and refuses a newer one. The bytes of a format
//! never change. openraft's own serialization makes no such promise and is not used.
//!
//! Decoding is total: bytes that the module of their kind cannot have written are refused, and none makes it panic. What is
//! read encodes to the same bytes again.

pub mod entry;
pub mod log_id;
pub mod membership;
pub mod vote;

use bytes::{Buf, TryGetError};

/// Encoded bytes that the module of their kind cannot have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {what} of {bytes} bytes cannot be read: {problem}")]
pub struct DecodeError {
    /// What it should have been.
    pub what: &'static str,
    /// How long it is.
    pub bytes: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl From<DecodeError> for std::io::Error {
    fn from(error: DecodeError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// What is wrong with encoded bytes.
struct Problem(&'static str);

impl From<TryGetError> for Problem {
    fn from(_: TryGetError) -> Self {
        Self("it ends too early")
    }
}

/// Decodes a value of this `format` from all of `rest`.
fn decode_all<B: Buf, T>(
    what: &'static str,
    format: u8,
    mut rest: B,
    decode_fields: impl FnOnce(&mut B) -> Result<T, Problem>,
) -> Result<T, DecodeError> {
    let bytes = rest.remaining();
    let decoded = match rest.try_get_u8() {
        Ok(found) if found == format => decode_fields(&mut rest),
        _ => Err(Problem("its format is unknown")),
    };
    let problem = match decoded {
        Ok(value) if !rest.has_remaining() => return Ok(value),
        Ok(_) => "bytes are left over",
        Err(Problem(problem)) => problem,
    };
    Err(DecodeError {
        what,
        bytes,
        problem,
    })
}
