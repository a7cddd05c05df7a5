//! Trace contexts: which trace a call is a part of, and which span of another process has caused it.
//!
//! The form is that of the W3C, <https://www.w3.org/TR/trace-context/>: the field `traceparent` in the metadata of a unary call.
//! Commands of a stream have theirs in their message ([`batch::Traces`](crate::batch::Traces)).
//!
//! A context that cannot be read counts as none, as the specification asks for. `tracestate` is not taken: it belongs to the tools
//! of the caller, nothing here reads it, and it can have 512 bytes for each command.
//!
//! [`TraceContext`] is in the client's interface, so its methods have no types of HTTP. What only transports need are functions beside it.

use std::fmt;
use std::str::FromStr;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use crate::hex::{from_hex, write_hex};

/// The name of the field.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Bytes of a context in a message of commands.
pub const CONTEXT_BYTES: usize = 25;

/// Length of the field in version 00. Later versions begin with the same.
const TEXT_BYTES: usize = 55;

/// The caller may have recorded its span, and asks others to record theirs.
const SAMPLED: u8 = 1;

/// Half of the trace id is random. It is of the second level of the specification; its receivers hand it on.
const RANDOM: u8 = 2;

/// Which trace a call is a part of, and the span in it that has caused the call.
///
/// ```
/// use rdb_proto::trace::TraceContext;
///
/// let context: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
/// assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert!(context.is_sampled());
/// # Ok::<_, rdb_proto::trace::InvalidTraceContext>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: TraceId,
    parent_id: [u8; 8],
    /// Those that are known; the others are 0.
    flags: u8,
}

/// The id of a trace. Its text has 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// What should be a trace context is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is no trace context: expected a traceparent as in 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, and neither id all \
     zeros"
)]
pub struct InvalidTraceContext;

impl TraceContext {
    /// The context of what the span `parent_id` of a trace has caused.
    ///
    /// # Errors
    ///
    /// When one of the ids is all zeros.
    pub fn new(
        trace_id: [u8; 16],
        parent_id: [u8; 8],
        is_sampled: bool,
    ) -> Result<Self, InvalidTraceContext> {
        Self::of(trace_id, parent_id, u8::from(is_sampled)).ok_or(InvalidTraceContext)
    }

    /// The trace.
    pub fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// The id of the span that has caused the call.
    pub fn parent_id(&self) -> [u8; 8] {
        self.parent_id
    }

    /// Whether the caller asks for spans.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    fn of(trace_id: [u8; 16], parent_id: [u8; 8], flags: u8) -> Option<Self> {
        let are_ids = trace_id != [0; 16] && parent_id != [0; 8];
        are_ids.then_some(Self {
            trace_id: TraceId(trace_id),
            parent_id,
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (known, later) = text.split_first_chunk::<TEXT_BYTES>()?;
        let [version] = from_hex(&known[..2])?;
        let is_known = match version {
            0 => later.is_empty(),
            0xff => false,
            _ => later.first().is_none_or(|&byte| byte == b'-'),
        };
        let are_separated = [2, 35, 52].iter().all(|&position| known[position] == b'-');
        if !is_known || !are_separated {
            return None;
        }
        let [flags] = from_hex(&known[53..])?;
        Self::of(from_hex(&known[3..35])?, from_hex(&known[36..52])?, flags)
    }
}

/// The context that these metadata have. `None`: they have none, one that is invalid, or several.
pub fn of_headers(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    let value = values.next()?;
    let is_single = values.next().is_none();
    TraceContext::parse(value.as_bytes()).filter(|_| is_single)
}

/// A context as metadata have it.
pub fn header_value(context: &TraceContext) -> HeaderValue {
    HeaderValue::try_from(context.to_string()).expect("digits and dashes can be in a header")
}

/// A context as a message of commands has it: trace id, parent id, flags.
pub fn to_bytes(context: &TraceContext) -> [u8; CONTEXT_BYTES] {
    let mut bytes = [0; CONTEXT_BYTES];
    bytes[..16].copy_from_slice(&context.trace_id.0);
    bytes[16..24].copy_from_slice(&context.parent_id);
    bytes[24] = context.flags;
    bytes
}

/// The context that a message of commands has. `None`: it is invalid.
pub fn from_bytes(bytes: &[u8; CONTEXT_BYTES]) -> Option<TraceContext> {
    let (trace_id, rest) = bytes.split_first_chunk()?;
    let (parent_id, flags) = rest.split_first_chunk()?;
    TraceContext::of(*trace_id, *parent_id, *flags.first()?)
}

/// The flags of a context as one byte.
pub fn flags(context: &TraceContext) -> u8 {
    context.flags
}

impl FromStr for TraceContext {
    type Err = InvalidTraceContext;

