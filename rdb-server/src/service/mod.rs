//! The gRPC services: decode, validate, find the region, delegate, respond.
//!
//! - `raw` and `cas` serve the methods of the two keyspaces, `batch` serves the stream.
//! - `point` serves the commands for one key, for all three.
//! - `several` serves batches, scans and range deletes, for both keyspaces.
//! - `region_admin` serves operators.
//! - `room` reserves bytes for results. `respond` turns results into responses.

mod batch;
mod cas;
#[cfg(test)]
mod fixture;
mod point;
mod raw;
mod region_admin;
mod respond;
mod room;
mod several;

pub(crate) use batch::BatchService;
pub(crate) use cas::CasService;
pub(crate) use raw::RawService;
pub(crate) use region_admin::RegionAdminService;

/// Both limit the entries of a batch: the transport while it arrives, the storage when it is applied.
const _: () = assert!(
    rdb_proto::transport::limits::BATCH_ENTRIES_MAX == rdb_storage::limits::BATCH_ENTRIES_MAX
);
