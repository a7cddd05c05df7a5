//! Serving the pages: a few connections, each for one request.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::history::READ_INTERVAL;
use super::pages::{Page, Pages, Source};

/// Most connections at a time. For one more, the one that has been open longest is closed.
const CONNECTIONS_MAX: usize = 32;

const TIMEOUTS: Timeouts = Timeouts {
    head: Duration::from_secs(5),
    connection: Duration::from_secs(15),
};

/// Most bytes that a connection buffers in each direction, and largest head of a request.
const BUFFER_BYTES_MAX: usize = 16 << 10;
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Most header fields of a request.
const HEADERS_MAX: usize = 64;

/// How long to wait before accepting again when the process is out of file descriptors.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
struct Timeouts {
    /// How long a peer may take to send the head of its request.
    head: Duration,
    /// How long a connection lasts at most, from its first byte to the last one of its answer.
    connection: Duration,
}

/// Serves the pages of a process until it is dropped.
#[derive(Debug)]
pub struct StatusServer {
    local_addr: SocketAddr,
    serving: JoinHandle<()>,
    _end_on_drop: DropGuard,
}

impl StatusServer {
    /// Begins to serve what `source` has to show.
    ///
    /// # Errors
    ///
    /// When the listener has no address.
    pub fn start(
        listener: TcpListener,
        program: &'static str,
        version: &'static str,
        source: Arc<dyn Source>,
    ) -> io::Result<Self> {
        let local_addr = listener.local_addr()?;
        let pages = Arc::new(Pages::new(program, version, source));
        let end = CancellationToken::new();
        let end_on_drop = end.clone().drop_guard();
        // If it panics, health and metrics are served all the same.
        let reading = tokio::spawn(read(Arc::clone(&pages), end.clone()));
        Ok(Self {
            local_addr,
            serving: tokio::spawn(async move {
                serve(listener, pages, TIMEOUTS, end).await;
                let _ = reading.await;
            }),
            _end_on_drop: end_on_drop,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Closes all connections and the listener, and waits until what it shows is let go of.
    pub async fn end(self) {
        let Self {
            serving,
            _end_on_drop: end,
            ..
        } = self;
        drop(end);
        // Nobody aborts it. The panic hook has reported a panic.
        let _ = serving.await;
    }
}

/// Reads the figures for the charts of the page until the end.
async fn read(pages: Arc<Pages>, end: CancellationToken) {
    let mut times = interval(READ_INTERVAL);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = times.tick() => pages.read(),
        }
    }
}

async fn serve(
    listener: TcpListener,
    pages: Arc<Pages>,
    timeouts: Timeouts,
    end: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            () = end.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    open.retain(|connection| !connection.is_finished());
                    if open.len() >= CONNECTIONS_MAX && let Some(oldest) = open.pop_front() {
                        oldest.abort();
                    }
                    open.push_back(connections.spawn(answer(stream, Arc::clone(&pages), timeouts)));
                }
                Err(error) => {
                    // Either the peer is gone already, or the process lacks resources: both pass.
                    tracing::debug!(%error, "cannot accept a connection to the status pages");
                    sleep(ACCEPT_ERROR_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Answers one request.
async fn answer(stream: TcpStream, pages: Arc<Pages>, timeouts: Timeouts) {
    let service = service_fn(|request: Request<Incoming>| {
        let (page, pages) = (Page::asked_for(&request), Arc::clone(&pages));
        async move { Ok::<_, Infallible>(pages.show(page).await) }
    });
    let connection = builder(timeouts.head).serve_connection(TokioIo::new(stream), service);
    match timeout(timeouts.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the status pages failed"),
        Err(_) => tracing::debug!("a connection to the status pages was closed: its peer is slow"),
    }
}

fn builder(head_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Nobody needs it, and making it panics when the clock is before 1970.
        .auto_date_header(false)
        .keep_alive(false)
        .header_read_timeout(head_timeout)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    builder
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::{Exposition, Readings, Subject, View};
    use super::*;

    const HANG_GUARD: Duration = Duration::from_secs(120);

    /// A process that is well. With a token its figures cannot be read, and it says when that was tried.
    #[derive(Default)]
    struct Well {
        is_unreadable: Option<CancellationToken>,
    }

    impl Source for Well {
        fn health(&self) -> Result<(), String> {
            Ok(())
        }

        fn readiness(&self) -> Result<(), String> {
            Ok(())
        }

        fn describe(&self) -> Vec<(&'static str, Value)> {
            Vec::new()
        }

        fn subject(&self) -> Subject {
            Subject::Store
        }

        fn readings(&self) -> Readings {
            if let Some(tried) = &self.is_unreadable {
                tried.cancel();
                panic!("they cannot be read");
            }
            Vec::new()
        }

        fn present(&self, _: View) -> Vec<(&'static str, Value)> {
            assert!(self.is_unreadable.is_none(), "nor be told");
            Vec::new()
        }

        fn write_metrics(&self, _: &mut Exposition<'_>) -> fmt::Result {
            Ok(())
        }
    }

    /// What is answered until the connection is closed. A reset ends it, too.
    async fn answered(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        let read = timeout(HANG_GUARD, stream.read_to_end(&mut answer)).await;
        drop(read.expect("it is closed"));
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// What is answered to a request, with its head.
    async fn asked(address: SocketAddr, path: &str) -> String {
        let mut asking = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: text/html\r\n\r\n");
        let sent = asking.write_all(request.as_bytes()).await;
        sent.expect("it takes requests");
        let answer = answered(&mut asking).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        answer
    }

    /// Half of each limit is left for what a source shows: the servers have tests of that.
    #[tokio::test]
    async fn what_a_browser_loads_first_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let pages = Arc::new(Pages::new("test", "1.2.3", Arc::new(Well::default())));
        pages.read_for_a_quarter_of_an_hour();
        let end = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, Arc::clone(&pages), TIMEOUTS, end.clone()));
        let mut first = 0;
        for path in [
            "/",
            "/page.css",
            "/page.js",
            "/charts.js",
            "/format.js",
            "/icon.svg",
            "/page.json",
        ] {
            let bytes = asked(address, path).await.len();
            println!("{path}: {bytes} bytes");
            first += bytes;
        }
        println!("first load: {first} bytes");
        assert!(first <= 75 << 10, "{first}");
        for (path, bytes_max) in [
            ("/page.json?since=200", 2 << 10),
            // A page that was away has some more.
            ("/page.json?since=0", 4 << 10),
        ] {
            let update = asked(address, path).await.len();
            println!("{path}: {update} bytes");
            assert!(update <= bytes_max, "{path}: {update}");
        }
        end.cancel();
        serving.await.expect("it ends");
    }

    #[tokio::test]
    async fn health_is_told_though_the_page_is_broken() {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let tried = CancellationToken::new();
        let source = Arc::new(Well {
            is_unreadable: Some(tried.clone()),
        });
        let server = StatusServer::start(listener, "test", "1.2.3", source).expect("it listens");
        let tried = timeout(HANG_GUARD, tried.cancelled()).await;
        tried.expect("figures are read");
        for (path, status) in [("/page.json", 500), ("/health", 200)] {
            let mut asking = TcpStream::connect(server.local_addr()).await;
            let asking = asking.as_mut().expect("it listens");
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            let sent = asking.write_all(request.as_bytes()).await;
            sent.expect("it takes requests");
            let answer = answered(asking).await;
            let begin = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&begin), "{path}: {answer}");
        }
        server.end().await;
    }

    #[tokio::test]
    async fn peers_that_say_nothing_make_room_for_one_that_does() {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        // No time-out closes what is not displaced.
        let long = Duration::from_secs(24 * 60 * 60);
        let timeouts = Timeouts {
            head: long,
            connection: long,
        };
        let pages = Arc::new(Pages::new("test", "1.2.3", Arc::new(Well::default())));
        let end = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, pages, timeouts, end.clone()));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.expect("it listens"));
        }
        let mut asking = TcpStream::connect(address).await.expect("it listens");
        let sent = asking.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n");
        sent.await.expect("it takes requests");
        let answer = answered(&mut asking).await;
        assert!(answer.ends_with("ready\n"), "{answer}");
        assert_eq!(answered(&mut silent[0]).await, "", "it was closed");
        let read = silent[1].try_read(&mut [0]);
        let kind = read.expect_err("it is open").kind();
        assert_eq!(kind, io::ErrorKind::WouldBlock);
        end.cancel();
        serving.await.expect("it ends");
    }
}
