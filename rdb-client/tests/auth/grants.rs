//! What a grant is over, and who has it: commands of one message, ranges that several grants cover, tokens that come and go.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rdb_proto::authpb::{Keyspace, Role, TokenChange};
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::{RawDeleteRangeRequest, RawScanRequest};
use tonic::Code;

use crate::administrator::{over, over_all};
use crate::cluster::{Enforcing, get};
use crate::harness::{Node, found};
use crate::requests::About::{Inside, Outside};
use crate::requests::{COMMANDS, command, commands};
use crate::wire::{CommandStream, bearer, call};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_of_a_message_is_judged_by_itself_and_paths_that_nobody_knows_are_not_open() {
    let mut cluster = Enforcing::of_one_store().await;
    let admin = &cluster.admin;
    let token = bearer(&admin.add("ada").await);
    let granted = over(Role::Writer, Keyspace::Raw, "in/");
    admin.grant("ada", &granted).await;
    let granted = over(Role::Reader, Keyspace::Versioned, "in/");
    admin.grant("ada", &granted).await;
    cluster.settle().await;

    let store = cluster.channel(&cluster.stores[0]).await;
    let stream = CommandStream::open(&store, Some(&token)).await;
    let mut stream = stream.unwrap_or_else(|refused| panic!("{refused:?}"));
    let about = COMMANDS.into_iter().flat_map(|name| {
        [Inside, Outside].map(|about| {
            let request = commands(name, about).remove(0);
            let is_granted = about == Inside && !name.starts_with("Compare");
            (request, is_granted)
        })
    });
    // Allowed ones and others by turns.
    let (requests, granted): (Vec<Request>, Vec<bool>) = about.unzip();
    let answers = stream
        .commands(requests.into_iter().map(command).collect())
        .await;
    let answers = answers.unwrap_or_else(|end| panic!("the stream has ended: {end:?}"));
    for (answer, is_granted) in answers.iter().zip(granted) {
        if is_granted {
            assert_eq!(answer.code, Code::Ok, "{answer:?}");
        } else {
            assert_eq!(answer.code, Code::PermissionDenied, "{answer:?}");
            answer.assert_not_applied();
        }
    }

    let pd = cluster.to_pd().await;
    for process in [&store, &pd] {
        for path in [
            "/kvrpc.KvRaw/RawPutt",
            "/kvrpc.kvraw/rawput",
            "/kvrpc.KvRaw//RawPut",
            "/unknown.Service/Method",
            "/",
            "/grpc.health.v1.Health/Unknown",
        ] {
            let refused = call(process, path, None, vec![Bytes::new()]).await;
            assert_eq!(refused.code, Code::Unauthenticated, "{path}: {refused:?}");
            for user in [&token, &cluster.admin.authorization()] {
                let answer = call(process, path, Some(user), vec![Bytes::new()]).await;
                assert_eq!(answer.code, Code::Unimplemented, "{path}: {answer:?}");
            }
        }
    }
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_cover_a_range_together_and_one_that_is_missing_is_seen() {
    let mut cluster = Enforcing::of_one_store().await;
    let admin = &cluster.admin;
    let token = bearer(&admin.add("ada").await);
    for prefix in ["m/a", "m/b", "m/d", "\u{7f}"] {
        let granted = over(Role::Writer, Keyspace::Raw, prefix);
        admin.grant("ada", &granted).await;
    }
    let granted = over(Role::Reader, Keyspace::All, "m/c");
    admin.grant("ada", &granted).await;
    let everything = bearer(&admin.add("all").await);
    admin.grant("all", &over_all(Role::Writer)).await;
    cluster.settle().await;

    let scan = async |token: &str, start: &str, end: &str| {
        let scan = RawScanRequest {
            start_key: start.to_owned().into(),
            end_key: end.to_owned().into(),
            ..Default::default()
        };
        let path = "/kvrpc.KvRaw/RawScan";
        cluster.at_leader(path, token, &scan).await.code
    };
    let delete = async |token: &str, start: &str, end: &str| {
        let delete = RawDeleteRangeRequest {
            context: None,
            start_key: start.to_owned().into(),
            end_key: end.to_owned().into(),
        };
        let path = "/kvrpc.KvRaw/RawDeleteRange";
        cluster.at_leader(path, token, &delete).await.code
    };
    // Whether it may scan, and whether it may delete.
    for (start, end, may_scan, may_delete) in [
        ("m/a", "m/b", true, true),
        ("m/a", "m/c", true, true),
        ("m/ax", "m/bx", true, true),
        ("m/a", "m/d", true, false),
        ("m/a", "m/e", true, false),
        ("m/d", "m/e", true, true),
        ("m/", "m/b", false, false),
        ("m/`", "m/b", false, false),
        ("m/a", "m/e\u{0}", false, false),
        ("m/a", "", false, false),
        ("", "m/b", false, false),
        ("\u{7f}", "", false, false),
        ("\u{7f}", "\u{7f}\u{7f}", true, true),
    ] {
        let code = |may| {
            if may {
                Code::Ok
            } else {
                Code::PermissionDenied
            }
        };
        let what = format!("{start:?} to {end:?}");
        assert_eq!(scan(&token, start, end).await, code(may_scan), "{what}");
        assert_eq!(delete(&token, start, end).await, code(may_delete), "{what}");
        assert_eq!(scan(&everything, start, end).await, Code::Ok, "{what}");
        assert_eq!(delete(&everything, start, end).await, Code::Ok, "{what}");
    }
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_who_the_token_says_at_each_call() {
    let mut cluster = Enforcing::of_one_store().await;
    let admin = &cluster.admin;
    let first = bearer(&admin.add("ada").await);
    let granted = over(Role::Reader, Keyspace::Raw, "");
    admin.grant("ada", &granted).await;
    let second = admin.change_token("ada", TokenChange::Add);
    let second = bearer(&second.await);
    cluster.settle().await;
    let store = cluster.channel(&cluster.stores[0]).await;
    let code = async |token: &str| {
        let answer = get(&store, "k", Some(token)).await;
        answer.code
    };
    assert_eq!(code(&first).await, Code::Ok);
    assert_eq!(code(&second).await, Code::Ok);
    let third = admin.change_token("ada", TokenChange::Replace);
    let third = bearer(&third.await);
    for token in [&first, &second] {
        found("a token is dropped", async || {
            (code(token).await == Code::Unauthenticated).then_some(())
        })
        .await;
    }
    found("the new one is good", async || {
        (code(&third).await == Code::Ok).then_some(())
    })
    .await;
    cluster.assert_sound();

    for node in [&cluster.pd, &cluster.stores[0]] {
        for token in [&third, &cluster.admin.token] {
            assert_not_on_disk(node, token);
        }
    }
}

/// Who reads the disk of a process does not learn this token.
fn assert_not_on_disk(node: &Node, token: &str) {
    let (_, digits) = token.split_once("flaredb_").expect("a token");
    let secrets = [digits.as_bytes().to_vec(), bytes_of(digits)];
    for file in files(node.data_dir()) {
        // One that is gone meanwhile is not there.
        let content = fs::read(&file).unwrap_or_default();
        for secret in &secrets {
            let mut parts = content.windows(secret.len());
            let is_there = parts.any(|part| part == secret);
            assert!(!is_there, "a token is in {}", file.display());
        }
    }
}

/// All files in a directory, and below it.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("it can be read") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// The bytes that hexadecimal digits stand for.
fn bytes_of(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(str::from_utf8);
    let byte = |pair| u8::from_str_radix(pair, 16).expect("two digits");
    pairs.map(|pair| byte(pair.expect("digits"))).collect()
}
