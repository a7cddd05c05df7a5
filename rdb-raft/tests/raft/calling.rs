//! Store 2 as one that calls it has it: streams of envelopes, and what is answered.

use std::sync::Arc;

use futures::stream;
use rdb_proto::raftpb;
use rdb_proto::raftpb::answer::Outcome;
use rdb_proto::raftpb::item::Request;
use rdb_proto::raftpb::raft_peer_client::RaftPeerClient;
use rdb_proto::raftpb::{Answer, Envelope, Hello, Item, Reply};
use rdb_proto::transport::{ServeOptions, endpoint};
use rdb_raft::log::{LogDevice, MemoryDevice};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::payloads::Payloads;
use crate::stores::{Addresses, CLUSTER_ID, GROUP_ID, Store, TIMING};
use crate::voters::GUARD;

/// Store 2, which has peer 2.
pub(crate) async fn served() -> (Store, String) {
    served_with(Arc::<MemoryDevice>::default(), ServeOptions::default()).await
}

pub(crate) async fn served_with(
    device: Arc<dyn LogDevice>,
    options: ServeOptions,
) -> (Store, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let payloads = Payloads::bootstrapped([1, 2, 3]);
    let addresses = Addresses::of([]);
    let store = Store::start_on(2, listener, addresses, device, payloads, options).await;
    (store, address)
}

pub(crate) async fn connect(address: &str) -> RaftPeerClient<Channel> {
    let endpoint = endpoint(address, GUARD).unwrap();
    RaftPeerClient::new(endpoint.connect().await.unwrap())
}

pub(crate) fn hello() -> Hello {
    Hello {
        cluster_id: CLUSTER_ID,
        from_store: 1,
        to_store: 2,
        election_timeout_max_ms: TIMING.election_timeout_max_ms,
        start: 1,
        met_start: 0,
    }
}

/// A stream to store 2 as store 1 has it.
pub(crate) struct Calling {
    pub(crate) envelopes: mpsc::Sender<Envelope>,
    pub(crate) replies: Streaming<Reply>,
}

impl Calling {
    pub(crate) async fn start(address: &str, is_bulk: bool) -> Self {
        let greeted = Self::greet(address, is_bulk, hello()).await;
        let mut calling = greeted.unwrap();
        let welcome = timeout(GUARD, calling.replies.message()).await;
        let welcome = welcome.expect("it comes in time").unwrap().unwrap();
        assert_eq!((welcome.start, welcome.answers), (Some(1), Vec::new()));
        calling
    }

    pub(crate) async fn greet(address: &str, is_bulk: bool, hello: Hello) -> Result<Self, Status> {
        let (envelopes, receiver) = mpsc::channel(16);
        let greeting = Envelope {
            hello: Some(hello),
            items: Vec::new(),
        };
        envelopes.send(greeting).await.unwrap();
        let sent = stream::unfold(receiver, |mut receiver| async move {
            let envelope = receiver.recv().await?;
            Some((envelope, receiver))
        });
        let mut client = connect(address).await;
        let accepted = async {
            match is_bulk {
                true => client.bulk(sent).await,
                false => client.urgent(sent).await,
            }
        };
        let accepted = timeout(GUARD, accepted).await.expect("answered in time");
        Ok(Self {
            envelopes,
            replies: accepted?.into_inner(),
        })
    }

    /// Waits until the store has ended the stream.
    pub(crate) async fn ended(&mut self) {
        let ended = async {
            while self
                .replies
                .message()
                .await
                .is_ok_and(|reply| reply.is_some())
            {}
        };
        timeout(GUARD, ended).await.expect("it ends in time");
    }

    /// What is answered to items that were sent together.
    pub(crate) async fn ask(&mut self, items: Vec<Item>) -> Vec<Answer> {
        let count = items.len();
        let hello = None;
        let envelope = Envelope { hello, items };
        self.envelopes.send(envelope).await.unwrap();
        let mut answers = Vec::new();
        while answers.len() < count {
            let reply = timeout(GUARD, self.replies.message()).await;
            let reply = reply.expect("it comes in time").unwrap();
            answers.extend(reply.expect("it goes on").answers);
        }
        answers.sort_by_key(|answer| (answer.session, answer.sequence));
        answers
    }
}

pub(crate) fn item(session: u64, sequence: u64, request: Request) -> Item {
    Item {
        group_id: GROUP_ID,
        from_peer: 1,
        to_peer: 2,
        session,
        sequence,
        request: Some(request),
    }
}

/// An append of a leader of term 1 to an empty log.
pub(crate) fn entries(previous: u64, payloads: &[&'static str]) -> Request {
    let entries = payloads.iter().map(|payload| raftpb::Entry {
        term: 1,
        kind: raftpb::Kind::Proposed.into(),
        payload: payload.as_bytes().into(),
    });
    let previous = raftpb::LogId {
        term: u64::from(previous > 0),
        index: previous,
    };
    Request::Append(raftpb::Append {
        term: 1,
        previous: Some(previous),
        committed: None,
        entries: entries.collect(),
    })
}

pub(crate) fn refusal(answer: &Answer) -> &str {
    match &answer.outcome {
        Some(Outcome::Refusal(refusal)) => &refusal.cause,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn is_appended(answer: &Answer) -> bool {
    matches!(answer.outcome, Some(Outcome::Appended(_)))
}
