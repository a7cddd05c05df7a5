//! Reads of a stream: executed in their order, when a response has room for what they find.
//!
//! What is in memory is read on the spot. What is not is set aside and read on blocking threads, by a few jobs of a stream
//! at a time, each of a few keys and a bounded number of bytes.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, ready};
use std::vec;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rdb_proto::error::Fault;
use rdb_proto::kvrpc::{BatchAnswer, batch_answer::Response};
use rdb_proto::metapb::Context;
use rdb_proto::transport::Reservation;
use rdb_storage::{PointRead, PointValue, Reader};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use super::answers::{AnswerGroup, Packing, answer, found};
use crate::error::Rejection;
use crate::router::{Membership, Router};

/// How many jobs of a stream read from the disk at a time.
const DISK_JOBS_MAX: usize = 4;

/// How many keys one of them reads at most.
const DISK_JOB_KEYS_MAX: usize = 16;

/// It ends when the values that it has read have so many bytes.
const DISK_JOB_BYTES: usize = 1 << 20;

/// A read that was not executed yet.
pub(super) struct QueuedRead {
    pub(super) id: u64,
    pub(super) context: Context,
    pub(super) read: PointRead,
}

/// The reads of one message.
pub(super) struct ReadGroup {
    reads: vec::IntoIter<QueuedRead>,
    message: Arc<Reservation>,
}

impl ReadGroup {
    pub(super) fn new(reads: Vec<QueuedRead>, message: Arc<Reservation>) -> Self {
        Self {
            reads: reads.into_iter(),
            message,
        }
    }
}

/// A read whose key is not in memory.
struct ColdRead {
    id: u64,
    read: PointRead,
    reader: Reader,
    message: Arc<Reservation>,
}

/// Reads some keys from the disk. It runs whether the stream is polled or not: a place among the store's disk reads that
/// it waits for is given back even if the client has stopped to read.
struct DiskJob {
    ids: Vec<u64>,
    message: Arc<Reservation>,
    reading: AbortOnDropHandle<(Vec<ColdRead>, AnswerGroup)>,
}

impl DiskJob {
    /// `cold` are of one store, and at least one.
    fn start(reader: Reader, message: Arc<Reservation>, cold: Vec<ColdRead>) -> Self {
        let ids = cold.iter().map(|cold| cold.id).collect();
        let reading = tokio::spawn(read_from_disk(reader, Arc::clone(&message), cold));
        Self {
            ids,
            message,
            reading: AbortOnDropHandle::new(reading),
        }
    }
}

impl Future for DiskJob {
    /// What was not read yet, and the answers to the rest.
    type Output = (Vec<ColdRead>, AnswerGroup);

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<Self::Output> {
        let read = ready!(Pin::new(&mut self.reading).poll(context));
        task::Poll::Ready(read.unwrap_or_else(|error| {
            let fault = Fault::new(
                Code::Internal,
                format!("the read was not finished: {error}"),
            );
            let failed = self.ids.iter();
            let failed = failed.map(|&id| answer(id, Err(Rejection::Fault(fault.clone()))));
            let answers = AnswerGroup::different(failed.collect(), Arc::clone(&self.message));
            (Vec::new(), answers)
        }))
    }
}

/// The reads of a stream.
#[derive(Default)]
pub(super) struct Reads {
    groups: VecDeque<ReadGroup>,
    cold: VecDeque<ColdRead>,
    jobs: FuturesUnordered<DiskJob>,
}

impl Reads {
    pub(super) fn push(&mut self, group: ReadGroup) {
        self.groups.push_back(group);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.cold.is_empty() && self.jobs.is_empty()
    }

    /// Executes reads from memory until the response is full or none is left.
    pub(super) fn pack(&mut self, router: &Router, packing: &mut Packing) {
        if self.groups.is_empty() {
            return;
        }
        let membership = router.membership();
        while let Some(group) = self.groups.front_mut() {
            let reads = &mut group.reads;
            while let Some(queued) = (!packing.is_full()).then(|| reads.next()).flatten() {
                let membership = membership.as_deref().map_err(|not_ready| not_ready.clone());
                let id = queued.id;
                packing.count_read();
                match read_from_memory(membership.map_err(Rejection::from), &queued) {
                    Ok(Hit::Found(value)) => packing.push(answer(id, Ok(found(value)))),
                    Ok(Hit::NotInMemory(reader)) => self.cold.push_back(ColdRead {
                        id,
                        read: queued.read,
                        reader,
                        message: Arc::clone(&group.message),
                    }),
                    Err(rejection) => packing.push(answer(id, Err(rejection))),
                }
            }
            if packing.is_full() {
                return;
            }
            self.groups.pop_front();
        }
    }

    /// Goes on with what is not in memory. The answers of a finished job, or `None` when there is nothing to be had now.
    pub(super) fn poll_disk(&mut self, context: &mut task::Context<'_>) -> Option<AnswerGroup> {
        while let Some(job) = self.next_job() {
            self.jobs.push(job);
        }
        let task::Poll::Ready(Some((unread, answers))) = self.jobs.poll_next_unpin(context) else {
            return None;
        };
        for cold in unread.into_iter().rev() {
            self.cold.push_front(cold);
        }
        Some(answers)
    }

