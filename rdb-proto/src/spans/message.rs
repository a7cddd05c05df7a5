//! Spans as OTLP has them: <https://opentelemetry.io/docs/specs/otlp/>.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status};

use super::{Origin, Span};
use crate::trace;

/// The parent is of another process: "it is known whether", and "it is".
const REMOTE_PARENT: u32 = 0x100 | 0x200;

/// The message that sends `spans`. Each gets an id.
pub(super) fn message(origin: &Origin, spans: &[Span]) -> ExportTraceServiceRequest {
    let resource = Resource {
        attributes: vec![
            text("service.namespace", "flaredb"),
            text("service.name", origin.program),
            text("service.version", origin.version),
            text("service.instance.id", &origin.instance),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "flaredb".to_owned(),
        version: origin.version.to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = ScopeSpans {
        scope: Some(scope),
        spans: spans.iter().map(otlp_span).collect(),
        ..ScopeSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        }],
    }
}

fn otlp_span(span: &Span) -> OtlpSpan {
    let mut attributes = vec![text("flaredb.outcome", span.outcome)];
    if let Some(region_id) = span.region_id {
        // Ids are counted from 1 on.
        let region_id = i64::try_from(region_id).unwrap_or(i64::MAX);
        attributes.push(attribute("flaredb.region_id", Value::IntValue(region_id)));
    }
    if let Some(peer) = span.peer {
        attributes.push(text("network.peer.address", &peer.ip().to_string()));
        let port = Value::IntValue(peer.port().into());
        attributes.push(attribute("network.peer.port", port));
    }
    for (part, took) in &span.parts {
        let took_ms = Value::DoubleValue(took.as_secs_f64() * 1e3);
        attributes.push(attribute(&format!("flaredb.{part}_ms"), took_ms));
    }
    let status = span.has_failed.then(|| Status {
        code: StatusCode::Error.into(),
        message: span.outcome.to_owned(),
    });
    OtlpSpan {
        trace_id: span.trace.trace_id().to_bytes().to_vec(),
        span_id: fastrand::u64(1..=u64::MAX).to_be_bytes().to_vec(),
        parent_span_id: span.trace.parent_id().to_vec(),
        flags: u32::from(trace::flags(&span.trace)) | REMOTE_PARENT,
        name: span.name.to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: since_epoch(span.ended).saturating_sub(nanoseconds(span.took)),
        end_time_unix_nano: since_epoch(span.ended),
        attributes,
        status,
        ..OtlpSpan::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn since_epoch(time: SystemTime) -> u64 {
    nanoseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A put that took 5 ms.
    pub(in super::super) fn span() -> Span {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        Span {
            trace: trace.parse().expect("valid"),
            name: "raw_put",
            outcome: "ok",
            has_failed: false,
            ended: UNIX_EPOCH + Duration::from_millis(1_000_005),
            took: Duration::from_millis(5),
            parts: vec![
                ("queue", Duration::from_micros(1_500)),
                ("sync", Duration::from_millis(3)),
            ],
            region_id: Some(7),
            peer: Some(([127, 0, 0, 1], 4711).into()),
        }
    }

    fn origin() -> Origin {
        Origin {
            program: "rdb-server",
            version: "0.1.0",
            instance: "127.0.0.1:20160".to_owned(),
        }
    }

    #[test]
    fn a_span_is_a_child_of_its_callers_with_its_parts_in_milliseconds() {
        let mut sent = message(&origin(), &[span(), span()]);
        let of_process = sent.resource_spans.pop().expect("one process");
        let resource = of_process.resource.expect("it is named");
        let name = text("service.name", "rdb-server");
        assert!(resource.attributes.contains(&name), "{resource:?}");
        let spans = &of_process.scope_spans[0].spans;
        assert_ne!(spans[0].span_id, spans[1].span_id);
        let sent = &spans[0];
        let trace = span().trace;
        assert_eq!(sent.trace_id, trace.trace_id().to_bytes());
        assert_eq!(sent.parent_span_id, trace.parent_id());
        assert_eq!((sent.span_id.len(), sent.flags), (8, 0x301));
        assert_eq!(sent.kind(), SpanKind::Server);
        let nanoseconds = (sent.start_time_unix_nano, sent.end_time_unix_nano);
        assert_eq!(nanoseconds, (1_000_000_000_000, 1_000_005_000_000));
        for expected in [
            text("flaredb.outcome", "ok"),
            text("network.peer.address", "127.0.0.1"),
            attribute("network.peer.port", Value::IntValue(4711)),
            attribute("flaredb.region_id", Value::IntValue(7)),
            attribute("flaredb.queue_ms", Value::DoubleValue(1.5)),
            attribute("flaredb.sync_ms", Value::DoubleValue(3.0)),
        ] {
            assert!(
                sent.attributes.contains(&expected),
                "{expected:?}: {sent:?}"
            );
        }
        assert_eq!(sent.attributes.len(), 6);
        assert_eq!(sent.status, None);
    }

    #[test]
    fn what_failed_is_an_error_and_what_is_not_known_is_left_out() {
        let failed = Span {
            outcome: "failed",
            has_failed: true,
            parts: Vec::new(),
            region_id: None,
            peer: None,
            ..span()
        };
        let sent = message(&origin(), &[failed]);
        let sent = &sent.resource_spans[0].scope_spans[0].spans[0];
        assert_eq!(sent.attributes, [text("flaredb.outcome", "failed")]);
        let status = sent.status.as_ref().expect("it has one");
        assert_eq!(status.code(), StatusCode::Error);
    }
}
