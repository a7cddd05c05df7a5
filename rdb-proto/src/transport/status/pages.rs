//! Which path shows what.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::Exposition;
use super::exposition::{older_form, text};
use super::process_metrics::{self, ProcessMetrics};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

const OLDER_METRICS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

const PATHS: &str = "\
/metrics  figures for Prometheus, as OpenMetrics
/health   200 when it does all of its work, else 503 and why not
/ready    200 when it takes calls, else 503 and why not
/status   what it is and has, as JSON
";

/// What a process has to show. Nothing of it may wait, or take a lock that a read, a write or a timestamp takes.
pub trait Source: Send + Sync + 'static {
    /// Whether it does all of its work, as gRPC health says; otherwise why not.
    fn health(&self) -> Result<(), String>;

    /// What an operator has to look at though it does its work.
    fn warning(&self) -> Option<String> {
        None
    }

    /// Whether it takes calls at all; otherwise why not. It may, though a part of its work is not done.
    fn readiness(&self) -> Result<(), String>;

    /// Members of the JSON object of `/status`, beside those that every process has.
    fn describe(&self) -> Vec<(&'static str, Value)>;

    /// Writes its metrics.
    ///
    /// # Errors
    ///
    /// Those of the exposition only.
    fn write_metrics(&self, exposition: &mut Exposition<'_>) -> fmt::Result;
}

/// A body is short, and whole from the beginning.
pub(super) type Answer = Response<Full<Bytes>>;

/// What is answered to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Metrics(MetricsForm),
    Health,
    Readiness,
    Status,
    Index,
    /// There is no such page.
    Missing,
    /// The method is another than GET.
    NotAllowed,
    /// The request has a body.
    HasBody,
}

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricsForm {
    OpenMetrics,
    /// The older text form of Prometheus.
    Older,
}

impl MetricsForm {
    /// The older one is for who asks for plain text and does not take OpenMetrics. A preference between both is not looked at.
    fn accepted_by<B>(request: &Request<B>) -> Self {
        let accepted = request.headers().get_all(ACCEPT).iter();
        let accepted = accepted.filter_map(|accepted| accepted.to_str().ok());
        let ranges = accepted.flat_map(|accepted| accepted.split(','));
        let mut is_plain = false;
        for range in ranges {
            let named = range.split(';').next().unwrap_or_default().trim();
            if named.eq_ignore_ascii_case("application/openmetrics-text") {
                return Self::OpenMetrics;
            }
            is_plain |= named.eq_ignore_ascii_case("text/plain");
        }
        if is_plain {
            Self::Older
        } else {
            Self::OpenMetrics
        }
    }
}

impl Page {
    /// The answer to a request, of which a body is not read.
    pub(super) fn asked_for<B: Body>(request: &Request<B>) -> Self {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return Self::NotAllowed;
        }
        if !request.body().is_end_stream() {
            return Self::HasBody;
        }
        match request.uri().path() {
            "/metrics" => Self::Metrics(MetricsForm::accepted_by(request)),
            "/health" => Self::Health,
            "/ready" => Self::Readiness,
            "/status" => Self::Status,
            "/" => Self::Index,
            _ => Self::Missing,
        }
    }
}

/// The pages of a process.
pub(super) struct Pages {
    program: &'static str,
    version: &'static str,
    process: ProcessMetrics,
    source: Arc<dyn Source>,
    /// Held while metrics are written: that takes a processor for a moment, and however many ask, only one of them has it.
    writing: Mutex<()>,
    started: Instant,
}

impl Pages {
    pub(super) fn new(
        program: &'static str,
        version: &'static str,
        source: Arc<dyn Source>,
    ) -> Self {
        // A store may have replayed its log for minutes by now.
        let age = process_metrics::age().unwrap_or_default();
        let now = Instant::now();
        Self {
            program,
            version,
            process: ProcessMetrics::new(program, version, age),
            source,
            writing: Mutex::default(),
            started: now.checked_sub(age).unwrap_or(now),
        }
    }

    pub(super) async fn show(&self, page: Page) -> Answer {
        match page {
            Page::Metrics(form) => self.metrics(form).await,
            Page::Health => match (self.source.health(), self.source.warning()) {
                (Ok(()), Some(warning)) => {
                    let told = format!("serving; {warning}\n");
                    response(StatusCode::OK, TEXT, told)
                }
                (health, _) => judged("serving", "not serving", health),
            },
            Page::Readiness => judged("ready", "not ready", self.source.readiness()),
            Page::Status => response(StatusCode::OK, JSON, self.status()),
            Page::Index => response(StatusCode::OK, TEXT, self.index()),
            Page::Missing => {
                let told = format!("there is no such page; there are\n\n{PATHS}");
                response(StatusCode::NOT_FOUND, TEXT, told)
            }
            Page::NotAllowed => {
                let told = "only GET is answered here\n".to_owned();
                let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, told);
                let allowed = HeaderValue::from_static("GET, HEAD");
                refused.headers_mut().insert(ALLOW, allowed);
                refused
            }
            Page::HasBody => {
                let told = "a request has no body here\n".to_owned();
                response(StatusCode::PAYLOAD_TOO_LARGE, TEXT, told)
            }
        }
    }

    async fn metrics(&self, form: MetricsForm) -> Answer {
        let _writing = self.writing.lock().await;
        let (process, source) = (self.process.clone(), Arc::clone(&self.source));
        let written = text(move |exposition| {
            process.write(exposition)?;
            source.write_metrics(exposition)
        });
        match written {
            Ok(written) => match form {
                MetricsForm::OpenMetrics => response(StatusCode::OK, OPEN_METRICS, written),
                MetricsForm::Older => response(StatusCode::OK, OLDER_METRICS, older_form(&written)),
            },
            Err(fmt::Error) => {
                let told = "the metrics cannot be written\n".to_owned();
                response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, told)
            }
        }
    }

    fn status(&self) -> String {
        let of = |state: Result<(), String>| match state {
            Ok(()) => (true, Value::Null),
            Err(cause) => (false, Value::String(cause)),
        };
        let (is_serving, not_serving) = of(self.source.health());
        let (is_ready, not_ready) = of(self.source.readiness());
        let mut status = json!({
            "program": self.program,
            "version": self.version,
            "uptime_s": self.started.elapsed().as_secs(),
            "serving": is_serving,
            "not_serving_cause": not_serving,
            "warning": self.source.warning(),
            "ready": is_ready,
            "not_ready_cause": not_ready,
        });
        for (name, value) in self.source.describe() {
            status[name] = value;
        }
        format!("{status:#}\n")
    }

    fn index(&self) -> String {
        let (program, version) = (self.program, self.version);
        format!("{program} {version}\n\n{PATHS}")
    }
}

