//! Every method of every service, as everybody.
//!
//! What is refused is tried first. Nothing may have changed by it, and nobody may see from it which keys there are. What is permitted
//! comes then, since it changes what is there.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::FileDescriptorSet;
use rdb_proto::kvrpc::{
    CompareAndSwapRequest, CompareAndSwapResponse, RawPutRequest, RawScanRequest, RawScanResponse,
    ScanRequest, ScanResponse, compare_and_swap_response as swap,
};
use tonic::Code;
use tonic::transport::Channel;

use crate::administrator::ADMIN_NAME;
use crate::cluster::{Enforcing, Setup};
use crate::harness::found;
use crate::identities::{Identity, with_certificates, with_tokens};
use crate::requests::{About, COMMANDS, FIRST_VERSION, command, commands, present, requests};
use crate::wire::{Answer, CommandStream, call};

use About::{Another, Anything, Inside, Oneself, Outside};
use At::{All, PlacementDriver, Stores};

/// A method, and what becomes of it.
struct Row {
    at: At,
    path: &'static str,
    about: About,
    /// A letter for each identity: `u` UNAUTHENTICATED, `d` PERMISSION_DENIED, `x` any failure, `.` let in.
    expected: &'static str,
}

/// Where it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    PlacementDriver,
    Stores,
    All,
}

