//! Reads of a stream: executed in order, when a response has room for their results.
//!
//! A value in memory is read at once. A read is *cold* when its value is not in memory, is larger than a response, or has no
//! room yet. Cold reads are set aside for the jobs of the stream. A few jobs run at a time, each for a few keys. A job waits
//! for the room that it needs, and reads on a blocking thread.
//!
//! A read may wait for a long time, until its client has taken the earlier answers. So it is checked again if the rights have changed
//! since its message came. Otherwise a slow client could read on after its right was revoked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{mem, thread, vec};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rdb_proto::auth::{Caller, Pass};
use rdb_proto::error::Fault;
use rdb_proto::trace::TraceContext;
use rdb_proto::transport::{BytesInFlight, Call, Reservation, Waited};
use rdb_storage::PointRead;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use super::super::point::{ReadResponse, check};
use super::super::room::{BATCH_ROOM, read_with_room};
use super::answers::{AnswerGroup, Packing, answer};
use crate::error::Rejection;
use crate::metrics::{
    Answered, Arrival, AuditedMessage, Commands, Denials, Details, Figures, Kind, Parts, Together,
};
use crate::region::{ReadFailure, RegionHandle};

/// Most jobs of a stream at a time.
const DISK_JOBS_MAX: usize = 4;

/// Most keys of a job.
const DISK_JOB_KEYS_MAX: usize = 16;

/// A read that waits to be executed.
pub(super) struct QueuedRead {
    pub(super) id: u64,
    pub(super) kind: Kind,
    /// Boxed, since few have one.
    pub(super) trace: Option<Box<TraceContext>>,
    pub(super) read: PointRead,
    /// Makes its answer.
    pub(super) response: ReadResponse,
}

impl QueuedRead {
    /// The same with a key that does not keep its message.
    pub(super) fn detached(self) -> Self {
        Self {
            read: self.read.detached(),
            ..self
        }
    }

    /// Checks it against the rights of now.
    fn check(&self, allowed: &Result<Pass, Fault>) -> Result<(), Rejection> {
        match allowed {
            Ok(pass) => check(pass, self.kind, self.read.key()),
            Err(fault) => Err(Rejection::Denied(fault.clone())),
        }
    }
}

/// The reads of one message from one region.
pub(super) struct ReadGroup {
    pub(super) region: Arc<RegionHandle>,
    pub(super) reads: vec::IntoIter<QueuedRead>,
    pub(super) message: Arc<Reservation>,
    pub(super) arrival: Arrival,
    /// What they were checked against last.
    pub(super) pass: Pass,
    /// `None`: there is no audit log.
    pub(super) audited: Option<Arc<AuditedMessage>>,
}

impl ReadGroup {
    /// Executes reads as [`Reads::pack`] does. `allowed` is what the sender may do now. Returns whether the group is empty.
    fn pack(
        &mut self,
        commands: &Commands,
        packing: &mut Packing<'_>,
        cold: &mut VecDeque<ColdRead>,
        allowed: &Result<Pass, Fault>,
    ) -> bool {
        let (mut together, mut first) = (commands.together(self.arrival), None);
        let mut denials = Denials::default();
        let pass = allowed.as_ref().unwrap_or(&self.pass);
        let is_checked = allowed.is_ok() && pass.is_same(&self.pass);
        let is_emptied = loop {
            let Some(queued) = self.reads.as_slice().first() else {
                break true;
            };
            if packing.is_full() {
                break false;
            }
            let checked = if is_checked {
                Ok(())
            } else {
                queued.check(allowed)
            };
            if let (Some(audited), Err(rejection)) = (&self.audited, &checked) {
                let (key, answered) = (queued.read.key(), Answered::by(rejection));
                audited.note_refused(queued.kind, Some(key), answered, rejection, &mut denials);
            }
            let room = packing.value_room();
            let read = |room| self.region.read_from_memory(&queued.read, room);
            let found = match checked.map(|()| room.map(read)) {
                Err(rejection) => Some(Err(rejection)),
                Ok(Some(Ok(Some(value)))) => Some((queued.response)(value)),
                Ok(Some(Err(ReadFailure::Rejected(rejection)))) => Some(Err(rejection)),
                Ok(Some(Err(ReadFailure::NeedsRoom { bytes })))
                    if packing.would_fit_alone(bytes) =>
                {
                    break false;
                }
                Ok(Some(Ok(None) | Err(ReadFailure::NeedsRoom { .. })) | None) => None,
            };
            packing.count_read();
            let Some(queued) = self.reads.next() else {
                break true;
            };
            match found {
                Some(result) => {
                    let answered = Answered::with(&result);
                    together.answered(queued.kind, queued.trace.as_deref(), answered);
                    first.get_or_insert(queued.read);
                    packing.push(answer(queued.id, result));
                }
                None => cold.push_back(self.set_aside(queued, pass)),
            }
        };
        if let Some(audited) = &self.audited {
            audited.note_denials(denials, allowed.as_ref().ok());
        }
        end_without_job(together, commands, &self.region, first.as_ref());
        is_emptied
    }

