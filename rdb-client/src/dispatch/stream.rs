//! The stream of a lane: what it takes, receives and loses.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use http::HeaderValue;
use rdb_proto::batch;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, Streaming};

use super::lane::SharedQueue;
use super::queue::{Removed, interrupt};
use super::slot::Interrupted;
use super::target::Target;
use crate::connection::{ConnectFailure, Connection};
use crate::detach::detach;
use crate::stream::{self, End, Gate, Requests, Taken, Traffic};
use crate::{Error, fate};

/// Why a lane has no stream, or no longer.
#[derive(Debug, Clone)]
pub(super) enum Loss {
    /// Another try may find one. Calls are told this.
    Ended(Arc<str>),
    /// The store does not let this client have one: see [`Interrupted::Refused`].
    Refused { error: Error, at_opening: bool },
}

impl Loss {
    /// The result of a call whose command certainly was not processed.
    fn not_processed(&self) -> Interrupted {
        match self {
            Self::Ended(cause) => Interrupted::NotProcessed {
                cause: Arc::clone(cause),
            },
            Self::Refused { error, at_opening } => Interrupted::Refused {
                error: error.clone(),
                at_opening: *at_opening,
            },
        }
    }

    /// The result of a call whose command may have been processed.
    fn lost(&self) -> Interrupted {
        let cause = match self {
            Self::Ended(cause) => Arc::clone(cause),
            Self::Refused { error, .. } => error.to_string().into(),
        };
        Interrupted::Lost { cause }
    }
}

/// There is no connection.
impl From<ConnectFailure> for Loss {
    fn from(failure: ConnectFailure) -> Self {
        Self::Ended(failure.into())
    }
}

impl Traffic for SharedQueue {
    /// A message that is made at once keeps the store busy.
    const YIELDS_WITHIN_TURN: bool = false;

    type Request = batch::Request;
    type Response = batch::Response;
    type Peer = Connection;
    type Loss = Loss;

    async fn open(self: &Arc<Self>) -> Result<(Streaming<batch::Response>, Connection), Loss> {
        let connection = self
            .target
            .connections
            .connection(&self.target.address)
            .await?;
        let mut client = KvBatchClient::new(connection.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let accepted = client.batch(Requests::new(self));
        let accepted = timeout(self.silence_max(), accepted).await;
        match accepted.unwrap_or_else(|_| Err(self.silent())) {
            Ok(answers) => Ok((answers.into_inner(), connection)),
            Err(status) => Err(self.refused(&connection, &status)),
        }
    }

    fn take(&self, generation: u64, has_yielded: bool, waker: &Waker) -> Taken<batch::Request> {
        let (taken, freed_bytes) = self.queue().take(generation, has_yielded, waker);
        self.free(freed_bytes);
        match taken {
            Taken::Request(request) => {
                self.target.counters.count_message(request.commands.len());
                Taken::Request(request.into())
            }
            Taken::Yield => Taken::Yield,
            Taken::Nothing => Taken::Nothing,
            Taken::Over => Taken::Over,
        }
    }

    fn changing_token(&self) -> Option<HeaderValue> {
        self.target.connections.changing_token()
    }

    fn receive(&self, connection: &Connection, response: batch::Response) -> Result<(), Loss> {
        let batch::Response {
            message,
            message_bytes,
        } = response;
        if message.closing {
            // Nothing new is accepted over this connection either.
            let target = &self.target;
            target.connections.forget(&target.address, connection.id);
            stream::close(self);
        }
        let (completed, freed_bytes) = self.queue().answered(message.answers);
        self.free(freed_bytes);
        for (slot, answer) in completed {
            slot.complete(match answer.response {
                Some(mut response) => {
                    if let Some(value) = response.value_mut() {
                        detach(value, message_bytes);
                    }
                    Ok(response)
                }
                None => Err(Interrupted::Lost {
                    cause: "the answer holds nothing that this release knows".into(),
                }),
            });
        }
        Ok(())
    }

    fn owed_since(&self) -> Option<Instant> {
        self.queue().owed_since()
    }

    fn silence_max(&self) -> Duration {
        self.target.silence_max
    }

    fn end(&self, connection: &Connection, end: End) -> Loss {
        let address = &self.target.address;
        match end {
            End::Closed => Loss::Ended(format!("the store at {address} ended the stream").into()),
            End::Failed(status) => self.failed(connection, &status, false),
            End::Silent => self.failed(connection, &self.silent(), false),
        }
    }

    /// Waiting commands go to the next stream if this one was useful. Otherwise their calls may know a better store.
    fn lose(&self, loss: Loss, was_useful: bool) {
        let mut queue = self.queue();
        let sent = queue.remove_sent();
        let waiting = if was_useful {
            Removed::default()
        } else {
            queue.remove_waiting()
        };
        drop(queue);
        let (lost, not_sent) = (sent.0.len(), waiting.0.len());
        tracing::debug!(address = %self.target.address, ?loss, lost, not_sent, "a stream of commands ended");
        self.lost(sent, &loss);
        self.not_processed(waiting, &loss);
    }

    fn stop_when_idle(&self) -> bool {
        let mut queue = self.queue();
        if queue.has_waiting() {
            return false;
        }
        queue.gate.stop();
        true
    }

    fn abandon(&self) {
        let mut queue = self.queue();
        queue.gate.stop();
        let (sent, waiting) = (queue.remove_sent(), queue.remove_waiting());
        drop(queue);
        let loss = Loss::Ended("the task that sends commands was ended".into());
        self.lost(sent, &loss);
        self.not_processed(waiting, &loss);
    }

    fn gate<R>(&self, change: impl FnOnce(&mut Gate) -> R) -> R {
        change(&mut self.queue().gate)
    }
}

impl SharedQueue {
    /// The store did not accept the stream.
    fn refused(&self, connection: &Connection, status: &Status) -> Loss {
        let is_unknown = status.code() == Code::Unimplemented && !fate::is_local(status);
        if is_unknown {
            self.target.knows_no_streams(connection);
        }
        let loss = self.failed(connection, status, true);
        if is_unknown {
            self.left_undone(&loss);
        }
        loss
    }

    fn silent(&self) -> Status {
        Status::deadline_exceeded(format!("no answer for {:?}", self.silence_max()))
    }

    fn failed(&self, connection: &Connection, status: &Status, at_opening: bool) -> Loss {
        let Target {
            address,
            connections,
            ..
        } = &*self.target;
        connections.forget_broken(address, connection.id, status);
        let loss = match fate::refusal(status) {
            Some(error) => Loss::Refused { error, at_opening },
            None => Loss::Ended(fate::cause(status, &format!("stream to {address}")).into()),
        };
        if fate::is_unprocessed(status) {
            self.left_undone(&loss);
        }
        loss
    }

    /// The store did not take the commands that it has not answered: it answers those that it took before it ends a stream.
    fn left_undone(&self, loss: &Loss) {
        // What would be taken from now on would be lost.
        stream::close(self);
        let sent = self.queue().remove_sent();
        self.not_processed(sent, loss);
    }

    /// Ends calls whose commands may have been processed, and gives their room back.
    fn lost(&self, (slots, freed_bytes): Removed, loss: &Loss) {
        self.free(freed_bytes);
        interrupt(slots, &loss.lost());
    }

    /// Ends calls whose commands certainly were not processed, and gives their room back.
    fn not_processed(&self, (slots, freed_bytes): Removed, loss: &Loss) {
        self.free(freed_bytes);
        interrupt(slots, &loss.not_processed());
    }
}

#[cfg(test)]
mod tests;
