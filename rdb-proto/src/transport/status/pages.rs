//! Which path shows what.

use std::fmt;
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::Exposition;
use super::brief::brief_text;
use super::exposition::{older_form, text};
use super::history::{History, Readings};
use super::page::{self, Asset, Subject, View};
use super::process_metrics::{self, ProcessMetrics};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

const OLDER_METRICS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

const PATHS: &str = "\
/         in a browser: a page that shows it
/metrics  figures for Prometheus, as OpenMetrics
/health   200 when it does all of its work, else 503 and why not
/ready    200 when it takes calls, else 503 and why not
/status   what it is and has, as JSON
";

/// Most bytes of a cause that an update of the page has.
const CAUSE_BYTES_MAX: usize = 200;

/// What a process has to show. Nothing of it may wait, or take a lock that a read, a write or a timestamp takes.
/// [`present`](Self::present) alone may take some milliseconds.
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

    /// Whose page the page for people is.
    fn subject(&self) -> Subject;

    /// Figures for the charts of that page. Asked for every second.
    fn readings(&self) -> Readings;

    /// What that page shows beside the charts, as members of a JSON object. Strings are from anywhere, and short.
    fn present(&self, view: View) -> Vec<(&'static str, Value)>;

    /// Writes its metrics.
    ///
    /// # Errors
    ///
    /// Only those of the exposition.
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
    /// The page for people.
    Front,
    /// A file of that page.
    Asset(Asset),
    /// What it shows.
    Update(View),
    /// The same address, for clients that do not accept HTML.
    Index,
    /// There is no such page.
    Missing,
    /// A page of another site asks.
    OtherSite,
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
    /// The older one is for clients that ask for plain text and do not accept OpenMetrics. Preferences between both are ignored.
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
    /// The answer to a request. Its body is not read.
    pub(super) fn asked_for<B: Body>(request: &Request<B>) -> Self {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return Self::NotAllowed;
        }
        if !request.body().is_end_stream() {
            return Self::HasBody;
        }
        if is_of_another_site(request) {
            return Self::OtherSite;
        }
        match request.uri().path() {
            "/metrics" => Self::Metrics(MetricsForm::accepted_by(request)),
            "/health" => Self::Health,
            "/ready" => Self::Readiness,
            "/status" => Self::Status,
            "/" if accepts_html(request) => Self::Front,
            "/" => Self::Index,
            "/page.json" => Self::Update(View::of_query(request.uri().query())),
            path => Asset::at(path).map_or(Self::Missing, Self::Asset),
        }
    }
}

/// Browsers say so; what watches a process does not.
fn accepts_html<B>(request: &Request<B>) -> bool {
    let accepted = request.headers().get_all(ACCEPT).iter();
    let mut accepted = accepted.filter_map(|accepted| accepted.to_str().ok());
    accepted.any(|accepted| accepted.to_ascii_lowercase().contains("text/html"))
}

