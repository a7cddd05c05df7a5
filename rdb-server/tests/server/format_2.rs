//! A data directory of format 2, as stores wrote it before replication: it opens, nothing of it is lost, and it goes on.
//!
//! The directory lies in `tests/fixtures/format-2`. Its store was killed, so a part of the data is in the write-ahead log
//! only. [`make_the_directory`] has made it, with a program from before there were logs of Raft groups.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rdb_proto::kvrpc::compare_and_swap_response::Result as Swap;
use rdb_proto::kvrpc::kv_cas_client::KvCasClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{
    CompareAndDeleteRequest, CompareAndSwapRequest, GetRequest, RawDeleteRequest, RawGetRequest,
    RawPutRequest, Versioned,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::harness::{Node, connect};
use crate::scripted_pd::ScriptedPd;

/// How often the key `swapped` was written.
const SWAPS: u64 = 5;

/// How often the key `gone` was written before it was deleted. The versions of all later keys are above that.
pub(crate) const GONE_SWAPS: u64 = 9;

pub(crate) fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-2")
}

/// Files that every open makes anew. The options name directories of the machine.
fn is_needed(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name != "LOCK" && name != "reserve" && !name.starts_with("OPTIONS-")
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a new directory");
    for entry in fs::read_dir(from).expect("the directory is there") {
        let entry = entry.expect("the directory can be read");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("it has a type").is_dir() {
            copy(&entry.path(), &to);
        } else if is_needed(&entry.file_name()) {
            fs::copy(entry.path(), to).expect("it can be copied");
        }
    }
}

pub(crate) struct Store {
    raw: KvRawClient<Channel>,
    cas: KvCasClient<Channel>,
}

impl Store {
    pub(crate) async fn of(node: &Node) -> Self {
        let channel = connect(&node.address()).await.expect("the store listens");
        Self {
            raw: KvRawClient::new(channel.clone()),
            cas: KvCasClient::new(channel),
        }
    }

    pub(crate) async fn put(&mut self, key: &'static str, value: &'static str) {
        let request = RawPutRequest {
            context: None,
            key: key.into(),
            value: value.into(),
        };
        self.raw.raw_put(request).await.expect("put");
    }

    async fn raw(&mut self, key: &'static str) -> Option<Bytes> {
        let request = RawGetRequest {
            context: None,
            key: key.into(),
        };
        let answer = self.raw.raw_get(request).await;
        answer.expect("read").into_inner().value
    }

    async fn entry(&mut self, key: &'static str) -> Option<Versioned> {
        let request = GetRequest {
            context: None,
            key: key.into(),
        };
        let answer = self.cas.get(request).await;
        answer.expect("read").into_inner().entry
    }

    /// Swaps the value of a key that has that version. Returns the new version.
    pub(crate) async fn swap(&mut self, key: &'static str, expected_version: u64) -> u64 {
        let request = CompareAndSwapRequest {
            context: None,
            key: key.into(),
            expected_version,
            value: format!("written over {expected_version}").into(),
        };
        let answer = self.cas.compare_and_swap(request).await;
        match answer.expect("swapped").into_inner().result {
            Some(Swap::Swapped(swapped)) => swapped.version,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn assert_holds_what_was_written(&mut self) {
        assert_eq!(self.raw("flushed").await.as_deref(), Some(&b"before"[..]));
        assert_eq!(self.raw("logged").await.as_deref(), Some(&b"after"[..]));
        assert_eq!(self.raw("over").await.as_deref(), Some(&b"after"[..]));
        assert_eq!(self.raw("deleted").await, None);
        let swapped = self.entry("swapped").await.expect("it is stored");
        assert_eq!(swapped.version, SWAPS);
        assert_eq!(swapped.value, format!("written over {}", SWAPS - 1));
        assert_eq!(self.entry("gone").await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_format_2_is_served_with_its_versions_and_goes_on() {
    let pd = ScriptedPd::start("", "").await;
    let directory = TempDir::new().expect("the temporary directory can be written");
    let data = directory.path().join("store");
    copy(&fixture(), &data);
    let identity = fs::read_to_string(data.join("flaredb.identity")).expect("it is there");
    assert!(identity.contains("format = 2\n"), "{identity}");
    let mut node = Node::store(data, &pd.address());
    node.start_serving().await;
    let mut store = Store::of(&node).await;
    store.assert_holds_what_was_written().await;
    assert!(store.swap("gone", 0).await > GONE_SWAPS, "no version twice");
    store.put("new", "later").await;
    node.kill();

    node.start_serving().await;
    let mut store = Store::of(&node).await;
    assert_eq!(store.raw("new").await.as_deref(), Some(&b"later"[..]));
    assert!(store.entry("gone").await.is_some());
    assert_eq!(store.swap("swapped", SWAPS).await, SWAPS + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes the directory anew where MAKE_FORMAT_2 is set; a later release writes a later format"]
async fn make_the_directory() {
    if std::env::var_os("MAKE_FORMAT_2").is_none() {
        return;
    }
    let pd = ScriptedPd::start("", "").await;
    let directory = TempDir::new().expect("the temporary directory can be written");
    let mut node = Node::store(directory.path().join("store"), &pd.address());
    node.start_serving().await;
    let mut store = Store::of(&node).await;
    for key in ["flushed", "over", "deleted"] {
        store.put(key, "before").await;
    }
    for version in 0..SWAPS - 1 {
        store.swap("swapped", version).await;
    }
    node.terminate();
    assert!(node.exited().await.success(), "it has flushed");

    node.start_serving().await;
    let mut store = Store::of(&node).await;
    for key in ["logged", "over"] {
        store.put(key, "after").await;
    }
    let request = RawDeleteRequest {
        context: None,
        key: "deleted".into(),
    };
    store.raw.raw_delete(request).await.expect("deleted");
    store.swap("swapped", SWAPS - 1).await;
    for version in 0..GONE_SWAPS {
        store.swap("gone", version).await;
    }
    let request = CompareAndDeleteRequest {
        context: None,
        key: "gone".into(),
        expected_version: GONE_SWAPS,
    };
    let deleted = store.cas.compare_and_delete(request).await;
    deleted.expect("deleted");
    node.kill();
    let _ = fs::remove_dir_all(fixture());
    copy(node.data_dir(), &fixture());
}
