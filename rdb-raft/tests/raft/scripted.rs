//! A store that does with the streams of others what a test says.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use rdb_proto::batch::Messages;
use rdb_proto::raftpb::{Answer, Envelope, Item, Reply};
use rdb_proto::transport::{Call, ServeOptions, Services, grpc_response};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody, SingleMessageCompressionOverride};
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::stores::{Addresses, Served};
use crate::voters::GUARD;

/// Where it listens, and the streams that it has accepted.
pub(crate) struct Scripted {
    address: String,
    accepted: mpsc::Receiver<Stream>,
    _served: Served,
}

/// Dropping it ends the stream.
pub(crate) struct Stream {
    is_bulk: bool,
    messages: Messages<Envelope>,
    replies: mpsc::Sender<Reply>,
}

impl Scripted {
    pub(crate) async fn start() -> Self {
        Self::of_start(1).await
    }

    /// A start of the store with that number.
    pub(crate) async fn of_start(start: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, accepted) = mpsc::channel(16);
        let acceptor = Acceptor {
            start,
            accepted: sender,
        };
        let services = Services::default().add_service(acceptor);
        Self {
            address,
            accepted,
            _served: Served::start(listener, services, ServeOptions::default()),
        }
    }

    /// Itself as store 2.
    pub(crate) fn addresses(&self) -> std::sync::Arc<Addresses> {
        Addresses::of([(2, self.address.clone())])
    }

    /// The streams of the next connection, the bulk stream first.
    pub(crate) async fn accepted(&mut self) -> (Stream, Stream) {
        let mut next = async || {
            let accepted = timeout(GUARD, self.accepted.recv()).await;
            accepted.expect("it comes in time").unwrap()
        };
        let (one, other) = (next().await, next().await);
        match one.is_bulk {
            true => (one, other),
            false => (other, one),
        }
    }
}

impl Stream {
    /// The items of the next envelope.
    pub(crate) async fn items(&mut self) -> Vec<Item> {
        let message = timeout(GUARD, self.messages.next()).await;
        let message = message.expect("it comes in time").unwrap().unwrap();
        message.message.items
    }

    /// Waits until the other end has ended it.
    pub(crate) async fn ended(&mut self) {
        let ended = async { while let Some(Ok(_)) = self.messages.next().await {} };
        timeout(GUARD, ended).await.expect("it ends in time");
    }

    pub(crate) async fn reply(&self, answers: impl IntoIterator<Item = Answer>) {
        let answers = answers.into_iter().collect();
        let start = None;
        self.replies.send(Reply { answers, start }).await.unwrap();
    }
}

#[derive(Clone)]
struct Acceptor {
    start: u64,
    accepted: mpsc::Sender<Stream>,
}

impl Acceptor {
    async fn accept(self, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let is_bulk = parts.uri.path().ends_with("/Bulk");
        let mut messages = Messages::<Envelope>::new(body);
        let request = Request::from_parts(Default::default(), parts.extensions, ());
        let call = Call::of(&request);
        let hello = messages.next().await.unwrap().unwrap();
        assert!(hello.message.hello.is_some());
        let (replies, receiver) = mpsc::channel(16);
        let welcome = Reply {
            answers: Vec::new(),
            start: Some(self.start),
        };
        replies.send(welcome).await.unwrap();
        let accepted = Stream {
            is_bulk,
            messages,
            replies,
        };
        self.accepted.send(accepted).await.unwrap();
        let replies = stream::unfold((receiver, call), |(mut receiver, call)| async move {
            let reply = receiver.recv().await?;
            call.release_arrived();
            Some((Ok::<_, Status>(reply), (receiver, call)))
        });
        grpc_response(Ok(Body::new(EncodeBody::new_server(
            ProstCodec::<Reply, Envelope>::default().encoder(),
            replies,
            None,
            SingleMessageCompressionOverride::default(),
            None,
        ))))
    }
}

impl NamedService for Acceptor {
    const NAME: &'static str = "raftpb.RaftPeer";
}

impl Service<http::Request<Body>> for Acceptor {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let accepting = self.clone().accept(request);
        Box::pin(async { Ok(accepting.await) })
    }
}
