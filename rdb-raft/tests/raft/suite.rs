//! openraft's own suite for log stores.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageError};
use rdb_raft::log::{LogStore, LogWriter, MemoryDevice};
use rdb_raft::{Entry, LogId, TypeConfig, Vote};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use crate::machine::MemoryMachine;
use crate::medium::{Disk, End, Medium};

const GROUP_ID: u64 = 7;

struct OneProcess<M>(PhantomData<fn() -> M>);

impl<M: Medium> StoreBuilder<TypeConfig, LogStore, MemoryMachine, (LogWriter, M)>
    for OneProcess<M>
{
    async fn build(
        &self,
    ) -> Result<((LogWriter, M), LogStore, MemoryMachine), StorageError<TypeConfig>> {
        let medium = M::new();
        let writer = LogWriter::start(medium.device()).unwrap();
        let store = writer.open_group(GROUP_ID).unwrap();
        Ok(((writer, medium), store, MemoryMachine::default()))
    }
}

#[tokio::test]
async fn the_suite_passes_in_memory_in_one_process() {
    let builder = OneProcess::<Arc<MemoryDevice>>(PhantomData);
    Suite::test_all(builder).await.unwrap();
}

#[tokio::test]
async fn the_suite_passes_on_a_disk_in_one_process() {
    let builder = OneProcess::<Disk>(PhantomData);
    Suite::test_all(builder).await.unwrap();
}

/// A log whose process ends before every operation, so that all that is read comes from the device.
struct Restarting<M>(Arc<Mutex<Option<Process<M>>>>);

impl<M> Clone for Restarting<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Process<M> {
    store: LogStore,
    writer: LogWriter,
    medium: M,
}

impl<M: Medium> Process<M> {
    fn start(medium: M) -> Self {
        let writer = LogWriter::start(medium.device()).unwrap();
        Self {
            store: writer.open_group(GROUP_ID).unwrap(),
            writer,
            medium,
        }
    }

    fn restarted(self) -> Self {
        drop(self.store);
        Self::start(self.medium.restart(self.writer, End::Left))
    }
}

impl<M: Medium> Restarting<M> {
    async fn restart(&self) -> MappedMutexGuard<'_, LogStore> {
        let mut process = self.0.lock().await;
        *process = process.take().map(Process::restarted);
        MutexGuard::map(process, |process| &mut process.as_mut().unwrap().store)
    }
}

impl<M: Medium + Send> RaftLogReader<TypeConfig> for Restarting<M> {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let mut reader = self.restart().await.reader();
        reader.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.restart().await.reader().read_vote().await
    }
}

impl<M: Medium + Send> RaftLogStorage<TypeConfig> for Restarting<M> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.restart().await.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.restart().await.save_vote(vote).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut store = self.restart().await;
        store.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let mut store = self.restart().await;
        store.truncate_after(last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.restart().await.purge(log_id).await
    }
}

struct ManyProcesses<M>(PhantomData<fn() -> M>);

impl<M: Medium + Send> StoreBuilder<TypeConfig, Restarting<M>, MemoryMachine> for ManyProcesses<M> {
    async fn build(&self) -> Result<((), Restarting<M>, MemoryMachine), StorageError<TypeConfig>> {
        let process = Process::start(M::new());
        let store = Restarting(Arc::new(Mutex::new(Some(process))));
        Ok(((), store, MemoryMachine::default()))
    }
}

#[tokio::test]
async fn the_suite_passes_in_memory_with_a_restart_before_every_operation() {
    let builder = ManyProcesses::<Arc<MemoryDevice>>(PhantomData);
    Suite::test_all(builder).await.unwrap();
}

#[tokio::test]
async fn the_suite_passes_on_a_disk_with_a_restart_before_every_operation() {
    let builder = ManyProcesses::<Disk>(PhantomData);
    Suite::test_all(builder).await.unwrap();
}
