//! A request of each method.

use bytes::Bytes;
use prost::Message;
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::{
    BatchCommand, BatchGetRequest, CompareAndDeleteRequest, CompareAndSwapRequest, GetRequest,
    KeyValue, RawBatchDeleteRequest, RawBatchGetRequest, RawBatchPutRequest, RawDeleteRangeRequest,
    RawDeleteRequest, RawGetRequest, RawPutRequest, RawScanRequest, ScanRequest,
};
use rdb_proto::{adminpb, authpb, metapb, pdpb};

use crate::identities::INSIDE;

/// What a method is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    /// There is only one thing. Those who are let in change nothing by it.
    Anything,
    /// Keys with the prefix that readers and writers have a grant over.
    Inside,
    /// Keys, or a range, of which a part at least is elsewhere.
    Outside,
    /// The caller itself.
    Oneself,
    /// Somebody else.
    Another,
}

/// The version that keys of the versioned keyspace have when they were written once.
pub(crate) const FIRST_VERSION: u64 = 1;

/// Keys that there are, in both keyspaces; and one that there is not, of the same length.
pub(crate) fn present(about: About) -> [String; 2] {
    let prefix = prefix(about);
    [format!("{prefix}k1"), format!("{prefix}k2")]
}

fn absent(about: About) -> String {
    format!("{}k3", prefix(about))
}

fn prefix(about: About) -> &'static str {
    match about {
        About::Inside => INSIDE,
        _ => "out/",
    }
}

/// The messages of calls of a method that differ in what there is, and not in which right they need.
pub(crate) fn requests(path: &str, about: About) -> Vec<Vec<Bytes>> {
    let [service, method] = parts(path);
    match service {
        "kvrpc.KvRaw" | "kvrpc.KvCas" => of_keys(method, about)
            .into_iter()
            .map(|body| vec![body])
            .collect(),
        _ => vec![of_no_keys(service, method, about)],
    }
}

/// The service and the method of a path.
fn parts(path: &str) -> [&str; 2] {
    let parts = path.trim_start_matches('/').split_once('/');
    let (service, method) = parts.expect("a path has both");
    [service, method]
}

/// Nothing that is let in changes anything.
fn of_no_keys(service: &str, method: &str, about: About) -> Vec<Bytes> {
    const UNKNOWN: u64 = u64::MAX;
    let unknown = || "nobody-here".to_owned();
    let body = match (service, method) {
        // Streams that end at once. Commands are tried one by one, with the methods that do the same.
        ("raftpb.RaftPeer" | "kvrpc.KvBatch", _) => return Vec::new(),
        ("grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection", _) => {
            return Vec::new();
        }
        ("grpc.health.v1.Health", _)
        | ("pdpb.Pd", "GetStores" | "GetRegion" | "ScanRegions" | "GetClusterInfo")
        | ("pdpb.Pd", "GetTso" | "Tso" | "GetOperators")
        // No store has no address.
        | ("pdpb.Pd", "RegisterStore" | "StoreHeartbeat")
        | ("authpb.Auth", "GetUsers" | "GetRights") => Vec::new(),
        ("pdpb.Pd", "RemoveStore") => encoded(&pdpb::RemoveStoreRequest {
            store_id: UNKNOWN,
            cancel: false,
        }),
        ("pdpb.Pd", "AddOperator") => encoded(&pdpb::AddOperatorRequest {
            region_id: UNKNOWN,
            add_store_id: UNKNOWN,
            remove_store_id: 0,
        }),
        ("pdpb.Pd", "CancelOperator") => {
            encoded(&pdpb::CancelOperatorRequest { region_id: UNKNOWN })
        }
        ("adminpb.RegionAdmin", "BeginCheck") => {
            encoded(&adminpb::BeginCheckRequest { context: nowhere() })
        }
        ("adminpb.RegionAdmin", "GetChecksum") => encoded(&adminpb::GetChecksumRequest {
            context: nowhere(),
            position: Some(adminpb::Position { term: 1, index: 1 }),
            wait_ms: 1,
        }),
        ("adminpb.RegionAdmin", "TransferLeader") => encoded(&adminpb::TransferLeaderRequest {
            context: nowhere(),
            to_store: 1,
        }),
        ("authpb.Auth", "Enable") => encoded(&authpb::EnableRequest { name: unknown() }),
        ("authpb.Auth", "AddUser") => encoded(&authpb::AddUserRequest {
            name: "Not a name!".to_owned(),
            ..Default::default()
        }),
        ("authpb.Auth", "RemoveUser") => encoded(&authpb::RemoveUserRequest { name: unknown() }),
        ("authpb.Auth", "ChangeToken") => encoded(&authpb::ChangeTokenRequest {
            name: unknown(),
            change: authpb::TokenChange::Replace.into(),
        }),
        ("authpb.Auth", "Grant") => encoded(&authpb::GrantRequest {
            name: unknown(),
            grant: Some(admin()),
        }),
        ("authpb.Auth", "Revoke") => encoded(&authpb::RevokeRequest {
            name: unknown(),
            grant: Some(admin()),
        }),
        ("authpb.Auth", "Check") => encoded(&authpb::CheckRequest {
            name: if about == About::Another { "admin" } else { "" }.to_owned(),
            role: authpb::Role::Admin.into(),
            ..Default::default()
        }),
        _ => panic!("/{service}/{method} has no request here"),
    };
    vec![body.into()]
}

