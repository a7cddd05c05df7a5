//! Applies commands in order to one RocksDB write batch, with an outcome for each. The local writer and replicated logs
//! rely on this contract.
//!
//! An [`Entry`] is applied as a whole: a submission, or an entry of a log. A [`Batch`] holds several entries.
//!
//! # Deterministic
//!
//! The effect of an entry depends on the entry and on the data that earlier entries of its region left. It does not depend
//! on time, on chance, on memory that a restart loses, or on the grouping of entries into batches. So replicas of a region
//! that apply the same entries in the same order hold the same keys, values, versions and floor, and return the same
//! outcomes. Two things may differ between replicas, and no read can see them: whether a range delete is written as such
//! or as point deletes, and which values conflicts leave out.
//!
//! # Total
//!
//! Every entry has outcomes, one for each command. Commands are validated again, since the log may come from another
//! release: one that breaks a limit is [`Outcome::Invalid`] and changes nothing. An entry that was proposed under another
//! epoch than the stored one of its region changes nothing either, and each of its commands is [`Outcome::EpochChanged`].
//! Only the epoch's `version` is compared. A membership is applied under any epoch: it names the peers of the region, and each
//! one raises the epoch's `conf_version` by 1.
//!
//! # What may fail
//!
//! Only reading may fail: [`Batch::load`] reads all that an entry depends on, before any entry of the batch is applied.
//! [`Batch::apply`] cannot fail. An entry whose reads failed must not be applied, and neither must any later one of its
//! region: skipping one would make this replica differ from others. Other regions go on. If the write of the batch fails,
//! only the next open shows what the disk holds, and nothing more may be written before.
//!
//! # What a crash may leave
//!
//! An entry's changes, raised version floor, membership and applied position are in one write batch, the position even when
//! nothing else changed. After a crash all of them are there or none. If those of an entry are, so are those of every earlier
//! entry of its region: a log is applied again from the position that is found.
//!
//! Without the write-ahead log a crash leaves the state as of the last flush, position and membership included, since a flush
//! takes all column families as of one moment. [`Storage::flushed`](crate::Storage::flushed) says beforehand which state that
//! is, and the log has to hold the entries behind it. A region is written either without the write-ahead log or with it,
//! never both: what is only in memory would be missing below what the write-ahead log brings back.
//!
//! After a power cut the same holds for writes that were flushed, synced, or followed by a synced write. The last of the
//! later entries may be missing, with their positions. If RocksDB began a new write-ahead log among them, an open under
//! [`Durability::Sync`] may be refused: the operating system may have written the new log first. An open under
//! [`Durability::Os`] drops that log.
//!
//! [`Durability::Sync`]: crate::Durability::Sync
//! [`Durability::Os`]: crate::Durability::Os
//!
//! # What is left to the caller
//!
//! At most one thread applies entries to a region at a time. Positions are not compared: the caller must not apply an entry
//! twice.

mod install;
mod overlay;
mod raw;
mod versioned;

use std::collections::{BTreeSet, HashSet};
use std::mem;

use bytes::Bytes;
use rocksdb::WriteBatch;

use crate::applied::AppliedState;
use crate::command::{Command, Outcome};
use crate::engine::{Engine, Family};
use crate::keys;
use crate::log_entry::RegionMembership;
use crate::read::{Keyspace, ReadError, Tier};
use crate::region::RegionDescriptor;
use overlay::Overlay;

/// What a read from the disk counts beside the bytes that it reads.
const DISK_READ_BYTES: usize = 64 << 10;

/// Most bytes of records that are read on a thread that drives async tasks, and one record more. RocksDB copies a record out of
/// a memtable.
pub(crate) const INLINE_READ_BYTES: usize = 4 << 20;

/// Most range deletes of one write batch, unless a single entry has more. Each adds to what every read of the memtable has to sort.
/// RocksDB begins a new memtable only between two batches.
pub(crate) const BATCH_RANGE_DELETES_MAX: usize = 64;

/// What is applied to a region as a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) region_id: u64,
    /// What the `version` of the region's epoch has to be. `None`: it does not matter.
    pub(crate) epoch_version: Option<u64>,
    pub(crate) commands: &'a [Command],
    /// Becomes that of the region. `None`: it stays.
    pub(crate) membership: Option<&'a RegionMembership>,
    /// Most bytes of values that the entry's conflicts carry together.
    pub(crate) conflict_values_bytes_max: usize,
}

