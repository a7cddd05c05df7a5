use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::super::queue::WARMINGS_MAX;
use super::super::{Admitted, PendingWrite, Submission, WriteShare};
use super::*;
use crate::applied::applied_position;
use crate::apply::{Entry, INLINE_READ_BYTES};
use crate::command::{Command, Outcome};
use crate::engine::Family;
use crate::identity::Role;
use crate::keys::{self, versioned::encode};
use crate::log_entry::{ApplyOptions, LogChange, LogEntry};
use crate::proposal::Proposal;
use crate::region::RegionDescriptor;

/// A storage whose thread does not run.
struct Stopped {
    worker: Worker,
    share: Arc<WriteShare>,
    _directory: tempfile::TempDir,
}

impl Stopped {
    fn new(block_cache_bytes: usize) -> Self {
        let (directory, engine) = Engine::temporary(block_cache_bytes);
        let options = StorageOptions::new(Role::Embedded);
        Self {
            worker: Worker::new(engine, &options),
            share: WriteShare::of_queue(options.write_queue_bytes_max),
            _directory: directory,
        }
    }

    fn submit(&self, commands: Vec<Command>) -> PendingWrite {
        self.queue(Submission::new(1, commands))
    }

    fn queue(&self, submission: Submission) -> PendingWrite {
        let payload_bytes = submission.payload_bytes();
        let room = self.share.take(1, 1).unwrap();
        let admitted = Admitted::new(submission, payload_bytes, room);
        let (queued, pending) = Queued::new(admitted);
        self.worker.queue.push(queued).unwrap();
        pending
    }

    fn commit<'a>(&'a self, slow: &mut Option<Slow<'a>>) {
        let taken = self.worker.queue.take(Duration::ZERO);
        self.worker.commit(taken.unwrap(), slow);
    }
}

/// The thread starts late here, as if it had waited for the disk: what is queued by then does not wait again.
#[test]
fn what_is_queued_while_the_writer_is_busy_is_synced_once_and_answered_each() {
    const SUBMISSIONS: usize = 64;
    let storage = Stopped::new(8 << 20);
    let submit = |number: usize| {
        let (key, value) = (number.to_string().into(), "v".into());
        storage.submit(vec![Command::PutRaw { key, value }])
    };
    let pending: Vec<_> = (0..SUBMISSIONS).map(submit).collect();
    let engine = Arc::clone(&storage.worker.engine);
    let syncs_before = engine.database.wal_sync_count();
    storage.worker.queue.close();
    storage.worker.run();
    assert_eq!(engine.database.wal_sync_count() - syncs_before, 1);
    for pending in pending {
        assert_eq!(pending.wait().unwrap().len(), 1);
    }
}

/// RocksDB may try for ever to get space on a full disk. Here it is a compaction that never comes.
#[test]
fn a_write_that_rocksdb_holds_back_is_not_made_when_writing_has_ended() {
    let storage = Stopped::new(8 << 20);
    let engine = &storage.worker.engine;
    engine.database.put("flushed", "v").unwrap();
    engine.database.flush().unwrap();
    let options = [
        ("level0_file_num_compaction_trigger", "100"),
        ("level0_slowdown_writes_trigger", "1"),
        ("level0_stop_writes_trigger", "1"),
    ];
    let family = engine.family(Family::Raw);
    engine.database.set_options_cf(family, &options).unwrap();
    let cause = "the disk is full".to_owned();
    storage.worker.health.stop(cause.clone());
    for write_ahead_log in [Some(Durability::Os), None] {
        let mut batch = Batch::new(engine);
        batch.put_position(1, b"position");
        let written = storage.worker.write(batch, write_ahead_log, true);
        let cause = cause.clone();
        assert_eq!(written, Err(Error::WritesStopped { cause }));
    }
    assert_eq!(applied_position(engine, 1), Ok(None));
}

#[test]
fn a_write_without_the_write_ahead_log_that_meets_a_failed_flush_was_not_made() {
    let storage = Stopped::new(8 << 20);
    let engine = &storage.worker.engine;
    let files = engine.directory().path().join("db");
    // Where there is a directory, RocksDB can make no table.
    for number in 1..100 {
        std::fs::create_dir(files.join(format!("{number:06}.sst"))).unwrap();
    }
    engine.database.put("k", "v").unwrap();
    engine.database.flush().unwrap_err();
    let write = |write_ahead_log, may_wait| {
        let mut batch = Batch::new(engine);
        batch.put_position(1, b"position");
        storage.worker.write(batch, write_ahead_log, may_wait)
    };
    for may_wait in [false, true] {
        let refused = write(None, may_wait).unwrap_err();
        let Error::WritesStopped { cause } = &refused else {
            panic!("{refused:?}");
        };
        assert!(cause.contains(".sst"), "{cause}");
        assert!(storage.worker.health.is_stopped());
        assert_eq!(applied_position(engine, 1), Ok(None));
    }
    let logged = write(Some(Durability::Sync), false).unwrap_err();
    assert!(matches!(logged, Error::Undetermined { .. }), "{logged:?}");
}

