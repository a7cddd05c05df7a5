//! A server whose answers are as long as one asks for.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
#[cfg(feature = "tls")]
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use rdb_proto::batch::{self, KvBatch, KvBatchServer, Messages};
use rdb_proto::kvrpc::batch_answer::Response as Answer;
use rdb_proto::kvrpc::batch_command::Request as Command;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::kv_raw_server::{KvRaw, KvRawServer};
use rdb_proto::kvrpc::*;
use rdb_proto::transport::limits::{ADMISSION_WAIT, MESSAGE_BYTES_MAX};
use rdb_proto::transport::{
    ByteBudget, Call, Connector, ServeOptions, Services, endpoint, health, serve,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use tonic::transport::Channel;
use tonic::{ConnectError, Request, Response, Status};

/// Far beyond what anything here takes.
pub(crate) const HANG_GUARD: Duration = Duration::from_secs(300);

/// Waits until `held` is so.
pub(crate) async fn until(what: &str, mut held: impl FnMut() -> bool) {
    let waiting = async {
        while !held() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    guarded(what, waiting).await;
}

pub(crate) async fn guarded<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(HANG_GUARD, future)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"))
}

/// Whether the request of a call that ended with `status` was certainly not served.
pub(crate) fn is_not_served(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        let refused = error.downcast_ref::<h2::Error>().is_some_and(|error| {
            let goes_away = error.is_go_away();
            let is_refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            error.is_remote() && (goes_away || is_refused)
        });
        let never_sent = error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled);
        if refused || never_sent || error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

pub(crate) struct TestServer {
    pub(crate) address: String,
    pub(crate) budget: ByteBudget,
    /// Lets the calls of `RawDelete` go on, one for each time.
    pub(crate) deletes: Arc<Notify>,
    /// Counts the calls of `RawPut` that were served.
    pub(crate) puts: Arc<AtomicUsize>,
    /// Whose certificates came with these calls.
    #[cfg(feature = "tls")]
    pub(crate) subjects: Arc<Mutex<Vec<Option<String>>>>,
    pub(crate) drain: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

impl TestServer {
    pub(crate) async fn start(options: ServeOptions) -> Self {
        let store = Store::default();
        let raw = KvRawServer::new(store.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let batch = KvBatchServer::new(store.clone());
        let services = Services::default().add_service(raw).add_service(batch);
        Self::serve(options, services, store).await
    }

    /// Starts a server with other services than the usual ones.
    #[cfg(feature = "process")]
    pub(crate) async fn start_with(options: ServeOptions, services: Services) -> Self {
        Self::serve(options, services, Store::default()).await
    }

    async fn serve(options: ServeOptions, services: Services, store: Store) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        let drain = CancellationToken::new();
        let (handle, health) = health(&[], drain.clone());
        handle.set_serving(true);
        let services = services.add_service(health);
        let budget = options.bytes_in_flight.clone();
        let serving = serve(listener, services, options, drain.clone());
        let serving = tokio::spawn(async move {
            let _serves = handle;
            serving.await.expect("it serves");
        });
        Self {
            address,
            budget,
            deletes: store.deletes,
            puts: store.puts,
            #[cfg(feature = "tls")]
            subjects: store.subjects,
            drain,
            serving,
        }
    }

    /// A peer that behaves.
    /// A client with one connection. A second one, which tonic would make by itself, may wait at a server that accepts no
    /// more: what was sent on it is not served, but the client cannot know.
    pub(crate) async fn client(&self) -> KvRawClient<Channel> {
        let endpoint = endpoint(&self.address, HANG_GUARD).expect("an address");
        let is_connected = AtomicBool::new(false);
        let connector = Connector::new(move |address| {
            let is_first = !is_connected.swap(true, Ordering::Relaxed);
            async move {
                if !is_first {
                    return Err(io::ErrorKind::NotConnected.into());
                }
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
        });
        let connecting = endpoint.connect_with_connector(connector);
        let channel = connecting.await.expect("it listens");
        KvRawClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// How a browser's request is refused.
    pub(crate) async fn refusal_of_http_1(&self) -> String {
        let browser = TcpStream::connect(&self.address).await;
        let mut browser = browser.expect("it listens");
        let request = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";
        browser.write_all(request).await.expect("it listens");
        let mut answer = String::new();
        let read = guarded("an answer", browser.read_to_string(&mut answer)).await;
        read.expect("it closes in good order");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        answer
    }

    pub(crate) async fn all_is_given_back(&self) {
        until("every byte is given back", || {
            self.budget.bytes_taken() == 0
        })
        .await;
    }
}

pub(crate) fn get(value_bytes: usize) -> RawGetRequest {
    RawGetRequest {
        context: None,
        key: value_bytes.to_string().into(),
    }
}

#[derive(Clone, Default)]
struct Store {
    deletes: Arc<Notify>,
    puts: Arc<AtomicUsize>,
    #[cfg(feature = "tls")]
    subjects: Arc<Mutex<Vec<Option<String>>>>,
}

fn length(key: &[u8]) -> Result<usize, Status> {
    let length = std::str::from_utf8(key)
        .ok()
        .and_then(|text| text.parse().ok());
    length.ok_or_else(|| Status::invalid_argument("the key is a length"))
}

fn found(length: usize) -> Answer {
    Answer::RawGet(RawGetResponse {
        value: Some(vec![b'v'; length].into()),
        region_error: None,
    })
}

impl Store {
    /// A deletion goes on when it is told to.
    async fn call<T, R>(&self, request: Request<T>) -> Result<Response<R>, Status>
    where
        T: Into<Command>,
        R: TryFrom<Answer, Error = Status>,
    {
        let call = Call::of(&request);
        let answer = match request.into_inner().into() {
            Command::RawGet(get) => {
                let length = length(&get.key)?;
                let budgets = call.bytes_in_flight();
                let reserved = budgets.reserve(length, ADMISSION_WAIT).await;
                let refused = |busy| Status::resource_exhausted(format!("{busy}"));
                call.hold_until_sent(reserved.map_err(refused)?);
                found(length)
            }
            Command::RawPut(_) => {
                self.puts.fetch_add(1, Ordering::SeqCst);
                #[cfg(feature = "tls")]
                self.subjects.lock().expect("no panic").push(
                    call.peer_identity()
                        .map(|identity| identity.subject().to_owned()),
                );
                Answer::RawPut(Default::default())
            }
            Command::RawDelete(_) => {
                self.deletes.notified().await;
                Answer::RawDelete(Default::default())
            }
            _ => return Err(Status::unimplemented("not needed here")),
        };
        R::try_from(answer).map(Response::new)
    }
}

#[tonic::async_trait]
impl KvRaw for Store {
    rdb_proto::point_methods!(KvRaw, |store, request| store.call(request));

    async fn raw_batch_put(
        &self,
        _: Request<RawBatchPutRequest>,
    ) -> Result<Response<RawBatchPutResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn raw_batch_delete(
        &self,
        _: Request<RawBatchDeleteRequest>,
    ) -> Result<Response<RawBatchDeleteResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn raw_batch_get(
        &self,
        _: Request<RawBatchGetRequest>,
    ) -> Result<Response<RawBatchGetResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn raw_scan(
        &self,
        _: Request<RawScanRequest>,
    ) -> Result<Response<RawScanResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn raw_delete_range(
        &self,
        _: Request<RawDeleteRangeRequest>,
    ) -> Result<Response<RawDeleteRangeResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}

#[tonic::async_trait]
impl KvBatch for Store {
    type BatchStream = Pin<Box<dyn Stream<Item = Result<batch::Response, Status>> + Send>>;

    /// Answers each message with as many bytes as its first key says.
    async fn batch(&self, request: Request<Messages>) -> Result<Self::BatchStream, Status> {
        let call = Call::of(&request);
        let closing = call.closing().clone();
        let answers = request.into_inner().map(move |message| {
            let commands = message?.message.commands;
            call.release_arrived();
            let length = match commands
                .first()
                .and_then(|command| command.request.as_ref())
            {
                Some(Command::RawGet(get)) => length(&get.key)?,
                _ => 0,
            };
            let answer = BatchAnswer {
                id: 0,
                response: Some(found(length)),
            };
            Ok(BatchResponse {
                answers: vec![answer],
                closing: false,
            }
            .into())
        });
        let closed = async move { closing.cancelled().await };
        Ok(Box::pin(answers.take_until(Box::pin(closed))))
    }
}
