//! What the page of a store shows beside what it is and has: charts, and what is wrong, in words.

use rdb_proto::findings::{Finding, not_serving_advice, of_space};
use rdb_proto::transport::status::{Reading, Readings};
use rdb_raft::LogFigures;
use rdb_storage::StorageFigures;

use super::{Figures, StoreSource};
use crate::regions::RegionCounts;

/// From this part of the limit on, the queue of writes is told of.
const QUEUE_FULL: f64 = 0.8;

/// The figures that have charts. The script knows their names.
pub(super) fn chart_readings(
    figures: &Figures,
    storage: &StorageFigures,
    log: &LogFigures,
) -> Readings {
    let (reads, writes) = figures.commands.durations();
    let (queued, applying) = figures.proposals.durations();
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

impl StoreSource {
    /// What is wrong with the store, as it can tell by itself.
    pub(super) fn findings(&self, counts: RegionCounts) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Err(cause) = self.health.present() {
            let to_do = not_serving_advice("this store", &cause);
            let what = format!("this store does not serve all of its regions: {cause}");
            findings.push(Finding::alarm(what, to_do));
        } else if counts.without_leader > 0 {
            findings.push(Finding::notice(
                format!("regions of which this store knows no leader: {}", counts.without_leader),
                "look again in ten seconds: they elect one. If they do not, `rdbctl status` tells which stores do not answer",
            ));
        }
        let storage = self.storage.figures();
        findings.extend(of_write_queue(&storage));
        let data = storage.data;
        findings.extend(of_space(
            "this store",
            data.available_bytes,
            data.capacity_bytes,
        ));
        findings
    }
}

fn of_write_queue(storage: &StorageFigures) -> Option<Finding> {
    let (bytes, bytes_max) = (storage.write_queue_bytes, storage.write_queue_bytes_max);
    let is_told = bytes_max > 0 && bytes as f64 >= QUEUE_FULL * bytes_max as f64;
    is_told.then(|| {
        Finding::notice(
            "the queue of writes is nearly full, and clients are told to back off",
            "see below where writes wait: for the log (the disk), or for being applied (the processor, or compactions)",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdb_proto::figures::Histogram;
    use rdb_storage::DatabaseFigures;

    use super::*;

    /// Each with a value that no other has.
    fn storage() -> StorageFigures {
        StorageFigures {
            data: DatabaseFigures {
                compaction_pending_bytes: 1,
                ..DatabaseFigures::default()
            },
            write_queue_bytes: 2,
            write_queue_bytes_max: 3,
            disk_reads: 4,
            cold_writes: 5,
        }
    }

    #[test]
    fn each_chart_shows_its_own_figure() {
        let (figures, log) = (Figures::default(), LogFigures::default());
        let seconds = Duration::from_secs;
        figures.commands.note_reads(seconds(1), 10);
        figures.commands.note_writes(seconds(2), 20);
        figures.proposals.note_proposed(seconds(3), 30);
        figures.proposals.note_committed(seconds(4));
        figures.proposals.note_apply(seconds(5));
        log.commit_durations.note(seconds(6));
        log.commit_entries.note_size(60);
        let durations = |took, count| {
            let histogram = Histogram::of_durations();
            histogram.note_each(seconds(took), count);
            Reading::Durations(histogram.snapshot())
        };
        let level = |value| Reading::Level(Some(value));
        let expected = [
            ("reads", Reading::Count(10)),
            ("writes", Reading::Count(20)),
            ("read_p99", durations(1, 10)),
            ("write_p99", durations(2, 20)),
            ("queued_p99", durations(3, 1)),
            ("sync_p99", durations(6, 1)),
            ("apply_p99", durations(5, 1)),
            ("write_queue_bytes", level(2.0)),
            ("compaction_pending_bytes", level(1.0)),
            ("disk_reads", Reading::Count(4)),
        ];
        assert_eq!(chart_readings(&figures, &storage(), &log), expected);
    }

    #[test]
    fn a_queue_of_writes_is_told_of_once_it_is_nearly_full() {
        let of = |write_queue_bytes, write_queue_bytes_max| {
            of_write_queue(&StorageFigures {
                write_queue_bytes,
                write_queue_bytes_max,
                ..storage()
            })
        };
        assert_eq!((of(79, 100), of(0, 0)), (None, None));
        let told = of(80, 100).expect("it is nearly full");
        assert!(told.what.contains("nearly full"), "{told:?}");
        assert!(told.to_do.contains("where writes wait"), "{told:?}");
    }
}