#[test]
fn an_epoch_is_read_once_until_it_changes() {
    let storage = Stopped::new(8 << 20);
    let region = |version| RegionDescriptor {
        id: 1,
        start_key: Bytes::new(),
        end_key: Bytes::new(),
        conf_version: 1,
        version,
        peers: Vec::new(),
    };
    let commit = |submission: Submission| {
        let pending = storage.queue(submission);
        storage.commit(&mut None);
        pending.wait().unwrap().remove(0)
    };
    let put_region = |version| Submission::new(1, vec![Command::PutRegion(region(version))]);
    let delete = || {
        let key = "k".into();
        Submission::new(1, vec![Command::DeleteRaw { key }]).under_epoch(3)
    };
    commit(put_region(3));
    assert_eq!(commit(delete()), Outcome::Done);
    // Past the writer: only a read of the database would see it.
    let engine = &storage.worker.engine;
    let (key, record) = (keys::region::key(1), keys::region::encode(&region(9)));
    let family = engine.family(Family::RaftState);
    engine.database.put_cf(family, key, record).unwrap();
    assert_eq!(commit(delete()), Outcome::Done);
    commit(put_region(4));
    let current_version = 4;
    assert_eq!(commit(delete()), Outcome::EpochChanged { current_version });
}

#[test]
fn values_that_do_not_stay_in_memory_are_read_a_few_at_a_time_between_other_writes() {
    const KEYS: usize = 8;
    let storage = Stopped::new(64 << 10);
    let engine = &storage.worker.engine;
    let mut random = fastrand::Rng::with_seed(1);
    let mut value = vec![0; 1 << 20];
    for number in 0..KEYS {
        random.fill(&mut value);
        let family = engine.family(Family::Versioned);
        let record = encode(1, &value);
        engine
            .database
            .put_cf(family, number.to_string(), record)
            .unwrap();
    }
    engine.database.flush().unwrap();

    // This one stays in the memtable.
    let family = engine.family(Family::Versioned);
    engine
        .database
        .put_cf(family, "warm", encode(1, b""))
        .unwrap();

    let swap = |key: String| Command::CompareAndSwap {
        key: key.into(),
        expected_version: 1,
        value: "new".into(),
    };
    let keys = (0..KEYS).map(|number| number.to_string());
    let keys = std::iter::once("warm".to_owned()).chain(keys);
    let mut slow = None;
    let mut all = storage.submit(keys.map(swap).collect());
    for _ in 0..WARMINGS_MAX {
        storage.commit(&mut slow);
        assert!(slow.is_none(), "it is to be warmed");
        assert!(storage.worker.warmer.warm_next());
    }
    storage.commit(&mut slow);
    storage.commit(&mut slow);
    assert!(slow.is_some(), "it is being read");
    let other = storage.submit(vec![swap("warm".to_owned())]);
    storage.commit(&mut slow);
    assert_eq!(other.wait().unwrap(), [Outcome::Swapped { version: 2 }]);

    let mut rounds = 0;
    let outcomes = loop {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut all).poll(&mut context) {
            Poll::Ready(outcomes) => break outcomes.unwrap(),
            Poll::Pending => storage.commit(&mut slow),
        }
        rounds += 1;
    };
    assert!(rounds >= KEYS - 3, "{rounds}");
    let overtaken = Outcome::Conflict {
        current_version: 2,
        current_value: Some("new".into()),
    };
    assert_eq!(outcomes[0], overtaken);
    assert_eq!(outcomes[1..], vec![Outcome::Swapped { version: 2 }; KEYS]);
}

/// The values are in memory: the first take would read all of them.
#[test]
fn a_batch_takes_no_more_when_it_has_read_much() {
    let storage = Stopped::new(8 << 20);
    let record = encode(1, &vec![b'v'; 4 << 20]);
    let engine = &storage.worker.engine;
    let family = engine.family(Family::Versioned);
    let swap = |number: u32| {
        let key = number.to_string();
        engine.database.put_cf(family, &key, &record).unwrap();
        storage.submit(vec![Command::CompareAndSwap {
            key: key.into(),
            expected_version: 1,
            value: "new".into(),
        }])
    };
    let pending: Vec<_> = (0..6).map(swap).collect();
    storage.commit(&mut None);
    assert_eq!(storage.worker.queue.take(Duration::ZERO).unwrap().len(), 2);
    for pending in pending.into_iter().take(4) {
        assert_eq!(pending.wait().unwrap(), [Outcome::Swapped { version: 2 }]);
    }
}