fn admin() -> authpb::Grant {
    authpb::Grant {
        role: authpb::Role::Admin.into(),
        ..Default::default()
    }
}

fn nowhere() -> Option<metapb::Context> {
    Some(metapb::Context {
        region_id: u64::MAX,
        ..Default::default()
    })
}

fn of_keys(method: &str, about: About) -> Vec<Bytes> {
    let keys = present(about);
    let keys = [keys[0].clone(), keys[1].clone(), absent(about)];
    let keys = keys.map(Bytes::from);
    // Of batches, what is elsewhere may be any part.
    let inside = Bytes::from(present(About::Inside)[0].clone());
    let lists: Vec<Vec<Bytes>> = keys
        .iter()
        .flat_map(|key| [vec![key.clone()], vec![inside.clone(), key.clone()]])
        .collect();
    let bodies: Vec<Vec<u8>> = match method {
        "RawBatchPut" => lists
            .into_iter()
            .map(|keys| {
                let entries = keys.into_iter().map(|key| KeyValue {
                    key,
                    value: "changed".into(),
                });
                encoded(&RawBatchPutRequest {
                    context: None,
                    entries: entries.collect(),
                })
            })
            .collect(),
        "RawBatchDelete" => lists
            .into_iter()
            .map(|keys| {
                encoded(&RawBatchDeleteRequest {
                    context: None,
                    keys,
                })
            })
            .collect(),
        "RawBatchGet" => lists
            .into_iter()
            .map(|keys| {
                encoded(&RawBatchGetRequest {
                    context: None,
                    keys,
                })
            })
            .collect(),
        "BatchGet" => lists
            .into_iter()
            .map(|keys| {
                encoded(&BatchGetRequest {
                    context: None,
                    keys,
                })
            })
            .collect(),
        "RawScan" | "Scan" | "RawDeleteRange" => ranges(about)
            .into_iter()
            .map(|[start_key, end_key]| of_range(method, start_key.into(), end_key.into()))
            .collect(),
        _ => commands(method, about)
            .into_iter()
            .map(|request| match request {
                Request::RawPut(request) => encoded(&request),
                Request::RawGet(request) => encoded(&request),
                Request::RawDelete(request) => encoded(&request),
                Request::CompareAndSwap(request) => encoded(&request),
                Request::Get(request) => encoded(&request),
                Request::CompareAndDelete(request) => encoded(&request),
            })
            .collect(),
    };
    bodies.into_iter().map(Bytes::from).collect()
}

/// With and without keys in them. Those that are not inside begin or end there, too.
fn ranges(about: About) -> Vec<[&'static str; 2]> {
    match about {
        About::Inside => vec![["in/", "in0"], ["in/x", "in/y"], ["in/k", "in/k2"]],
        _ => vec![
            ["out/", "out0"],
            ["out/x", "out/y"],
            ["", ""],
            ["in/", ""],
            ["", "in0"],
            ["in/", "in1"],
            ["in.", "in0"],
            ["in/x", "out/"],
        ],
    }
}

fn of_range(method: &str, start_key: Bytes, end_key: Bytes) -> Vec<u8> {
    match method {
        "RawScan" => encoded(&RawScanRequest {
            start_key,
            end_key,
            ..Default::default()
        }),
        "Scan" => encoded(&ScanRequest {
            start_key,
            end_key,
            ..Default::default()
        }),
        _ => encoded(&RawDeleteRangeRequest {
            context: None,
            start_key,
            end_key,
        }),
    }
}

/// The names of the commands that a message of a stream may have: those of the methods that do the same.
pub(crate) const COMMANDS: [&str; 6] = [
    "RawPut",
    "RawGet",
    "RawDelete",
    "CompareAndSwap",
    "Get",
    "CompareAndDelete",
];

/// A command of a stream.
pub(crate) fn command(request: Request) -> BatchCommand {
    BatchCommand {
        request: Some(request),
        ..BatchCommand::default()
    }
}

/// What a method of one key is asked for: keys that there are, and one that there is not; versions that are right, and one that is not.
pub(crate) fn commands(method: &str, about: About) -> Vec<Request> {
    let [first, second] = present(about);
    let keys = [first, second, absent(about)].map(Bytes::from);
    let mut found = Vec::new();
    for (position, key) in keys.into_iter().enumerate() {
        let context = None;
        match method {
            "RawPut" => found.push(Request::RawPut(RawPutRequest {
                context,
                key,
                value: "changed".into(),
            })),
            "RawGet" => found.push(Request::RawGet(RawGetRequest { context, key })),
            "RawDelete" => found.push(Request::RawDelete(RawDeleteRequest { context, key })),
            "Get" => found.push(Request::Get(GetRequest { context, key })),
            "CompareAndSwap" => {
                for expected_version in [0, FIRST_VERSION, 99] {
                    found.push(Request::CompareAndSwap(CompareAndSwapRequest {
                        context: None,
                        key: key.clone(),
                        expected_version,
                        value: "changed".into(),
                    }));
                }
            }
            "CompareAndDelete" => {
                let expected_version = [FIRST_VERSION, 99, FIRST_VERSION][position];
                found.push(Request::CompareAndDelete(CompareAndDeleteRequest {
                    context,
                    key,
                    expected_version,
                }));
            }
            _ => panic!("{method} has no request here"),
        }
    }
    found
}

fn encoded(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}
