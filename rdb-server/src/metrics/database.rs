//! The names of what the storage and its two RocksDBs count.

use std::fmt;

use rdb_proto::transport::status::{Exposition, Labels};
use rdb_storage::{DatabaseFigures, StorageFigures};

type Both<'a> = [(Labels<'static>, &'a DatabaseFigures); 2];

/// Writes the figures of a storage, and of the database of its logs.
pub(super) fn write_to(
    storage: &StorageFigures,
    log: &DatabaseFigures,
    exposition: &mut Exposition<'_>,
) -> fmt::Result {
    exposition.gauge(
        "flaredb_write_queue_bytes",
        "Bytes of writes that wait or are being applied.",
        storage.write_queue_bytes as f64,
    )?;
    exposition.gauge(
        "flaredb_write_queue_limit_bytes",
        "Bytes of writes from which on clients are told to back off.",
        storage.write_queue_bytes_max as f64,
    )?;
    exposition.counter(
        "flaredb_disk_reads_total",
        "Reads that went to a thread for blocking work, since their data was not in memory or was large.",
        storage.disk_reads,
    )?;
    exposition.counter(
        "flaredb_cold_writes_total",
        "Times that a write had to wait until its keys were read into memory.",
        storage.cold_writes,
    )?;
    exposition.gauge(
        "flaredb_disk_capacity_bytes",
        "Size of the file system of the data directory.",
        storage.data.capacity_bytes as f64,
    )?;
    exposition.gauge(
        "flaredb_disk_available_bytes",
        "Free bytes of the file system of the data directory.",
        storage.data.available_bytes as f64,
    )?;
    let both: Both<'_> = [
        (&[("database", "data")], &storage.data),
        (&[("database", "raft_log")], log),
    ];
    write_counts(&both, exposition)?;
    write_sizes(&both, exposition)
}

fn write_counts(both: &Both<'_>, exposition: &mut Exposition<'_>) -> fmt::Result {
    type Count = (&'static str, &'static str, fn(&DatabaseFigures) -> u64);
    const COUNTS: [Count; 8] = [
        (
            "flaredb_rocksdb_wal_syncs_total",
            "Syncs of the write-ahead log.",
            |figures| figures.wal_syncs,
        ),
        (
            "flaredb_rocksdb_wal_bytes_total",
            "Bytes written to the write-ahead log.",
            |figures| figures.wal_bytes,
        ),
        (
            "flaredb_rocksdb_block_cache_hits_total",
            "Blocks that reads found in the block cache.",
            |figures| figures.block_cache_hits,
        ),
        (
            "flaredb_rocksdb_block_cache_misses_total",
            "Blocks that reads had to get from a file.",
            |figures| figures.block_cache_misses,
        ),
        (
            "flaredb_rocksdb_flushed_bytes_total",
            "Bytes that flushes of memtables have written.",
            |figures| figures.flushed_bytes,
        ),
        (
            "flaredb_rocksdb_compaction_read_bytes_total",
            "Bytes that compactions have read.",
            |figures| figures.compaction_read_bytes,
        ),
        (
            "flaredb_rocksdb_compaction_written_bytes_total",
            "Bytes that compactions have written.",
            |figures| figures.compaction_written_bytes,
        ),
        (
            "flaredb_rocksdb_background_errors_total",
            "Flushes and compactions that failed. Each stops writes until the next start. Other causes of that are not counted here.",
            |figures| figures.background_errors,
        ),
    ];
    for (name, help, of) in COUNTS {
        let values = both.iter().map(|(labels, figures)| (*labels, of(figures)));
        exposition.counters(name, help, values)?;
    }
    let stalled = both.iter();
    exposition.counters_of_seconds(
        "flaredb_rocksdb_stalled_seconds_total",
        "How long writes were held back by flushes and compactions, added up over all writes.",
        stalled.map(|(labels, figures)| (*labels, figures.stalled.as_secs_f64())),
    )
}

fn write_sizes(both: &Both<'_>, exposition: &mut Exposition<'_>) -> fmt::Result {
    type Size = (&'static str, &'static str, fn(&DatabaseFigures) -> u64);
    const SIZES: [Size; 5] = [
        (
            "flaredb_rocksdb_memtable_bytes",
            "Size of all memtables, up to three seconds ago.",
            |figures| figures.memtable_bytes,
        ),
        (
            "flaredb_rocksdb_memtables_to_flush",
            "Memtables that wait to be flushed, up to three seconds ago.",
            |figures| figures.memtables_to_flush,
        ),
        (
            "flaredb_rocksdb_block_cache_bytes",
            "Size of what is in the block cache, up to three seconds ago.",
            |figures| figures.block_cache_bytes,
        ),
        (
            "flaredb_rocksdb_table_bytes",
            "Size of the table files, up to three seconds ago.",
            |figures| figures.table_bytes,
        ),
        (
            "flaredb_rocksdb_compaction_pending_bytes",
            "Bytes that compactions have to rewrite, as RocksDB estimates, up to three seconds ago.",
            |figures| figures.compaction_pending_bytes,
        ),
    ];
    for (name, help, of) in SIZES {
        let values = both.iter();
        let values = values.map(|(labels, figures)| (*labels, of(figures) as f64));
        exposition.gauges(name, help, values)?;
    }
    Ok(())
}