    /// A read of the group that is left to a job.
    fn set_aside(&self, queued: QueuedRead, pass: &Pass) -> ColdRead {
        ColdRead {
            queued,
            region: Arc::clone(&self.region),
            message: Arc::clone(&self.message),
            arrival: self.arrival,
            pass: pass.clone(),
            audited: self.audited.clone(),
        }
    }
}

/// A read that was set aside for a job.
struct ColdRead {
    queued: QueuedRead,
    region: Arc<RegionHandle>,
    message: Arc<Reservation>,
    arrival: Arrival,
    pass: Pass,
    audited: Option<Arc<AuditedMessage>>,
}

/// Reads some keys from the disk. Resolves to the reads that it has left out, and the answers to the others.
type DiskJob = BoxFuture<'static, (JobReads, AnswerGroup)>;

/// The reads of a job. Those that it has not answered when it is dropped are noted as given up.
struct JobReads {
    cold: Vec<ColdRead>,
    figures: Arc<Figures>,
    begun: Instant,
    /// What the job has waited for room.
    waited: Waited,
}

/// The reads of a stream. Those that are not answered when it is dropped are noted as given up.
#[derive(Default)]
pub(super) struct Reads {
    groups: VecDeque<ReadGroup>,
    cold: VecDeque<ColdRead>,
    jobs: FuturesUnordered<DiskJob>,
    figures: Arc<Figures>,
}

impl Reads {
    /// No reads yet. Their results are noted in `figures`.
    pub(super) fn new(figures: Arc<Figures>) -> Self {
        Self {
            groups: VecDeque::new(),
            cold: VecDeque::new(),
            jobs: FuturesUnordered::new(),
            figures,
        }
    }

    pub(super) fn push(&mut self, group: ReadGroup) {
        self.groups.push_back(group);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.cold.is_empty() && self.jobs.is_empty()
    }

    /// Executes reads from memory until the response is full, no read is left, or the next value fits only into the next response.
    pub(super) fn pack(&mut self, packing: &mut Packing<'_>) {
        if self.groups.is_empty() {
            return;
        }
        let allowed = packing.caller().pass();
        let (commands, cold) = (&self.figures.commands, &mut self.cold);
        while let Some(group) = self.groups.front_mut()
            && group.pack(commands, packing, cold, &allowed)
        {
            self.groups.pop_front();
        }
    }

