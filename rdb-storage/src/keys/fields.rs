//! What records with several fields have in common: a byte that names the format, then fields, and nothing behind them.

use bytes::{Buf, BufMut, Bytes, TryGetError};

use super::DecodeError;

/// What is wrong with encoded bytes.
pub struct Problem(pub &'static str);

impl From<TryGetError> for Problem {
    fn from(_: TryGetError) -> Self {
        Self("it ends too early")
    }
}

/// Decodes a record of this `format` from all of `rest`.
///
/// # Errors
///
/// When it has another format, when `decode_fields` finds a problem, or when that leaves bytes over.
pub fn decode_all<B: Buf, T>(
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
        Ok(record) if !rest.has_remaining() => return Ok(record),
        Ok(_) => "bytes are left over",
        Err(Problem(problem)) => problem,
    };
    Err(DecodeError {
        what,
        bytes,
        problem,
    })
}

/// Appends `[u32 length][length × u8]`.
pub(crate) fn encode_bytes(field: &[u8], bytes: &mut Vec<u8>) {
    bytes.put_u32(field.len() as u32);
    bytes.put_slice(field);
}

/// Takes `[u32 length][length × u8]`, without a copy.
pub(crate) fn decode_bytes(rest: &mut Bytes) -> Result<Bytes, Problem> {
    let length = rest.try_get_u32()? as usize;
    if length > rest.len() {
        return Err(Problem("it ends too early"));
    }
    Ok(rest.split_to(length))
}
