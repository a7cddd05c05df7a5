//! What the status pages promise when peers misbehave.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rdb_proto::transport::status::{
    Exposition, Reading, Readings, Source, StatusServer, Subject, View,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const HANG_GUARD: Duration = Duration::from_secs(300);

/// A process with metrics of about a megabyte.
struct Talkative;

impl Source for Talkative {
    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn readiness(&self) -> Result<(), String> {
        Ok(())
    }

    fn describe(&self) -> Vec<(&'static str, serde_json::Value)> {
        Vec::new()
    }

    fn subject(&self) -> Subject {
        Subject::Cluster
    }

    fn readings(&self) -> Readings {
        vec![("words", Reading::Level(None))]
    }

    fn present(&self, _: View) -> Vec<(&'static str, serde_json::Value)> {
        Vec::new()
    }

    fn write_metrics(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        for _ in 0..1024 {
            let help = "x".repeat(1024);
            exposition.counter("flaredb_words_total", &help, 1)?;
        }
        Ok(())
    }
}

async fn start() -> (StatusServer, SocketAddr, Arc<Talkative>) {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let source = Arc::new(Talkative);
    let server = StatusServer::start(
        listener.expect("a free port"),
        "test",
        "1.2.3",
        Arc::clone(&source) as _,
    );
    let server = server.expect("it listens");
    let address = server.local_addr();
    (server, address, source)
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("it listens")
}

/// What is answered until the connection is closed. A reset ends it, too.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(HANG_GUARD, stream.read_to_end(&mut answer)).await;
    drop(read.expect("it is closed"));
    String::from_utf8_lossy(&answer).into_owned()
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address).await;
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("it takes requests");
    answer(&mut stream).await
}

#[tokio::test]
async fn a_connection_is_for_one_request() {
    let (_server, address, _) = start().await;
    let request = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let answered = ask(address, &request.repeat(2)).await;
    assert_eq!(answered.matches("HTTP/1.1 200 OK").count(), 1, "{answered}");
    let answered = ask(address, "HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answered.contains("content-length: 8"), "{answered}");
    assert!(!answered.contains("serving"), "{answered}");
    let answered = ask(address, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!answered.contains("200"), "{answered}");
}

#[tokio::test]
async fn a_request_with_a_body_or_a_large_head_is_refused() {
    let (_server, address, _) = start().await;
    let answered = ask(
        address,
        "GET /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n",
    )
    .await;
    assert!(answered.starts_with("HTTP/1.1 413 "), "{answered}");
    let field = format!("x: {}\r\n", "y".repeat(1000));
    let head = field.repeat(30);
    let answered = ask(address, &format!("GET /metrics HTTP/1.1\r\n{head}\r\n")).await;
    assert!(!answered.contains("200 OK"), "{answered}");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_closed_after_a_while() {
    let (_server, address, _) = start().await;
    let mut silent = connect(address).await;
    let told = answer(&mut silent).await;
    assert!(
        told.is_empty() || told.starts_with("HTTP/1.1 408"),
        "{told}"
    );
}

#[tokio::test]
async fn peers_that_read_nothing_hold_up_nobody_else() {
    let (_server, address, _) = start().await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        let mut stream = connect(address).await;
        let sent = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
        sent.await.expect("it takes requests");
        unread.push(stream);
    }
    let answered = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answered.ends_with("# EOF\n"));
    assert!(answered.len() > 1 << 20);
}

#[tokio::test]
async fn a_server_that_has_ended_holds_neither_connections_nor_what_it_shows() {
    let (server, address, source) = start().await;
    let mut open = connect(address).await;
    let answered = ask(address, "GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answered.ends_with("ready\n"), "{answered}");
    timeout(HANG_GUARD, server.end()).await.expect("it ends");
    assert_eq!(Arc::strong_count(&source), 1);
    assert_eq!(answer(&mut open).await, "");
    assert!(TcpStream::connect(address).await.is_err());
}