    /// Whether there are reads that were not tried yet.
    pub(super) fn has_untried(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Starts jobs for cold reads, as far as there are places.
    pub(super) fn start_jobs(&mut self, call: &Call) {
        self.look_again(call.caller());
        while let Some(job) = self.next_job(call) {
            self.jobs.push(job);
        }
    }

    /// Has cold reads tried again, if the rights have changed since they were: their sender may not do them any more.
    fn look_again(&mut self, caller: &Caller) {
        let Some(first) = self.cold.front() else {
            return;
        };
        if caller.pass().is_ok_and(|now| now.is_same(&first.pass)) {
            return;
        }
        for cold in self.cold.drain(..).rev() {
            self.groups.push_front(ReadGroup {
                region: cold.region,
                reads: vec![cold.queued].into_iter(),
                message: cold.message,
                arrival: cold.arrival,
                pass: cold.pass,
                audited: cold.audited,
            });
        }
    }

    /// Waits for the answers of a job. `None`: no job runs.
    pub(super) async fn next_from_disk(&mut self) -> Option<AnswerGroup> {
        let (mut unread, answers) = self.jobs.next().await?;
        for cold in unread.cold.drain(..).rev() {
            self.cold.push_front(cold);
        }
        Some(answers)
    }

    /// A job with its share of the cold reads, if there is a place for one.
    fn next_job(&mut self, call: &Call) -> Option<DiskJob> {
        let places = DISK_JOBS_MAX.saturating_sub(self.jobs.len());
        let first = self.cold.front().filter(|_| places > 0)?;
        let (region, message) = (Arc::clone(&first.region), Arc::clone(&first.message));
        let of_region = |cold: &&ColdRead| Arc::ptr_eq(&cold.region, &region);
        let share = self.cold.len().div_ceil(places).min(DISK_JOB_KEYS_MAX);
        let count = self.cold.iter().take(share).take_while(of_region).count();
        let cold: Vec<_> = self.cold.drain(..count).collect();
        let job = JobReads {
            cold,
            figures: Arc::clone(&self.figures),
            begun: Instant::now(),
            waited: Waited::default(),
        };
        Some(start_job(region, message, call.bytes_in_flight(), job))
    }
}

impl Drop for Reads {
    fn drop(&mut self) {
        let commands = &self.figures.commands;
        for group in &self.groups {
            let left = group.reads.as_slice().iter();
            note_given_up(commands, &group.region, group.arrival, left);
        }
        let are_together = |one: &ColdRead, next: &ColdRead| {
            Arc::ptr_eq(&one.message, &next.message) && Arc::ptr_eq(&one.region, &next.region)
        };
        for cold in self.cold.make_contiguous().chunk_by(are_together) {
            let left = cold.iter().map(|cold| &cold.queued);
            note_given_up(commands, &cold[0].region, cold[0].arrival, left);
        }
    }
}

/// Notes reads of one message that nobody waits for any more, and that were not begun.
fn note_given_up<'q>(
    commands: &Commands,
    region: &RegionHandle,
    arrival: Arrival,
    left: impl Iterator<Item = &'q QueuedRead>,
) {
    let (mut together, mut first) = (commands.together(arrival), None);
    for queued in left {
        together.answered(queued.kind, queued.trace.as_deref(), Answered::GivenUp);
        first.get_or_insert(&queued.read);
    }
    end_without_job(together, commands, region, first);
}

/// Ends the noting of reads that no job has begun. `first` is the first of them.
fn end_without_job(
    together: Together<'_>,
    commands: &Commands,
    region: &RegionHandle,
    first: Option<&PointRead>,
) {
    together.end(|arrival, now| Details {
        key: first.map(|read| commands.slow().tag(read.key())),
        region_id: Some(region.region().id),
        parts: Parts::of_queued_read(arrival, None, Duration::ZERO, now),
    });
}

impl JobReads {
    /// Notes one of them, which was answered so, or given up. Others of the job may have come with other messages.
    fn note(&self, cold: &ColdRead, answered: Answered) {
        let (commands, queued) = (&self.figures.commands, &cold.queued);
        let mut together = commands.together(cold.arrival);
        together.answered(queued.kind, queued.trace.as_deref(), answered);
        together.end(|arrival, now| Details {
            key: Some(commands.slow().tag(queued.read.key())),
            region_id: Some(cold.region.region().id),
            parts: Parts::of_queued_read(arrival, Some(self.begun), self.waited.get(), now),
        });
    }

    /// Notes all that are left, and lets go of them.
    fn note_all(&mut self, answered: Answered) {
        for cold in mem::take(&mut self.cold) {
            self.note(&cold, answered);
        }
    }
}

/// The stream has ended, or the job has panicked.
impl Drop for JobReads {
    fn drop(&mut self) {
        let answered = if thread::panicking() {
            Answered::Failed
        } else {
            Answered::GivenUp
        };
        self.note_all(answered);
    }
}

/// Starts a job for `cold`, which is of `region`. It is a task, so that it runs while nobody polls the stream: a client that
/// has stopped reading its answers must not keep a place among the store's disk reads.
fn start_job(
    region: Arc<RegionHandle>,
    message: Arc<Reservation>,
    budgets: &BytesInFlight,
    job: JobReads,
) -> DiskJob {
    let ids: Vec<_> = job.cold.iter().map(|cold| cold.queued.id).collect();
    let nothing_left = JobReads {
        cold: Vec::new(),
        figures: Arc::clone(&job.figures),
        begun: job.begun,
        waited: Waited::default(),
    };
    let reading = Reading {
        region,
        message: Arc::clone(&message),
        budgets: budgets.clone(),
    };
    let reading = reading.read_cold(job);
    let reading = AbortOnDropHandle::new(tokio::spawn(reading));
    Box::pin(async move {
        reading.await.unwrap_or_else(|error| {
            let cause = format!("the read was not finished: {error}");
            let failed = Rejection::Fault(Fault::new(Code::Internal, cause));
            // They were noted when the job let go of them.
            (
                nothing_left,
                AnswerGroup::refused(ids, failed.into(), Some(message)),
            )
        })
    })
}

