//! What the transport has to know of each method, in one table. Calls are counted by its rows, so that a label takes no values
//! from clients.

use std::time::Duration;

use tonic::Code;

use super::access::Access::{self, Admin, ByHandler, Commands, Keys, Open, SignedIn, Store};
use super::bounded::BoundedField;
use super::limits::{
    ADMISSION_WAIT, ANYBODY_BYTES_MAX, BATCH_COMMANDS_MAX, BATCH_ENTRIES_MAX, CALL_BUFFER_BYTES,
    CALL_BYTES, RAFT_ENTRIES_MAX, RAFT_ITEMS_MAX, REFLECTION_ANSWER_BYTES, REGION_REPORT_BYTES_MAX,
    REGION_REPORTS_MAX,
};
use crate::auth::Keyspace::{Raw, Versioned};
use crate::auth::Permission::{Read, Write};

use Requests::{ForeignStream, SmallStream, StoreStream, Stream, Unary};

/// A row of the table.
#[derive(Debug)]
pub(super) struct Method {
    /// The path in HTTP/2, `/service/method`.
    path: &'static str,
    /// The position of the row.
    pub(super) index: usize,
    /// What a caller needs for it.
    pub(super) access: Access,
    pub(super) requests: Requests,
    /// Whether one request is answered for as long as the caller likes.
    pub(super) is_watch: bool,
    /// Whether field 1 of the response is a routing answer. Else a call that finds no room ends with a status.
    pub(super) has_region_error: bool,
    /// The repeated field of the request.
    pub(super) bounded: Option<&'static BoundedField>,
}

impl Method {
    /// The method at `path`.
    pub(super) fn of(path: &str) -> &'static Self {
        let known = METHODS.iter().find(|method| method.path == path);
        known.unwrap_or_else(Self::other)
    }

    /// The row of all paths that no method has.
    pub(super) fn other() -> &'static Self {
        &METHODS[METHODS.len() - 1]
    }

    /// Whether it is the row of all paths that no method has.
    #[cfg(feature = "process")]
    pub(super) fn is_other(&self) -> bool {
        self.index == Self::other().index
    }

    /// Its service, and its name there.
    pub(super) fn names(&self) -> (&'static str, &'static str) {
        let path = &self.path[1..];
        path.split_once('/').unwrap_or((path, ""))
    }

    /// Longest message of the request in bytes, if that is less than any service takes. A caller that has not shown who it is
    /// cannot make a server take a large one.
    pub(super) fn message_bytes_max(&self) -> Option<usize> {
        match self.access {
            Open => Some(CALL_BUFFER_BYTES),
            ByHandler => Some(ANYBODY_BYTES_MAX),
            _ => self.requests.are_small().then_some(CALL_BUFFER_BYTES),
        }
    }
}

/// Service, method, and what a caller needs for it, of every method that a server has.
#[cfg(feature = "process")]
pub fn accesses() -> impl Iterator<Item = (&'static str, &'static str, Access)> {
    let known = METHODS.iter().take(METHODS.len() - 1);
    known.map(|method| {
        let (service, name) = method.names();
        (service, name, method.access)
    })
}

/// The messages of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requests {
    /// One message.
    Unary,
    /// A stream. A message is received into a buffer that does not outlive it.
    Stream,
    /// A [`Stream`](Self::Stream) of another store. It has places and bytes in flight apart from those of clients, whose calls
    /// may wait for what it brings. So it waits for room as long as it takes.
    StoreStream,
    /// A stream that tonic receives. Its buffer stays as large as the largest message for as long as the stream is open, so
    /// each message has to fit into what every call is charged for its buffers.
    SmallStream,
    /// A [`SmallStream`](Self::SmallStream) of a service that is not ours: it ends with its requests, and does not know that
    /// a connection is closing.
    ForeignStream,
}

impl Requests {
    pub(super) fn are_small(self) -> bool {
        matches!(self, Self::SmallStream | Self::ForeignStream)
    }

    /// How long a message waits for room.
    pub(super) fn admission_wait(self) -> Duration {
        match self {
            Self::StoreStream => Duration::from_secs(24 * 3600),
            _ => ADMISSION_WAIT,
        }
    }