/// Whether a page of another site has a browser ask, otherwise than by a link. It would learn nothing, and may not make work either.
fn is_of_another_site<B>(request: &Request<B>) -> bool {
    let is = |name: &str, value: &str| {
        let header = request.headers().get(name);
        header.is_some_and(|header| header.as_bytes() == value.as_bytes())
    };
    is("sec-fetch-site", "cross-site") && !is("sec-fetch-mode", "navigate")
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
    /// Another for each start of a process.
    start: String,
    history: Lock<History>,
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
            start: format!("{:x}-{:x}", std::process::id(), now_ms()),
            history: Lock::default(),
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
            Page::Front => self.front(),
            Page::Asset(asset) => {
                let content = Bytes::from_static(asset.content().as_bytes());
                response(StatusCode::OK, asset.content_type(), content)
            }
            Page::Update(view) => self.update(view).await,
            Page::Index => varying(response(StatusCode::OK, TEXT, self.index())),
            Page::Missing => {
                let told = format!("there is no such page; there are\n\n{PATHS}");
                response(StatusCode::NOT_FOUND, TEXT, told)
            }
            Page::OtherSite => {
                let told = "pages of other sites are not answered\n".to_owned();
                response(StatusCode::FORBIDDEN, TEXT, told)
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
            exposition.gauge(
                "flaredb_healthy",
                "Whether the process does all of its work: 1 or 0. At 0, /health says why.",
                f64::from(u8::from(source.health().is_ok())),
            )?;
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

    fn front(&self) -> Answer {
        let document = self.source.subject().document();
        let mut front = varying(response(StatusCode::OK, HTML, document));
        let headers = front.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY);
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        front
    }

    /// What the page shows now.
    async fn update(&self, view: View) -> Answer {
        let _writing = self.writing.lock().await;
        let cause = |state: Result<(), String>| {
            let cause = state.err();
            cause.map(|cause| brief_text(&cause, CAUSE_BYTES_MAX))
        };
        let mut update = json!({
            "program": self.program,
            "version": self.version,
            "start": self.start,
            "now_ms": now_ms(),
            "uptime_s": self.started.elapsed().as_secs(),
            "not_serving": cause(self.source.health()),
            "not_ready": cause(self.source.readiness()),
            "history": self.history().to_json(view.since),
        });
        let source = Arc::clone(&self.source);
        let Ok(present) = spawn_blocking(move || source.present(view)).await else {
            let told = "what the page shows cannot be told\n".to_owned();
            return response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, told);
        };
        for (name, value) in present {
            update[name] = value;
        }
        response(StatusCode::OK, JSON, update.to_string())
    }

    /// Reads the figures for the charts.
    pub(super) fn read(&self) {
        let readings = self.source.readings();
        self.history().take(readings, Instant::now());
    }

    /// Readings of a process with more series than the servers have.
    #[cfg(test)]
    pub(super) fn read_for_a_quarter_of_an_hour(&self) {
        use std::time::Duration;

        use super::history::Reading;

        const NAMES: [&str; 12] = ["a_name_of_20_letters"; 12];
        let mut now = Instant::now();
        for second in 0..1001_u64 {
            now += Duration::from_secs(1);
            let level = Reading::Level(Some(0.001_234 + second as f64));
            let readings = NAMES.map(|name| (name, level.clone())).to_vec();
            self.history().take(readings, now);
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}

/// The same, for an address whose answer depends on what the client accepts.
fn varying(mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept"));
    answer
}

fn response(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
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

    use super::super::history::Reading;
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

        fn subject(&self) -> Subject {
            Subject::Store
        }

        fn readings(&self) -> Readings {
            vec![("pains", Reading::Count(9))]
        }

        fn present(&self, view: View) -> Vec<(&'static str, Value)> {
            vec![("stores_from", json!(view.stores_from))]
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
        assert!(written.contains("\nflaredb_healthy 0\n"), "{written}");
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

    #[tokio::test]
    async fn a_browser_gets_the_page_with_a_policy_and_others_the_list_of_paths() {
        const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let pages = Pages::new("test", "1.2.3", Arc::new(Ailing));
        for (accept, content_type) in [(BROWSER, "text/html"), ("*/*", "text/plain")] {
            let request = Request::get("/").header(ACCEPT, accept);
            let request = request.body(Full::new(Bytes::new())).expect("a request");
            let answer = pages.show(Page::asked_for(&request)).await;
            let headers = answer.headers();
            let header = |name| headers.get(name).map(|value| value.to_str().expect("text"));
            assert!(header(CONTENT_TYPE).is_some_and(|is| is.starts_with(content_type)));
            assert_eq!(header(VARY), Some("accept"));
            let policy = header(CONTENT_SECURITY_POLICY);
            assert_eq!(policy.is_some(), accept == BROWSER, "{policy:?}");
            assert!(policy.is_none_or(|policy| {
                policy.starts_with("default-src 'none'") && !policy.contains("unsafe")
            }));
        }
        for (path, content_type) in [
            ("/page.css", "text/css; charset=utf-8"),
            ("/page.js", "text/javascript; charset=utf-8"),
            ("/charts.js", "text/javascript; charset=utf-8"),
            ("/format.js", "text/javascript; charset=utf-8"),
            ("/icon.svg", "image/svg+xml"),
        ] {
            let (status, found, content) = asked(Method::GET, path, "").await;
            assert_eq!((status, found.as_str()), (StatusCode::OK, content_type));
            assert!(!content.is_empty(), "{path}");
        }
        let (status, ..) = asked(Method::POST, "/page.json", "").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        let (status, ..) = asked(Method::GET, "/page.json/", "").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn a_page_of_another_site_may_link_here_and_nothing_else() {
        for (site, mode, page) in [
            ("same-origin", "cors", Page::Health),
            ("none", "navigate", Page::Health),
            ("cross-site", "navigate", Page::Health),
            ("cross-site", "no-cors", Page::OtherSite),
        ] {
            let request = Request::get("/health")
                .header("sec-fetch-site", site)
                .header("sec-fetch-mode", mode);
            let request = request.body(Full::new(Bytes::new())).expect("a request");
            assert_eq!(Page::asked_for(&request), page, "{site} {mode}");
        }
    }

    #[tokio::test]
    async fn an_update_has_the_state_of_the_process_and_what_its_source_shows() {
        let path = "/page.json?since=0&stores_from=40";
        let (_, content_type, told) = asked(Method::GET, path, "").await;
        assert_eq!(content_type, "application/json");
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told["program"], "test");
        assert_eq!(told["not_serving"], "region 7 has no leader");
        assert_eq!(told["not_ready"], Value::Null);
        assert_eq!(told["stores_from"], 40);
        assert_eq!(told["history"]["rows"], json!([]));
    }
}
