//! Spans: how commands and calls of sampled traces are reported to an OpenTelemetry collector.
//!
//! A server makes a [`Span`] when a command or call is answered or given up, and [`offers`](Spans::offer) it. With the cargo feature
//! `otlp` and `--otlp-endpoint`, `queue` keeps it until `exporter` sends it with others, in the form that `message` makes of them
//! (OTLP over gRPC). Without the feature, `left_out` has the same names: it refuses the setting, and takes no spans.
//!
//! Invariants:
//! - Nobody waits for a collector. A span that finds the queue full is dropped, and counted.
//! - No span has a key or a value.

#[cfg(feature = "otlp")]
mod endpoint;
#[cfg(feature = "otlp")]
mod exporter;
#[cfg(not(feature = "otlp"))]
mod left_out;
#[cfg(feature = "otlp")]
mod message;
#[cfg(feature = "otlp")]
mod queue;

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::trace::TraceContext;
use crate::transport::status::Exposition;

#[cfg(feature = "otlp")]
pub use endpoint::{InvalidOtlpEndpoint, OtlpEndpoint};
#[cfg(feature = "otlp")]
pub use exporter::SpanExporter;
#[cfg(not(feature = "otlp"))]
pub use left_out::{OtlpEndpoint, OtlpLeftOut, SpanExporter, Spans};
#[cfg(feature = "otlp")]
pub use queue::Spans;

/// What was done for a part of a trace.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace, and the span of the caller.
    pub trace: TraceContext,
    /// The kind of the command, or the method.
    pub name: &'static str,
    /// How it was answered, as the log of slow commands says it.
    pub outcome: &'static str,
    /// Whether it failed, rather than being refused.
    pub has_failed: bool,
    /// When it was answered, or given up.
    pub ended: SystemTime,
    /// How long it took until then.
    pub took: Duration,
    /// Where that time went, under the names of the log of slow commands without their unit.
    pub parts: Vec<(&'static str, Duration)>,
    /// Its region, once it was found.
    pub region_id: Option<u64>,
    /// Where its connection comes from.
    pub peer: Option<SocketAddr>,
}

/// The process that spans are of.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The program.
    pub program: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The address that tells it from others of the program.
    pub instance: String,
}

/// Begins to send spans, if there is an endpoint to send them to. Needs a tokio runtime.
pub fn start(endpoint: Option<&OtlpEndpoint>, origin: Origin) -> (Spans, Option<SpanExporter>) {
    let started = endpoint.map(|endpoint| SpanExporter::start(endpoint, origin));
    match started {
        Some((spans, exporter)) => (spans, Some(exporter)),
        None => (Spans::default(), None),
    }
}

/// Sends what waits, for a bounded time.
pub async fn end(exporter: Option<SpanExporter>) {
    if let Some(exporter) = exporter {
        exporter.end().await;
    }
}

fn write_counts(exported: u64, dropped: u64, exposition: &mut Exposition<'_>) -> fmt::Result {
    exposition.counter(
        "flaredb_spans_exported_total",
        "Spans that a collector has taken.",
        exported,
    )?;
    exposition.counter(
        "flaredb_spans_dropped_total",
        "Spans that were not sent in time, or that the collector has refused.",
        dropped,
    )
}