fn log_entry(position: usize, commands: Vec<Command>) -> LogEntry {
    LogEntry {
        position: position.to_string().into(),
        change: LogChange::Proposal(Proposal {
            epoch_version: 0,
            commands,
        }),
    }
}

#[test]
fn an_apply_that_may_not_block_reads_a_key_once_and_no_more_than_its_limit() {
    let storage = Stopped::new(8 << 20);
    let engine = &storage.worker.engine;
    let record = encode(1, &vec![b'v'; INLINE_READ_BYTES]);
    for key in ["a", "b"] {
        let family = engine.family(Family::Versioned);
        engine.database.put_cf(family, key, &record).unwrap();
    }
    let swap = |key: &'static str, expected_version| Command::CompareAndSwap {
        key: key.into(),
        expected_version,
        value: "new".into(),
    };
    let apply = |commands, may_block| {
        let entries = [log_entry(1, commands)];
        let options = ApplyOptions::default();
        storage.worker.apply(1, &entries, options, may_block)
    };
    let stale = Outcome::Conflict {
        current_version: 1,
        current_value: None,
    };
    assert_eq!(
        apply(vec![swap("a", 7); 4096], false),
        Ok(Some(vec![vec![stale; 4096]]))
    );
    let both = || vec![swap("a", 1), swap("b", 1)];
    assert_eq!(apply(both(), false), Ok(None));
    let swapped = Outcome::Swapped { version: 2 };
    assert_eq!(apply(both(), true), Ok(Some(vec![vec![swapped; 2]])));
}

/// Each write batch is synced once.
#[test]
fn an_apply_of_many_range_deletes_is_cut_between_entries() {
    let storage = Stopped::new(8 << 20);
    let engine = &storage.worker.engine;
    let delete = Command::DeleteRangeRaw {
        start_key: "k".into(),
        end_key: Bytes::new(),
    };
    // The last one deletes nothing, so that the last two keys stay.
    let range_deletes = [32, 32, 1, 100, 0];
    let entries = range_deletes.iter().enumerate();
    let entries = entries.map(|(number, count)| {
        let mut commands = vec![delete.clone(); *count];
        commands.push(Command::PutRaw {
            key: format!("k{number}").into(),
            value: "v".into(),
        });
        log_entry(number, commands)
    });
    let entries: Vec<_> = entries.collect();
    let options = ApplyOptions {
        write_ahead_log: Some(Durability::Sync),
        ..ApplyOptions::default()
    };
    let apply = |may_block| storage.worker.apply(1, &entries, options, may_block);
    assert_eq!(apply(false), Ok(None));
    assert_eq!(applied_position(engine, 1), Ok(None));

    let syncs_before = engine.database.wal_sync_count();
    let outcomes = apply(true).unwrap().unwrap();
    assert_eq!(engine.database.wal_sync_count() - syncs_before, 4);
    let counts: Vec<_> = outcomes.iter().map(|of_entry| of_entry.len() - 1).collect();
    assert_eq!(counts, range_deletes);
    assert_eq!(applied_position(engine, 1), Ok(Some("4".into())));
    let is_there = |number: &usize| {
        let family = engine.family(Family::Raw);
        let value = engine.database.get_cf(family, format!("k{number}"));
        value.unwrap().is_some()
    };
    let there: Vec<_> = (0..range_deletes.len()).filter(is_there).collect();
    assert_eq!(there, [3, 4]);
}

/// Each record has its own block, so that no read loads another record.
#[test]
fn a_read_from_the_disk_counts_even_if_it_is_short() {
    const RECORDS: usize = 32;
    let storage = Stopped::new(8 << 20);
    let engine = &storage.worker.engine;
    let mut random = fastrand::Rng::with_seed(1);
    let mut value = vec![0; 4 << 10];
    let mut commands = Vec::new();
    for number in 0..RECORDS {
        random.fill(&mut value);
        let family = engine.family(Family::Versioned);
        let (key, record) = (format!("{number:02}"), encode(1, &value));
        engine.database.put_cf(family, &key, record).unwrap();
        commands.push(Command::CompareAndSwap {
            key: key.into(),
            expected_version: 1,
            value: "new".into(),
        });
    }
    engine.database.flush().unwrap();
    let entry = Entry {
        region_id: 1,
        epoch_version: None,
        commands: &commands,
        membership: None,
        conflict_values_bytes_max: 0,
    };
    let mut batch = Batch::new(engine);
    let loaded = batch.load(&entry, &mut (1 << 20));
    assert!(matches!(loaded, Err(ReadError::NotInMemory)));
    let read = batch.bytes_read() / value.len();
    assert!((1..=16).contains(&read), "{read} of {RECORDS} records");
}
