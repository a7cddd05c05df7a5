//! The methods that calls are counted by, and what a caller needs for each. Whatever else is called is counted as one: a label takes no
//! values from clients.

use super::access::Access::{self, Admin, ByHandler, Commands, Keys, Open, SignedIn, Store};
use crate::auth::Keyspace::{Raw, Versioned};
use crate::auth::Permission::{Read, Write};

/// Services and methods of all servers, and what a caller needs for each. The last is for all other paths.
const METHODS: &[(&str, &str, Access)] = &[
    ("kvrpc.KvBatch", "Batch", Commands),
    ("kvrpc.KvRaw", "RawPut", Keys(Write, Raw)),
    ("kvrpc.KvRaw", "RawGet", Keys(Read, Raw)),
    ("kvrpc.KvRaw", "RawDelete", Keys(Write, Raw)),
    ("kvrpc.KvRaw", "RawBatchPut", Keys(Write, Raw)),
    ("kvrpc.KvRaw", "RawBatchDelete", Keys(Write, Raw)),
    ("kvrpc.KvRaw", "RawBatchGet", Keys(Read, Raw)),
    ("kvrpc.KvRaw", "RawScan", Keys(Read, Raw)),
    ("kvrpc.KvRaw", "RawDeleteRange", Keys(Write, Raw)),
    ("kvrpc.KvCas", "CompareAndSwap", Keys(Write, Versioned)),
    ("kvrpc.KvCas", "Get", Keys(Read, Versioned)),
    ("kvrpc.KvCas", "CompareAndDelete", Keys(Write, Versioned)),
    ("kvrpc.KvCas", "BatchGet", Keys(Read, Versioned)),
    ("kvrpc.KvCas", "Scan", Keys(Read, Versioned)),
    ("raftpb.RaftPeer", "Bulk", Store),
    ("raftpb.RaftPeer", "Urgent", Store),
    ("raftpb.RaftPeer", "Snapshot", Store),
    ("adminpb.RegionAdmin", "BeginCheck", Admin),
    ("adminpb.RegionAdmin", "GetChecksum", Admin),
    ("adminpb.RegionAdmin", "TransferLeader", Admin),
    ("pdpb.Pd", "Tso", SignedIn),
    ("pdpb.Pd", "GetTso", SignedIn),
    ("pdpb.Pd", "RegisterStore", Store),
    ("pdpb.Pd", "StoreHeartbeat", Store),
    ("pdpb.Pd", "GetStores", SignedIn),
    ("pdpb.Pd", "GetRegion", SignedIn),
    ("pdpb.Pd", "ScanRegions", SignedIn),
    ("pdpb.Pd", "RemoveStore", Admin),
    ("pdpb.Pd", "AddOperator", Admin),
    ("pdpb.Pd", "GetOperators", Admin),
    ("pdpb.Pd", "CancelOperator", Admin),
    ("pdpb.Pd", "GetClusterInfo", SignedIn),
    ("authpb.Auth", "Enable", ByHandler),
    ("authpb.Auth", "AddUser", Admin),
    ("authpb.Auth", "RemoveUser", Admin),
    ("authpb.Auth", "ChangeToken", Admin),
    ("authpb.Auth", "GetUsers", Admin),
    ("authpb.Auth", "Grant", Admin),
    ("authpb.Auth", "Revoke", Admin),
    ("authpb.Auth", "Check", ByHandler),
    ("authpb.Auth", "GetRights", Store),
    ("grpc.health.v1.Health", "Check", Open),
    ("grpc.health.v1.Health", "Watch", Open),
    (
        "grpc.reflection.v1.ServerReflection",
        "ServerReflectionInfo",
        SignedIn,
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection",
        "ServerReflectionInfo",
        SignedIn,
    ),
    OTHER,
];

/// A service that a server has and that is not described to clients would be called by this: so every user may call it.
const OTHER: (&str, &str, Access) = ("other", "other", SignedIn);

pub(super) const METHOD_COUNT: usize = METHODS.len();

/// The position of all paths that are of no method.
pub(super) const OTHER_INDEX: usize = METHOD_COUNT - 1;

/// The position of the method at `path`, `/service/method`.
pub(super) fn method_index(path: &str) -> usize {
    let known = METHODS.iter().position(|(service, method, _)| {
        // The length rules most of them out.
        path.len() == service.len() + method.len() + 2
            && path.strip_prefix('/').is_some_and(|path| {
                path.strip_prefix(service)
                    .and_then(|path| path.strip_prefix('/'))
                    == Some(method)
            })
    });
    known.unwrap_or(OTHER_INDEX)
}

/// Service and method at a position.
pub(super) fn method_name(index: usize) -> (&'static str, &'static str) {
    let (service, method, _) = METHODS.get(index).copied().unwrap_or(OTHER);
    (service, method)
}

/// What a caller needs for the method at a position.
#[cfg(feature = "process")]
pub(super) fn access(index: usize) -> Access {
    let (_, _, access) = METHODS.get(index).copied().unwrap_or(OTHER);
    access
}

