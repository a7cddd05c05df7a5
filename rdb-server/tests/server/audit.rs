//! The audit log of a store and of a placement driver, as an auditor finds it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures::channel::mpsc;
use futures::{StreamExt, stream};
use rdb_proto::adminpb::BeginCheckRequest;
use rdb_proto::adminpb::region_admin_client::RegionAdminClient;
use rdb_proto::auth::Token;
use rdb_proto::authpb::auth_client::AuthClient;
use rdb_proto::authpb::{
    AddUserRequest, EnableRequest, GetUsersRequest, Grant, GrantRequest, Keyspace, Role,
};
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::kvrpc::kv_cas_client::KvCasClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{
    BatchCommand, BatchRequest, CompareAndSwapRequest, KeyValue, RawBatchDeleteRequest,
    RawBatchPutRequest, RawDeleteRangeRequest, RawDeleteRequest, RawGetRequest, RawPutRequest,
};
use rdb_proto::metapb::Context;
use rdb_proto::pdpb::RemoveStoreRequest;
use rdb_proto::pdpb::pd_client::PdClient;
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::configuration::program;
use crate::disk_full::SmallDisk;
use crate::harness::{Cluster, Metrics, Node, connect, found, guarded, http_get, skipped};

const KEY: &str = "a key that is nobody's business";
const OTHER_KEY: &str = "b key that is nobody's business";
const VALUE: &str = "and a value that is neither";

/// A cluster whose store has an audit log, and its file.
async fn start(with_writes: bool) -> (Cluster, PathBuf) {
    let mut cluster = Cluster::prepare();
    let log = cluster.directory.path().join("audit.log");
    audit(&mut cluster.store, &log);
    if with_writes {
        cluster
            .store
            .set_environment("RDB_SERVER_AUDIT_WRITES", "true");
    }
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    (cluster, log)
}

fn audit(node: &mut Node, log: &Path) {
    for variable in ["RDB_SERVER_AUDIT_LOG", "RDB_PD_AUDIT_LOG"] {
        node.set_environment(variable, log);
    }
}

/// All lines of a log.
fn lines(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).expect("it is there");
    let lines = text.lines();
    let lines = lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")));
    lines.collect()
}

/// What a line has under these names, with blanks between.
fn told(line: &Value, names: &[&str]) -> String {
    let told = names.iter().filter_map(|name| {
        let told = line.get(name)?;
        Some(
            told.as_str()
                .map_or_else(|| told.to_string(), str::to_owned),
        )
    });
    told.collect::<Vec<_>>().join(" ")
}

/// Ends the store, and returns the lines about calls. The first and the last line are about the log.
async fn ended(cluster: &mut Cluster, log: &Path) -> Vec<Value> {
    cluster.store.terminate();
    assert!(cluster.store.exited().await.success());
    let mut lines = lines(log);
    assert_eq!(lines.remove(0)["event"], "opened");
    assert_eq!(lines.pop().expect("the last")["event"], "closed");
    for line in &lines {
        assert_eq!(line["program"], "rdb-server");
        assert_eq!(line["instance"], cluster.store.address());
    }
    lines
}

fn put(key: &'static str) -> RawPutRequest {
    RawPutRequest {
        key: key.into(),
        value: VALUE.into(),
        ..RawPutRequest::default()
    }
}

fn swap(expected_version: u64) -> CompareAndSwapRequest {
    CompareAndSwapRequest {
        key: KEY.into(),
        value: VALUE.into(),
        expected_version,
        ..CompareAndSwapRequest::default()
    }
}

async fn channel(node: &Node) -> Channel {
    connect(&node.address()).await.expect("it listens")
}

fn entry(key: &'static str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: VALUE.into(),
    }
}