    /// What a call is charged beside its head.
    pub(super) fn base_bytes(self) -> usize {
        match self {
            Self::ForeignStream => CALL_BYTES + REFLECTION_ANSWER_BYTES,
            Self::Unary | Self::Stream | Self::StoreStream | Self::SmallStream => CALL_BYTES,
        }
    }
}

/// Every method of every server. The last row stands for all other paths. Once rights are enforced, nobody may call those, not even an
/// admin: a server may have a service, or a method, that a row is missing for. A user is told that there is no such method.
///
/// What a caller needs is said a second time, as seen from outside, in `rdb-client/tests/auth/table.rs`.
pub(super) static METHODS: &[Method] = &numbered([
    stream("/kvrpc.KvBatch/Batch", Commands, Stream, Some(&COMMANDS)),
    data("/kvrpc.KvRaw/RawPut", Keys(Write, Raw)),
    data("/kvrpc.KvRaw/RawGet", Keys(Read, Raw)),
    data("/kvrpc.KvRaw/RawDelete", Keys(Write, Raw)),
    batch("/kvrpc.KvRaw/RawBatchPut", Keys(Write, Raw), &ENTRIES),
    batch("/kvrpc.KvRaw/RawBatchDelete", Keys(Write, Raw), &KEYS),
    batch("/kvrpc.KvRaw/RawBatchGet", Keys(Read, Raw), &KEYS),
    data("/kvrpc.KvRaw/RawScan", Keys(Read, Raw)),
    data("/kvrpc.KvRaw/RawDeleteRange", Keys(Write, Raw)),
    data("/kvrpc.KvCas/CompareAndSwap", Keys(Write, Versioned)),
    data("/kvrpc.KvCas/Get", Keys(Read, Versioned)),
    data("/kvrpc.KvCas/CompareAndDelete", Keys(Write, Versioned)),
    batch("/kvrpc.KvCas/BatchGet", Keys(Read, Versioned), &KEYS),
    data("/kvrpc.KvCas/Scan", Keys(Read, Versioned)),
    stream("/raftpb.RaftPeer/Bulk", Store, StoreStream, Some(&ITEMS)),
    stream("/raftpb.RaftPeer/Urgent", Store, StoreStream, Some(&ITEMS)),
    stream("/raftpb.RaftPeer/Snapshot", Store, StoreStream, None),
    data("/adminpb.RegionAdmin/BeginCheck", Admin),
    data("/adminpb.RegionAdmin/GetChecksum", Admin),
    data("/adminpb.RegionAdmin/TransferLeader", Admin),
    stream("/pdpb.Pd/Tso", SignedIn, SmallStream, None),
    unary("/pdpb.Pd/GetTso", SignedIn),
    unary("/pdpb.Pd/RegisterStore", Store),
    Method {
        bounded: Some(&LEADS),
        ..unary("/pdpb.Pd/StoreHeartbeat", Store)
    },
    unary("/pdpb.Pd/GetStores", SignedIn),
    unary("/pdpb.Pd/GetRegion", SignedIn),
    unary("/pdpb.Pd/ScanRegions", SignedIn),
    unary("/pdpb.Pd/RemoveStore", Admin),
    unary("/pdpb.Pd/AddOperator", Admin),
    unary("/pdpb.Pd/GetOperators", Admin),
    unary("/pdpb.Pd/CancelOperator", Admin),
    unary("/pdpb.Pd/GetClusterInfo", SignedIn),
    unary("/authpb.Auth/Enable", ByHandler),
    unary("/authpb.Auth/AddUser", Admin),
    unary("/authpb.Auth/RemoveUser", Admin),
    unary("/authpb.Auth/ChangeToken", Admin),
    unary("/authpb.Auth/GetUsers", Admin),
    unary("/authpb.Auth/Grant", Admin),
    unary("/authpb.Auth/Revoke", Admin),
    unary("/authpb.Auth/Check", ByHandler),
    unary("/authpb.Auth/GetRights", Store),
    unary("/grpc.health.v1.Health/Check", Open),
    Method {
        is_watch: true,
        ..unary("/grpc.health.v1.Health/Watch", Open)
    },
    stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        SignedIn,
        ForeignStream,
        None,
    ),
    stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        SignedIn,
        ForeignStream,
        None,
    ),
    unary("/other/other", SignedIn),
]);

