//! What failures say to people.

use tokio::net::TcpListener;

use super::{DONE, FAILED, Rdbctl, USAGE, assert_exit, errors};
use crate::harness::Cluster;

#[tokio::test]
async fn arguments_are_named_as_they_are_typed() {
    let cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    let key_too_long = "k".repeat(8193);
    for (arguments, expected) in [
        (&["raw", "scan", "z", "a"][..], "error: END: it lies below"),
        (&["raw", "delete-range", "a", "a"], "error: END: it is not"),
        (&["raw", "get", &key_too_long], "error: KEY: it has 8193"),
        (&["raw", "scan", "--limit", "0"], "whole number, 1 or more"),
        (&["tso", "-c", "0"], "whole number from 1 to 65536"),
        (&["tso", "-c", "65537"], "whole number from 1 to 65536"),
        (
            &["cas", "put", "k", "v", "--expect", "-1"],
            "whole number, 0 or more",
        ),
        (
            &["cas", "del", "k", "--expect", "0"],
            "whole number, 1 or more",
        ),
        (&["tso", "--timeout", "1d"], "500ms, 10s, 2m, 1h"),
        (&["tso", "--pd", "nowhere"], "error: --pd: \"nowhere\""),
    ] {
        let output = rdbctl.run(arguments).await;
        assert_exit(&output, USAGE, arguments);
        let errors = errors(&output);
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
    let address = cluster.pd.address();
    let spaced = format!("{address}, {address} ");
    let listed = rdbctl.run(["tso", "--pd", &spaced, "--timeout", "1h"]);
    assert_exit(&listed.await, DONE, "spaces in a list");
    let logged = rdbctl.run(["raw", "get", "none", "--log-level", "debug"]);
    let logged = errors(&logged.await);
    assert!(!logged.contains("h2::"), "another library's: {logged}");
}

#[tokio::test]
async fn a_connection_that_fails_is_told_without_the_layers_it_came_by() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it listens");
    // Until the test's runtime ends.
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let rdbctl = Rdbctl::at(address);
    let read = rdbctl.run(["raw", "get", "k", "--timeout", "1s"]).await;
    assert_exit(&read, FAILED, "a read");
    let errors = errors(&read);
    for layer in ["operation was canceled", "http2 error"] {
        assert!(!errors.contains(layer), "{errors}");
    }
}

#[tokio::test]
async fn the_usage_shows_nothing_as_required_that_a_variable_sets() {
    // It has the address from RDBCTL_PD.
    let rdbctl = Rdbctl::at("127.0.0.1:1");
    for (arguments, input) in [
        (&["auth", "user", "add"][..], ""),
        (&["shell"], "auth user add\n"),
    ] {
        let output = rdbctl.run_with_input(arguments, input.as_bytes()).await;
        assert_exit(&output, USAGE, arguments);
        let errors = errors(&output);
        assert!(errors.contains("Usage: rdbctl auth user add"), "{errors}");
        assert!(!errors.contains("--pd"), "{errors}");
    }
}