// The columns: nothing, a wrong token, a malformed one, that of a user who was removed, one that was dropped; a user without grants;
// readers and writers, raw and versioned; a store; an admin. With certificates also: ada, who reads both keyspaces; her
// certificate with a wrong token; a store by its certificate.
const OPEN: &str = "..... . .... . . ...";
const SIGNED_IN: &str = "uuuuu d .... . . .u.";
const STORE: &str = "uuuuu d dddd . . du.";
const ADMIN: &str = "uuuuu d dddd d . dud";
const READS_RAW: &str = "uuuuu d ..dd d . .ud";
const WRITES_RAW: &str = "uuuuu d d.dd d . dud";
const READS_VERSIONED: &str = "uuuuu d dd.. d . .ud";
const WRITES_VERSIONED: &str = "uuuuu d ddd. d . dud";
/// Everybody who is a user may ask what they may do.
const USER: &str = "uuuuu . .... . . .u.";
/// There is an admin already.
const NOBODY: &str = "xxxxx x xxxx x x xxx";

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row(Stores, "/kvrpc.KvRaw/RawPut", Inside, WRITES_RAW),
    row(Stores, "/kvrpc.KvRaw/RawPut", Outside, ADMIN),
    row(Stores, "/kvrpc.KvRaw/RawGet", Inside, READS_RAW),
    row(Stores, "/kvrpc.KvRaw/RawGet", Outside, ADMIN),
    row(Stores, "/kvrpc.KvRaw/RawDelete", Inside, WRITES_RAW),
    row(Stores, "/kvrpc.KvRaw/RawDelete", Outside, ADMIN),
    row(Stores, "/kvrpc.KvRaw/RawBatchPut", Inside, WRITES_RAW),
    row(Stores, "/kvrpc.KvRaw/RawBatchPut", Outside, ADMIN),
    row(Stores, "/kvrpc.KvRaw/RawBatchDelete", Inside, WRITES_RAW),
    row(Stores, "/kvrpc.KvRaw/RawBatchDelete", Outside, ADMIN),
    row(Stores, "/kvrpc.KvRaw/RawBatchGet", Inside, READS_RAW),
    row(Stores, "/kvrpc.KvRaw/RawBatchGet", Outside, ADMIN),
    row(Stores, "/kvrpc.KvRaw/RawScan", Inside, READS_RAW),
    row(Stores, "/kvrpc.KvRaw/RawScan", Outside, ADMIN),
    row(Stores, "/kvrpc.KvRaw/RawDeleteRange", Inside, WRITES_RAW),
    row(Stores, "/kvrpc.KvRaw/RawDeleteRange", Outside, ADMIN),
    row(Stores, "/kvrpc.KvCas/CompareAndSwap", Inside, WRITES_VERSIONED),
    row(Stores, "/kvrpc.KvCas/CompareAndSwap", Outside, ADMIN),
    row(Stores, "/kvrpc.KvCas/Get", Inside, READS_VERSIONED),
    row(Stores, "/kvrpc.KvCas/Get", Outside, ADMIN),
    row(Stores, "/kvrpc.KvCas/CompareAndDelete", Inside, WRITES_VERSIONED),
    row(Stores, "/kvrpc.KvCas/CompareAndDelete", Outside, ADMIN),
    row(Stores, "/kvrpc.KvCas/BatchGet", Inside, READS_VERSIONED),
    row(Stores, "/kvrpc.KvCas/BatchGet", Outside, ADMIN),
    row(Stores, "/kvrpc.KvCas/Scan", Inside, READS_VERSIONED),
    row(Stores, "/kvrpc.KvCas/Scan", Outside, ADMIN),
    // What its commands are allowed is what the methods of their names are.
    row(Stores, "/kvrpc.KvBatch/Batch", Anything, SIGNED_IN),
    row(Stores, "/raftpb.RaftPeer/Bulk", Anything, STORE),
    row(Stores, "/raftpb.RaftPeer/Urgent", Anything, STORE),
    row(Stores, "/raftpb.RaftPeer/Snapshot", Anything, STORE),
    row(Stores, "/adminpb.RegionAdmin/BeginCheck", Anything, ADMIN),
    row(Stores, "/adminpb.RegionAdmin/GetChecksum", Anything, ADMIN),
    row(Stores, "/adminpb.RegionAdmin/TransferLeader", Anything, ADMIN),
    row(PlacementDriver, "/pdpb.Pd/GetTso", Anything, SIGNED_IN),
    row(PlacementDriver, "/pdpb.Pd/Tso", Anything, SIGNED_IN),
    row(PlacementDriver, "/pdpb.Pd/GetRegion", Anything, SIGNED_IN),
    row(PlacementDriver, "/pdpb.Pd/ScanRegions", Anything, SIGNED_IN),
    row(PlacementDriver, "/pdpb.Pd/GetStores", Anything, SIGNED_IN),
    row(PlacementDriver, "/pdpb.Pd/GetClusterInfo", Anything, SIGNED_IN),
    row(PlacementDriver, "/pdpb.Pd/RegisterStore", Anything, STORE),
    row(PlacementDriver, "/pdpb.Pd/StoreHeartbeat", Anything, STORE),
    row(PlacementDriver, "/pdpb.Pd/RemoveStore", Anything, ADMIN),
    row(PlacementDriver, "/pdpb.Pd/AddOperator", Anything, ADMIN),
    row(PlacementDriver, "/pdpb.Pd/GetOperators", Anything, ADMIN),
    row(PlacementDriver, "/pdpb.Pd/CancelOperator", Anything, ADMIN),
    row(PlacementDriver, "/authpb.Auth/Enable", Anything, NOBODY),
    row(PlacementDriver, "/authpb.Auth/AddUser", Anything, ADMIN),
    row(PlacementDriver, "/authpb.Auth/RemoveUser", Anything, ADMIN),
    row(PlacementDriver, "/authpb.Auth/ChangeToken", Anything, ADMIN),
    row(PlacementDriver, "/authpb.Auth/GetUsers", Anything, ADMIN),
    row(PlacementDriver, "/authpb.Auth/Grant", Anything, ADMIN),
    row(PlacementDriver, "/authpb.Auth/Revoke", Anything, ADMIN),
    row(PlacementDriver, "/authpb.Auth/Check", Oneself, USER),
    row(PlacementDriver, "/authpb.Auth/Check", Another, ADMIN),
    row(PlacementDriver, "/authpb.Auth/GetRights", Anything, STORE),
    row(All, "/grpc.health.v1.Health/Check", Anything, OPEN),
    row(All, "/grpc.health.v1.Health/Watch", Anything, OPEN),
    row(All, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Anything, SIGNED_IN),
    row(All, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Anything, SIGNED_IN),
];

const fn row(at: At, path: &'static str, about: About, expected: &'static str) -> Row {
    Row {
        at,
        path,
        about,
        expected,
    }
}

/// The columns of those whose token was never that of anybody, or is not any more: nobody is told which.
const WRONG_TOKENS: [usize; 3] = [1, 3, 4];

