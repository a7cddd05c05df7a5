//! How far the log of a region was applied, and how much of that is durable.

use bytes::Bytes;
use rocksdb::{ReadOptions, ReadTier};

use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::keys;
use crate::read::Tier;
use crate::region::RegionDescriptor;

/// How far the log of a region was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedState {
    /// The position of the last entry.
    pub position: Bytes,
    /// The record of the last membership.
    pub membership: Bytes,
}

/// The applied position of a region; `None`: it has none.
pub(crate) fn applied_position(engine: &Engine, region_id: u64) -> Result<Option<Bytes>, Error> {
    let position = engine.state(&keys::applied_position::key(region_id), Tier::Disk)?;
    Ok(position.map(|position| Bytes::copy_from_slice(&position)))
}

/// The least that a crash would leave of a region; `None`: nothing.
///
/// After the first write without the write-ahead log, this reads only table files. So it is right only for regions without
/// records in the write-ahead log: such records would be seen, then not, and then again.
pub(crate) fn flushed(engine: &Engine, region_id: u64) -> Result<Option<AppliedState>, Error> {
    let mut options = ReadOptions::default();
    options.set_read_tier(ReadTier::Persisted);
    let keys = [
        keys::applied_position::key(region_id),
        keys::membership::key(region_id),
    ];
    let [position, membership] = records(engine, keys, &options)?;
    state(region_id, position, membership)
}

/// A region, and how far its log was applied, both as of the same moment. `None`: it is not stored, or has no first state.
pub(crate) fn described(
    engine: &Engine,
    region_id: u64,
) -> Result<Option<(RegionDescriptor, AppliedState)>, Error> {
    let key = keys::region::key(region_id);
    let keys = [
        key,
        keys::applied_position::key(region_id),
        keys::membership::key(region_id),
    ];
    let options = ReadOptions::default();
    let [region, position, membership] = records(engine, keys, &options)?;
    let region = region.map(|record| keys::region::decode(&key, &record));
    let state = state(region_id, position, membership)?;
    Ok(region.transpose()?.zip(state))
}

/// One call, so that no write and no flush comes between the records.
fn records<const COUNT: usize>(
    engine: &Engine,
    keys: [[u8; 9]; COUNT],
    options: &ReadOptions,
) -> Result<[Option<Bytes>; COUNT], Error> {
    let (database, family) = (&engine.database, engine.family(Family::RaftState));
    let mut found = [const { None }; COUNT];
    // RocksDB wants them in order to say that they are.
    let records = database.batched_multi_get_cf_opt(&family, &keys, true, options);
    for (slot, record) in found.iter_mut().zip(records) {
        let record = record.map_err(Error::from_read)?;
        *slot = record.map(|record| Bytes::copy_from_slice(&record));
    }
    Ok(found)
}

fn state(
    region_id: u64,
    position: Option<Bytes>,
    membership: Option<Bytes>,
) -> Result<Option<AppliedState>, Error> {
    match (position, membership) {
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