/// Service, method, and what a caller needs for it, of every method that a server has.
#[cfg(feature = "process")]
pub fn accesses() -> impl Iterator<Item = (&'static str, &'static str, Access)> {
    METHODS.iter().copied().filter(|row| *row != OTHER)
}

#[cfg(test)]
mod tests {
    use super::super::described::methods;
    use super::*;

    #[test]
    fn every_method_is_found_at_its_path_and_nothing_else_is() {
        let mut count = 0;
        methods(|path, _, _, _| {
            let (service, method) = method_name(method_index(path));
            assert_eq!(format!("/{service}/{method}"), path);
            count += 1;
        });
        assert_eq!(count, METHOD_COUNT - 1, "no row is left over");
        for path in [
            "",
            "/",
            "/kvrpc.KvRaw/RawGot",
            "kvrpc.KvRaw/RawGett",
            "/a/b",
            "/kvrpc.KvRaw/RawGet/",
            "//kvrpc.KvRaw/RawGet",
            "/kvrpc.KvRaw//RawGet",
            "/kvrpc.kvraw/RawGet",
            "/kvrpc.KvRaw/rawget",
            "/kvrpc.KvRaw%2FRawGet",
            "/kvrpc.KvRaw/%52awGet",
            "/kvrpc.KvCas/RawGet",
            "/pdpb.Pd/GetUsers",
        ] {
            assert_eq!(method_index(path), OTHER_INDEX, "{path}");
        }
    }

    /// Written down a second time, so that whoever changes what a method needs says so twice.
    #[cfg(feature = "process")]
    #[test]
    fn each_method_needs_what_was_decided_for_it() {
        const EXPECTED: &[(&str, Access)] = &[
            ("adminpb.RegionAdmin/BeginCheck", Admin),
            ("adminpb.RegionAdmin/GetChecksum", Admin),
            ("adminpb.RegionAdmin/TransferLeader", Admin),
            ("authpb.Auth/AddUser", Admin),
            ("authpb.Auth/ChangeToken", Admin),
            ("authpb.Auth/Check", ByHandler),
            ("authpb.Auth/Enable", ByHandler),
            ("authpb.Auth/GetRights", Store),
            ("authpb.Auth/GetUsers", Admin),
            ("authpb.Auth/Grant", Admin),
            ("authpb.Auth/RemoveUser", Admin),
            ("authpb.Auth/Revoke", Admin),
            ("grpc.health.v1.Health/Check", Open),
            ("grpc.health.v1.Health/Watch", Open),
            (
                "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                SignedIn,
            ),
            (
                "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                SignedIn,
            ),
            ("kvrpc.KvBatch/Batch", Commands),
            ("kvrpc.KvCas/BatchGet", Keys(Read, Versioned)),
            ("kvrpc.KvCas/CompareAndDelete", Keys(Write, Versioned)),
            ("kvrpc.KvCas/CompareAndSwap", Keys(Write, Versioned)),
            ("kvrpc.KvCas/Get", Keys(Read, Versioned)),
            ("kvrpc.KvCas/Scan", Keys(Read, Versioned)),
            ("kvrpc.KvRaw/RawBatchDelete", Keys(Write, Raw)),
            ("kvrpc.KvRaw/RawBatchGet", Keys(Read, Raw)),
            ("kvrpc.KvRaw/RawBatchPut", Keys(Write, Raw)),
            ("kvrpc.KvRaw/RawDelete", Keys(Write, Raw)),
            ("kvrpc.KvRaw/RawDeleteRange", Keys(Write, Raw)),
            ("kvrpc.KvRaw/RawGet", Keys(Read, Raw)),
            ("kvrpc.KvRaw/RawPut", Keys(Write, Raw)),
            ("kvrpc.KvRaw/RawScan", Keys(Read, Raw)),
            ("pdpb.Pd/AddOperator", Admin),
            ("pdpb.Pd/CancelOperator", Admin),
            ("pdpb.Pd/GetClusterInfo", SignedIn),
            ("pdpb.Pd/GetOperators", Admin),
            ("pdpb.Pd/GetRegion", SignedIn),
            ("pdpb.Pd/GetStores", SignedIn),
            ("pdpb.Pd/GetTso", SignedIn),
            ("pdpb.Pd/RegisterStore", Store),
            ("pdpb.Pd/RemoveStore", Admin),
            ("pdpb.Pd/ScanRegions", SignedIn),
            ("pdpb.Pd/StoreHeartbeat", Store),
            ("pdpb.Pd/Tso", SignedIn),
            ("raftpb.RaftPeer/Bulk", Store),
            ("raftpb.RaftPeer/Snapshot", Store),
            ("raftpb.RaftPeer/Urgent", Store),
        ];
        let rows =
            accesses().map(|(service, method, access)| (format!("{service}/{method}"), access));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = EXPECTED
            .iter()
            .map(|(path, access)| ((*path).to_owned(), *access));
        assert_eq!(rows, expected.collect::<Vec<_>>());
        assert_eq!(access(OTHER_INDEX), SignedIn);
    }
}