/// The column of the user without grants, who lacks any role before it lacks one over keys.
const WITHOUT_GRANTS: usize = 5;

const LET_IN: char = '.';

impl Row {
    /// What becomes of a call of the identity in this column.
    fn expected(&self, column: usize) -> char {
        let mut letters = self.expected.chars().filter(|letter| *letter != ' ');
        letters.nth(column).expect("a letter for each identity")
    }

    /// How the right begins that the refused user of this column is told to lack.
    fn missing_right(&self, column: usize) -> &'static str {
        // The rows of one path ask for the same right, over other keys.
        let mut rows = TABLE.iter();
        let inside = rows.find(|row| row.path == self.path && row.about == Inside);
        match inside.unwrap_or(self).expected {
            READS_RAW | READS_VERSIONED if column != WITHOUT_GRANTS => "reader over ",
            WRITES_RAW | WRITES_VERSIONED if column != WITHOUT_GRANTS => "writer over ",
            ADMIN => "admin",
            STORE => "store",
            _ => "any role",
        }
    }

    /// Whether it is for administrators, whatever the keys. The audit log has each of these calls.
    fn is_administrative(&self) -> bool {
        self.expected == ADMIN && self.about != Outside
    }

    /// The command of a stream that does the same.
    fn command(&self) -> Option<&'static str> {
        let mut names = COMMANDS.into_iter();
        let is_data = self.path.starts_with("/kvrpc.");
        names.find(|name| is_data && self.path.ends_with(&format!("/{name}")))
    }
}

#[test]
fn every_method_of_every_service_has_rows_and_every_row_a_method() {
    let mut methods = BTreeSet::new();
    for set in [
        rdb_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        let set = FileDescriptorSet::decode(set).expect("compiled in");
        for file in &set.file {
            for service in &file.service {
                let of_service = service.method.iter().map(|method| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                });
                methods.extend(of_service);
            }
        }
    }
    let rows: BTreeSet<_> = TABLE.iter().map(|row| row.path.to_owned()).collect();
    assert_eq!(rows, methods);
    let mut about = BTreeMap::<_, BTreeSet<_>>::new();
    for row in TABLE {
        let is_new = about.entry(row.path).or_default().insert(row.about);
        assert!(is_new, "{} has two rows about the same", row.path);
    }
    for (path, about) in about {
        let has_keys = path.starts_with("/kvrpc.") && !path.ends_with("/Batch");
        let wanted = has_keys.then(|| BTreeSet::from([Inside, Outside]));
        assert!(wanted.is_none_or(|wanted| about == wanted), "{path}");
    }
}

