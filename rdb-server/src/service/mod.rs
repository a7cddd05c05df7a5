//! The gRPC services: decode, find the region, delegate, answer.

mod answer;
mod cas;
mod raw;

pub(crate) use cas::CasService;
pub(crate) use raw::RawService;