/// Each kind of write, and reads between them.
async fn write_in_all_ways(channel: Channel) {
    let mut raw = KvRawClient::new(channel.clone());
    raw.raw_put(put(KEY)).await.expect("put");
    let get = RawGetRequest {
        key: KEY.into(),
        ..RawGetRequest::default()
    };
    raw.raw_get(get.clone()).await.expect("read");
    let delete = RawDeleteRequest {
        key: KEY.into(),
        ..RawDeleteRequest::default()
    };
    raw.raw_delete(delete).await.expect("deleted");
    let batch = RawBatchPutRequest {
        entries: vec![entry(KEY), entry(OTHER_KEY)],
        ..RawBatchPutRequest::default()
    };
    raw.raw_batch_put(batch).await.expect("put");
    let batch = RawBatchDeleteRequest {
        keys: vec![OTHER_KEY.into()],
        ..RawBatchDeleteRequest::default()
    };
    raw.raw_batch_delete(batch).await.expect("deleted");
    let range = RawDeleteRangeRequest {
        start_key: KEY.into(),
        end_key: OTHER_KEY.into(),
        ..RawDeleteRangeRequest::default()
    };
    raw.raw_delete_range(range).await.expect("deleted");
    let invalid = RawPutRequest {
        value: VALUE.into(),
        ..RawPutRequest::default()
    };
    raw.raw_put(invalid).await.expect_err("it has no key");
    let mut cas = KvCasClient::new(channel.clone());
    cas.compare_and_swap(swap(0)).await.expect("swapped");
    cas.compare_and_swap(swap(0)).await.expect("a conflict");

    let requests = [
        Request::RawPut(put(OTHER_KEY)),
        Request::RawGet(get),
        Request::CompareAndSwap(swap(0)),
    ];
    let commands = requests.into_iter().zip(0..);
    let commands = commands.map(|(request, id)| BatchCommand {
        id,
        request: Some(request),
        ..BatchCommand::default()
    });
    let message = BatchRequest {
        commands: commands.collect(),
        ..BatchRequest::default()
    };
    let (messages, sent) = mpsc::unbounded();
    messages.unbounded_send(message.into()).expect("it is open");
    drop(messages);
    let opened = KvBatchClient::new(channel).batch(sent).await;
    let mut answers = opened.expect("it is open").into_inner();
    let mut answered = 0;
    while let Some(answer) = answers.message().await.expect("answered") {
        answered += answer.message.answers.len();
    }
    assert_eq!(answered, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_write_is_one_line_that_has_neither_key_nor_value() {
    let (mut cluster, log) = start(true).await;
    write_in_all_ways(channel(&cluster.store).await).await;
    let lines = ended(&mut cluster, &log).await;
    let text = fs::read_to_string(&log).expect("it is there");
    let names = ["call", "command", "count", "key_bytes", "outcome"];
    let bytes = KEY.len();
    let expected = [
        format!("kvrpc.KvRaw/RawPut raw_put {bytes} ok"),
        format!("kvrpc.KvRaw/RawDelete raw_delete {bytes} ok"),
        format!("kvrpc.KvRaw/RawBatchPut raw_batch_put 2 {bytes} ok"),
        format!("kvrpc.KvRaw/RawBatchDelete raw_batch_delete {bytes} ok"),
        format!("kvrpc.KvRaw/RawDeleteRange raw_delete_range {bytes} ok"),
        "kvrpc.KvRaw/RawPut raw_put 0 invalid".to_owned(),
        format!("kvrpc.KvCas/CompareAndSwap compare_and_swap {bytes} ok"),
        format!("kvrpc.KvCas/CompareAndSwap compare_and_swap {bytes} conflict"),
        format!("kvrpc.KvBatch/Batch raw_put {bytes} ok"),
        format!("kvrpc.KvBatch/Batch compare_and_swap {bytes} conflict"),
    ];
    let found: Vec<_> = lines.iter().map(|line| told(line, &names)).collect();
    assert_eq!(found, expected);

    let hash = |line: usize, name: &str| lines[line][name].as_str().expect("hashed").to_owned();
    let (key, other) = (hash(0, "key_hash"), hash(3, "key_hash"));
    assert_ne!(key, other);
    assert_eq!(hash(6, "key_hash"), key, "the same in both keyspaces");
    assert_eq!(hash(8, "key_hash"), other);
    let each = |line: usize| {
        let keys = lines[line]["keys"].as_array().into_iter().flatten();
        let keys = keys.map(|key| told(key, &["bytes", "hash"]));
        keys.collect::<Vec<_>>()
    };
    let both = [&key, &other].map(|hash| format!("{bytes} {hash}"));
    assert_eq!(each(2), both, "of the batch of two");
    assert!(each(3).is_empty(), "it has one key");
    assert_eq!((hash(4, "key_hash"), hash(4, "end_key_hash")), (key, other));
    for line in &lines {
        assert!(told(line, &["peer"]).starts_with("127.0.0.1:"), "{line}");
    }
    for secret in [KEY, OTHER_KEY, VALUE, "nobody", "neither"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    let mut secret = log.clone().into_os_string();
    secret.push(".key");
    for file in [log, secret.into()] {
        let mode = fs::metadata(&file).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_the_end_is_in_the_log() {
    const WRITES: usize = 3000;
    const WRITERS: usize = 64;
    let (mut cluster, log) = start(true).await;
    let raw = KvRawClient::new(channel(&cluster.store).await);
    let puts = stream::iter(0..WRITES).map(|number| {
        let mut raw = raw.clone();
        let put = RawPutRequest {
            key: format!("{number:05}").into(),
            ..RawPutRequest::default()
        };
        async move {
            let answer = raw.raw_put(put).await.expect("answered");
            assert_eq!(answer.into_inner().region_error, None);
        }
    });
    let mut puts = puts.buffer_unordered(WRITERS);
    while puts.next().await.is_some() {}
    let lines = ended(&mut cluster, &log).await;
    let ok = lines.iter().filter(|line| line["outcome"] == "ok");
    assert_eq!(ok.count(), WRITES);
    let mut hashes: Vec<_> = lines.iter().map(|line| told(line, &["key_hash"])).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), WRITES, "each key has its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_audit_writes_there_are_administrative_calls_and_no_writes() {
    let (mut cluster, log) = start(false).await;
    let channel = channel(&cluster.store).await;
    write_in_all_ways(channel.clone()).await;
    let mut admin = RegionAdminClient::new(channel);
    let region_id = 1;
    let check = BeginCheckRequest {
        context: Some(Context {
            region_id,
            ..Context::default()
        }),
    };
    admin.begin_check(check).await.expect("served");
    let lines = ended(&mut cluster, &log).await;
    let names = ["call", "asked", "command", "outcome"];
    let found: Vec<_> = lines.iter().map(|line| told(line, &names)).collect();
    assert_eq!(found, ["adminpb.RegionAdmin/BeginCheck region 1 ok"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_placement_driver_notes_what_administrators_ask_for() {
    let mut cluster = Cluster::prepare();
    let log = cluster.directory.path().join("pd-audit.log");
    audit(&mut cluster.pd, &log);
    cluster.pd = cluster.pd.with_status();
    cluster.pd.start_serving().await;
    let mut pd = PdClient::new(channel(&cluster.pd).await);
    let nobody = RemoveStoreRequest {
        store_id: 99,
        cancel: false,
    };
    pd.remove_store(nobody).await.expect_err("no such store");
    let status = cluster.pd.status_address().await;
    let written = found("it is written", async || {
        let metrics = Metrics::of(&status).await;
        (metrics.get("flaredb_audit_lines_total") == 2.0).then_some(metrics)
    })
    .await;
    assert!(written.get("flaredb_audit_written_bytes_total") > 100.0);
    assert_eq!(written.get("flaredb_audit_dropped_total"), 0.0);
    let shown = http_get(&status, "/status").await.body;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["audit"]["lines"], 2);
    cluster.pd.terminate();
    assert!(cluster.pd.exited().await.success());
    let names = ["program", "event", "call", "asked", "outcome"];
    let lines: Vec<_> = lines(&log).iter().map(|line| told(line, &names)).collect();
    let expected = [
        "rdb-pd opened",
        "rdb-pd pdpb.Pd/RemoveStore store 99 leaves refused",
        "rdb-pd closed",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_is_refused_at_start() {
    let (cluster, log) = start(false).await;
    let directory = TempDir::new().expect("it can be written");
    let log = log.display().to_string();
    let nowhere = directory.path().join("nowhere/audit.log");
    let nowhere = nowhere.display().to_string();
    let token = directory.path().join("stores.token");
    fs::write(&token, "flaredb_0f0f\n").expect("it can be written");
    let token = token.display().to_string();
    let here = directory.path().display().to_string();
    let inside = format!("{here}/data/audit.log");
    let rotated = format!("{log}.1");
    let data_dir = directory.path().join("data");
    for (arguments, code, told) in [
        (
            &["--audit-writes"][..],
            2,
            "--audit-writes needs --audit-log FILE",
        ),
        (&["--audit-log", &here], 2, "no regular file"),
        (&["--audit-log", &nowhere], 2, "there is no directory"),
        (&["--audit-log", &token], 2, "is no audit log"),
        (&["--audit-log", &inside], 2, "is in the data directory"),
        (&["--audit-log", &rotated], 2, "of another log"),
        (&["--audit-log", &log], 1, "another process writes into"),
    ] {
        let mut command = program("rdb-server");
        command.args(["--addr", "127.0.0.1:0", "--status-addr", "none"]);
        command.args(["--pd", &cluster.pd.address(), "--data-dir"]);
        command.arg(&data_dir).args(arguments);
        let ended = tokio::task::spawn_blocking(move || command.output()).await;
        let ended = ended.expect("no panic").expect("it can be started");
        let refusal = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{refusal}");
        assert!(refusal.contains(told), "{refusal}");
        // What another process does may pass, and shows only when the file is opened.
        assert_eq!(data_dir.exists(), code == 1, "{refusal}");
    }
    let kept = fs::read_to_string(&token).expect("it was written");
    assert_eq!(kept, "flaredb_0f0f\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_can_be_in_a_directory_that_is_made_with_the_data_directory() {
    let mut cluster = Cluster::prepare();
    let made = cluster.directory.path().join("made");
    let log = made.join("audit.log");
    cluster.store = Node::store(made.join("data"), &cluster.pd.address());
    audit(&mut cluster.store, &log);
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    assert!(log.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_rotated_at_the_size_that_the_flag_says() {
    const BYTES_MAX: u64 = 1 << 20;
    // Lines are written in pieces.
    const PIECE_BYTES_MAX: u64 = 128 << 10;
    let mut cluster = Cluster::prepare();
    let log = cluster.directory.path().join("audit.log");
    audit(&mut cluster.store, &log);
    cluster.store = cluster.store.with_flag("--audit-log-max-mib", "1");
    cluster
        .store
        .set_environment("RDB_SERVER_AUDIT_WRITES", "true");
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let mut raw = KvRawClient::new(channel(&cluster.store).await);
    // Their line has each key, so it is long.
    let keys = (0..64).map(|number| format!("{number:02}").into());
    let batch = RawBatchDeleteRequest {
        keys: keys.collect(),
        ..RawBatchDeleteRequest::default()
    };
    let rotated = log.with_extension("log.1");
    let written = async {
        while !rotated.exists() {
            let deleted = raw.raw_batch_delete(batch.clone()).await;
            deleted.expect("answered");
        }
    };
    guarded("it is rotated", written).await;
    let bytes = fs::metadata(&rotated).expect("it is there").len();
    let fitting = BYTES_MAX - PIECE_BYTES_MAX..=BYTES_MAX;
    assert!(fitting.contains(&bytes), "{bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_the_log_holds_up_no_write_and_is_told_of_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(1) else {
        skipped("this process may not mount a file system");
        return;
    };
    let mut cluster = Cluster::prepare();
    let (log, ballast) = (disk.path().join("audit.log"), disk.path().join("ballast"));
    audit(&mut cluster.store, &log);
    cluster
        .store
        .set_environment("RDB_SERVER_AUDIT_WRITES", "true");
    cluster.store = cluster.store.with_status();
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let status = cluster.store.status_address().await;
    fs::write(&ballast, vec![0; 2 << 20]).expect_err("the disk is small");

    // The last page of the log may have room for some lines.
    let mut raw = KvRawClient::new(channel(&cluster.store).await);
    let mut puts = 0;
    let warning = found("it is told of", async || {
        raw.raw_put(put(KEY)).await.expect("it is written");
        puts += 1;
        let health = http_get(&status, "/health").await;
        assert_eq!(health.status, 200, "{health:?}");
        health.body.contains("audit").then_some(health.body)
    })
    .await;
    assert!(warning.contains("No space left"), "{warning}");
    let metrics = Metrics::of(&status).await;
    assert!(metrics.get("flaredb_audit_errors_total") >= 1.0);

    fs::remove_file(&ballast).expect("it is there");
    found("it is written again", async || {
        let health = http_get(&status, "/health").await;
        (health.body == "serving\n").then_some(())
    })
    .await;
    let lines = ended(&mut cluster, &log).await;
    assert_eq!(lines.len(), puts, "none was dropped");
}

/// What a caller shows.
fn with<T>(token: &str, message: T) -> tonic::Request<T> {
    let token: Token = token.parse().expect("a token");
    token.request(message)
}

/// Adds a user with a grant, and returns its token.
async fn add_user(
    auth: &mut AuthClient<Channel>,
    admin: &str,
    name: &str,
    (role, prefix): (Role, &'static str),
) -> String {
    let user = AddUserRequest {
        name: name.to_owned(),
        ..AddUserRequest::default()
    };
    let added = auth.add_user(with(admin, user)).await.expect("added");
    let grant = Grant {
        role: role.into(),
        keyspace: Keyspace::All.into(),
        prefix: prefix.into(),
    };
    let grant = GrantRequest {
        name: name.to_owned(),
        grant: Some(grant),
    };
    auth.grant(with(admin, grant)).await.expect("granted");
    added.into_inner().token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_rights_are_enforced_lines_tell_who_it_was_and_who_was_refused() {
    let mut cluster = Cluster::prepare();
    let directory = cluster.directory.path().to_owned();
    let (pd_log, log) = (directory.join("pd-audit.log"), directory.join("audit.log"));
    audit(&mut cluster.pd, &pd_log);
    cluster.pd.set_environment("RDB_PD_AUTH", "true");
    cluster.pd.start_serving().await;
    let mut auth = AuthClient::new(channel(&cluster.pd).await);
    let enable = EnableRequest {
        name: "root".to_owned(),
    };
    let enabled = auth.enable(enable).await.expect("the first admin");
    let admin = enabled.into_inner().token;
    let store = add_user(&mut auth, &admin, "stores", (Role::Store, "")).await;
    let ada = add_user(&mut auth, &admin, "ada", (Role::Writer, "b")).await;
    let missing = GetUsersRequest::default();
    auth.get_users(with(&ada, missing))
        .await
        .expect_err("no admin");

    let token_file = directory.join("stores.token");
    fs::write(&token_file, &store).expect("it can be written");
    audit(&mut cluster.store, &log);
    cluster
        .store
        .set_environment("RDB_SERVER_AUDIT_WRITES", "true");
    cluster
        .store
        .set_environment("RDB_SERVER_AUTH_TOKEN_FILE", token_file);
    cluster.store.start_serving().await;
    let channel = channel(&cluster.store).await;
    let mut raw = KvRawClient::new(channel.clone());
    raw.raw_put(with(&ada, put(OTHER_KEY))).await.expect("hers");
    raw.raw_put(with(&ada, put(KEY)))
        .await
        .expect_err("not hers");
    raw.raw_put(put(KEY)).await.expect_err("nobody");
    let batch = RawBatchPutRequest {
        entries: vec![entry(OTHER_KEY), entry(KEY)],
        ..RawBatchPutRequest::default()
    };
    let batch = raw.raw_batch_put(with(&ada, batch)).await;
    batch.expect_err("one of them is not hers");
    let commands = [put(KEY), put(OTHER_KEY)].into_iter().zip(0..);
    let commands = commands.map(|(put, id)| BatchCommand {
        id,
        request: Some(Request::RawPut(put)),
        ..BatchCommand::default()
    });
    let message = BatchRequest {
        commands: commands.collect(),
        ..BatchRequest::default()
    };
    let (messages, sent) = mpsc::unbounded();
    messages.unbounded_send(message.into()).expect("it is open");
    drop(messages);
    let opened = KvBatchClient::new(channel).batch(with(&ada, sent)).await;
    let mut answers = opened.expect("it is open").into_inner();
    while answers.message().await.expect("answered").is_some() {}

    let lines = ended(&mut cluster, &log).await;
    let names = ["user", "call", "command", "outcome"];
    let found: Vec<_> = lines.iter().map(|line| told(line, &names)).collect();
    let expected = [
        "ada kvrpc.KvRaw/RawPut raw_put ok",
        "ada kvrpc.KvRaw/RawPut raw_put denied",
        "kvrpc.KvRaw/RawPut unauthenticated",
        "ada kvrpc.KvRaw/RawBatchPut raw_batch_put denied",
        "ada kvrpc.KvBatch/Batch raw_put denied",
        "ada kvrpc.KvBatch/Batch raw_put ok",
    ];
    assert_eq!(found, expected);
    let hash = |line: usize| lines[line]["key_hash"].as_str().expect("hashed").to_owned();
    assert_eq!((hash(0), hash(1)), (hash(5), hash(4)));
    assert_eq!(hash(3), hash(1), "the key that is not hers");
    assert_eq!(lines[3].get("keys"), None);

    cluster.pd.terminate();
    assert!(cluster.pd.exited().await.success());
    let names = ["user", "call", "asked", "key_bytes", "outcome"];
    let lines = self::lines(&pd_log);
    let lines = lines.iter().filter(|line| line.get("call").is_some());
    let found: Vec<_> = lines.map(|line| told(line, &names)).collect();
    let expected = [
        "authpb.Auth/Enable enable root ok",
        "root authpb.Auth/AddUser add_user stores ok",
        "root authpb.Auth/Grant grant stores store ok",
        "root authpb.Auth/AddUser add_user ada ok",
        "root authpb.Auth/Grant grant ada writer over a prefix of 1 bytes of both keyspaces 1 ok",
        "ada authpb.Auth/GetUsers denied",
    ];
    assert_eq!(found, expected);
    for log in [log, pd_log] {
        let text = fs::read_to_string(log).expect("it is there");
        for token in [&admin, &store, &ada] {
            assert!(!text.contains(&token["flaredb_".len()..]), "{text}");
        }
    }
}