static COMMANDS: BoundedField = repeated(3, "commands", BATCH_COMMANDS_MAX, Code::OutOfRange);
static ENTRIES: BoundedField = repeated(2, "entries", BATCH_ENTRIES_MAX, Code::InvalidArgument);
static KEYS: BoundedField = repeated(2, "keys", BATCH_ENTRIES_MAX, Code::InvalidArgument);
static LEADS: BoundedField = BoundedField {
    entry_bytes_max: REGION_REPORT_BYTES_MAX as u64,
    ..repeated(6, "leads", REGION_REPORTS_MAX, Code::InvalidArgument)
};
static ITEMS: BoundedField = BoundedField {
    within: Some(&APPENDS),
    ..repeated(2, "items", RAFT_ITEMS_MAX, Code::OutOfRange)
};
/// Those of the items of an envelope: each has one.
static APPENDS: BoundedField = BoundedField {
    within: Some(&APPENDED_ENTRIES),
    ..repeated(6, "appends", RAFT_ITEMS_MAX, Code::OutOfRange)
};
/// Those of all appends of an envelope.
static APPENDED_ENTRIES: BoundedField = repeated(4, "entries", RAFT_ENTRIES_MAX, Code::OutOfRange);

const fn repeated(tag: u64, name: &'static str, count_max: usize, code: Code) -> BoundedField {
    BoundedField {
        tag,
        name,
        count_max,
        entry_bytes_max: u64::MAX,
        code,
        within: None,
    }
}

const fn unary(path: &'static str, access: Access) -> Method {
    Method {
        path,
        index: 0,
        access,
        requests: Unary,
        is_watch: false,
        has_region_error: false,
        bounded: None,
    }
}

const fn data(path: &'static str, access: Access) -> Method {
    Method {
        has_region_error: true,
        ..unary(path, access)
    }
}

const fn batch(path: &'static str, access: Access, bounded: &'static BoundedField) -> Method {
    Method {
        bounded: Some(bounded),
        ..data(path, access)
    }
}

const fn stream(
    path: &'static str,
    access: Access,
    requests: Requests,
    bounded: Option<&'static BoundedField>,
) -> Method {
    Method {
        requests,
        bounded,
        ..unary(path, access)
    }
}

