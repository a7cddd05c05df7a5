//! The token of a store: what becomes of one that is not let in with it, and where it is shown.

use std::fs;

use rdb_proto::auth::Token;
use rdb_proto::authpb::Role;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tonic::Code;

use super::{Setting, code, grant, says_in_health, start_holding, user};
use crate::configuration::program;
use crate::harness::{Node, found, guarded, http_get};

/// Waits until `/health` says that nothing is wrong.
async fn says_nothing_in_health(store: &Node) {
    let address = store.status_address().await;
    found("the health has no warning", async || {
        let health = http_get(&address, "/health").await;
        (health.body == "serving\n").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_loses_its_right_says_so_and_goes_on_with_its_copy() {
    let setting = Setting::new().await;
    let store = setting.start_enforcing().await;
    setting.enforce_with("other/", Vec::new());
    says_in_health(&store, "--auth-token-file").await;
    assert_eq!(code(setting.ada_puts(&store, "own/k").await), Code::Ok);
    setting.enforce("own/");
    says_nothing_in_health(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_may_not_register_waits_until_it_may() {
    let setting = Setting::new().await;
    setting.enforce_with("own/", Vec::new());
    let mut store = setting.store("store");
    store.start();
    store
        .wait_for_log("waiting for the placement driver to register this store")
        .await;
    let log = store.log();
    assert!(log.contains("--auth-token-file"), "{log}");
    assert!(!store.has_ended());
    setting.enforce("own/");
    setting.ada_gets(&store, Code::Ok).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_replicate_with_their_tokens() {
    let setting = Setting::new().await;
    let first = setting.start_enforcing().await;
    let second = start_holding(setting.store("second")).await;
    setting.add_voter(2).await;
    // Either one needs the other for it.
    setting.ada_puts_on_one_of([&first, &second]).await;
    for log in [first.log(), second.log()] {
        assert!(!log.contains("does not take this store"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_taken_leaves_the_one_from_before_in_use() {
    let setting = Setting::new().await;
    let store = setting.start_enforcing().await;
    let file = setting.directory.path().join("token");
    let write = |token: String| fs::write(&file, token).expect("it can be written");
    write(setting.ada.to_string());
    says_in_health(&store, "user ada lacks the right: store").await;
    let learns = async |prefix: &str| {
        setting.enforce(prefix);
        let key = format!("{prefix}k");
        found("the store learns of changes", async || {
            setting.ada_puts(&store, &key).await.ok()
        })
        .await;
    };
    learns("one/").await;
    write("no token".to_owned());
    says_in_health(&store, "has something else").await;
    learns("two/").await;

    let next = Token::random();
    let mut rotated = user("store", &setting.store_token, vec![grant(Role::Store, "")]);
    rotated.token_hashes.push(next.hash().to_vec().into());
    let ada = |prefix| user("ada", &setting.ada, vec![grant(Role::Writer, prefix)]);
    setting.pd.enforce(vec![ada("own/"), rotated.clone()]);
    write(next.to_string());
    says_nothing_in_health(&store).await;
    rotated.token_hashes.remove(0);
    setting.pd.enforce(vec![ada("last/"), rotated]);
    found("it shows the next one", async || {
        setting.ada_puts(&store, "last/k").await.ok()
    })
    .await;
}

/// The port may speak TLS: whoever listens on the way would read the token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_not_sent_to_a_port_that_does_not_answer() {
    const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let setting = Setting::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("a free port");
    let address = silent.local_addr().expect("it listens").to_string();
    let data_dir = setting.directory.path().join("store");
    let mut store = setting.with_token(Node::store(data_dir, &address));
    store.start();
    let accepted = guarded("it connects", silent.accept()).await;
    let (mut stream, _) = accepted.expect("it listens");
    let mut sent = Vec::new();
    let ended = guarded("it gives up", stream.read_to_end(&mut sent)).await;
    ended.expect("it closes");
    assert_eq!(sent, GREETING);
}

#[test]
fn a_file_without_a_token_is_refused_as_a_setting_and_not_shown() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let file = directory.path().join("token");
    fs::write(&file, "flaredb_5ec2e7").expect("it can be written");
    let output = program("rdb-server")
        .arg("--auth-token-file")
        .arg(&file)
        .arg("--data-dir")
        .arg(directory.path().join("store"))
        .output();
    let output = output.expect("the binary can be started");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(told.contains("--auth-token-file"), "{told}");
    assert!(told.contains("flaredb_ and 64 digits"), "{told}");
    assert!(!told.contains("5ec2e7"), "{told}");
}
