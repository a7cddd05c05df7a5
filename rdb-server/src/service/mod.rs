//! The gRPC services: decode, validate, find the region, delegate, respond.
//!
//! - `raw` and `cas` have the methods of the two keyspaces; `batch` has the stream.
//! - `point` is what they share: the commands for one key.
//! - `room` admits reads; `respond` puts results on the wire.

mod batch;
mod cas;
mod point;
mod raw;
mod respond;
mod room;

pub(crate) use batch::BatchService;
pub(crate) use cas::CasService;
pub(crate) use raw::RawService;

/// The transport counts the entries of a batch while it arrives, the storage those that it applies.
const _: () = assert!(
    rdb_proto::transport::limits::BATCH_ENTRIES_MAX == rdb_storage::limits::BATCH_ENTRIES_MAX
);