/// Gives each row its position.
const fn numbered<const COUNT: usize>(mut methods: [Method; COUNT]) -> [Method; COUNT] {
    let mut index = 0;
    while index < COUNT {
        methods[index].index = index;
        index += 1;
    }
    methods
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;
    use prost_types::field_descriptor_proto::Label;
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::super::described::methods;
    use super::*;

    #[test]
    fn every_method_has_a_row_and_every_row_a_method() {
        let mut count = 0;
        methods(|path, _, _, _| {
            let method = Method::of(path);
            let (service, name) = method.names();
            assert_eq!(format!("/{service}/{name}"), path);
            assert_eq!(METHODS[method.index].path, path);
            count += 1;
        });
        assert_eq!(count, METHODS.len() - 1, "no row is left over");
    }

    #[test]
    fn what_is_no_path_of_a_method_is_counted_as_other() {
        for path in [
            "",
            "/",
            "/a/b",
            "/kvrpc.KvRaw/",
            "/kvrpc.KvRaw/RawGot",
            "/kvrpc.KvRaw/RawGet/",
            "/kvrpc.KvRaw//RawGet",
            "kvrpc.KvRaw/RawGet",
            "//kvrpc.KvRaw/RawGet",
            "/kvrpc.kvraw/RawGet",
            "/kvrpc.KvRaw%2FRawGet",
            "/kvrpc.KvRaw/%52awGet",
            "/kvrpc.KvCas/RawGet",
        ] {
            let other = Method::of(path);
            assert_eq!(other.names(), ("other", "other"), "{path}");
            assert_eq!(other.index, METHODS.len() - 1);
            assert_eq!(other.access, SignedIn);
        }
    }

    /// Nobody without an identity makes a server take a large message.
    #[test]
    fn what_anybody_may_call_takes_one_small_message() {
        for method in METHODS {
            let is_for_anybody = matches!(method.access, Open | ByHandler);
            let is_small = method.requests == Unary && method.message_bytes_max().is_some();
            assert_eq!(is_small, is_for_anybody, "{}", method.path);
            let is_watch = method.path == "/grpc.health.v1.Health/Watch";
            assert_eq!(method.is_watch, is_watch, "{}", method.path);
        }
    }

    /// Wherever the buffer of a message outlives the message, it is small.
    #[test]
    fn a_stream_that_tonic_receives_has_small_messages() {
        methods(|path, is_stream, _, _| {
            let requests = Method::of(path).requests;
            assert_eq!(requests != Requests::Unary, is_stream, "{path}");
            let has_own_buffers =
                path == "/kvrpc.KvBatch/Batch" || path.starts_with("/raftpb.RaftPeer/");
            assert_eq!(
                requests.are_small(),
                is_stream && !has_own_buffers,
                "{path}"
            );
        });
    }

    /// What makes it right to answer these methods with the same bytes.
    #[test]
    fn every_unary_response_of_a_region_has_the_region_error_as_field_1() {
        methods(|path, is_stream, _, response| {
            let is_of_region = ["/kvrpc.", "/adminpb."]
                .iter()
                .any(|package| path.starts_with(package));
            let is_data = is_of_region && !is_stream;
            assert_eq!(Method::of(path).has_region_error, is_data, "{path}");
            let mut fields = response.field.iter();
            let first = fields.find(|field| field.number() == 1);
            let is_region_error = |type_name: &str| type_name == ".errorpb.RegionError";
            let has_one = first.is_some_and(|field| is_region_error(field.type_name()));
            assert_eq!(has_one, is_data, "{path}");
        });
    }

    /// A field that comes a few times, with entries without lists. It is counted as one of the other fields of the message.
    const COUNTED_WITH_OTHERS: (&str, &str) = ("/pdpb.Pd/StoreHeartbeat", "holds");

    #[test]
    fn every_repeated_field_of_a_request_is_bounded() {
        methods(|path, _, request, _| {
            let fields = request.field.iter();
            let repeated = fields.filter(|field| field.label() == Label::Repeated);
            let repeated = repeated.map(|field| (field.number() as u64, field.name()));
            let repeated = repeated.filter(|&(_, name)| (path, name) != COUNTED_WITH_OTHERS);
            let bounded = Method::of(path).bounded;
            let bounded = bounded.map(|field| (field.tag, field.name));
            assert!(repeated.eq(bounded), "{path}");
        });
    }

    /// The tags on the way from a message to each repeated field in it or below.
    fn lists(
        type_name: &str,
        messages: &BTreeMap<String, DescriptorProto>,
        way: &[u64],
        found: &mut Vec<Vec<u64>>,
    ) {
        assert!(way.len() < 16, "{type_name} may hold itself");
        let Some(message) = messages.get(type_name) else {
            return;
        };
        for field in &message.field {
            let way = [way, &[field.number() as u64]].concat();
            if field.label() == Label::Repeated {
                found.push(way.clone());
            }
            lists(field.type_name(), messages, &way, found);
        }
    }

    /// Fields within an entry are not counted unless they are named, so another entry with a list has to be short.
    #[test]
    fn every_entry_that_has_a_list_is_bounded_in_bytes_or_counts_it() {
        let set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).expect("compiled in");
        let mut messages = BTreeMap::new();
        for file in &set.file {
            for message in &file.message_type {
                let name = format!(".{}.{}", file.package(), message.name());
                messages.insert(name, message.clone());
            }
        }
        methods(|path, _, request, _| {
            let Some(bounded) = Method::of(path).bounded else {
                return;
            };
            let mut fields = request.field.iter();
            let entries = fields.find(|field| field.label() == Label::Repeated);
            let mut found = Vec::new();
            let type_name = entries.expect("bounded").type_name();
            lists(type_name, &messages, &[], &mut found);
            let mut counted = Vec::new();
            let mut within = bounded.within;
            while let Some(field) = within {
                counted.push(field.tag);
                within = field.within;
            }
            if bounded.entry_bytes_max < u64::MAX {
                assert!(!found.is_empty(), "{path}");
            } else if counted.is_empty() {
                assert_eq!(found, Vec::<Vec<u64>>::new(), "{path}");
            } else {
                assert_eq!(found, [counted], "{path}");
            }
        });
    }
}
