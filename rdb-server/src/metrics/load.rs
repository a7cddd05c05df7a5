//! What a store has done lately, as its heartbeats tell it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdb_proto::figures::HistogramSnapshot;
use rdb_proto::metapb::StoreLoad;
use rdb_storage::Storage;

use super::Figures;

/// The shortest time that a load is of. Heartbeats that follow each other faster tell the same again.
const WINDOW_MIN: Duration = Duration::from_millis(900);

/// Makes the load for one heartbeat after the other, each of the time since the one before.
pub(crate) struct LoadMeter {
    figures: Arc<Figures>,
    storage: Storage,
    /// What the next load is since.
    began: Instant,
    reads: HistogramSnapshot,
    writes: HistogramSnapshot,
    /// The last one.
    load: Option<StoreLoad>,
}

impl LoadMeter {
    /// Begins now.
    pub(crate) fn new(figures: Arc<Figures>, storage: Storage) -> Self {
        let (reads, writes) = figures.commands.durations();
        Self {
            figures,
            storage,
            began: Instant::now(),
            reads,
            writes,
            load: None,
        }
    }

    /// The load for a heartbeat that is made `now`. `None`: it is too early to tell.
    pub(crate) fn take(&mut self, now: Instant) -> Option<StoreLoad> {
        let window = now.saturating_duration_since(self.began);
        if window >= WINDOW_MIN {
            let (reads, writes) = self.figures.commands.durations();
            let (before_reads, before_writes) = (&self.reads, &self.writes);
            let (read, written) = (reads.since(before_reads), writes.since(before_writes));
            let storage = self.storage.figures();
            self.load = Some(StoreLoad {
                window_ms: window.as_millis() as u64,
                reads: read.count(),
                writes: written.count(),
                read_p99_us: p99_us(&read),
                write_p99_us: p99_us(&written),
                write_queue_bytes: storage.write_queue_bytes,
                write_queue_bytes_max: storage.write_queue_bytes_max,
            });
            (self.began, self.reads, self.writes) = (now, reads, writes);
        }
        self.load
    }
}

fn p99_us(durations: &HistogramSnapshot) -> Option<u64> {
    let seconds = durations.quantile(0.99)?;
    Some((seconds * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use rdb_storage::{Role, StorageOptions};

    use super::*;

    #[test]
    fn a_load_is_of_the_time_since_the_last_one() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let options = StorageOptions::new(Role::Server);
        let storage = Storage::open(directory.path(), options).expect("it is new");
        let figures = Arc::new(Figures::default());
        let mut meter = LoadMeter::new(Arc::clone(&figures), storage);
        let began = meter.began;
        assert_eq!(meter.take(began), None, "it has only just begun");
        let commands = &figures.commands;
        commands.note_reads(Duration::from_micros(80), 100);
        commands.note_writes(Duration::from_millis(4), 1);
        let load = meter.take(began + Duration::from_secs(2)).expect("a load");
        assert_eq!((load.window_ms, load.reads, load.writes), (2000, 100, 1));
        assert!(load.read_p99_us.is_some_and(|us| us <= 100), "{load:?}");
        assert!(load.write_p99_us.is_some_and(|us| us > 2000), "{load:?}");
        commands.note_reads(Duration::from_micros(80), 1);
        let soon = meter.take(began + Duration::from_millis(2500));
        assert_eq!(soon, Some(load), "the time is too short for another");
        let later = meter.take(began + Duration::from_secs(4)).expect("a load");
        assert_eq!((later.reads, later.writes), (1, 0));
        assert_eq!(later.write_p99_us, None);
    }
}
