//! How many calls share a message.

use futures::future::join_all;
use tokio::task::unconstrained;

use crate::harness::{Cluster, guarded};

/// Most commands of one message.
const MESSAGE_COMMANDS_MAX: usize = 512;

/// A multiple of what one message of each of the two lanes holds.
const CALLS: usize = 2 * 5 * MESSAGE_COMMANDS_MAX;

/// On a runtime with one thread the transport stands still while one task makes calls.
#[tokio::test]
async fn a_call_that_is_alone_has_a_message_and_calls_that_wait_share_as_few_as_can_be() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    for number in 1..=10 {
        client.raw_put("k", "v").await.expect("put");
        let stats = client.stats();
        assert_eq!((stats.command_messages, stats.commands), (number, number));
    }
    let before = client.stats();
    let reads = (0..CALLS).map(|_| client.raw_get("k"));
    for read in guarded("all is read", unconstrained(join_all(reads))).await {
        assert_eq!(read, Ok(Some("v".into())));
    }
    let after = client.stats();
    let commands = after.commands - before.commands;
    let messages = after.command_messages - before.command_messages;
    assert_eq!(commands, CALLS as u64, "each was sent once");
    assert_eq!(messages, CALLS.div_ceil(MESSAGE_COMMANDS_MAX) as u64);
}