    /// A job with its share of what is to be read, if there is a place for one.
    fn next_job(&mut self) -> Option<DiskJob> {
        let places = DISK_JOBS_MAX.saturating_sub(self.jobs.len());
        let first = self.cold.front().filter(|_| places > 0)?;
        let (reader, message) = (first.reader.clone(), Arc::clone(&first.message));
        let count = self.cold.len().div_ceil(places).min(DISK_JOB_KEYS_MAX);
        let cold: Vec<ColdRead> = self.cold.drain(..count).collect();
        Some(DiskJob::start(reader, message, cold))
    }
}

enum Hit {
    Found(PointValue),
    NotInMemory(Reader),
}

fn read_from_memory(
    membership: Result<&Membership, Rejection>,
    queued: &QueuedRead,
) -> Result<Hit, Rejection> {
    let region = membership?.for_key(&queued.context, queued.read.key())?;
    let reader = region.reader();
    Ok(match reader.read_from_memory(&queued.read, usize::MAX)? {
        Some(value) => Hit::Found(value),
        None => Hit::NotInMemory(reader.clone()),
    })
}

/// Reads the first of `cold`, and returns those that were not read. All are of the same store.
async fn read_from_disk(
    reader: Reader,
    message: Arc<Reservation>,
    mut cold: Vec<ColdRead>,
) -> (Vec<ColdRead>, AnswerGroup) {
    let reads = cold.iter().map(|cold| cold.read.clone()).collect();
    let answers: Vec<BatchAnswer> = match reader.read_several(reads, DISK_JOB_BYTES).await {
        Ok(values) => {
            let read = cold.drain(..values.len().min(cold.len()));
            let answered = read.zip(values).map(|(cold, value)| {
                let response: Result<Response, _> = value.map(found);
                answer(cold.id, response.map_err(Rejection::from))
            });
            answered.collect()
        }
        Err(error) => {
            let rejection = Rejection::from(error);
            let refused = cold.drain(..);
            refused
                .map(|cold| answer(cold.id, Err(rejection.clone())))
                .collect()
        }
    };
    (cold, AnswerGroup::different(answers, message))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::task::Waker;
    use std::time::Duration;

    use bytes::Bytes;
    use rdb_proto::metapb::Region;
    use rdb_proto::transport::{ByteBudget, BytesInFlight};
    use rdb_storage::{Role, Storage, StorageOptions};
    use tempfile::TempDir;
    use tokio::task::spawn_blocking;
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::region::RegionHandle;

    const KEYS: u64 = 8;

    /// A storage that reads from the disk for one at a time, with keys that are not in memory.
    fn cold_storage(directory: PathBuf) -> Storage {
        let options = StorageOptions {
            disk_reads_max: 1,
            ..StorageOptions::new(Role::Server)
        };
        let storage = Storage::open(&directory, options.clone()).expect("a new directory");
        for number in 0..KEYS {
            let key = Bytes::from(number.to_string());
            storage.put_raw(key, Bytes::from_static(b"v")).expect("put");
        }
        storage.close().expect("flushed");
        drop(storage);
        Storage::open(directory, options).expect("opens again")
    }

    fn router(storage: &Storage) -> Router {
        let region = Region {
            id: 1,
            ..Region::default()
        };
        let router = Router::new(CancellationToken::new());
        router.set(Membership {
            cluster_id: 1,
            store_id: 1,
            regions: vec![Arc::new(RegionHandle::new(region, storage))],
        });
        router
    }

    fn reads() -> ReadGroup {
        let budget = ByteBudget::new(1 << 20);
        let budgets = BytesInFlight {
            connection: budget.clone(),
            process: budget,
        };
        let queued = (0..KEYS).map(|id| QueuedRead {
            id,
            context: Context::default(),
            read: PointRead::raw(id.to_string().into()).expect("a key"),
        });
        let message = budgets.try_reserve(1).expect("there is room");
        ReadGroup::new(queued.collect(), Arc::new(message))
    }

    #[tokio::test]
    async fn a_stream_that_is_not_polled_keeps_no_place_among_disk_reads() {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let path = directory.path().to_owned();
        let storage = spawn_blocking(|| cold_storage(path)).await.expect("opened");
        let router = router(&storage);
        let mut stalled = Reads::default();
        stalled.push(reads());
        let mut packing = Packing::default();
        stalled.pack(&router, &mut packing);
        assert_eq!(packing.answer_count(), 0, "nothing is in memory");
        let mut context = task::Context::from_waker(Waker::noop());
        assert!(stalled.poll_disk(&mut context).is_none());
        assert!(stalled.jobs.len() > 1, "some wait for the one that reads");

        let reader = storage.reader();
        // So many keys are read where disk reads are.
        let read = reader.multi_get_raw(vec![Bytes::from_static(b"0"); 1000], usize::MAX);
        let values = timeout(Duration::from_secs(30), read).await;
        let values = values.expect("it gets its turn").expect("read");
        assert!(values.iter().all(Option::is_some));
    }
}
