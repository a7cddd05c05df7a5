//! FlareDB's local engine: an ordered, durable, versioned key-value store on RocksDB.
//!
//! Usable on its own as an embedded library:
//!
//! ```
//! use rdb_storage::{Error, Role, Storage, StorageOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let storage = Storage::open(directory, StorageOptions::new(Role::Embedded))?;
//! storage.put_raw("k1", "v1")?;
//! assert_eq!(storage.get_raw(b"k1")?.as_deref(), Some(&b"v1"[..]));
//!
//! let version = storage.compare_and_swap("k1", 0, "first")?;
//! assert_eq!(version, 1);
//! let conflict = storage.compare_and_swap("k1", 7, "second").unwrap_err();
//! assert!(matches!(conflict, Error::Conflict { current_version: 1, .. }));
//! storage.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # The two keyspaces
//!
//! *raw* maps a key to a value, last write wins; *versioned* maps a key to a version and a value and is written only by
//! compare-and-swap. They never see each other's keys. [`keys`] has the whole schema on one page.
//!
//! # The one write path
//!
//! Every write is a [`Command`]. Commands are submitted to a queue. One thread takes the queued submissions, applies them to
//! one RocksDB write batch, writes and syncs it once, and completes every submission. The methods of [`Storage`] are thin
//! calls over [`Storage::submit`]. A replicated region is written by [`Storage::apply`] instead, from its log of
//! [`Proposal`]s. The logs of all regions are in one [`LogDatabase`] beside the data. Writes from a log need not also be in
//! the data's write-ahead log.
//!
//! # What is promised
//!
//! - Under [`Durability::Sync`] a completed write is on the disk, and a reader never sees a value that a crash could take
//!   back.
//! - A submission is applied as a whole or not at all, also across a crash.
//! - A key that is deleted and created again never shows a version that it has shown before.
//! - When the disk fails, the write in hand is [`Error::Undetermined`], unless it certainly was not made. Then it is refused
//!   with [`Error::WritesStopped`], like all later writes. Reads go on.
//!
//! # What a crash may leave, and damage
//!
//! This holds for the data and for the [`LogDatabase`] alike.
//!
//! A crash leaves a torn tail of the write-ahead log. Nothing in it was acknowledged, and it is dropped silently. Damage
//! before the tail is refused at open ([`OpenError::Damaged`]), and so is a missing or shortened log that newer ones build
//! on. Some damage to the newest log cannot be told from a torn tail: it was cut off, a length in its last 32 KiB block was
//! flipped, or it is gone while an older log is still there. Then a shorter history is served. It has no hole, with one
//! exception: damage between two opens on a disk too full to flush the replayed writes.
//!
//! What was applied without the write-ahead log is there up to the last flush ([`Storage::flushed`]), and is applied again from
//! the region's log.
//!
//! Under [`Durability::Os`] a power cut takes the ends of logs; it may take the end of one log and keep the next. Each log
//! notes where the one before ends, so the replay stops there, and what is served is a prefix of the writes. This relies on the
//! file system: the lost part of a file must not read as zeros from the beginning of a record to the end of a 32 KiB block.
//!
//! A truncated table file is refused at open. A damaged one is found when one of its blocks is read: [`Error::DataLoss`],
//! never wrong data. A write that has to read such a block stops writes to its region, a compaction stops all writes.

#![forbid(unsafe_code)]

mod applied;
mod apply;
mod checksum;
mod command;
mod database;
mod durable_file;
mod engine;
mod error;
mod figures;
mod identity;
mod info_log;
pub mod keys;
pub mod limits;
mod log_database;
mod log_entry;
mod logs;
mod options;
mod proposal;
mod read;
mod reader;
mod region;
mod repair;
mod reserve;
mod scan;
mod snapshot;
mod storage;
mod stride;
mod view;
mod writer;

pub use applied::AppliedState;
pub use checksum::RegionChecksum;
pub use command::{Command, Outcome};
pub use database::DatabaseKind;
pub use durable_file::{remove_file, replace_file};
pub use error::{Error, Fate, OpenError, is_damage, remedy};
pub use figures::DatabaseFigures;
pub use identity::{Identity, Role, random_id};
pub use log_database::{LogBatch, LogDatabase};
pub use log_entry::{ApplyOptions, LogChange, LogEntry, RegionMembership};
pub use options::{Durability, StorageOptions, WalRecovery};
pub use proposal::Proposal;
pub use read::{PointRead, PointValue, Versioned, validate_keys};
pub use reader::Reader;
pub use region::{PeerDescriptor, RegionDescriptor};
pub use repair::{Cut, LogDamage, Repair};
pub use scan::{KeyValue, Page, ScanRange, VersionedKeyValue};
pub use snapshot::{IncomingRegion, ReceivedRegion, RegionSnapshot};
pub use storage::{Storage, StorageFigures, StorageStats, UnfinishedInstall};
pub use view::RegionView;
pub use writer::{
    Admitted, NotWarmed, PendingWrite, Submission, WriteHealth, WriteRoom, WriteShare,
};
