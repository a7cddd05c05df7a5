//! The same names for builds that cannot send spans.

use std::fmt;
use std::str::FromStr;

use super::{Origin, Span};
use crate::transport::status::Exposition;

/// There is none: this build sends no spans.
#[derive(Debug, Clone)]
pub enum OtlpEndpoint {}

/// This build sends no spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this program was built without the export of spans; build it with the cargo feature `otlp`"
)]
pub struct OtlpLeftOut;

impl FromStr for OtlpEndpoint {
    type Err = OtlpLeftOut;

    fn from_str(_: &str) -> Result<Self, OtlpLeftOut> {
        Err(OtlpLeftOut)
    }
}

/// Takes no spans.
#[derive(Debug, Clone, Default)]
pub struct Spans(());

impl Spans {
    /// They are not.
    pub fn are_sent(&self) -> bool {
        false
    }

    /// There is no room.
    pub fn admits(&self, _: usize) -> bool {
        false
    }

    /// Does not make it.
    pub fn offer(&self, _: impl FnOnce() -> Span) {}

    /// Writes that there were none.
    ///
    /// # Errors
    ///
    /// Only those of the exposition.
    pub fn write_to(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        super::write_counts(0, 0, exposition)
    }
}

/// There is none.
#[derive(Debug)]
pub enum SpanExporter {}

impl SpanExporter {
    /// Nobody can call it.
    pub fn start(endpoint: &OtlpEndpoint, _: Origin) -> (Spans, Self) {
        match *endpoint {}
    }

    /// Nobody can call it.
    pub async fn end(self) {
        match self {}
    }
}
