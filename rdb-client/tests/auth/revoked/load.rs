//! Calls that go on until they are refused.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use http::uri::PathAndQuery;
use prost::Message;
use rdb_client::{Client, Config, Error};
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::{BatchCommand, RawGetRequest, RawPutRequest};
use rdb_proto::pdpb::GetTsoRequest;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::cluster::Enforcing;
use crate::harness::{AsIs, HANG_GUARD, guarded};
use crate::requests::command;
use crate::wire::{Answer, CommandStream, bearer, with_authorization};

/// Callers of a client, whose calls share streams.
const CALLERS: usize = 32;

/// What was refused in the end, and when it was let in last.
struct Refused {
    what: String,
    answer: Answer,
    let_in_at: Instant,
}

/// Calls of one user that go on until they are refused.
pub(super) struct Load {
    tasks: Vec<AbortOnDropHandle<Refused>>,
    /// How many of them have been let in at least once.
    let_in: watch::Receiver<usize>,
}

impl Load {
    /// Writes of many callers of one client, of streams to each store, and timestamps of a stream.
    pub(super) async fn start(cluster: &Enforcing, user: &'static str, token: &str) -> Self {
        let config = Config::default().with_timeout(HANG_GUARD);
        let config = config.with_token(token.parse().expect("a token"));
        let client = Client::connect_with([cluster.pd.address()], config).await;
        let client = client.expect("a user");
        let authorization = bearer(token);
        let mut calls = Vec::new();
        for caller in 0..CALLERS {
            let what = format!("{user}'s caller {caller}");
            let key = format!("in/{caller}");
            calls.push((what, Calls::OfClient(client.clone(), key)));
        }
        for (index, store) in cluster.to_stores().await.into_iter().enumerate() {
            let what = format!("{user}'s stream to store {index}");
            let stream = CommandStream::open(&store, Some(&authorization)).await;
            let stream = stream.unwrap_or_else(|refused| panic!("{what}: {refused:?}"));
            calls.push((what, Calls::Commands(stream)));
        }
        let timestamps = Timestamps::open(&cluster.to_pd().await, Some(&authorization)).await;
        let what = format!("{user}'s timestamps");
        calls.push((what, Calls::Timestamps(timestamps)));
        let (let_in, watched) = watch::channel(0);
        let spawn = |(what, calls)| {
            let calls = until_refused(what, calls, let_in.clone());
            AbortOnDropHandle::new(tokio::spawn(calls))
        };
        Self {
            tasks: calls.into_iter().map(spawn).collect(),
            let_in: watched,
        }
    }

    /// Waits until each is served.
    pub(super) async fn served(&mut self) {
        let all = self.tasks.len();
        let served = self.let_in.wait_for(|count| *count == all);
        guarded("all are served", served).await.expect("they go on");
    }

    /// Waits until each is refused. Returns how long after `revoked_at` one was let in for the last time.
    pub(super) async fn refused(self, code: Code, revoked_at: Instant) -> Duration {
        let mut latest = Duration::ZERO;
        for task in self.tasks {
            let refused = guarded("calls are refused", task).await;
            let Refused {
                what,
                answer,
                let_in_at,
            } = refused.expect("no panic");
            assert_eq!(answer.code, code, "{what}: {answer:?}");
            latest = latest.max(let_in_at.saturating_duration_since(revoked_at));
        }
        latest
    }
}

/// Where calls go.
pub(super) enum Calls {
    /// Puts of a key.
    OfClient(Client, String),
    Commands(CommandStream),
    Timestamps(Timestamps),
}

impl Calls {
    pub(super) async fn next(&mut self) -> Answer {
        match self {
            Self::OfClient(client, key) => of_client(client.raw_put(&*key, "v").await),
            Self::Commands(stream) => match stream.commands(vec![put("in/stream")]).await {
                Ok(mut answers) => answers.remove(0),
                Err(end) => end,
            },
            Self::Timestamps(timestamps) => timestamps.next().await,
        }
    }
}

/// Calls again and again until a call is refused for who makes it.
async fn until_refused(what: String, mut calls: Calls, let_in: watch::Sender<usize>) -> Refused {
    let mut let_in_at = None;
    loop {
        let answer = calls.next().await;
        if answer.is_refusal() {
            answer.assert_not_applied();
            let Some(let_in_at) = let_in_at else {
                panic!("{what} was never let in: {answer:?}");
            };
            return Refused {
                what,
                answer,
                let_in_at,
            };
        }
        // A store that has no room, or does not lead, has let it in.
        if let_in_at.replace(Instant::now()).is_none() {
            let_in.send_modify(|count| *count += 1);
        }
    }
}

/// The answer that a client has made an error of. A refusal has to have said that nothing was applied, else it were undetermined.
fn of_client(result: Result<(), Error>) -> Answer {
    let (code, message) = match result {
        // What may have been applied was let in.
        Ok(()) | Err(Error::Undetermined { .. }) => (Code::Ok, String::new()),
        Err(Error::PermissionDenied { cause }) => (Code::PermissionDenied, cause.to_string()),
        Err(Error::Unauthenticated { cause }) => (Code::Unauthenticated, cause.to_string()),
        Err(error) => panic!("{error:?}"),
    };
    Answer::told(code, message)
}

pub(super) fn put(key: &'static str) -> BatchCommand {
    command(Request::RawPut(RawPutRequest {
        context: None,
        key: key.into(),
        value: "v".into(),
    }))
}

pub(super) fn read(key: &'static str) -> BatchCommand {
    command(Request::RawGet(RawGetRequest {
        context: None,
        key: key.into(),
    }))
}

/// An open stream of timestamps.
pub(super) struct Timestamps {
    requests: mpsc::Sender<Bytes>,
    answers: Streaming<Bytes>,
}

impl Timestamps {
    pub(super) async fn open(pd: &Channel, authorization: Option<&str>) -> Self {
        let (requests, mut queue) = mpsc::channel(1);
        let queue = stream::poll_fn(move |context| queue.poll_recv(context));
        let request = with_authorization(tonic::Request::new(queue), authorization);
        let mut grpc = tonic::client::Grpc::new(pd.clone());
        let ready = guarded("connected", grpc.ready()).await;
        ready.expect("it listens");
        let path = PathAndQuery::from_static("/pdpb.Pd/Tso");
        let answers = guarded("a stream", grpc.streaming(request, path, AsIs)).await;
        Self {
            requests,
            answers: answers.expect("a user").into_inner(),
        }
    }

    pub(super) async fn next(&mut self) -> Answer {
        let request = GetTsoRequest { count: Some(1) }.encode_to_vec();
        // If it has ended, its status says more.
        let _ = self.requests.send(request.into()).await;
        match guarded("a timestamp", self.answers.message()).await {
            Ok(Some(_)) => Answer::told(Code::Ok, String::new()),
            Ok(None) => panic!("the stream is over, and nobody has closed it"),
            Err(status) => Answer::from(&status),
        }
    }
}
