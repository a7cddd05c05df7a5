//! The names of what the groups of a store and the writer of their logs count.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use rdb_proto::transport::status::{Exposition, Labels};
use rdb_raft::{LogFigures, NodeFigures};

use crate::regions::RegionCounts;

const SENT: Labels<'_> = &[("direction", "sent")];
const RECEIVED: Labels<'_> = &[("direction", "received")];

pub(super) fn write_to(
    regions: RegionCounts,
    node: &NodeFigures,
    snapshots_sent: u64,
    log: &LogFigures,
    exposition: &mut Exposition<'_>,
) -> fmt::Result {
    exposition.gauge(
        "flaredb_regions",
        "Regions that this store holds, also those that wait for their data, are leaving, or are left out.",
        regions.held as f64,
    )?;
    exposition.gauge(
        "flaredb_regions_led",
        "Regions that this store leads.",
        regions.led as f64,
    )?;
    exposition.gauge(
        "flaredb_regions_without_leader",
        "Regions of which this store knows no leader. Those that wait for their data are not among them.",
        regions.without_leader as f64,
    )?;
    exposition.counter(
        "flaredb_raft_leader_changes_total",
        "Times that a region got a leader, or the same one in another term, as this store learned of it.",
        node.leader_changes.get(),
    )?;
    exposition.counters(
        "flaredb_raft_snapshots_total",
        "Snapshots of regions that were sent to other stores, or received, and installed.",
        [
            (SENT, snapshots_sent),
            (RECEIVED, node.snapshots_received.get()),
        ],
    )?;
    exposition.gauge(
        "flaredb_raft_log_queue_bytes",
        "About how many bytes of changes of the Raft log wait to be written or are being written.",
        log.unwritten_bytes.load(Relaxed) as f64,
    )?;
    exposition.histogram(
        "flaredb_raft_log_sync_duration_seconds",
        "How long each batch of the Raft log took to be written and synced.",
        &log.commit_durations.snapshot(),
    )?;
    exposition.histogram(
        "flaredb_raft_log_sync_entries",
        "Log entries that one sync made durable, of those that had any.",
        &log.commit_entries.snapshot(),
    )?;
    exposition.counter(
        "flaredb_raft_log_written_bytes_total",
        "About how many bytes of changes were written to the Raft log.",
        log.bytes.get(),
    )
}
