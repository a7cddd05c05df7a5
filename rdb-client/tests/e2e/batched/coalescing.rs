//! How many calls share a message.

use futures::future::join_all;

use crate::harness::{Cluster, guarded};

const CALLERS: usize = 256;

/// Of each caller, one after the other.
const CALLS: usize = 20;

/// What the mean must reach: a part of the callers, since each message that comes back sets only some of them free.
const COMMANDS_PER_MESSAGE_MIN: u64 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_share_messages_and_a_call_that_is_alone_has_one_for_itself() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    for number in 1..=10 {
        client.raw_put("k", "v").await.expect("put");
        let stats = client.stats();
        assert_eq!(
            (stats.batch_messages, stats.batch_commands),
            (number, number)
        );
    }
    let callers = (0..CALLERS).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..CALLS {
                assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
            }
        })
    });
    for caller in guarded("all is read", join_all(callers)).await {
        caller.expect("every call succeeds");
    }
    let stats = client.stats();
    let (messages, commands) = (stats.batch_messages - 10, stats.batch_commands - 10);
    println!("{commands} commands in {messages} messages");
    assert_eq!(commands, (CALLERS * CALLS) as u64, "each was sent once");
    assert!(commands >= messages * COMMANDS_PER_MESSAGE_MIN);
}
