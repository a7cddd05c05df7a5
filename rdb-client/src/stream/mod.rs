//! Keeps a stream to a server open while calls need it.
//!
//! Many calls share a stream: their requests wait in a queue, the transport takes them from the queue, and a task hands out
//! the answers. The queue implements [`Traffic`], which says what to send, what to do with an answer, and what becomes of
//! the calls when the stream is lost. The modules here do the rest:
//!
//! - `gate`: which stream takes requests from the queue; earlier streams end.
//! - `requests`: the requests of a stream, made when the transport polls for them. It ends a stream whose token was replaced.
//! - `kept`: the task that opens a stream, and another one when it breaks. No task runs while no call waits and no stream is
//!   open.

mod gate;
mod kept;
mod requests;

use std::future::Future;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use tonic::{Status, Streaming};

pub(crate) use gate::Gate;
pub(crate) use kept::Kept;
pub(crate) use requests::Requests;

/// A queue of requests that one stream at a time carries to a server.
pub(crate) trait Traffic: Send + Sync + Sized + 'static {
    /// Whether calls get a chance to add theirs also between two requests that the transport takes in one turn. Requests
    /// are fewer and larger then, and the server gets the second one later.
    const YIELDS_WITHIN_TURN: bool;

    type Request: Send + 'static;
    type Response: Send + 'static;
    /// The server's end of an open stream.
    type Peer: Send + Sync;
    /// Why there is no stream, or no longer.
    type Loss: Send;

    /// Opens a stream of [`Requests`]. Has to end by itself when the server does not answer.
    fn open(self: &Arc<Self>) -> impl Future<Output = Result<Opened<Self>, Self::Loss>> + Send;

    /// The next request for the stream of this generation. `has_yielded`: calls had their chance to add theirs. The waker is
    /// kept when there is nothing to take.
    fn take(&self, generation: u64, has_yielded: bool, waker: &Waker) -> Taken<Self::Request>;

    /// The token that a stream opened now would carry. `None`: none, or always the same.
    fn changing_token(&self) -> Option<HeaderValue>;

    /// Hands an answer to the calls that wait for it.
    ///
    /// # Errors
    ///
    /// Ends the stream.
    fn receive(&self, peer: &Self::Peer, response: Self::Response) -> Result<(), Self::Loss>;

    /// When the oldest request was taken that has no answer.
    fn owed_since(&self) -> Option<Instant>;

    /// How long the server may owe an answer without giving any.
    fn silence_max(&self) -> Duration;

    /// An open stream has ended. Here the peer is dealt with, in [`Traffic::lose`] the calls.
    fn end(&self, peer: &Self::Peer, end: End) -> Self::Loss;

    /// There is no stream. Deals with the calls that have no answer. `was_useful`: the stream had brought answers.
    fn lose(&self, loss: Self::Loss, was_useful: bool);

    /// Whether no call waits. If so, the gate is stopped, and the next call starts the task again.
    fn stop_when_idle(&self) -> bool;

    /// The task ends although calls may wait, because the client or the runtime ends. Stop the gate.
    fn abandon(&self);

    /// Changes the gate under the queue's lock.
    fn gate<R>(&self, change: impl FnOnce(&mut Gate) -> R) -> R;
}

/// A stream's answers, and the server's end of it.
pub(crate) type Opened<T> = (Streaming<<T as Traffic>::Response>, <T as Traffic>::Peer);

/// What a stream gets when it asks for a request.
#[derive(Debug)]
pub(crate) enum Taken<R> {
    /// Send this.
    Request(R),
    /// There is something to send. Ask again in another turn of the runtime.
    Yield,
    /// There is nothing to send. The waker will be woken.
    Nothing,
    /// End: another stream has taken over.
    Over,
}

/// How an open stream ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The server ended it in good order.
    Closed,
    /// The server or the connection failed.
    Failed(Status),
    /// The server owed an answer for too long.
    Silent,
}

/// Admits no stream until the next one is opened, and has the present one end.
pub(crate) fn close(traffic: &impl Traffic) {
    let sleeper = traffic.gate(Gate::close);
    if let Some(sleeper) = sleeper {
        sleeper.wake();
    }
}
