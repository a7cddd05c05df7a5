//! openraft's own suite for log stores.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageError};
use rdb_raft::log::{LogStore, LogWriter, MemoryDevice};
use rdb_raft::{Entry, LogId, TypeConfig, Vote};
use tokio::sync::{Mutex, MutexGuard};

use crate::machine::MemoryMachine;

const GROUP_ID: u64 = 7;

struct OneProcess;

impl StoreBuilder<TypeConfig, LogStore, MemoryMachine, LogWriter> for OneProcess {
    async fn build(
        &self,
    ) -> Result<(LogWriter, LogStore, MemoryMachine), StorageError<TypeConfig>> {
        let writer = LogWriter::start(Arc::<MemoryDevice>::default()).unwrap();
        let store = writer.open_group(GROUP_ID).unwrap();
        Ok((writer, store, MemoryMachine::default()))
    }
}

#[tokio::test]
async fn the_suite_passes_in_one_process() {
    Suite::test_all(OneProcess).await.unwrap();
}

/// A log whose process ends before every operation, so that all that is read comes from the device.
#[derive(Clone)]
struct Restarting(Arc<Mutex<Process>>);

struct Process {
    device: Arc<MemoryDevice>,
    writer: LogWriter,
    store: LogStore,
}

impl Process {
    fn start(device: MemoryDevice) -> Self {
        let device = Arc::new(device);
        let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
        Self {
            store: writer.open_group(GROUP_ID).unwrap(),
            device,
            writer,
        }
    }
}

impl Restarting {
    async fn restart(&self) -> MutexGuard<'_, Process> {
        let mut process = self.0.lock().await;
        process.writer.close();
        *process = Process::start(process.device.after_power_cut(usize::MAX));
        process
    }
}

impl RaftLogReader<TypeConfig> for Restarting {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let mut reader = self.restart().await.store.reader();
        reader.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.restart().await.store.reader().read_vote().await
    }
}

impl RaftLogStorage<TypeConfig> for Restarting {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.restart().await.store.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.restart().await.store.save_vote(vote).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut process = self.restart().await;
        process.store.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let mut process = self.restart().await;
        process.store.truncate_after(last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.restart().await.store.purge(log_id).await
    }
}

struct ManyProcesses;

impl StoreBuilder<TypeConfig, Restarting, MemoryMachine> for ManyProcesses {
    async fn build(&self) -> Result<((), Restarting, MemoryMachine), StorageError<TypeConfig>> {
        let process = Process::start(MemoryDevice::default());
        let store = Restarting(Arc::new(Mutex::new(process)));
        Ok(((), store, MemoryMachine::default()))
    }
}

#[tokio::test]
async fn the_suite_passes_with_a_restart_before_every_operation() {
    Suite::test_all(ManyProcesses).await.unwrap();
}
