//! The peers, one file for each way to be a bad one.

mod cold_swaps;
mod empty_entries;
mod floods;
mod garbage;
mod half_sent;
mod idle_connections;
mod kept_open;
mod refused_connections;
mod stale_swaps;
mod stores;
mod trimmed_queue;
mod unread_answers;
mod unread_stream;

use std::time::Duration;

use futures::future::LocalBoxFuture;

use crate::trial::Trial;
use crate::verdict::Limits;

/// One way to be a bad peer.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) does: &'static str,
    pub(crate) limits: Limits,
    pub(crate) play: fn(&mut Trial) -> LocalBoxFuture<'_, anyhow::Result<()>>,
}

/// Default of `--bytes-in-flight-mib`.
const BUDGET_MIB: u64 = 256;

/// What may come on top of what is budgeted, and may stay for a while.
const SLACK_MIB: u64 = 128;

const OTHERS: Option<Duration> = Some(Duration::from_millis(250));

/// The limits of peers that make the store hold requests or answers.
const BUDGETED: Limits = Limits {
    peak_mib: BUDGET_MIB + SLACK_MIB,
    after_mib: SLACK_MIB,
    others: OTHERS,
};

/// The limits of peers that should get nothing.
const UNBUDGETED: Limits = Limits {
    peak_mib: SLACK_MIB,
    after_mib: SLACK_MIB,
    others: OTHERS,
};

macro_rules! peer {
    ($name:literal, $does:literal, $limits:expr, $play:path) => {
        Peer {
            name: $name,
            does: $does,
            limits: $limits,
            play: |trial| Box::pin($play(trial)),
        }
    };
}

/// The peers, in the order in which they are played.
pub(crate) const PEERS: &[Peer] = &[
    peer!(
        "unread-gets",
        "20 connections with 200 RawGet each of a 4 MiB value, window 0, stays connected",
        BUDGETED,
        unread_answers::gets
    ),
    peer!(
        "unread-gets-again",
        "the same, asking again whenever an answer is refused or reset",
        BUDGETED,
        unread_answers::gets_again
    ),
    peer!(
        "unread-pages",
        "20 connections with 200 RawBatchGet, BatchGet and scans each, 4 MiB in each answer, window 0",
        BUDGETED,
        unread_answers::pages_again
    ),
    peer!(
        "empty-entries",
        "16 calls at a time with 4 million empty entries of 2 bytes: batches of every kind and batched streams",
        UNBUDGETED,
        empty_entries::play
    ),
    peer!(
        "half-sent-1x250",
        "1 connection with 250 streams that each send 4 MiB of a batch and stop",
        BUDGETED,
        half_sent::on_one_connection
    ),
    peer!(
        "half-sent-20x50",
        "20 connections with 50 streams that each send 2 MiB of a batch and stop",
        BUDGETED,
        half_sent::on_twenty_connections
    ),
    peer!(
        "half-sent-1000x1",
        "1,000 connections with a stream that sends 1 MiB of a batch and stops",
        BUDGETED,
        half_sent::on_a_thousand_connections
    ),
    peer!(
        "half-calls",
        "1,000 connections with 120 RawBatchPut each that send their headers and stop, window 0",
        BUDGETED,
        half_sent::without_body
    ),
    peer!(
        "silent-streams",
        "20 connections with 16 batched streams that each send a message of 6 MiB and stay open",
        BUDGETED,
        kept_open::batched
    ),
    peer!(
        "answered-streams",
        "20 connections with 16 batched streams that each read an answer of 4 MiB and stay open",
        BUDGETED,
        kept_open::answered
    ),
    peer!(
        "silent-reflection",
        "20 connections with 20 streams of reflection that each send 3 MiB, a small message, and stay open",
        BUDGETED,
        kept_open::reflecting
    ),
    peer!(
        "second-message",
        "20 connections with 20 unary calls that each send 6 MiB and half of a second message",
        BUDGETED,
        kept_open::unary
    ),
    peer!(
        "idle-connections",
        "1,024 connections that speak HTTP/2 and then do nothing",
        UNBUDGETED,
        idle_connections::play
    ),
    peer!(
        "refused-connections",
        "every place for a connection is in use, and 5,000 more connections come",
        UNBUDGETED,
        refused_connections::play
    ),
    peer!(
        "ping-flood",
        "50 connections with PINGs for 10 s, as fast as they are answered",
        UNBUDGETED,
        floods::pings
    ),
    peer!(
        "reflection-flood",
        "20 connections with 4 calls of reflection at a time for 10 s, as fast as they are answered",
        UNBUDGETED,
        floods::reflection
    ),
    peer!(
        "trimmed-queue",
        "20,000 times: RawDeleteRange from the head of a queue to a growing key, a put and a get",
        Limits {
            peak_mib: 200,
            after_mib: 200,
            others: OTHERS,
        },
        trimmed_queue::play
    ),
    peer!(
        "stale-swaps",
        "4 connections with 16 batched streams of 64 messages of 64 stale swaps on a 64 KiB value, window 0",
        BUDGETED,
        stale_swaps::answered_with_the_value
    ),
    peer!(
        "stale-swaps-4096",
        "16 batched streams of 64 messages of 4,096 stale swaps on a 4 MiB value, window 0",
        BUDGETED,
        stale_swaps::of_the_largest_value
    ),
    peer!(
        "cold-swaps",
        "32,768 compare-and-swaps on keys that are only on the disk, after a restart",
        Limits {
            // What was read stays in the block cache, which is not the peer's.
            after_mib: BUDGET_MIB + SLACK_MIB,
            ..BUDGETED
        },
        cold_swaps::play
    ),
    peer!(
        "stores-half-sent",
        "20 connections with 50 streams each that another store would open, 4 MiB of an envelope of entries, and no more",
        BUDGETED,
        stores::half_sent
    ),
    peer!(
        "stores-empty-entries",
        "20 connections with 4 streams each that greet as stores, and send envelopes of a million empty entries",
        UNBUDGETED,
        stores::empty_entries
    ),
    peer!(
        "stores-invented",
        "5,000 greetings from stores that there are not",
        UNBUDGETED,
        stores::invented
    ),
    peer!(
        "garbage",
        "400 connections that send what is not HTTP/2 or not gRPC to both processes",
        UNBUDGETED,
        garbage::play
    ),
    peer!(
        "unread-stream-drain",
        "batched streams whose answers are not read when the store is asked to stop",
        Limits {
            others: None,
            ..BUDGETED
        },
        unread_stream::play
    ),
];