/// Reads what [`Batch::load`] reads for the commands of an entry, each key once, and keeps none of it. Returns how many bytes of
/// records that are, or the position of the command that failed. `go_on` is asked before each read of a key, and is told the bytes
/// so far.
pub(crate) fn read_ahead(
    engine: &Engine,
    entry: &Entry<'_>,
    tier: Tier,
    go_on: impl Fn(usize) -> Result<(), ReadError>,
) -> Result<usize, (usize, ReadError)> {
    let is_alone = entry.commands.len() == 1;
    let mut keys_read = HashSet::new();
    let mut bytes_read = 0;
    for (position, command) in entry.commands.iter().enumerate() {
        let Some((key, _)) = command.expected_version() else {
            continue;
        };
        // A set would cost a single command an allocation.
        if !is_alone && !keys_read.insert(&key[..]) {
            continue;
        }
        let read = go_on(bytes_read).and_then(|()| record_bytes(engine, key, tier));
        bytes_read += read.map_err(|error| (position, error))?;
    }
    if let Some(position) = entry.commands.iter().position(Command::reads_floor) {
        let floor = engine.version_floor(entry.region_id, tier);
        floor.map_err(|error| (position, error))?;
    }
    Ok(bytes_read)
}

/// The length of the record of a versioned key; 0: there is none.
fn record_bytes(engine: &Engine, key: &[u8], tier: Tier) -> Result<usize, ReadError> {
    let Some(record) = engine.record(Keyspace::Versioned, key, tier)? else {
        return Ok(0);
    };
    Keyspace::Versioned.parts(&record)?;
    Ok(record.len())
}

