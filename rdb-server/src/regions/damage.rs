//! Data that cannot be applied to or opened.

use std::io::ErrorKind;

use rdb_raft::OpenError;
use rdb_storage::{Error, RegionDescriptor};

use crate::error::ServerError;

/// Damaged data, which keeps the log of a region from being applied.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    pub(super) cause: String,
    /// Whether other stores hold the region, too.
    pub(super) has_others: bool,
}

impl Damage {
    /// What can be done.
    pub(crate) fn error(&self, region_id: u64) -> ServerError {
        let Self { cause, has_others } = self.clone();
        ServerError::RegionDamaged {
            region_id,
            cause,
            has_others,
        }
    }
}

/// The same error, of the region if what is stored of it is damaged.
pub(super) fn of_region(
    region: &RegionDescriptor,
    store_id: u64,
    error: ServerError,
) -> ServerError {
    match error {
        ServerError::Storage(Error::DataLoss { cause }) => {
            let has_others = region.is_elsewhere(store_id);
            Damage { cause, has_others }.error(region.id)
        }
        error => error,
    }
}

/// Why the peer of a region is not opened, and what can be done.
pub(super) fn not_opened(region_id: u64, error: OpenError, has_others: bool) -> ServerError {
    let is_damage = match &error {
        OpenError::Start(error) => error.is_damage(),
        OpenError::Log { cause, .. } => cause.kind() == ErrorKind::InvalidData,
        _ => false,
    };
    if is_damage {
        let cause = error.to_string();
        Damage { cause, has_others }.error(region_id)
    } else {
        ServerError::region(region_id, error)
    }
}
