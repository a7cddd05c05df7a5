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