fn judged(good: &str, bad: &str, state: Result<(), String>) -> Answer {
    match state {
        Ok(()) => response(StatusCode::OK, TEXT, format!("{good}\n")),
        Err(cause) => response(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            format!("{bad}: {cause}\n"),
        ),
    }
}

fn response(status: StatusCode, content_type: HeaderValue, text: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    struct Ailing;

    impl Source for Ailing {
        fn health(&self) -> Result<(), String> {
            Err("region 7 has no leader".to_owned())
        }

        fn readiness(&self) -> Result<(), String> {
            Ok(())
        }

        fn describe(&self) -> Vec<(&'static str, Value)> {
            vec![("store_id", json!(3))]
        }

        fn write_metrics(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
            exposition.counter("flaredb_pains_total", "Pains.", 9)
        }
    }

    async fn asked(method: Method, path: &str, body: &'static str) -> (StatusCode, String, String) {
        let pages = Pages::new("test", "1.2.3", Arc::new(Ailing));
        let mut request = Request::new(Full::new(Bytes::from_static(body.as_bytes())));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("a path");
        let answer = pages.show(Page::asked_for(&request)).await;
        let status = answer.status();
        let content_type = answer.headers()[CONTENT_TYPE].to_str().expect("text");
        let content_type = content_type.to_owned();
        let body = answer.into_body().collect().await.expect("no error");
        let body = String::from_utf8(body.to_bytes().to_vec()).expect("text");
        (status, content_type, body)
    }

    #[tokio::test]
    async fn health_and_readiness_are_codes_and_words() {
        let (status, _, told) = asked(Method::GET, "/health", "").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(told, "not serving: region 7 has no leader\n");
        let (status, _, told) = asked(Method::GET, "/ready?full", "").await;
        assert_eq!((status, told.as_str()), (StatusCode::OK, "ready\n"));
    }

    #[tokio::test]
    async fn metrics_are_those_of_the_process_and_of_its_source() {
        let (status, content_type, written) = asked(Method::GET, "/metrics", "").await;
        assert_eq!(status, StatusCode::OK);
        assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
        assert!(written.contains("\nflaredb_pains_total 9\n"), "{written}");
        assert!(written.contains("\nflaredb_build_info{"), "{written}");
        assert!(written.ends_with("# EOF\n"), "{written}");
    }

    #[test]
    fn who_takes_plain_text_only_gets_the_older_form() {
        const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accepted, form) in [
            (None, MetricsForm::OpenMetrics),
            (Some("*/*"), MetricsForm::OpenMetrics),
            (Some(PROMETHEUS), MetricsForm::OpenMetrics),
            (Some("text/plain; version=0.0.4"), MetricsForm::Older),
            (
                Some("text/html, Text/Plain;version=0.0.4, */*;q=0.1"),
                MetricsForm::Older,
            ),
        ] {
            let mut request = Request::get("/metrics");
            if let Some(accepted) = accepted {
                request = request.header(ACCEPT, accepted);
            }
            let request = request.body(Full::new(Bytes::new())).expect("a request");
            let page = Page::asked_for(&request);
            assert_eq!(page, Page::Metrics(form), "{accepted:?}");
        }
    }

    #[tokio::test]
    async fn the_status_is_json_with_what_its_source_adds() {
        let (_, content_type, told) = asked(Method::GET, "/status", "").await;
        assert_eq!(content_type, "application/json");
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told["program"], "test");
        assert_eq!(told["store_id"], 3);
        assert_eq!(told["serving"], false);
        assert_eq!(told["not_serving_cause"], "region 7 has no leader");
        assert_eq!(told["not_ready_cause"], Value::Null);
    }

    #[tokio::test]
    async fn what_is_not_there_or_not_allowed_says_what_is() {
        let (status, _, told) = asked(Method::GET, "/metric", "").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(told.contains("/metrics"), "{told}");
        let (status, _, told) = asked(Method::POST, "/metrics", "").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert!(told.contains("GET"), "{told}");
        let (status, _, _) = asked(Method::GET, "/metrics", "a body").await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        let (status, _, told) = asked(Method::GET, "/", "").await;
        assert_eq!(status, StatusCode::OK);
        assert!(told.contains("/health"), "{told}");
    }
}
