//! Peers that speak as other stores of the cluster do.

use anyhow::Context;
use bytes::Bytes;
use rdb_proto::pdpb::GetClusterInfoRequest;
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::raftpb::item::Request;
use rdb_proto::raftpb::{Append, Entry, Envelope, Hello, Item, Kind};

use crate::harness::connect;
use crate::siege::{Insistence, Siege};
use crate::trial::Trial;
use crate::wire::{Ending, Line, framed, send};

const BULK: &str = "/raftpb.RaftPeer/Bulk";
const URGENT: &str = "/raftpb.RaftPeer/Urgent";
const SNAPSHOT: &str = "/raftpb.RaftPeer/Snapshot";

/// The default of a store, which its peers have to share.
const ELECTION_TIMEOUT_MAX_MS: u64 = 3000;

/// The store that is visited, and the first one that there is not.
const STORE: u64 = 1;
const INVENTED: u64 = 1_000;

const ENVELOPES: usize = 16;

/// Begin an envelope of entries without a greeting, and stop.
pub(super) async fn half_sent(trial: &mut Trial) -> anyhow::Result<()> {
    trial.begin().await?;
    let half = framed(&envelope(vec![entry(64 << 10); 90])).slice(..4 << 20);
    visit(trial, 20, 50, move |line, number| {
        let (path, half) = ([BULK, URGENT, SNAPSHOT][number % 3], half.clone());
        async move {
            let mut call = line.call(path).await?;
            send(&mut call.request, half, false).await?;
            call.ended().await
        }
    })
    .await
}

/// Greet as stores that there are not, and send as many empty entries as a message takes, several times. Nothing is read.
pub(super) async fn empty_entries(trial: &mut Trial) -> anyhow::Result<()> {
    let cluster_id = cluster_id(trial).await?;
    trial.begin().await?;
    let entries = framed(&envelope(vec![entry(0); 1_000_000]));
    visit(trial, 20, 4, move |line, number| {
        let (path, entries) = ([BULK, URGENT][number % 2], entries.clone());
        let hello = greeting(cluster_id, INVENTED + number as u64);
        async move {
            let mut call = line.call(path).await?;
            send(&mut call.request, hello, false).await?;
            for _ in 0..ENVELOPES {
                send(&mut call.request, entries.clone(), false).await?;
            }
            call.ended().await
        }
    })
    .await
}

/// Greet as more stores than a cluster has.
pub(super) async fn invented(trial: &mut Trial) -> anyhow::Result<()> {
    const STORES: u64 = 5_000;
    let cluster_id = cluster_id(trial).await?;
    trial.begin().await?;
    let mut line = Line::open_reading(&trial.address()).await?;
    let mut refused = 0;
    for number in 0..STORES {
        if line.is_lost() {
            line = Line::open_reading(&trial.address()).await?;
        }
        let hello = greeting(cluster_id, INVENTED + number);
        refused += u64::from(line.ask(URGENT, hello).await == Ending::Refused);
    }
    trial.note(format!("{refused} of {STORES} were refused"));
    trial.expect(refused > 0, "every one was taken for a store");
    trial.gone().await
}

async fn visit<F>(
    trial: &mut Trial,
    connections: usize,
    calls: usize,
    call: impl Fn(Line, usize) -> F + Clone + Send + Sync + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = Result<Ending, h2::Error>> + Send + 'static,
{
    let siege = Siege::lay(
        &trial.address(),
        connections,
        calls,
        Insistence::AgainAndAgain,
        move |line, number| {
            let called = call(line, number);
            async move { Ending::of(called.await) }
        },
    );
    trial.stay().await;
    trial.note(siege.endings());
    drop(siege);
    trial.gone().await
}

/// Whoever reaches a placement driver is told.
async fn cluster_id(trial: &Trial) -> anyhow::Result<u64> {
    let channel = connect(&trial.cluster.pd.address()).await?;
    let mut pd = PdClient::new(channel);
    let asked = pd.get_cluster_info(GetClusterInfoRequest::default());
    let info = asked.await.context("the placement driver answers")?;
    Ok(info.into_inner().cluster_id)
}

fn greeting(cluster_id: u64, from_store: u64) -> Bytes {
    framed(&Envelope {
        hello: Some(Hello {
            cluster_id,
            from_store,
            to_store: STORE,
            election_timeout_max_ms: ELECTION_TIMEOUT_MAX_MS,
            start: 1,
            met_start: 0,
        }),
        items: Vec::new(),
    })
}

/// One append to a group that the store has.
fn envelope(entries: Vec<Entry>) -> Envelope {
    let append = Append {
        term: 1,
        previous: None,
        committed: None,
        entries,
    };
    Envelope {
        hello: None,
        items: vec![Item {
            group_id: 1,
            from_peer: INVENTED,
            to_peer: 1,
            session: 1,
            sequence: 0,
            request: Some(Request::Append(append)),
        }],
    }
}

fn entry(bytes: usize) -> Entry {
    Entry {
        term: 1,
        kind: Kind::Proposed.into(),
        payload: vec![b'x'; bytes].into(),
    }
}