#[test]
fn every_command_of_a_stream_is_tried() {
    let set = FileDescriptorSet::decode(rdb_proto::FILE_DESCRIPTOR_SET).expect("compiled in");
    let mut messages = set.file.iter().flat_map(|file| &file.message_type);
    let command = messages.find(|message| message.name() == "BatchCommand");
    let fields = command.expect("it is in a file").field.iter();
    let requests = fields.filter(|field| field.oneof_index.is_some());
    let names: BTreeSet<_> = requests
        .map(|field| {
            let name = field.type_name().trim_start_matches(".kvrpc.");
            name.trim_end_matches("Request")
        })
        .collect();
    assert_eq!(names, BTreeSet::from(COMMANDS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_may_do_what_they_were_granted_and_nothing_else() {
    let mut cluster = Enforcing::start().await;
    let identities = with_tokens(&cluster).await;
    check(&cluster, identities).await;
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_where_all_have_certificates_and_some_are_users_by_them() {
    let setup = Setup {
        is_encrypted: true,
        ..Setup::default()
    };
    let mut cluster = Enforcing::start_as(setup).await;
    let mut identities = with_tokens(&cluster).await;
    identities.extend(with_certificates(&cluster).await);
    check(&cluster, identities).await;
    cluster.assert_sound();
}

/// The connections of somebody, and open streams to the stores.
struct Caller {
    column: usize,
    identity: Identity,
    pd: Channel,
    stores: Vec<Channel>,
    /// `Err`: the store has refused it.
    streams: Vec<Result<CommandStream, Answer>>,
    /// How often it was refused.
    refusals: u64,
}

impl Caller {
    async fn new(cluster: &Enforcing, column: usize, identity: Identity) -> Self {
        let mut stores = Vec::new();
        let mut streams = Vec::new();
        for store in &cluster.stores {
            let channel = identity.channel(cluster, store).await;
            let authorization = identity.authorization.as_deref();
            streams.push(CommandStream::open(&channel, authorization).await);
            stores.push(channel);
        }
        Self {
            column,
            pd: identity.channel(cluster, &cluster.pd).await,
            refusals: streams.iter().filter(|stream| stream.is_err()).count() as u64,
            stores,
            streams,
            identity,
        }
    }

    /// What came of all requests of a row at each process.
    async fn call(&mut self, row: &Row) -> Vec<Vec<Answer>> {
        let authorization = self.identity.authorization.as_deref();
        let mut processes = Vec::new();
        let of_pd = [&self.pd].into_iter().filter(|_| row.at != Stores);
        let of_stores = self.stores.iter().filter(|_| row.at != PlacementDriver);
        for channel in of_pd.chain(of_stores) {
            let mut answers = Vec::new();
            for messages in requests(row.path, row.about) {
                answers.push(call(channel, row.path, authorization, messages).await);
            }
            self.refusals += refusals(&answers);
            processes.push(answers);
        }
        let Some(name) = row.command() else {
            return processes;
        };
        for (stream, answers) in self.streams.iter_mut().zip(&mut processes) {
            let commands = commands(name, row.about);
            let of_stream = match stream {
                Ok(stream) => {
                    let commands = commands.into_iter().map(command);
                    let answered = stream.commands(commands.collect()).await;
                    let answered = answered.unwrap_or_else(|end| panic!("it has ended: {end:?}"));
                    self.refusals += refusals(&answered);
                    answered
                }
                Err(refused) => vec![refused.clone(); commands.len()],
            };
            answers.extend(of_stream);
        }
        processes
    }
}

fn refusals(answers: &[Answer]) -> u64 {
    let refused = answers.iter().filter(|answer| answer.is_refusal());
    refused.count() as u64
}

async fn check(cluster: &Enforcing, identities: Vec<Identity>) {
    write_all(cluster).await;
    cluster.settle().await;
    let polled = cluster.refusals_until_now().await;
    let before = contents(cluster).await;
    let mut callers = Vec::new();
    for (column, identity) in identities.into_iter().enumerate() {
        callers.push(Caller::new(cluster, column, identity).await);
    }
    let users = cluster.admin.users().await.expect("an admin");
    // Those that the audit logs have before the admin calls, and then those that they have to have.
    let mut calls_of_admin = BTreeMap::<String, usize>::new();
    for is_let_in in [false, true] {
        for row in TABLE {
            let mut refusals = BTreeMap::new();
            for caller in &mut callers {
                let expected = row.expected(caller.column);
                if (expected == LET_IN) != is_let_in {
                    continue;
                }
                let processes = caller.call(row).await;
                for answers in &processes {
                    judge(row, caller.column, caller.identity.name, answers);
                }
                if is_let_in && caller.identity.name == ADMIN_NAME {
                    let calls = calls_of_admin.entry(row.path.to_owned()).or_default();
                    *calls += processes.iter().map(Vec::len).sum::<usize>();
                }
                refusals.insert(caller.column, processes);
            }
            if !is_let_in {
                let mut same = WRONG_TOKENS.map(|column| refusals.get(&column)).into_iter();
                let first = same.next().expect("there are some");
                assert!(same.all(|other| other == first), "{}", row.path);
            }
        }
        if !is_let_in {
            assert_eq!(contents(cluster).await, before, "something was written");
            assert_eq!(cluster.admin.users().await.expect("still an admin"), users);
            let refusals: u64 = callers.iter().map(|caller| caller.refusals).sum();
            println!("{refusals} refusals");
            // A command of a stream may be noted after its answer.
            found("the audit logs have each refusal", async || {
                (cluster.audited_refusals() >= polled + refusals).then_some(())
            })
            .await;
            let audited = cluster.refusals_until_now().await;
            assert_eq!(audited, polled + refusals, "and nothing else");
            calls_of_admin = cluster.audited_calls_of(ADMIN_NAME);
        }
    }
    // The audit logs have all that was answered.
    cluster.refusals_until_now().await;
    let audited = cluster.audited_calls_of(ADMIN_NAME);
    for Row { path, .. } in TABLE.iter().filter(|row| row.is_administrative()) {
        assert_eq!(audited.get(*path), calls_of_admin.get(*path), "{path}");
    }
}

/// All answers are as expected, and refusals are the same whatever there is.
fn judge(row: &Row, column: usize, name: &str, answers: &[Answer]) {
    let expected = row.expected(column);
    let what = format!("{} {:?} by one {name}", row.path, row.about);
    assert!(!answers.is_empty(), "{what} is not tried");
    for answer in answers {
        match expected {
            'u' => assert_eq!(answer.code, Code::Unauthenticated, "{what}: {answer:?}"),
            'd' => {
                assert_eq!(answer.code, Code::PermissionDenied, "{what}: {answer:?}");
                let told = format!("lacks the right: {}", row.missing_right(column));
                assert!(answer.message.contains(&told), "{what}: {answer:?}");
            }
            'x' => assert_ne!(answer.code, Code::Ok, "{what}"),
            LET_IN => {
                // What a store without rights answers has details.
                let is_sure = answer.code != Code::Unavailable || answer.details.is_empty();
                let is_let_in = !answer.is_refusal() && is_sure;
                assert!(is_let_in, "{what}: {answer:?}");
                assert_ne!(answer.code, Code::Unimplemented, "{what}");
                // Of the others, some are asked for what there is not.
                let is_served = answer.code == Code::Ok || !row.path.starts_with("/kvrpc.");
                assert!(is_served, "{what}: {answer:?}");
            }
            letter => panic!("{letter} is no expectation"),
        }
        if answer.is_refusal() {
            answer.assert_not_applied();
            for key in present(row.about) {
                assert!(!answer.message.contains(&key), "{what}: {answer:?}");
            }
        }
    }
    if expected != LET_IN {
        let differs = answers.windows(2).find(|pair| pair[0] != pair[1]);
        assert_eq!(differs, None, "{what}");
    }
}

/// Writes what tests find, in both keyspaces, inside and outside of the grants.
async fn write_all(cluster: &Enforcing) {
    let authorization = cluster.admin.authorization();
    for key in [Inside, Outside].into_iter().flat_map(present) {
        let put = RawPutRequest {
            context: None,
            key: key.clone().into(),
            value: "before".into(),
        };
        let path = "/kvrpc.KvRaw/RawPut";
        let answer = cluster.at_leader(path, &authorization, &put).await;
        assert_eq!(answer.code, Code::Ok, "{answer:?}");
        let swap = CompareAndSwapRequest {
            context: None,
            key: key.into(),
            expected_version: 0,
            value: "before".into(),
        };
        let path = "/kvrpc.KvCas/CompareAndSwap";
        let answer = cluster.at_leader(path, &authorization, &swap).await;
        let swapped = CompareAndSwapResponse::decode(answer.bodies[0].clone());
        let swap::Result::Swapped(swapped) = swapped.expect("protobuf").result.expect("a result")
        else {
            panic!("the key was there");
        };
        assert_eq!(swapped.version, FIRST_VERSION);
    }
}

/// All keys of both keyspaces.
async fn contents(cluster: &Enforcing) -> (RawScanResponse, ScanResponse) {
    let authorization = cluster.admin.authorization();
    let (path, scan) = ("/kvrpc.KvRaw/RawScan", RawScanRequest::default());
    let raw = cluster.at_leader(path, &authorization, &scan).await;
    let (path, scan) = ("/kvrpc.KvCas/Scan", ScanRequest::default());
    let versioned = cluster.at_leader(path, &authorization, &scan).await;
    let raw = RawScanResponse::decode(raw.bodies[0].clone()).expect("protobuf");
    let versioned = ScanResponse::decode(versioned.bodies[0].clone()).expect("protobuf");
    assert!(raw.resume_key.is_none() && versioned.resume_key.is_none());
    (raw, versioned)
}
