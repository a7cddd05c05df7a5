//! The names of what the storage counts beside RocksDB.

use std::fmt;

use rdb_proto::transport::status::Exposition;
use rdb_storage::StorageFigures;

pub(super) fn write_to(storage: &StorageFigures, exposition: &mut Exposition<'_>) -> fmt::Result {
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
    )
}
