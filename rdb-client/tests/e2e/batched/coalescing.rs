//! How many calls share a message. How many of those that wait do is proved of the queue by itself; how many happen to
//! wait is a matter of the schedule, and only reported here.

use futures::future::join_all;

use crate::harness::{Cluster, guarded};

const CALLERS: usize = 256;

/// Of each caller, one after the other.
const CALLS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_alone_has_a_message_for_itself_and_of_many_each_is_sent_once() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    for number in 1..=10 {
        client.raw_put("k", "v").await.expect("put");
        let stats = client.stats();
        assert_eq!((stats.command_messages, stats.commands), (number, number));
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
    let (messages, commands) = (stats.command_messages - 10, stats.commands - 10);
    let mean = commands as f64 / messages as f64;
    println!("{commands} commands in {messages} messages, {mean:.1} in each");
    assert_eq!(commands, (CALLERS * CALLS) as u64, "each was sent once");
    assert!(messages <= commands, "none was empty");
}
