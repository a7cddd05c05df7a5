//! `serve-echo`: a process that does nothing but gRPC, behind FlareDB's own transport shell.
//!
//! `Empty` is a unary call with empty messages. `Echo` answers each message of a stream with one of the same size, in
//! order; the messages are those of the timestamp stream, so that the two can be compared.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::{io, thread};

use futures::{Stream, StreamExt};
use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};
use rdb_proto::transport::{ServeOptions, Services, Termination, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::failure::Failure;
use crate::output::Output;

/// The calls of the service.
pub(super) const EMPTY: &str = "/bench.Echo/Empty";
pub(super) const ECHO: &str = "/bench.Echo/Echo";

/// It has the same length on the wire as a present timestamp.
const ANSWER: GetTsoResponse = GetTsoResponse {
    cluster_id: 1,
    first: 1_800_000_000_000 << 18,
    count: 1,
};

/// Serves until SIGTERM, SIGINT or the end of standard input. Prints the address as soon as it listens.
pub(crate) async fn serve_echo(
    address: SocketAddr,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let cannot = |what: &str, error: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot {what}: {error}"))
    };
    let mut termination =
        Termination::install().map_err(|error| cannot("watch for signals", &error))?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| cannot(&format!("listen on {address}"), &error))?;
    let address = listener
        .local_addr()
        .map_err(|error| cannot("listen", &error))?;
    output.line(&address.to_string())?;
    output.flush()?;

    let drain = CancellationToken::new();
    let services = Services::default().add_service(EchoService {
        drain: drain.clone(),
    });
    let asked_to_end = async {
        tokio::select! {
            () = termination.requested() => {}
            () = end_of_standard_input() => {}
        }
        drain.cancel();
    };
    let serving = serve(listener, services, ServeOptions::default(), drain.clone());
    let (served, ()) = tokio::join!(serving, asked_to_end);
    served.map_err(|error| cannot("serve", &error))
}

/// A thread reads it, which ends with the process if not before: reading from a terminal cannot be interrupted.
async fn end_of_standard_input() {
    let (sender, ended) = oneshot::channel();
    thread::spawn(move || {
        // A stream that cannot be read has ended, too.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = sender.send(());
    });
    let _ = ended.await;
}

#[derive(Clone)]
struct EchoService {
    drain: CancellationToken,
}

impl NamedService for EchoService {
    const NAME: &'static str = "bench.Echo";
}

impl Service<http::Request<Body>> for EchoService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path() {
            EMPTY => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::<(), ()>::default());
                Ok(grpc.unary(Empty, request).await)
            }),
            ECHO => {
                let drain = self.drain.clone();
                Box::pin(async move {
                    let mut grpc =
                        Grpc::new(ProstCodec::<GetTsoResponse, GetTsoRequest>::default());
                    Ok(grpc.streaming(Echo { drain }, request).await)
                })
            }
            _ => Box::pin(async {
                Ok(Status::unimplemented("there are Empty and Echo").into_http())
            }),
        }
    }
}

struct Empty;

impl UnaryService<()> for Empty {
    type Response = ();
    type Future = Ready<Result<Response<()>, Status>>;

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(())))
    }
}

struct Echo {
    drain: CancellationToken,
}

type Answers = Pin<Box<dyn Stream<Item = Result<GetTsoResponse, Status>> + Send>>;

impl StreamingService<GetTsoRequest> for Echo {
    type Response = GetTsoResponse;
    type ResponseStream = Answers;
    type Future = Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, requests: Request<Streaming<GetTsoRequest>>) -> Self::Future {
        let answers = requests
            .into_inner()
            .map(|request| request.map(|_| ANSWER))
            .take_until(self.drain.clone().cancelled_owned());
        ready(Ok(Response::new(Box::pin(answers))))
    }
}
