//! The operation of each workload.
//!
//! Each workload is a kind of [`Caller`]. The [`runner`](super::runner) decides when each caller operates.

mod cas;
mod cas_hot;
mod point;
mod scan;
mod tso;

use std::future::Future;

use super::recorder::OperationError;

pub(crate) use cas::{CasCaller, OwnedKey};
pub(crate) use cas_hot::{CasHotCaller, create_hot_key};
pub(crate) use point::PointCaller;
pub(crate) use scan::ScanCaller;
pub(crate) use tso::TsoCaller;

/// Does one operation after the other, never two at once.
pub(crate) trait Caller: Send + 'static {
    /// One operation from its beginning to its answer.
    fn operate(&mut self) -> impl Future<Output = Result<Done, OperationError>> + Send;
}

/// An operation that succeeded.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    /// Conflicts on the way to success.
    pub(crate) conflicts: u64,
}