    /// Reads the value of a `traceparent`.
    fn from_str(text: &str) -> Result<Self, InvalidTraceContext> {
        Self::parse(text.as_bytes()).ok_or(InvalidTraceContext)
    }
}

/// The value of a `traceparent`, in version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "00-{}-", self.trace_id)?;
        write_hex(&self.parent_id, formatter)?;
        write!(formatter, "-{:02x}", self.flags)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl TraceId {
    /// The id as it is in a message.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, formatter)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDS: &str = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";

    fn parsed(text: &str) -> Option<String> {
        let context = text.parse::<TraceContext>().ok();
        context.map(|context| context.to_string())
    }

    /// The examples of the specification, and what it says of versions, digits and ids.
    #[test]
    fn what_the_specification_takes_is_taken_and_written_in_version_00() {
        for (text, written) in [
            (format!("00-{IDS}-01"), format!("00-{IDS}-01")),
            (format!("00-{IDS}-00"), format!("00-{IDS}-00")),
            // Flags that are not known are not handed on.
            (format!("00-{IDS}-ff"), format!("00-{IDS}-03")),
            (format!("00-{IDS}-08"), format!("00-{IDS}-00")),
            // A later version has more behind a dash, or nothing.
            (format!("01-{IDS}-01"), format!("00-{IDS}-01")),
            (format!("cc-{IDS}-01-"), format!("00-{IDS}-01")),
            (format!("fe-{IDS}-01-what-will-be"), format!("00-{IDS}-01")),
        ] {
            assert_eq!(parsed(&text), Some(written), "{text}");
        }
    }

    #[test]
    fn what_the_specification_refuses_is_refused() {
        let zero_trace = "00000000000000000000000000000000-00f067aa0ba902b7";
        let zero_parent = "4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000";
        let upper_trace = "4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7";
        let upper_parent = "4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7";
        for text in [
            String::new(),
            "00".to_owned(),
            IDS.to_owned(),
            format!("ff-{IDS}-01"),
            format!("0-{IDS}-01"),
            format!("0x-{IDS}-01"),
            format!("CC-{IDS}-01"),
            format!("00-{zero_trace}-01"),
            format!("00-{zero_parent}-01"),
            format!("00-{upper_trace}-01"),
            format!("00-{upper_parent}-01"),
            format!("00-{IDS}-0"),
            format!("00-{IDS}-0A"),
            format!("00-{IDS}-0g"),
            format!("00-{IDS}"),
            format!("00-{IDS}-01-"),
            format!("00-{IDS}-01-more"),
            format!("01-{IDS}-01.more"),
            format!("01-{IDS}-012"),
            format!("00_{IDS}-01"),
            format!("00-{IDS}_01"),
            format!("00-{}-01", IDS.replace('-', "_")),
            format!(" 00-{IDS}-01"),
            format!("00-{IDS}-01 "),
            format!("00-{IDS}-01,00-{IDS}-01"),
            format!("00-ü{}-01", &IDS[2..]),
        ] {
            assert_eq!(parsed(&text), None, "{text}");
        }
    }

    #[test]
    fn metadata_have_one_context_or_none() {
        let text = format!("00-{IDS}-01");
        let value = HeaderValue::try_from(&text).expect("text");
        let mut headers = HeaderMap::new();
        assert_eq!(of_headers(&headers), None);
        headers.insert(&TRACEPARENT, value.clone());
        let found = of_headers(&headers).expect("it is valid");
        assert_eq!(header_value(&found), value);
        headers.append(&TRACEPARENT, value);
        assert_eq!(of_headers(&headers), None, "which one?");
        let unreadable = HeaderValue::from_bytes(&[0xff; TEXT_BYTES]).expect("opaque bytes");
        headers.insert(&TRACEPARENT, unreadable);
        assert_eq!(of_headers(&headers), None);
    }

    #[test]
    fn ids_of_zeros_are_no_context() {
        assert!(TraceContext::new([0; 16], [1; 8], true).is_err());
        assert!(TraceContext::new([1; 16], [0; 8], true).is_err());
        assert_eq!(
            from_bytes(&[0; CONTEXT_BYTES]),
            None,
            "nor are they on the wire"
        );
    }

    proptest! {
        #[test]
        fn a_context_is_read_as_it_was_written(
            trace_id in any::<[u8; 16]>(),
            parent_id in any::<[u8; 8]>(),
            is_sampled in any::<bool>(),
        ) {
            prop_assume!(trace_id != [0; 16] && parent_id != [0; 8]);
            let context = TraceContext::new(trace_id, parent_id, is_sampled).expect("no zeros");
            prop_assert_eq!(context.to_string().parse(), Ok(context));
            prop_assert_eq!(from_bytes(&to_bytes(&context)), Some(context));
            prop_assert_eq!(context.trace_id().to_bytes(), trace_id);
            prop_assert_eq!((context.parent_id(), context.is_sampled()), (parent_id, is_sampled));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = text.parse::<TraceContext>();
            let _ = TraceContext::parse(&bytes);
        }
    }
}
