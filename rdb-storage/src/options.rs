//! Settings of a storage.

use std::fmt;
use std::str::FromStr;

use crate::error::OpenError;
use crate::identity::Role;
use crate::limits::BATCH_BYTES_MAX;

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A write is answered after its bytes are synced to the disk.
    #[default]
    Sync,
    /// After its bytes reached the operating system. A crash of the process loses nothing. After a power cut the next open
    /// serves a prefix of the writes, in the order that they were applied in: the last ones are lost, acknowledged ones among
    /// them. RocksDB cannot tell damage to a log from such a loss. So an open with this setting drops what comes behind the
    /// damage, with a warning. An open with [`Sync`](Self::Sync) refuses anything but a torn tail.
    Os,
}

impl fmt::Display for Durability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sync => "sync",
            Self::Os => "os",
        })
    }
}

impl FromStr for Durability {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sync" => Ok(Self::Sync),
            "os" => Ok(Self::Os),
            _ => Err("expected sync or os"),
        }
    }
}

/// What to do about a damaged write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WalRecovery {
    /// Drop a torn tail, refuse any other damage.
    #[default]
    Strict,
    /// Keep what comes before the damage and **drop every write after it**, acknowledged ones among them. For one
    /// deliberate open, when there is no other copy.
    PointInTime,
}

/// Settings of a [`Storage`](crate::Storage).
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// Whose directory this is.
    pub role: Role,
    /// Whether the owner keeps logs of replicated regions, see [`Storage::open_log`](crate::Storage::open_log). Any other
    /// owner is refused a directory that has a log database: the last writes may be in there only.
    pub replicated: bool,
    /// When a write counts as done.
    pub durability: Durability,
    /// What to do about a damaged write-ahead log.
    pub wal_recovery: WalRecovery,
    /// Size of the block cache that all column families share, in bytes.
    pub block_cache_bytes: usize,
    /// Size of one memtable of the data column families, in bytes.
    pub write_buffer_bytes: usize,
    /// Total size of write-ahead logs above which RocksDB flushes memtables, in bytes. Start-up replays up to that much. The
    /// same limit holds for what is applied without the write-ahead log, and is applied again after a start.
    pub wal_bytes_max: u64,
    /// Most bytes of submissions that wait for the writer or are in its hand; above, a submission is refused as busy. Once there are
    /// several regions, each gets at most half of what the others leave.
    pub write_queue_bytes_max: usize,
    /// Most bytes of submissions that the writer applies as one RocksDB batch.
    pub write_batch_bytes_max: usize,
    /// Most point and multi-key reads that wait for the disk at a time.
    pub disk_reads_max: usize,
    /// Most reads that wait for one of those places or have one; above, a read is refused as busy.
    pub disk_reads_queued_max: usize,
    /// Most scans that run at a time.
    pub scans_max: usize,
    /// Most scans that wait for one of those places or have one; above, a scan is refused as busy.
    pub scans_queued_max: usize,
    /// Disk space held back so that a full disk can still be opened and cleaned, in bytes. At most a twentieth of the
    /// file system is taken.
    pub disk_reserve_bytes: u64,
}

/// More reads than any caller can wait for.
const QUEUED_READS_MAX: usize = 1 << 20;

impl StorageOptions {
    /// The defaults, for a directory of `role`.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            replicated: false,
            durability: Durability::default(),
            wal_recovery: WalRecovery::default(),
            block_cache_bytes: 256 << 20,
            write_buffer_bytes: 64 << 20,
            wal_bytes_max: 256 << 20,
            write_queue_bytes_max: 64 << 20,
            write_batch_bytes_max: 8 << 20,
            disk_reads_max: 16,
            disk_reads_queued_max: 1024,
            scans_max: 8,
            scans_queued_max: 1024,
            disk_reserve_bytes: 32 << 20,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        let require = |holds: bool, setting, value: usize, problem| {
            let value = value as u64;
            let refusal = OpenError::InvalidOption {
                setting,
                value,
                problem,
            };
            holds.then_some(()).ok_or(refusal)
        };
        require(
            self.write_queue_bytes_max >= BATCH_BYTES_MAX + (2 << 20),
            "write_queue_bytes_max",
            self.write_queue_bytes_max,
            "it has to hold the largest message, 8388608 bytes",
        )?;
        require(
            self.write_buffer_bytes >= 64 << 10,
            "write_buffer_bytes",
            self.write_buffer_bytes,
            "a memtable has at least 65536 bytes",
        )?;
        require(
            self.write_batch_bytes_max > 0,
            "write_batch_bytes_max",
            self.write_batch_bytes_max,
            "the writer would never take anything",
        )?;
        let (reads, scans) = (self.disk_reads_queued_max, self.scans_queued_max);
        for (running, running_max, queued, queued_max) in [
            (
                "disk_reads_max",
                self.disk_reads_max,
                "disk_reads_queued_max",
                reads,
            ),
            ("scans_max", self.scans_max, "scans_queued_max", scans),
        ] {
            let problem = "so many waiting reads would never be served; at most 1048576";
            require(queued_max <= QUEUED_READS_MAX, queued, queued_max, problem)?;
            let runs = (1..=queued_max).contains(&running_max);
            let problem = "at least 1 has to run, and as many have to be able to wait";
            require(runs, running, running_max, problem)?;
        }
        Ok(())
    }
}
