//! How far the log of a region was applied, and how much of that is durable.

use bytes::Bytes;
use rocksdb::{ReadOptions, ReadTier};

use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::keys;
use crate::read::Tier;

/// How far the log of a region was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedState {
    /// Of the last entry.
    pub position: Bytes,
    /// The record of the last membership.
    pub membership: Bytes,
}

/// The applied position of a region; `None`: it has none.
pub(crate) fn applied_position(engine: &Engine, region_id: u64) -> Result<Option<Bytes>, Error> {
    let position = engine.state(&keys::applied_position::key(region_id), Tier::Disk)?;
    Ok(position.map(|position| Bytes::copy_from_slice(&position)))
}

/// What a crash would leave of a region at least; `None`: nothing.
///
/// From the first write without the write-ahead log on, this reads table files only. So it is right only if no region that
/// asks for it has records in the write-ahead log: they would be seen, not be seen, and be seen again.
pub(crate) fn flushed(engine: &Engine, region_id: u64) -> Result<Option<AppliedState>, Error> {
    let keys = [
        keys::applied_position::key(region_id),
        keys::membership::key(region_id),
    ];
    let mut options = ReadOptions::default();
    options.set_read_tier(ReadTier::Persisted);
    let (database, family) = (&engine.database, engine.family(Family::RaftState));
    // One call, so that a flush never comes between the two.
    let records = database.batched_multi_get_cf_opt(&family, &keys, true, &options);
    let mut records = records.into_iter().map(|record| {
        let record = record.map_err(Error::from_read)?;
        Ok::<_, Error>(record.map(|record| Bytes::copy_from_slice(&record)))
    });
    let mut next = || records.next().transpose().map(Option::flatten);
    match (next()?, next()?) {
        (None, None) => Ok(None),
        (Some(position), Some(membership)) => Ok(Some(AppliedState {
            position,
            membership,
        })),
        _ => Err(Error::DataLoss {
            cause: format!(
                "region {region_id} has an applied position or a membership, and not the other"
            ),
        }),
    }
}
