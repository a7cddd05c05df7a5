//! What costs a peer next to nothing, as fast as the store answers it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use futures::stream;
use rdb_proto::transport::limits::REFLECTION_STREAMS_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;
use tonic::transport::Channel;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::harness::connect;
use crate::trial::Trial;
use crate::wire::PREFACE;

/// How long a flood lasts. The store closes a connection that does not answer its own PING, as here, after `KEEPALIVE_INTERVAL`
/// and `KEEPALIVE_TIMEOUT`, which is longer.
const FLOOD: Duration = Duration::from_secs(10);

/// How long a connection that has ended waits until it is made again.
const PAUSE: Duration = Duration::from_millis(100);

const PINGING_CONNECTIONS: usize = 50;
const REFLECTING_CONNECTIONS: usize = 20;

/// A frame of HTTP/2 with 8 bytes. Its receiver has to send them back.
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0hostile!";

/// Frames that are written and read at a time.
const PINGS: usize = 1_000;

/// Questions of one call of reflection.
const QUESTIONS: usize = 16;

pub(super) async fn pings(trial: &mut Trial) -> anyhow::Result<()> {
    play(trial, PINGING_CONNECTIONS, "PINGs", ping).await
}

pub(super) async fn reflection(trial: &mut Trial) -> anyhow::Result<()> {
    play(trial, REFLECTING_CONNECTIONS, "questions", reflect).await
}

/// Runs `flood` once for each connection, and again when it ends. It connects to the address, and counts what is answered.
async fn play<F>(
    trial: &mut Trial,
    connections: usize,
    what: &str,
    flood: fn(String, Arc<AtomicU64>) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    trial.begin().await?;
    // Relaxed: the count orders nothing else.
    let answered = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::<()>::new();
    for _ in 0..connections {
        let (address, answered) = (trial.address(), Arc::clone(&answered));
        tasks.spawn(async move {
            loop {
                // The store may have enough of a connection.
                let _ = flood(address.clone(), Arc::clone(&answered)).await;
                sleep(PAUSE).await;
            }
        });
    }
    sleep(FLOOD).await;
    drop(tasks);
    let answered = answered.load(Ordering::Relaxed);
    trial.note(format!("{answered} {what} answered within {FLOOD:?}"));
    trial.expect(answered > 0, format!("no {what} answered"));
    trial.gone().await
}

/// Answers are read: the store takes no further PING while it cannot send them.
async fn ping(address: String, answered: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    let (reader, writer) = socket.split();
    tokio::select! {
        ended = send_pings(writer) => ended,
        ended = read_answers(reader, &answered) => ended,
    }
}

async fn send_pings(mut writer: WriteHalf<'_>) -> anyhow::Result<()> {
    writer.write_all(PREFACE).await?;
    let pings = PING.repeat(PINGS);
    loop {
        writer.write_all(&pings).await?;
    }
}

/// The few other frames of the store are counted as if they were answers.
async fn read_answers(mut reader: ReadHalf<'_>, answered: &AtomicU64) -> anyhow::Result<()> {
    let mut answers = vec![0; PINGS * PING.len()];
    loop {
        reader.read_exact(&mut answers).await?;
        answered.fetch_add(PINGS as u64, Ordering::Relaxed);
    }
}

/// As many calls at a time as a connection may have.
async fn reflect(address: String, answered: Arc<AtomicU64>) -> anyhow::Result<()> {
    let client = ServerReflectionClient::new(connect(&address).await?);
    let calls = (0..REFLECTION_STREAMS_MAX).map(|_| ask(client.clone(), &answered));
    try_join_all(calls).await?;
    Ok(())
}

/// One call after the other. Each answer is a file that is much larger than the question.
async fn ask(
    mut client: ServerReflectionClient<Channel>,
    answered: &AtomicU64,
) -> anyhow::Result<()> {
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(
            "kvrpc.KvRaw".to_owned(),
        )),
    };
    loop {
        let questions = stream::iter(vec![question.clone(); QUESTIONS]);
        let mut answers = match client.server_reflection_info(questions).await {
            Ok(answers) => answers.into_inner(),
            // A call that has just ended may still have its place.
            Err(refusal) if refusal.code() == Code::ResourceExhausted => continue,
            Err(error) => return Err(error.into()),
        };
        while answers.message().await?.is_some() {
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}
