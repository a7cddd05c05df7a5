//! Connecting to another store.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending, try_join};
use rdb_proto::auth::TokenFile;
use rdb_proto::raftpb::raft_peer_client::RaftPeerClient;
use rdb_proto::raftpb::{Envelope, Reply};
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use rdb_proto::transport::{Connector, call_failure, endpoint};
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::connection::{Connection, Ended, LANE_ITEMS_MAX};
use super::greeting::StoreIdentity;
use super::lane::envelopes;
use super::starts::Starts;
use super::{AddressBook, REPLY_BYTES_MAX};
use crate::timing::Timing;

/// How long an attempt may take, from the question for the address to the answers to both greetings.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why an attempt ends at once while nobody has told where the other store is.
pub(super) const NO_ADDRESS: &str = "its address is not known";

/// How other stores are connected to, and what this store shows them.
#[derive(Clone, Default)]
pub struct Dialing {
    /// What makes the connections.
    pub connector: Connector,
    /// Shown with each stream, a new one [once it is tried](TokenFile::trying_first). Connections are made again once it has changed.
    /// `None`: the store is identified by its certificate, if it has one.
    pub token: Option<TokenFile>,
}

/// A connection, and what is ready once this store has another token than it was made with.
pub(super) type Dialed = (Open, BoxFuture<'static, ()>);

/// Connects to other stores.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) identity: StoreIdentity,
    pub(super) timing: Timing,
    pub(super) addresses: Arc<dyn AddressBook>,
    pub(super) starts: Arc<Starts>,
    pub(super) dialing: Dialing,
}

impl Dialer {
    /// A connection on which the other store has accepted both streams, and what waits until this store has another token than was shown.
    pub(super) async fn dial(&self, store_id: u64) -> Result<Dialed, String> {
        let dialed = timeout(CONNECT_TIMEOUT, self.try_dial(store_id)).await;
        dialed.unwrap_or_else(|_| {
            let timeout_ms = CONNECT_TIMEOUT.as_millis();
            Err(format!("it did not answer within {timeout_ms} ms"))
        })
    }

    async fn try_dial(&self, store_id: u64) -> Result<Dialed, String> {
        let channel = self.connect(store_id).await?;
        self.greet(store_id, channel).await
    }

    /// What this store says to another one first.
    pub(super) fn greeting(&self, store_id: u64) -> Envelope {
        let starts = &self.starts;
        self.identity
            .greeting(store_id, &self.timing, starts.own(), starts)
    }

    /// A connection on which nothing was said yet.
    pub(super) async fn connect(&self, store_id: u64) -> Result<Channel, String> {
        let address = self.addresses.address(store_id).await;
        let address = address.ok_or(NO_ADDRESS)?;
        // Callers give up sooner, and say so.
        let endpoint =
            endpoint(&address, 2 * CONNECT_TIMEOUT).map_err(|error| error.to_string())?;
        // A connection that has died has to be noticed about as soon as a leader that has.
        let silence = Duration::from_millis(self.timing.election_timeout_min_ms);
        let endpoint = endpoint
            .http2_keep_alive_interval(silence)
            .keep_alive_timeout(silence * 2);
        let connector = self.dialing.connector.clone();
        let channel = endpoint.connect_with_connector(connector).await;
        channel.map_err(|error| innermost(&error).to_string())
    }

    /// Waits until this store has another token to show than at this moment.
    fn token_replaced(&self) -> BoxFuture<'static, ()> {
        match &self.dialing.token {
            Some(token) => token.replaced().boxed(),
            None => pending().boxed(),
        }
    }

    /// What begins a stream, with this store's token.
    pub(super) fn request<T>(&self, messages: T) -> Request<T> {
        TokenFile::request(self.dialing.token.as_ref(), messages)
    }

    async fn greet(&self, store_id: u64, channel: Channel) -> Result<Dialed, String> {
        let own_start = self.starts.own();
        let greeting = self.greeting(store_id);
        let closed = CancellationToken::new();
        let close = closed.clone().drop_guard();
        let lane = || {
            let (sender, lane) = mpsc::channel(LANE_ITEMS_MAX);
            (sender, envelopes(greeting.clone(), lane, closed.clone()))
        };
        let (bulk, bulk_envelopes) = lane();
        let (urgent, urgent_envelopes) = lane();
        let client = RaftPeerClient::new(channel)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .max_decoding_message_size(REPLY_BYTES_MAX);
        let (mut for_bulk, mut for_urgent) = (client.clone(), client.clone());
        // Right before the token is read: one that was read meanwhile is not shown a second time, and none is missed.
        let token_replaced = self.token_replaced();
        let accepted = try_join(
            for_bulk.bulk(self.request(bulk_envelopes)),
            for_urgent.urgent(self.request(urgent_envelopes)),
        );
        let welcomed = async {
            let (bulk, urgent) = accepted.await?;
            try_join(welcomed(bulk.into_inner()), welcomed(urgent.into_inner())).await
        };
        let ((bulk_replies, start), (urgent_replies, start_of_urgent)) =
            welcomed.await.map_err(|refused: Status| {
                if refused.code() == Code::AlreadyExists {
                    self.starts.note_outdated(store_id, own_start);
                }
                refusal(&refused)
            })?;
        // The channel may have connected twice.
        if start != start_of_urgent {
            return Err("the other store has started again meanwhile".to_owned());
        }
        let met = self.starts.meet(store_id, start).await;
        met.map_err(|not_met| not_met.to_string())?;
        let open = Open {
            connection: Arc::new(Connection::new(bulk, urgent)),
            bulk: bulk_replies,
            urgent: urgent_replies,
            starts: Arc::clone(&self.starts),
            own_start,
            met_start: (store_id, start),
            _client: client,
            _close: close,
        };
        Ok((open, token_replaced))
    }
}

/// Why the other store has refused a stream.
pub(super) fn refusal(refused: &Status) -> String {
    let cause = call_failure(refused);
    match refused.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            format!("it does not take this store for a store of its cluster: {cause}")
        }
        _ => cause.into_owned(),
    }
}

/// A stream that was accepted, and the start of the store that has done so.
async fn welcomed(mut replies: Streaming<Reply>) -> Result<(Streaming<Reply>, u64), Status> {
    let welcome = replies.message().await?;
    let start = welcome.and_then(|welcome| welcome.start);
    let start = start.ok_or_else(|| Status::internal("the other store says no start"))?;
    Ok((replies, start))
}

/// Closes a connection when it is dropped.
pub(super) struct Open {
    connection: Arc<Connection>,
    bulk: Streaming<Reply>,
    urgent: Streaming<Reply>,
    starts: Arc<Starts>,
    /// What this store has said of itself.
    own_start: u64,
    /// The other store, and what it has said of itself.
    met_start: (u64, u64),
    _client: RaftPeerClient<Channel>,
    /// Ends the requests of both streams, and so the connection.
    _close: DropGuard,
}

impl Open {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Hands out answers until the connection ends, and says why it did.
    pub(super) async fn read(self) -> Ended {
        let _closing = Closing(Arc::clone(&self.connection));
        let (store_id, start) = self.met_start;
        select! {
            ended = self.connection.read(self.bulk, self.urgent) => ended,
            () = self.starts.registered_again(self.own_start) => {
                Ended::InOrder("this store has registered")
            }
            () = self.starts.superseded(store_id, start) => {
                Ended::InOrder("the other store has started again")
            }
        }
    }
}

struct Closing(Arc<Connection>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}
