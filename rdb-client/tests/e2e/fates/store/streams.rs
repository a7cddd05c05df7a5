//! The streams of commands: each command is served like the unary call.

use futures::future::Either;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt};
use rdb_proto::batch::{self, KvBatch, Messages};
use rdb_proto::error::details;
use rdb_proto::kvrpc::batch_answer::Response as Answer;
use rdb_proto::kvrpc::{BatchAnswer, BatchCommand, BatchRequest, BatchResponse, Fault};
use rdb_proto::metapb::Context;
use tonic::{Request, Status};

use super::Store;

type Answers = BoxStream<'static, Result<batch::Response, Status>>;

#[tonic::async_trait]
impl KvBatch for Store {
    type BatchStream = Answers;

    /// Commands are served side by side: one that hangs holds up nothing but itself, and the end of the stream.
    async fn batch(&self, request: Request<Messages>) -> Result<Answers, Status> {
        let store = self.clone();
        let answers =
            request
                .into_inner()
                .flat_map_unordered(None, move |received| match received {
                    Ok(request) => Either::Left(answers(&store, request.message)),
                    Err(status) => Either::Right(stream::iter([Err(status)])),
                });
        Ok(answers.boxed())
    }
}

fn answers(store: &Store, request: BatchRequest) -> Answers {
    let BatchRequest {
        cluster_id,
        store_id,
        commands,
        ..
    } = request;
    let mut state = store.state();
    state.message_commands = state.message_commands.max(commands.len());
    drop(state);
    let served = commands.into_iter().map(|command| {
        let BatchCommand {
            id,
            region_id,
            region_epoch,
            request,
        } = command;
        let context = Context {
            cluster_id,
            store_id,
            region_id,
            region_epoch,
        };
        let store = store.clone();
        async move {
            let request = request.expect("the client knows what it wants");
            let response = store.point(Some(context), request).await;
            let answer = BatchAnswer {
                id,
                response: Some(response.unwrap_or_else(fault)),
            };
            Ok(BatchResponse {
                answers: vec![answer],
                closing: false,
            }
            .into())
        }
    });
    served.collect::<FuturesUnordered<_>>().boxed()
}

fn fault(status: Status) -> Answer {
    Answer::Fault(Box::new(Fault {
        code: status.code() as u32,
        error: details(&status),
    }))
}
