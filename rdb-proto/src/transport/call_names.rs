//! The methods that calls are counted by. Whatever else is called is counted as one: a label takes no values from clients.

/// Services and methods of all servers. The last is for all other paths.
const METHODS: &[(&str, &str)] = &[
    ("kvrpc.KvBatch", "Batch"),
    ("kvrpc.KvRaw", "RawPut"),
    ("kvrpc.KvRaw", "RawGet"),
    ("kvrpc.KvRaw", "RawDelete"),
    ("kvrpc.KvRaw", "RawBatchPut"),
    ("kvrpc.KvRaw", "RawBatchDelete"),
    ("kvrpc.KvRaw", "RawBatchGet"),
    ("kvrpc.KvRaw", "RawScan"),
    ("kvrpc.KvRaw", "RawDeleteRange"),
    ("kvrpc.KvCas", "CompareAndSwap"),
    ("kvrpc.KvCas", "Get"),
    ("kvrpc.KvCas", "CompareAndDelete"),
    ("kvrpc.KvCas", "BatchGet"),
    ("kvrpc.KvCas", "Scan"),
    ("raftpb.RaftPeer", "Bulk"),
    ("raftpb.RaftPeer", "Urgent"),
    ("raftpb.RaftPeer", "Snapshot"),
    ("adminpb.RegionAdmin", "BeginCheck"),
    ("adminpb.RegionAdmin", "GetChecksum"),
    ("adminpb.RegionAdmin", "TransferLeader"),
    ("pdpb.Pd", "Tso"),
    ("pdpb.Pd", "GetTso"),
    ("pdpb.Pd", "RegisterStore"),
    ("pdpb.Pd", "StoreHeartbeat"),
    ("pdpb.Pd", "GetStores"),
    ("pdpb.Pd", "GetRegion"),
    ("pdpb.Pd", "ScanRegions"),
    ("pdpb.Pd", "RemoveStore"),
    ("pdpb.Pd", "AddOperator"),
    ("pdpb.Pd", "GetOperators"),
    ("pdpb.Pd", "CancelOperator"),
    ("pdpb.Pd", "GetClusterInfo"),
    ("grpc.health.v1.Health", "Check"),
    ("grpc.health.v1.Health", "Watch"),
    (
        "grpc.reflection.v1.ServerReflection",
        "ServerReflectionInfo",
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection",
        "ServerReflectionInfo",
    ),
    OTHER,
];

const OTHER: (&str, &str) = ("other", "other");

pub(super) const METHOD_COUNT: usize = METHODS.len();

/// The position of all paths that are of no method.
pub(super) const OTHER_INDEX: usize = METHOD_COUNT - 1;

/// The position of the method at `path`, `/service/method`.
pub(super) fn method_index(path: &str) -> usize {
    let known = METHODS.iter().position(|(service, method)| {
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
    METHODS.get(index).copied().unwrap_or(OTHER)
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
        ] {
            assert_eq!(method_name(method_index(path)), OTHER, "{path}");
        }
    }
}
