//! What the transport has to know of each method, in one table.

use std::time::Duration;

use super::bounded::BoundedField;
use super::limits::{
    ADMISSION_WAIT, ANYBODY_BYTES_MAX, BATCH_COMMANDS_MAX, BATCH_ENTRIES_MAX, CALL_BUFFER_BYTES,
    CALL_BYTES, RAFT_ENTRIES_MAX, RAFT_ITEMS_MAX, REFLECTION_ANSWER_BYTES, REGION_REPORT_BYTES_MAX,
    REGION_REPORTS_MAX,
};

use tonic::Code;

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// The path in HTTP/2. One that ends with `/` is of a service: of its methods that have no row themselves.
    path: &'static str,
    pub(super) requests: Requests,
    /// Whether one request is answered for as long as the caller likes.
    pub(super) is_watch: bool,
    /// Longest message of the request in bytes, where that is less than any service takes.
    pub(super) message_bytes_max: Option<usize>,
    /// Whether field 1 of the response is a routing answer. Else a call that finds no room ends with a status.
    pub(super) has_region_error: bool,
    /// The repeated field of the request.
    pub(super) bounded: Option<BoundedField>,
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
    pub(super) const fn are_small(self) -> bool {
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

/// The first row whose path a request begins with is the one that counts.
static METHODS: [Method; 19] = [
    batch("/kvrpc.KvRaw/RawBatchPut", "entries"),
    batch("/kvrpc.KvRaw/RawBatchDelete", "keys"),
    batch("/kvrpc.KvRaw/RawBatchGet", "keys"),
    data("/kvrpc.KvRaw/"),
    batch("/kvrpc.KvCas/BatchGet", "keys"),
    data("/kvrpc.KvCas/"),
    Method {
        bounded: Some(BoundedField {
            tag: 3,
            name: "commands",
            count_max: BATCH_COMMANDS_MAX,
            entry_bytes_max: u64::MAX,
            code: Code::OutOfRange,
            within: None,
        }),
        ..other("/kvrpc.KvBatch/Batch", Requests::Stream)
    },
    other("/raftpb.RaftPeer/Snapshot", Requests::StoreStream),
    Method {
        bounded: Some(BoundedField {
            tag: 2,
            name: "items",
            count_max: RAFT_ITEMS_MAX,
            entry_bytes_max: u64::MAX,
            code: Code::OutOfRange,
            within: Some(&APPENDS),
        }),
        ..other("/raftpb.RaftPeer/", Requests::StoreStream)
    },
    data("/adminpb.RegionAdmin/"),
    other("/pdpb.Pd/Tso", Requests::SmallStream),
    Method {
        bounded: Some(BoundedField {
            tag: 6,
            name: "leads",
            count_max: REGION_REPORTS_MAX,
            entry_bytes_max: REGION_REPORT_BYTES_MAX as u64,
            code: Code::InvalidArgument,
            within: None,
        }),
        ..other("/pdpb.Pd/StoreHeartbeat", Requests::Unary)
    },
    other("/pdpb.Pd/", Requests::Unary),
    of_anybody("/authpb.Auth/Enable", ANYBODY_BYTES_MAX),
    of_anybody("/authpb.Auth/Check", ANYBODY_BYTES_MAX),
    other("/authpb.Auth/", Requests::Unary),
    Method {
        is_watch: true,
        ..of_anybody("/grpc.health.v1.Health/Watch", CALL_BUFFER_BYTES)
    },
    of_anybody("/grpc.health.v1.Health/", CALL_BUFFER_BYTES),
    other("/grpc.reflection.", Requests::ForeignStream),
];

/// Those of the items of an envelope: each has one.
static APPENDS: BoundedField = BoundedField {
    tag: 6,
    name: "appends",
    count_max: RAFT_ITEMS_MAX,
    entry_bytes_max: u64::MAX,
    code: Code::OutOfRange,
    within: Some(&APPENDED_ENTRIES),
};

/// Those of all appends of an envelope.
static APPENDED_ENTRIES: BoundedField = BoundedField {
    tag: 4,
    name: "entries",
    count_max: RAFT_ENTRIES_MAX,
    entry_bytes_max: u64::MAX,
    code: Code::OutOfRange,
    within: None,
};

static UNKNOWN: Method = other("", Requests::Unary);

const fn batch(path: &'static str, name: &'static str) -> Method {
    let entries = BoundedField {
        tag: 2,
        name,
        count_max: BATCH_ENTRIES_MAX,
        entry_bytes_max: u64::MAX,
        code: Code::InvalidArgument,
        within: None,
    };
    Method {
        bounded: Some(entries),
        ..data(path)
    }
}

const fn data(path: &'static str) -> Method {
    Method {
        has_region_error: true,
        ..other(path, Requests::Unary)
    }
}

/// What somebody may call who is no user: nobody vouches for what it sends.
const fn of_anybody(path: &'static str, message_bytes_max: usize) -> Method {
    Method {
        message_bytes_max: Some(message_bytes_max),
        ..other(path, Requests::Unary)
    }
}

const fn other(path: &'static str, requests: Requests) -> Method {
    Method {
        path,
        requests,
        is_watch: false,
        message_bytes_max: if requests.are_small() {
            Some(CALL_BUFFER_BYTES)
        } else {
            None
        },
        has_region_error: false,
        bounded: None,
    }
}

impl Method {
    /// The method at `path`.
    pub(super) fn of(path: &str) -> &'static Self {
        let mut rows = METHODS.iter();
        let found = rows.find(|method| path.starts_with(method.path));
        found.unwrap_or(&UNKNOWN)
    }
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
        let mut found = Vec::new();
        methods(|path, _, _, _| found.push(Method::of(path).path));
        assert!(!found.contains(&UNKNOWN.path));
        assert!(METHODS.iter().all(|method| found.contains(&method.path)));
    }

    /// Nobody without an identity makes a server take a large message.
    #[cfg(feature = "process")]
    #[test]
    fn what_anybody_may_call_has_small_messages() {
        use super::super::access::Access;
        use super::super::call_names::{access, method_index};
        methods(|path, _, _, _| {
            let is_for_anybody =
                matches!(access(method_index(path)), Access::Open | Access::ByHandler);
            let method = Method::of(path);
            let is_small = method.requests == Requests::Unary && method.message_bytes_max.is_some();
            assert_eq!(is_small, is_for_anybody, "{path}");
            assert_eq!(method.is_watch, path == "/grpc.health.v1.Health/Watch");
        });
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
            let bounded = Method::of(path).bounded.as_ref();
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
            let Some(bounded) = Method::of(path).bounded.as_ref() else {
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