/// What a job works with.
struct Reading {
    region: Arc<RegionHandle>,
    message: Arc<Reservation>,
    budgets: BytesInFlight,
}

impl Reading {
    /// Executes as many of the job's reads as get room, and returns the others. All are of one region.
    async fn read_cold(self, mut job: JobReads) -> (JobReads, AnswerGroup) {
        let reads: Vec<PointRead> = job
            .cold
            .iter()
            .map(|cold| cold.queued.read.clone())
            .collect();
        let read = |room| {
            let (region, reads) = (&self.region, reads.clone());
            async move {
                let permit = region.permit_read().await?;
                let values = permit.read_several(reads, room).await?;
                match values.first() {
                    Some(&Err(ReadFailure::NeedsRoom { bytes })) => {
                        Err(ReadFailure::NeedsRoom { bytes })
                    }
                    _ => Ok(values),
                }
            }
        };
        match read_with_room(&self.budgets, BATCH_ROOM, &job.waited, read).await {
            Ok((values, room)) => {
                let count = values.len().min(job.cold.len());
                let read: Vec<_> = job.cold.drain(..count).collect();
                let answers = read.iter().zip(values).map(|(cold, value)| {
                    let value = value.map_err(Rejection::from);
                    let result = value.and_then(cold.queued.response);
                    job.note(cold, Answered::with(&result));
                    answer(cold.queued.id, result)
                });
                let answers = answers.collect();
                (job, AnswerGroup::new(answers, self.message, Some(room)))
            }
            Err(rejection) => {
                let ids = job.cold.iter().map(|cold| cold.queued.id).collect();
                job.note_all(Answered::by(&rejection));
                (
                    job,
                    AnswerGroup::refused(ids, rejection.into(), Some(self.message)),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;
    use futures::FutureExt;
    use rdb_proto::kvrpc::RawGetResponse;
    use rdb_proto::kvrpc::batch_answer::Response;
    use rdb_proto::metapb::Region;
    use rdb_proto::transport::limits::CONNECTION_BYTES_IN_FLIGHT_MAX;
    use rdb_storage::{PointValue, Role, Storage, StorageOptions};
    use tempfile::TempDir;
    use tokio::task::spawn_blocking;
    use tokio::time::timeout;

    use super::super::answers::ReadyAnswers;
    use super::*;
    use crate::region::fixture::Led;

    const KEYS: u64 = 8;

    /// A storage that reads from the disk for one at a time, with keys that are not in memory.
    async fn cold_storage() -> (TempDir, Storage) {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let path = directory.path().to_owned();
        let opened = spawn_blocking(|| open_cold(path)).await.expect("opened");
        (directory, opened)
    }

    fn open_cold(directory: PathBuf) -> Storage {
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

    /// Reads the keys from 0 on.
    fn reads(region: Arc<RegionHandle>, call: &Call, count: u64) -> ReadGroup {
        let reads = (0..count).map(|id| QueuedRead {
            id,
            kind: Kind::RawGet,
            trace: None,
            read: PointRead::raw(id.to_string().into()).expect("a key"),
            response: |found| match found {
                PointValue::Raw(value) => Ok(Response::RawGet(RawGetResponse {
                    value,
                    ..RawGetResponse::default()
                })),
                PointValue::Versioned(_) => panic!("of the other keyspace"),
            },
        });
        let message = call.bytes_in_flight().try_reserve(1);
        let message = message.expect("there is room");
        ReadGroup {
            region,
            reads: reads.collect::<Vec<_>>().into_iter(),
            message: Arc::new(message),
            arrival: Arrival::of(call),
            pass: Pass::anyone(),
            audited: None,
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_not_polled_keeps_no_place_among_disk_reads() {
        let (_directory, storage) = cold_storage().await;
        let call = Call::unserved(Caller::anyone());
        let led = Led::begin(&storage, Region::default()).await;
        let region = led.handle(Region::default());
        let mut stalled = Reads::default();
        stalled.push(reads(region, &call, KEYS));
        let mut packing = Packing::new(&call);
        stalled.pack(&mut packing);
        assert_eq!(packing.answer_count(), 0, "nothing is in memory");
        stalled.start_jobs(&call);
        assert!(stalled.next_from_disk().now_or_never().is_none());
        assert!(stalled.jobs.len() > 1, "some wait for the one that reads");

        let reader = storage.reader();
        // This many keys are read on the threads for disk reads.
        let read = reader.multi_get_raw(vec![Bytes::from_static(b"0"); 1000], usize::MAX);
        let values = timeout(Duration::from_secs(30), read).await;
        let values = values.expect("it gets its turn").expect("read");
        assert!(values.iter().all(Option::is_some));
    }

    #[tokio::test]
    async fn a_value_larger_than_a_response_is_read_when_there_is_room_for_it() {
        const VALUE_BYTES: usize = 1 << 20;
        let directory = TempDir::new().expect("the temporary directory can be written");
        let path = directory.path().to_owned();
        let stored = spawn_blocking(|| {
            let storage = Storage::open(path, StorageOptions::new(Role::Server)).expect("opened");
            storage.put_raw("0", vec![b'v'; VALUE_BYTES]).expect("put");
            storage
        });
        let storage = stored.await.expect("stored");
        let led = Led::begin(&storage, Region::default()).await;
        let region = led.handle(Region::default());
        let call = Call::unserved(Caller::anyone());
        let budget = &call.bytes_in_flight().connection;
        let most = call.bytes_in_flight();
        let most = most.try_reserve(CONNECTION_BYTES_IN_FLIGHT_MAX - VALUE_BYTES);
        let taken_by_others = budget.bytes_taken();

        let mut reads_of_stream = Reads::default();
        reads_of_stream.push(reads(region, &call, 1));
        let mut packing = Packing::new(&call);
        reads_of_stream.pack(&mut packing);
        assert!(packing.finish().is_none(), "it is in memory, but too large");
        reads_of_stream.start_jobs(&call);
        // Nobody gets a byte while somebody waits for more.
        while call.bytes_in_flight().try_reserve(1).is_some() {
            let read = reads_of_stream.next_from_disk().now_or_never();
            assert!(read.is_none(), "the message of the read takes a byte");
            tokio::task::yield_now().await;
        }
        assert_eq!(
            budget.bytes_taken(),
            taken_by_others + 1,
            "nothing was read"
        );

        drop(most);
        let answers = reads_of_stream.next_from_disk().await.expect("one job");
        assert!(
            budget.bytes_taken() > VALUE_BYTES,
            "it is held until it is sent"
        );
        let mut ready = ReadyAnswers::default();
        ready.push(answers);
        let mut packing = Packing::new(&call);
        ready.pack(&mut packing);
        let response = packing.finish().expect("it is answered").message;
        let Some(Response::RawGet(found)) = &response.answers[0].response else {
            panic!("{:?}", response.answers);
        };
        assert_eq!(found.value.as_ref().map(Bytes::len), Some(VALUE_BYTES));
        drop((reads_of_stream, ready));
        let held = budget.bytes_taken();
        assert!((VALUE_BYTES..VALUE_BYTES + 1024).contains(&held), "{held}");
        drop(call);
    }

    #[tokio::test]
    async fn reads_whose_stream_ends_are_given_up_wherever_they_wait() {
        let (_directory, storage) = cold_storage().await;
        let call = Call::unserved(Caller::anyone());
        let led = Led::begin(&storage, Region::default()).await;
        let region = led.handle(Region::default());
        let figures = Arc::<Figures>::default();
        let mut ending = Reads::new(Arc::clone(&figures));
        ending.push(reads(Arc::clone(&region), &call, KEYS));
        let mut packing = Packing::new(&call);
        ending.pack(&mut packing);
        // Its jobs wait for room that nobody gives back.
        let budgets = call.bytes_in_flight();
        let free = CONNECTION_BYTES_IN_FLIGHT_MAX - budgets.connection.bytes_taken();
        let _all = budgets.try_reserve(free).expect("there is room");
        ending.start_jobs(&call);
        tokio::task::yield_now().await;
        // All places for jobs are taken, so these are set aside, and the last ones are not tried.
        ending.push(reads(Arc::clone(&region), &call_of_others(), 2));
        ending.pack(&mut Packing::new(&call));
        assert_eq!(ending.cold.len(), 2);
        ending.push(reads(region, &call_of_others(), 3));
        assert_eq!(figures.commands.noted_durations(), (0, 0));
        drop(ending);
        // A job is a task, and ends a moment later.
        let all_noted = async {
            while figures.commands.noted_durations().0 < KEYS + 5 {
                tokio::task::yield_now().await;
            }
        };
        let noted = timeout(Duration::from_secs(300), all_noted).await;
        noted.expect("all are noted");
        let counted = figures.commands.counted(Kind::RawGet);
        assert_eq!(counted, [(Answered::GivenUp, KEYS + 5)]);
    }

    fn call_of_others() -> Arc<Call> {
        Call::unserved(Caller::anyone())
    }
}
