//! The gRPC services: decode, find the region, delegate, answer.

mod answer;
mod batch;
mod cas;
mod outcome;
mod raw;

pub(crate) use batch::BatchService;
pub(crate) use cas::CasService;
pub(crate) use raw::RawService;
