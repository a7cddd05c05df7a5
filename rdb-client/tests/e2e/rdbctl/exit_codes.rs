//! What a script is told by the exit code.

use super::{
    CONFLICT, DONE, FAILED, NOT_FOUND, Rdbctl, UNDETERMINED, USAGE, assert_exit, errors, objects,
};
use crate::harness::{Cluster, LossyLine, found};

#[tokio::test]
async fn exit_codes_tell_a_script_what_happened() {
    let mut cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    let key_too_long = "k".repeat(8193);
    for (arguments, expected) in [
        (&["raw", "put", "k", "v"][..], DONE),
        (&["raw", "get", "k"], DONE),
        (&["raw", "get", "none"], NOT_FOUND),
        (&["raw", "del", "none"], DONE),
        (&["raw", "del", "none", "more"], DONE),
        (&["raw", "put", &key_too_long, "v"], USAGE),
        (&["raw", "put", "", "v"], USAGE),
        (&["raw", "put", "k"], USAGE),
        (&["raw", "scan", "b", "a"], USAGE),
        (&["cas", "put", "k", "v", "--expect", "0"], DONE),
        (&["cas", "put", "k", "v", "--expect", "0"], CONFLICT),
        (&["cas", "put", "none", "v", "--expect", "3"], CONFLICT),
        (&["cas", "put", "k", "v"], USAGE),
        (&["cas", "get", "k"], DONE),
        (&["cas", "get", "none"], NOT_FOUND),
        (&["cas", "del", "k", "--expect", "2"], CONFLICT),
        (&["cas", "del", "k", "--expect", "0"], USAGE),
        (&["cas", "del", "k", "--expect", "1"], DONE),
        (&["tso", "--count", "0"], USAGE),
        (&["tso", "--count", "70000"], USAGE),
        (&["nonsense"], USAGE),
        (&["health"], DONE),
    ] {
        assert_exit(&rdbctl.run(arguments).await, expected, arguments);
    }

    cluster.store.kill();
    assert_exit(&rdbctl.run(["health"]).await, FAILED, "a store is away");
    let short = ["--timeout", "300ms"];
    for arguments in [
        &["raw", "get", "k"][..],
        // Nothing was sent, so it is certain that nothing was written.
        &["raw", "put", "k", "w"],
    ] {
        let arguments = [arguments, &short].concat();
        assert_exit(&rdbctl.run(&arguments).await, FAILED, &arguments);
    }
    cluster.pd.kill();
    let arguments = [&["tso"][..], &short].concat();
    assert_exit(&rdbctl.run(&arguments).await, FAILED, &arguments);
}

#[tokio::test]
async fn a_write_whose_answer_got_lost_is_undetermined_and_such_a_read_fails() {
    let mut cluster = Cluster::prepare();
    let line = LossyLine::open(cluster.store.address(), "lost").await;
    cluster.store = cluster.store.with_flag("--advertise-addr", line.address());
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let rdbctl = Rdbctl::of(&cluster);
    for arguments in [
        &["raw", "put", "lost/put", "v"][..],
        &["raw", "del", "lost/del"],
        &["raw", "delete-range", "lost/a", "lost/b"],
        &["cas", "put", "lost/swap", "v", "--expect", "0"],
        &["cas", "del", "lost/del", "--expect", "1"],
    ] {
        let output = rdbctl.run(arguments.iter().chain(&["-o", "json"])).await;
        assert_exit(&output, UNDETERMINED, arguments);
        assert_eq!(objects(&output)[0]["error"]["kind"], "undetermined");
        assert_eq!(errors(&output).matches("may or may not").count(), 1);
    }
    let read = rdbctl
        .run(["raw", "get", "lost/put", "--timeout", "1s"])
        .await;
    assert_exit(&read, FAILED, "a read");
    // These are applied sooner or later, and no other writer is there: a read whose answer comes shows them.
    for (keyspace, expected) in [("raw", "lost/put\tv\n"), ("cas", "lost/swap\t1\tv\n")] {
        found("what was written", async || {
            let output = rdbctl.run([keyspace, "scan"]).await;
            (output.stdout == expected.as_bytes()).then_some(())
        })
        .await;
    }
}
