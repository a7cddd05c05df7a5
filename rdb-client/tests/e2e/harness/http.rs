//! The status pages of a process, as a scraper reads them.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    /// Status line and header fields.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl HttpAnswer {
    /// Reads what a peer sends until it closes the connection.
    pub(crate) async fn read(stream: &mut TcpStream) -> Self {
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        read.expect("the peer closes in good order");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self {
            status: status.expect("a status line"),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }
}

/// Asks for a page.
pub(crate) async fn http_get(address: &str, path: &str) -> HttpAnswer {
    http_get_as(address, path, "*/*").await
}

/// Asks for a page in a form that `accept` takes.
pub(crate) async fn http_get_as(address: &str, path: &str, accept: &str) -> HttpAnswer {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: {accept}\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("it takes requests");
    HttpAnswer::read(&mut stream).await
}

/// The metrics of a process at one moment.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) text: String,
    /// By name and labels, as they stand in the text.
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    pub(crate) async fn of(address: &str) -> Self {
        let answer = http_get(address, "/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Self {
            samples: samples.collect(),
            text: answer.body,
        }
    }

    /// The sample of this name, with its labels if it has any, e.g. `a_total{kind="b"}`. It has to be there, also if it is 0.
    pub(crate) fn get(&self, sample: &str) -> f64 {
        let value = self.samples.get(sample);
        *value.unwrap_or_else(|| panic!("no {sample} in {}", self.text))
    }

    /// The sum of all samples of this name. There has to be one.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let of_name = |sample: &str| sample == name || sample.starts_with(&format!("{name}{{"));
        let samples = self.samples.iter().filter(|(sample, _)| of_name(sample));
        let values: Vec<_> = samples.map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "no {name} in {}", self.text);
        values.into_iter().sum()
    }

    /// The names of all metrics with their types, as queries name them: those of counters end with `_total`, those of facts with
    /// `_info`.
    pub(crate) fn names(&self) -> BTreeMap<String, String> {
        let types = self.text.lines();
        let types = types.filter_map(|line| line.strip_prefix("# TYPE "));
        let names = types.map(|line| {
            let (name, kind) = line.split_once(' ').expect("a name and a type");
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            (format!("{name}{suffix}"), kind.to_owned())
        });
        names.collect()
    }
}
