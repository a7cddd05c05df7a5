//! How many calls share a message.

use std::io::{Write, stderr};

use futures::future::join_all;
use tokio::task::unconstrained;

use crate::harness::{Cluster, guarded};

/// Most commands of one message.
const MESSAGE_COMMANDS_MAX: usize = 512;

/// A multiple of what one message of each of the two lanes holds.
const CALLS: usize = 2 * 5 * MESSAGE_COMMANDS_MAX;

/// Tasks that call one after the other.
const CALLERS: usize = 256;

/// Calls of each of them.
const CALLS_OF_EACH: usize = 20;

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

/// How many calls share a message then is a matter of speed, so it is printed. The harness captures what `println` prints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_are_each_sent_once() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let callers = (0..CALLERS).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..CALLS_OF_EACH {
                assert_eq!(client.raw_get("k").await, Ok(None));
            }
        })
    });
    for caller in guarded("all is read", join_all(callers)).await {
        caller.expect("each is answered");
    }
    let stats = client.stats();
    let (commands, messages) = (stats.commands, stats.command_messages);
    let mean = commands as f64 / messages as f64;
    let line =
        format!("measured: {commands} commands in {messages} messages, {mean:.1} a message\n");
    stderr().write_all(line.as_bytes()).expect("it is open");
    assert_eq!(
        commands,
        (CALLERS * CALLS_OF_EACH) as u64,
        "each was sent once"
    );
    assert!((commands.div_ceil(MESSAGE_COMMANDS_MAX as u64)..=commands).contains(&messages));
}
