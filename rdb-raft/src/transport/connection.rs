//! One open connection to another store, and the answers that are due on it.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::select;
use rdb_proto::raftpb::{Answer, Reply};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::Streaming;

use super::lane::Outgoing;
use super::{CONNECTION_BYTES_MAX, RpcError, broken};

/// Most items that wait on a stream.
pub(super) const LANE_ITEMS_MAX: usize = 4096;

/// The least that an item of a session counts. So all that fit into a connection fit into its lane, too.
pub(super) const ITEM_BYTES_MIN: usize = CONNECTION_BYTES_MAX / LANE_ITEMS_MAX;

/// An open connection. Shared by all that send over it; it never opens again.
pub(super) struct Connection {
    pub(super) bulk: mpsc::Sender<Outgoing>,
    pub(super) urgent: mpsc::Sender<Outgoing>,
    /// What sessions may still send, in bytes.
    pub(super) room: Arc<Semaphore>,
    /// The sessions that wait for answers. `None` once the connection is broken.
    waiting: Mutex<Option<Waiting>>,
    /// Only counts.
    last_session: AtomicU64,
}

/// Why a connection has ended.
pub(super) enum Ended {
    /// As connections do now and then, e.g. one that nobody has used for long.
    InOrder(&'static str),
    Broken(String),
}

type Waiting = HashMap<u64, Waiter>;

enum Waiter {
    Session(mpsc::Sender<Answer>),
    Request(oneshot::Sender<Answer>),
}

impl Connection {
    pub(super) fn new(bulk: mpsc::Sender<Outgoing>, urgent: mpsc::Sender<Outgoing>) -> Self {
        Self {
            bulk,
            urgent,
            room: Arc::new(Semaphore::new(CONNECTION_BYTES_MAX)),
            waiting: Mutex::new(Some(Waiting::new())),
            last_session: AtomicU64::new(0),
        }
    }

    /// A session that has at most `items_max` items without an answer.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub(super) fn open_session(
        self: &Arc<Self>,
        items_max: usize,
    ) -> Result<OpenSession<mpsc::Receiver<Answer>>, RpcError> {
        let (sender, answers) = mpsc::channel(items_max);
        self.open(Waiter::Session(sender), answers)
    }

    /// A session with a single item. It costs little, since each heartbeat has one.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub(super) fn open_request(
        self: &Arc<Self>,
    ) -> Result<OpenSession<oneshot::Receiver<Answer>>, RpcError> {
        let (sender, answer) = oneshot::channel();
        self.open(Waiter::Request(sender), answer)
    }

    fn open<A>(self: &Arc<Self>, waiter: Waiter, answers: A) -> Result<OpenSession<A>, RpcError> {
        let number = self.last_session.fetch_add(1, Ordering::Relaxed) + 1;
        let mut waiting = self.waiting();
        let waiting = waiting.as_mut().ok_or_else(|| broken(BROKE))?;
        waiting.insert(number, waiter);
        let connection = Arc::clone(self);
        Ok(OpenSession {
            connection,
            number,
            answers,
        })
    }

    /// Hands out answers until a stream ends. Returns why it did.
    pub(super) async fn read(&self, bulk: Streaming<Reply>, urgent: Streaming<Reply>) -> Ended {
        let (bulk, urgent) = (pin!(self.hand_out(bulk)), pin!(self.hand_out(urgent)));
        select(bulk, urgent).await.factor_first().0
    }

    async fn hand_out(&self, mut replies: Streaming<Reply>) -> Ended {
        loop {
            match replies.message().await {
                Ok(Some(reply)) => self.route(reply),
                Ok(None) => return Ended::InOrder("the other store ended it"),
                Err(status) => {
                    return Ended::Broken(format!("{}: {}", status.code(), status.message()));
                }
            }
        }
    }

    fn route(&self, reply: Reply) {
        let mut waiting = self.waiting();
        let Some(waiting) = waiting.as_mut() else {
            return;
        };
        for answer in reply.answers {
            let session = answer.session;
            // Without a sender the session is over. One that gets more answers than it has asked for ends.
            if let Some(Waiter::Session(sender)) = waiting.get(&session) {
                if sender.try_send(answer).is_err() {
                    waiting.remove(&session);
                }
            } else if let Some(Waiter::Request(sender)) = waiting.remove(&session) {
                // Nobody may wait any more.
                let _ = sender.send(answer);
            }
        }
    }

    /// Ends all that wait for answers.
    pub(super) fn close(&self) {
        *self.waiting() = None;
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a caller says whose connection broke.
const BROKE: &str = "the connection broke";

/// A session at the end of the store that calls.
pub(super) struct OpenSession<Answers> {
    pub(super) connection: Arc<Connection>,
    pub(super) number: u64,
    answers: Answers,
}

impl OpenSession<mpsc::Receiver<Answer>> {
    /// The next answer.
    ///
    /// # Errors
    ///
    /// When the connection broke.
    pub(super) async fn answer(&mut self) -> Result<Answer, RpcError> {
        self.answers.recv().await.ok_or_else(|| broken(BROKE))
    }
}

impl OpenSession<oneshot::Receiver<Answer>> {
    /// The answer.
    ///
    /// # Errors
    ///
    /// When the connection broke.
    pub(super) async fn answer(mut self) -> Result<Answer, RpcError> {
        (&mut self.answers).await.map_err(|_| broken(BROKE))
    }
}

impl<Answers> Drop for OpenSession<Answers> {
    fn drop(&mut self) {
        if let Some(waiting) = self.connection.waiting().as_mut() {
            waiting.remove(&self.number);
        }
    }
}
