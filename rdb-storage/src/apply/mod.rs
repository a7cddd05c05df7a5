//! Deterministic application: commands in order, to one RocksDB write batch and their outcomes.
//!
//! Applying reads what is stored and what earlier commands of the same batch did (the [overlay]); it does not depend on
//! time, chance or memory that a restart loses, so every replica that applies the same commands in the same order comes to
//! the same data and the same outcomes. It writes nothing itself: the caller may add to the write batch (an applied
//! position, once there is replication) and writes it as one.
//!
//! An error here means that stored data could not be read. It is fatal to the writer: skipping the command would make
//! this copy differ from others. [`Unreadable`] tells which submissions met it.

mod overlay;
mod raw;
mod versioned;

use std::collections::BTreeSet;

use bytes::Bytes;
use rocksdb::WriteBatch;

use crate::command::{Command, Outcome};
use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::keys;
use crate::limits::CONFLICT_VALUES_BYTES_MAX;
use overlay::Overlay;

/// What a run of submissions comes to.
pub(crate) struct Applied {
    /// All changes, to be written at once.
    pub(crate) write_batch: WriteBatch,
    /// For each submission, the outcomes of its commands.
    pub(crate) outcomes: Vec<Vec<Outcome>>,
}

/// Something that commands depend on could not be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// The versioned key; `None`: the version floor of a region.
    key: Option<Bytes>,
    pub(crate) error: Error,
}

impl Unreadable {
    /// Whether a submission of these commands depends on it.
    pub(crate) fn concerns(&self, commands: &[Command]) -> bool {
        let mut keys = commands.iter().filter_map(versioned_key);
        match &self.key {
            Some(unreadable) => keys.any(|key| key == unreadable),
            None => keys.next().is_some(),
        }
    }
}

/// Of a version floor.
impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self { key: None, error }
    }
}

/// Applies submissions, each a region's id and the commands for it.
pub(crate) fn apply(
    engine: &Engine,
    submissions: &[(u64, &[Command])],
) -> Result<Applied, Unreadable> {
    let all_commands = || submissions.iter().flat_map(|(_, commands)| commands.iter());
    let deletes_ranges =
        all_commands().any(|command| matches!(command, Command::DeleteRangeRaw { .. }));
    let mut batch = Batch {
        engine,
        write_batch: WriteBatch::default(),
        overlay: Overlay::load(engine, all_commands().filter_map(versioned_key))?,
        raw_keys_put: deletes_ranges.then(BTreeSet::new),
        conflict_bytes_left: 0,
    };
    let mut outcomes = Vec::with_capacity(submissions.len());
    for (region_id, commands) in submissions {
        batch.conflict_bytes_left = CONFLICT_VALUES_BYTES_MAX;
        let run = commands
            .iter()
            .map(|command| batch.apply(*region_id, command));
        outcomes.push(run.collect::<Result<Vec<_>, _>>()?);
    }
    let Batch {
        mut write_batch,
        overlay,
        ..
    } = batch;
    for (region_id, floor) in overlay.raised_floors() {
        write_batch.put_cf(
            engine.family(Family::RaftState),
            keys::version_floor::key(region_id),
            keys::version_floor::encode(floor),
        );
    }
    Ok(Applied {
        write_batch,
        outcomes,
    })
}

fn versioned_key(command: &Command) -> Option<&Bytes> {
    match command {
        Command::CompareAndSwap { key, .. } | Command::CompareAndDelete { key, .. } => Some(key),
        Command::PutRaw { .. }
        | Command::DeleteRaw { .. }
        | Command::PutBatchRaw { .. }
        | Command::DeleteRangeRaw { .. }
        | Command::PutRegion(_) => None,
    }
}

/// A write batch in the making.
struct Batch<'a> {
    engine: &'a Engine,
    write_batch: WriteBatch,
    overlay: Overlay,
    /// The raw keys that the batch has put so far, kept when it deletes ranges, too.
    raw_keys_put: Option<BTreeSet<Bytes>>,
    /// How many bytes of values the conflicts of the present submission may still carry.
    conflict_bytes_left: usize,
}

impl Batch<'_> {
    fn apply(&mut self, region_id: u64, command: &Command) -> Result<Outcome, Error> {
        match command {
            Command::PutRaw { key, value } => self.put_raw(key, value),
            Command::DeleteRaw { key } => self.delete_raw(key),
            Command::PutBatchRaw { entries } => {
                for (key, value) in entries {
                    self.put_raw(key, value);
                }
            }
            Command::DeleteRangeRaw { start_key, end_key } => {
                self.delete_range_raw(start_key, end_key);
            }
            Command::CompareAndSwap {
                key,
                expected_version,
                value,
            } => {
                return self.compare_and_swap(region_id, key, *expected_version, value);
            }
            Command::CompareAndDelete {
                key,
                expected_version,
            } => {
                return self.compare_and_delete(region_id, key, *expected_version);
            }
            Command::PutRegion(region) => self.write_batch.put_cf(
                self.engine.family(Family::RaftState),
                keys::region::key(region.id),
                keys::region::encode(region),
            ),
        }
        Ok(Outcome::Done)
    }
}