/// A write batch in the making, and what its entries see.
pub(crate) struct Batch<'a> {
    engine: &'a Engine,
    write_batch: WriteBatch,
    overlay: Overlay,
    /// The raw keys that the batch has put so far, kept when it deletes ranges, too.
    raw_keys_put: Option<BTreeSet<Bytes>>,
    changes_regions: bool,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(engine: &'a Engine) -> Self {
        Self {
            engine,
            write_batch: WriteBatch::default(),
            overlay: Overlay::default(),
            raw_keys_put: None,
            changes_regions: false,
        }
    }

    /// The same for a thread that drives async tasks. Beyond [`INLINE_READ_BYTES`] what it has not read counts as not in memory.
    pub(crate) fn inline(engine: &'a Engine) -> Self {
        let mut batch = Self::new(engine);
        batch.overlay.bound_reads(INLINE_READ_BYTES);
        batch
    }

    /// Reads what applying `entry` depends on. All entries of a batch are loaded before the first is applied.
    ///
    /// Records that are not in memory are read from the disk as long as `disk_bytes_left` is not 0. Each counts its length
    /// plus [`DISK_READ_BYTES`]. When the limit is used up, a later call goes on with the missing records.
    pub(crate) fn load(
        &mut self,
        entry: &Entry<'_>,
        disk_bytes_left: &mut usize,
    ) -> Result<(), ReadError> {
        let Self {
            engine, overlay, ..
        } = self;
        if entry.epoch_version.is_some() {
            overlay.load_epoch(engine, entry.region_id)?;
        }
        if entry.membership.is_some() {
            overlay.load_region(engine, entry.region_id)?;
        }
        let mut values_bytes_left = entry.conflict_values_bytes_max;
        for command in entry.commands {
            if command.deletes_range() {
                self.raw_keys_put.get_or_insert_default();
            }
            let Some((key, expected_version)) = command.expected_version() else {
                continue;
            };
            if command.reads_floor() {
                overlay.load_floor(engine, entry.region_id)?;
            }
            let left = &mut values_bytes_left;
            let mut load = |tier| overlay.load_record(engine, tier, key, expected_version, left);
            match load(Tier::Memory) {
                Err(ReadError::NotInMemory) if *disk_bytes_left > 0 => {
                    let cost = DISK_READ_BYTES + load(Tier::Disk)?;
                    *disk_bytes_left = disk_bytes_left.saturating_sub(cost);
                }
                loaded => drop(loaded?),
            }
        }
        Ok(())
    }

    /// Forgets what was loaded and `other` has changed.
    pub(crate) fn forget(&mut self, other: &Self) {
        self.overlay.forget(&other.overlay);
    }

    /// Bytes of values that were copied for conflicts.
    pub(crate) fn copied_bytes(&self) -> usize {
        self.overlay.copied_bytes()
    }

    /// How many bytes of records were read.
    pub(crate) fn bytes_read(&self) -> usize {
        self.overlay.bytes_read()
    }

    /// Applies an entry that was loaded: one outcome for each command.
    pub(crate) fn apply(&mut self, entry: &Entry<'_>) -> Vec<Outcome> {
        if let Some(membership) = entry.membership {
            self.put_membership(entry.region_id, membership);
        }
        let current_version = self.overlay.epoch_version(entry.region_id);
        if entry
            .epoch_version
            .is_some_and(|version| version != current_version)
        {
            return vec![Outcome::EpochChanged { current_version }; entry.commands.len()];
        }
        let mut values_bytes_left = entry.conflict_values_bytes_max;
        let commands = entry.commands.iter();
        commands
            .map(|command| self.apply_command(entry.region_id, command, &mut values_bytes_left))
            .collect()
    }

    /// The region's applied position is this one from now on. The last one of a batch counts.
    pub(crate) fn put_position(&mut self, region_id: u64, position: &[u8]) {
        let key = keys::applied_position::key(region_id);
        let family = self.engine.family(Family::RaftState);
        self.write_batch.put_cf(family, key, position);
    }

    /// Puts what a region begins with.
    pub(crate) fn put_first_state(&mut self, region: &RegionDescriptor, state: &AppliedState) {
        self.put_region(region.clone());
        self.put_membership_record(region.id, &state.membership);
        self.put_position(region.id, &state.position);
    }

    /// Whether the write has to be followed by [`Engine::forget_epochs`].
    pub(crate) fn changes_regions(&self) -> bool {
        self.changes_regions
    }

    /// Takes out the changes so far. They have to be written before a later entry is applied. What was loaded stays.
    pub(crate) fn cut(&mut self) -> Self {
        if let Some(keys_put) = &mut self.raw_keys_put {
            // They are stored by then.
            keys_put.clear();
        }
        self.put_raised_floors();
        Self {
            write_batch: mem::take(&mut self.write_batch),
            changes_regions: mem::take(&mut self.changes_regions),
            ..Self::new(self.engine)
        }
    }

    /// The changes of all entries that were applied since the last cut.
    pub(crate) fn into_write_batch(mut self) -> WriteBatch {
        self.put_raised_floors();
        self.write_batch
    }

    fn put_raised_floors(&mut self) {
        for (region_id, floor) in self.overlay.raised_floors() {
            self.write_batch.put_cf(
                self.engine.family(Family::RaftState),
                keys::version_floor::key(region_id),
                keys::version_floor::encode(floor),
            );
        }
    }

    fn apply_command(
        &mut self,
        region_id: u64,
        command: &Command,
        values_bytes_left: &mut usize,
    ) -> Outcome {
        if let Err(error) = command.validate() {
            let cause = error.to_string();
            return Outcome::Invalid { cause };
        }
        if let Some((key, expected_version)) = command.expected_version()
            && self.overlay.version(key) != expected_version
        {
            return self.overlay.conflict(key, values_bytes_left);
        }
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
                let version = self.swap(region_id, key, *expected_version, value);
                return Outcome::Swapped { version };
            }
            Command::CompareAndDelete {
                key,
                expected_version,
            } => self.delete_version(region_id, key, *expected_version),
            Command::PutRegion(region) => self.put_region(region.clone()),
        }
        Outcome::Done
    }

    fn put_membership(&mut self, region_id: u64, membership: &RegionMembership) {
        self.put_membership_record(region_id, &membership.record);
        if let Some(region) = self.overlay.region(region_id) {
            let region = RegionDescriptor {
                conf_version: region.conf_version.saturating_add(1),
                peers: membership.peers.clone(),
                ..region.clone()
            };
            self.put_region(region);
        }
    }

    fn put_membership_record(&mut self, region_id: u64, record: &[u8]) {
        let key = keys::membership::key(region_id);
        let family = self.engine.family(Family::RaftState);
        self.write_batch.put_cf(family, key, record);
    }

    fn put_region(&mut self, region: RegionDescriptor) {
        self.write_batch.put_cf(
            self.engine.family(Family::RaftState),
            keys::region::key(region.id),
            keys::region::encode(&region),
        );
        self.overlay.put_region(region);
        self.changes_regions = true;
    }
}
