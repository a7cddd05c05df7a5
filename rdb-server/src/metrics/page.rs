//! What the page of a store shows beside what it is and has: charts, and what is wrong, in words.

use rdb_proto::findings::{Finding, not_serving_advice, of_space};
use rdb_proto::transport::status::{Reading, Readings};

use super::StoreSource;
use crate::regions::RegionCounts;

/// From this part of the limit on, the queue of writes is told of.
const QUEUE_FULL: f64 = 0.8;

impl StoreSource {
    /// The figures that have charts. The script knows their names.
    pub(super) fn chart_readings(&self) -> Readings {
        let (reads, writes) = self.figures.commands.durations();
        let (queued, applying) = self.figures.proposals.durations();
        let storage = self.storage.figures();
        let log = self.regions.log_figures();
        vec![
            ("reads", Reading::Count(reads.count())),
            ("writes", Reading::Count(writes.count())),
            ("read_p99", Reading::Durations(reads)),
            ("write_p99", Reading::Durations(writes)),
            ("queued_p99", Reading::Durations(queued)),
            (
                "sync_p99",
                Reading::Durations(log.commit_durations.snapshot()),
            ),
            ("apply_p99", Reading::Durations(applying)),
            (
                "write_queue_bytes",
                Reading::Level(Some(storage.write_queue_bytes as f64)),
            ),
            (
                "compaction_pending_bytes",
                Reading::Level(Some(storage.data.compaction_pending_bytes as f64)),
            ),
            ("disk_reads", Reading::Count(storage.disk_reads)),
        ]
    }

    /// What is wrong with the store, as it can tell by itself.
    pub(super) fn findings(&self, counts: RegionCounts) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Err(cause) = self.health.present() {
            let to_do = if counts.without_leader > 0 {
                "look again in ten seconds: regions elect their leaders. If they do not, `rdbctl status` tells which stores do not \
                 answer, and the log of this store why"
                    .to_owned()
            } else {
                not_serving_advice("this store", &cause)
            };
            let what = format!("this store does not serve all of its regions: {cause}");
            findings.push(Finding::alarm(what, to_do));
        } else if counts.without_leader > 0 {
            findings.push(Finding::notice(
                format!("regions of which this store knows no leader: {}", counts.without_leader),
                "look again in ten seconds: they elect one. If they do not, `rdbctl status` tells which stores do not answer",
            ));
        }
        let storage = self.storage.figures();
        let (queued, queued_max) = (storage.write_queue_bytes, storage.write_queue_bytes_max);
        if queued_max > 0 && queued as f64 >= QUEUE_FULL * queued_max as f64 {
            findings.push(Finding::notice(
                "the queue of writes is nearly full, and clients are told to back off",
                "see below where writes wait: for the log (the disk), or for being applied (the processor, or compactions)",
            ));
        }
        let data = storage.data;
        findings.extend(of_space(
            "this store",
            data.available_bytes,
            data.capacity_bytes,
        ));
        findings
    }
}
