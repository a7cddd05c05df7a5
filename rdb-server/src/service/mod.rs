//! The gRPC services: decode, validate, check what the caller may do, find the region, delegate, respond.
//!
//! Each command is checked against the rights of that moment, before it is routed or read. So neither the answer nor the delay reveals
//! whether a key exists to a caller that may not read it. The check is in `point` and `several`, for operators in the transport.
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
#[cfg(test)]
mod tests;

pub(crate) use batch::BatchService;
pub(crate) use cas::CasService;
pub(crate) use raw::RawService;
pub(crate) use region_admin::RegionAdminService;

/// Both limit the entries of a batch: the transport while it arrives, the storage when it is applied.
const _: () = assert!(
    rdb_proto::transport::limits::BATCH_ENTRIES_MAX == rdb_storage::limits::BATCH_ENTRIES_MAX
);
