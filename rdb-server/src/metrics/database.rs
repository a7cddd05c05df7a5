//! The names of what RocksDB counts. Both servers show the same, so `rdb-pd` includes this file: no crate that they share knows both
//! RocksDB and metrics.

use std::fmt;

use rdb_proto::transport::status::{Exposition, Labels};
use rdb_storage::DatabaseFigures;

const DATA: Labels<'_> = &[("database", "data")];
const RAFT_LOG: Labels<'_> = &[("database", "raft_log")];

type Databases<'a> = [(Labels<'static>, &'a DatabaseFigures)];

/// Writes the figures of the database of the data, and of that of the Raft log if there is one.
pub(super) fn write_to(
    data: &DatabaseFigures,
    log: Option<&DatabaseFigures>,
    exposition: &mut Exposition<'_>,
) -> fmt::Result {
    exposition.gauge(
        "flaredb_disk_capacity_bytes",
        "Size of the file system of the data directory.",
        data.capacity_bytes as f64,
    )?;
    exposition.gauge(
        "flaredb_disk_available_bytes",
        "Free bytes of the file system of the data directory.",
        data.available_bytes as f64,
    )?;
    let log = log.map(|log| (RAFT_LOG, log));
    let databases: Vec<_> = [(DATA, data)].into_iter().chain(log).collect();
    write_counts(&databases, exposition)?;
    write_sizes(&databases, exposition)
}

fn write_counts(databases: &Databases<'_>, exposition: &mut Exposition<'_>) -> fmt::Result {
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
        let values = databases
            .iter()
            .map(|(labels, figures)| (*labels, of(figures)));
        exposition.counters(name, help, values)?;
    }
    let stalled = databases.iter();
    exposition.counters_of_seconds(
        "flaredb_rocksdb_stalled_seconds_total",
        "How long writes were held back by flushes and compactions, added up over all writes.",
        stalled.map(|(labels, figures)| (*labels, figures.stalled.as_secs_f64())),
    )
}

fn write_sizes(databases: &Databases<'_>, exposition: &mut Exposition<'_>) -> fmt::Result {
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
        let values = databases.iter();
        let values = values.map(|(labels, figures)| (*labels, of(figures) as f64));
        exposition.gauges(name, help, values)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdb_proto::transport::status::metrics_text;

    use super::*;

    /// Each with a value that no other has.
    fn figures(base: u64) -> DatabaseFigures {
        DatabaseFigures {
            wal_syncs: base + 1,
            wal_bytes: base + 2,
            block_cache_hits: base + 3,
            block_cache_misses: base + 4,
            stalled: Duration::from_millis(base * 1_000 + 500),
            flushed_bytes: base + 5,
            compaction_read_bytes: base + 6,
            compaction_written_bytes: base + 7,
            memtable_bytes: base + 8,
            memtables_to_flush: base + 9,
            block_cache_bytes: base + 10,
            table_bytes: base + 11,
            compaction_pending_bytes: base + 12,
            background_errors: base + 13,
            capacity_bytes: base + 14,
            available_bytes: base + 15,
        }
    }

    #[test]
    fn each_figure_is_shown_under_its_own_name_and_database() {
        let (data, log) = (figures(100), figures(200));
        let text = metrics_text(move |exposition| write_to(&data, Some(&log), exposition));
        let text = text.expect("a string takes all");
        let mut lines = vec![
            "flaredb_disk_capacity_bytes 114".to_owned(),
            "flaredb_disk_available_bytes 115".to_owned(),
        ];
        for (database, base) in [("data", 100), ("raft_log", 200)] {
            let of = format!("{{database=\"{database}\"}}");
            let stalled = format!("flaredb_rocksdb_stalled_seconds_total{of} {base}.5");
            lines.push(stalled);
            for (name, number) in [
                ("wal_syncs_total", 1),
                ("wal_bytes_total", 2),
                ("block_cache_hits_total", 3),
                ("block_cache_misses_total", 4),
                ("flushed_bytes_total", 5),
                ("compaction_read_bytes_total", 6),
                ("compaction_written_bytes_total", 7),
                ("memtable_bytes", 8),
                ("memtables_to_flush", 9),
                ("block_cache_bytes", 10),
                ("table_bytes", 11),
                ("compaction_pending_bytes", 12),
                ("background_errors_total", 13),
            ] {
                lines.push(format!("flaredb_rocksdb_{name}{of} {}", base + number));
            }
        }
        for line in lines {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_server_without_a_raft_log_shows_its_data_only() {
        let data = figures(100);
        let text = metrics_text(move |exposition| write_to(&data, None, exposition));
        let text = text.expect("a string takes all");
        assert!(text.contains("{database=\"data\"}"), "{text}");
        assert!(!text.contains("raft_log"), "{text}");
    }
}
