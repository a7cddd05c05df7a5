//! Writes of a region on their way into its log.
//!
//! What was submitted waits in a queue. The proposer takes as much of it as fits into one entry and proposes that; a few entries
//! are under way at a time. No submission is delayed to fill an entry: submissions gather while the entries before them are
//! synced and applied. It has no task: each submission proposes, and so does each entry when it is done.
//!
//! Submissions may pass one that waits for its keys to be read. Those that are submitted in turn do not pass each other.
//!
//! The queue is bounded by the region's share of the room in the store's write queue.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::vec::IntoIter;

use rdb_raft::Answer;
use rdb_raft::group::ProposeError;
use rdb_storage::{Admitted, NotWarmed, Proposal, Storage, Submission, WriteShare};
use tokio::sync::oneshot;

use super::Leadership;
use super::outcomes::{self, Outcomes, PendingOrBack, PendingOutcomes, Refused};
use super::progress::WriteProgress;
use crate::error::Rejection;
use crate::metrics::Figures;

/// Entries under way at a time: while one is applied, the next is synced.
const IN_FLIGHT_MAX: usize = 2;

/// Most bytes, commands and range deletes of one entry, and most bytes that applying it reads. An entry always holds at least one
/// submission. The limits bound how long the apply of an entry blocks a thread, and how long later writes wait for it. Range deletes
/// also add to what every read of a memtable has to sort.
const ENTRY_BYTES_MAX: usize = 1 << 20;
const ENTRY_READ_BYTES_MAX: usize = 16 << 20;

/// A record that several submissions of an entry read is read once. That is accounted for from this size on.
const LARGE_READ_BYTES: usize = 64 << 10;

const ENTRY_COMMANDS_MAX: usize = 4096;
const ENTRY_RANGE_DELETES_MAX: usize = 64;

/// Proposes the writes of a region to its group.
pub(crate) struct Proposer {
    leadership: Leadership,
    storage: Storage,
    share: Arc<WriteShare>,
    figures: Arc<Figures>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    in_flight: usize,
    /// Whether somebody takes from the queue. Entries are proposed one after the other, so that they are in the log in the order
    /// in which they were taken.
    is_proposing: bool,
}

/// A submission, and who waits for its outcomes.
struct Waiting {
    admitted: Admitted,
    caller: Caller,
}

/// Who waits for the outcomes of a submission.
struct Caller {
    outcomes: oneshot::Sender<Outcomes>,
    progress: Arc<WriteProgress>,
}

impl Caller {
    fn new() -> (Self, PendingOutcomes) {
        let (outcomes, pending) = oneshot::channel();
        let progress = Arc::new(WriteProgress::submitted_at(Instant::now()));
        let pending = PendingOutcomes::new(pending, Arc::clone(&progress));
        (Self { outcomes, progress }, pending)
    }

    fn answer(self, outcomes: Outcomes) {
        // The caller may be gone.
        let _ = self.outcomes.send(outcomes);
    }
}

impl Proposer {
    pub(crate) fn new(
        leadership: Leadership,
        storage: Storage,
        figures: Arc<Figures>,
    ) -> Arc<Self> {
        Arc::new(Self {
            leadership,
            share: storage.write_share(),
            storage,
            figures,
            queue: Mutex::default(),
        })
    }

    /// The peer that it proposes to.
    pub(crate) fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// Queues a submission. Its keys are read into memory first, so that applying it does not wait for the disk. If another
    /// store leads, nothing is read.
    pub(super) fn submit(
        self: &Arc<Self>,
        submission: Submission,
    ) -> Result<PendingOutcomes, Rejection> {
        let admitted = self.admit(submission)?;
        let (caller, pending) = Caller::new();
        let proposer = Arc::clone(self);
        let then = move |warmed| proposer.push(warmed, caller);
        self.storage.warm(admitted, then);
        Ok(pending)
    }

    /// The same, before this returns. If there is much to read, or not all is in memory, the commands are given back.
    pub(super) fn submit_at_once(
        self: &Arc<Self>,
        submission: Submission,
    ) -> Result<PendingOrBack, Rejection> {
        let admitted = self.admit(submission)?;
        let (caller, pending) = Caller::new();
        match self.storage.warm_from_memory(admitted) {
            Ok(warmed) => self.push(warmed, caller),
            Err(cold) => return Ok(Err(cold.into_commands())),
        }
        Ok(Ok(pending))
    }

    /// Queues submissions in their order. All are admitted before this returns, so that the region's share counts those that wait. The
    /// turn of each comes when the one before is queued or refused, and only then are its keys read. So they take one of the threads
    /// that read, however many they are.
    ///
    /// If the caller of one is gone when its turn comes, it and all behind it are dropped: a stream that ends drops its callers one by
    /// one, and that must leave no hole.
    pub(super) fn submit_in_turn(
        self: &Arc<Self>,
        submissions: impl Iterator<Item = Submission>,
    ) -> Vec<Result<PendingOutcomes, Rejection>> {
        let mut left = Vec::new();
        let submitted = submissions.map(|submission| {
            let admitted = self.admit(submission);
            admitted.map(|admitted| {
                let (caller, pending) = Caller::new();
                left.push((admitted, caller));
                pending
            })
        });
        let submitted: Vec<_> = submitted.collect();
        self.go_on(left.into_iter());
        submitted
    }

    /// Gives these their turns.
    fn go_on(self: &Arc<Self>, mut left: IntoIter<(Admitted, Caller)>) {
        while let Some((admitted, caller)) = left.next() {
            if caller.outcomes.is_closed() {
                return;
            }
            if let Err(rejection) = self.check(admitted.region_id()) {
                drop(admitted);
                caller.answer(Err(rejection.into()));
            } else if admitted.keys_read().next().is_some() {
                let proposer = Arc::clone(self);
                return self.storage.warm_from_disk(admitted, move |warmed| {
                    proposer.push(warmed, caller);
                    proposer.go_on(left);
                });
            } else {
                self.push(Ok(admitted), caller);
            }
        }
    }

    fn admit(&self, submission: Submission) -> Result<Admitted, Rejection> {
        self.leadership.check()?;
        Ok(self.storage.admit_within(&self.share, submission)?)
    }

    /// Refuses what was admitted when that would be refused now, whatever room there is. A closed storage calls back at once, so this
    /// also ends the recursion of [`go_on`](Self::go_on).
    fn check(&self, region_id: u64) -> Result<(), Rejection> {
        self.leadership.check()?;
        Ok(self.storage.check_writes(region_id)?)
    }

    /// Lets a submission wait for an entry, unless its keys could not be read.
    fn push(self: &Arc<Self>, warmed: Result<Admitted, NotWarmed>, caller: Caller) {
        let admitted = match warmed {
            Ok(admitted) => admitted,
            Err(NotWarmed { error, position }) => {
                return caller.answer(Err(match position {
                    Some(position) => Refused::stopped_by(position, error),
                    None => Rejection::from(error).into(),
                }));
            }
        };
        let mut queue = self.lock();
        queue.waiting.push_back(Waiting { admitted, caller });
        self.propose(queue);
        self.refuse_stalled();
    }

    /// Refuses submissions that wait behind entries that may never be committed, since too few other stores are heard of, or another one is
    /// about to lead. They were never proposed. The fate of entries under way is unknown.
    pub(crate) fn refuse_stalled(&self) {
        if !self.leadership.is_stalled() {
            return;
        }
        let mut queue = self.lock();
        if queue.in_flight < IN_FLIGHT_MAX {
            return;
        }
        let refused = mem::take(&mut queue.waiting);
        drop(queue);
        for Waiting { admitted, caller } in refused {
            drop(admitted);
            caller.answer(Err(self.leadership.refusal().into()));
        }
    }

    /// Proposes waiting submissions, up to the limit of entries under way. An entry that is refused at once calls this again
    /// from within; the next one is then proposed here.
    fn propose<'a>(self: &'a Arc<Self>, mut queue: MutexGuard<'a, Queue>) {
        if mem::replace(&mut queue.is_proposing, true) {
            return;
        }
        while queue.in_flight < IN_FLIGHT_MAX
            && let Some(taken) = queue.take()
        {
            queue.in_flight += 1;
            drop(queue);
            self.propose_entry(taken);
            queue = self.lock();
        }
        queue.is_proposing = false;
    }

    fn propose_entry(self: &Arc<Self>, taken: Vec<Waiting>) {
        let epoch_version = epoch_version(&taken[0]);
        let proposed = Instant::now();
        let waited = proposed.saturating_duration_since(taken[0].caller.progress.submitted());
        for waiting in &taken {
            waiting.caller.progress.note_proposed(proposed);
        }
        let count = command_count(&taken);
        self.figures.proposals.note_proposed(waited, count);
        let commands = taken.iter().flat_map(|waiting| waiting.admitted.commands());
        let entry = Proposal::encode_commands(epoch_version, commands);
        let proposer = Arc::clone(self);
        self.leadership.group().propose(entry, move |answer| {
            let mut queue = proposer.lock();
            queue.in_flight -= 1;
            proposer.propose(queue);
            proposer.answer(taken, proposed, answer);
        });
    }

    /// Gives each submission of an entry its outcomes. The room that it held is given back first, so that its caller may submit
    /// again at once.
    fn answer(&self, taken: Vec<Waiting>, proposed: Instant, answer: Result<Answer, ProposeError>) {
        let answered = outcomes::of_entry(answer, command_count(&taken), &self.leadership);
        self.figures.proposals.note_answered(&answered);
        if let Ok(entry) = &answered {
            let took = entry.applying.began.saturating_duration_since(proposed);
            self.figures.proposals.note_committed(took);
        }
        let mut applied =
            answered.map(|answered| (answered.applying, answered.outcomes.into_iter()));
        for Waiting { admitted, caller } in taken {
            let count = admitted.commands().len();
            let values_bytes_max = admitted.conflict_values_bytes_max();
            drop(admitted);
            let of_submission = match &mut applied {
                Ok((applying, applied)) => {
                    caller.progress.note_applied(*applying);
                    outcomes::of_submission(applied.take(count).collect(), values_bytes_max)
                }
                Err(rejection) => Err(rejection.clone().into()),
            };
            caller.answer(of_submission);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// What the next entry holds.
    fn take(&mut self) -> Option<Vec<Waiting>> {
        let epoch = epoch_version(self.waiting.front()?);
        let (mut bytes, mut read_bytes, mut commands, mut range_deletes) = (0, 0, 0, 0);
        let mut keys_read = HashSet::new();
        let mut count = 0;
        for waiting in &self.waiting {
            let admitted = &waiting.admitted;
            bytes += admitted.payload_bytes();
            read_bytes += bytes_to_read(admitted, &mut keys_read);
            commands += admitted.commands().len();
            range_deletes += admitted.range_delete_count();
            let fits = epoch_version(waiting) == epoch
                && bytes <= ENTRY_BYTES_MAX
                && read_bytes <= ENTRY_READ_BYTES_MAX
                && commands <= ENTRY_COMMANDS_MAX
                && range_deletes <= ENTRY_RANGE_DELETES_MAX;
            if !fits {
                break;
            }
            count += 1;
        }
        Some(self.waiting.drain(..count.max(1)).collect())
    }
}

/// How much a submission adds to what applying an entry reads. `keys_read` are the keys of large records that are read anyway.
fn bytes_to_read<'a>(admitted: &'a Admitted, keys_read: &mut HashSet<&'a [u8]>) -> usize {
    let bytes = admitted.read_bytes();
    if bytes < LARGE_READ_BYTES {
        return bytes;
    }
    let count_before = keys_read.len();
    keys_read.extend(admitted.keys_read());
    if keys_read.len() > count_before {
        bytes
    } else {
        0
    }
}

fn command_count(taken: &[Waiting]) -> usize {
    let counts = taken.iter();
    let counts = counts.map(|waiting| waiting.admitted.commands().len());
    counts.sum()
}

fn epoch_version(waiting: &Waiting) -> u64 {
    waiting.admitted.epoch_version().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use rdb_proto::errorpb::Fate;
    use rdb_proto::errorpb::region_error::Kind;
    use rdb_proto::metapb::Region;
    use rdb_storage::{Command, Role, StorageOptions};
    use tempfile::TempDir;
    use tokio::task::spawn_blocking;

    use super::super::fixture::Led;
    use super::*;

    fn storage() -> (TempDir, Storage) {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let options = StorageOptions::new(Role::Server);
        let storage = Storage::open(directory.path(), options).expect("a new directory");
        (directory, storage)
    }

    fn put(value_bytes: usize) -> Command {
        Command::PutRaw {
            key: "k".into(),
            value: vec![0; value_bytes].into(),
        }
    }

    fn swap(key: &'static str) -> Command {
        Command::CompareAndSwap {
            key: key.into(),
            expected_version: 1,
            value: "v".into(),
        }
    }

    fn waiting(
        storage: &Storage,
        commands: Vec<Command>,
        epoch_version: u64,
    ) -> (Waiting, PendingOutcomes) {
        let submission = Submission::new(1, commands).under_epoch(epoch_version);
        let admitted = storage.admit(submission).expect("there is room");
        let (sender, warmed) = mpsc::channel();
        storage.warm(admitted, move |read| sender.send(read).expect("awaited"));
        let admitted = warmed.recv().expect("answered").expect("read");
        let (caller, pending) = Caller::new();
        (Waiting { admitted, caller }, pending)
    }

    /// How many of these submissions each entry takes.
    fn taken(storage: &Storage, submissions: Vec<(Vec<Command>, u64)>) -> Vec<usize> {
        let waiting = submissions
            .into_iter()
            .map(|(commands, epoch_version)| waiting(storage, commands, epoch_version).0);
        let mut queue = Queue {
            waiting: waiting.collect(),
            ..Queue::default()
        };
        std::iter::from_fn(|| queue.take().map(|taken| taken.len())).collect()
    }

    #[test]
    fn an_entry_takes_what_waits_up_to_each_of_its_limits() {
        let (_directory, storage) = storage();
        let small = || (vec![put(1)], 1);
        assert_eq!(taken(&storage, vec![small(), small(), small()]), [3]);
        let half = || (vec![put(ENTRY_BYTES_MAX / 2 - 1)], 1);
        assert_eq!(taken(&storage, vec![half(), half(), half()]), [2, 1]);
        let large = || (vec![put(2 * ENTRY_BYTES_MAX)], 1);
        assert_eq!(taken(&storage, vec![small(), large(), small()]), [1, 1, 1]);
        let many = || (vec![put(1); ENTRY_COMMANDS_MAX / 2], 1);
        assert_eq!(taken(&storage, vec![many(), many(), many()]), [2, 1]);
        let delete = Command::DeleteRangeRaw {
            start_key: "a".into(),
            end_key: "b".into(),
        };
        let deletes = || (vec![delete.clone(); ENTRY_RANGE_DELETES_MAX / 2], 1);
        assert_eq!(
            taken(&storage, vec![deletes(), deletes(), deletes()]),
            [2, 1]
        );
        let later = || (vec![put(1)], 2);
        assert_eq!(taken(&storage, vec![small(), later(), later()]), [1, 2]);
    }

    #[test]
    fn an_entry_has_little_to_read_or_holds_one_submission() {
        let (_directory, storage) = storage();
        let keys = ["a", "b", "c", "d", "e"];
        let value = vec![0; ENTRY_READ_BYTES_MAX / 4 - 64];
        for key in keys {
            let created = storage.compare_and_swap(key, 0, value.clone());
            assert_eq!(created, Ok(1));
        }
        let quarter = |key| (vec![swap(key)], 1);
        assert_eq!(taken(&storage, keys.map(quarter).to_vec()), [4, 1]);
        assert_eq!(taken(&storage, vec![quarter("a"); 5]), [5]);
        let all = (keys.map(swap).to_vec(), 1);
        let small = || (vec![put(1)], 1);
        assert_eq!(taken(&storage, vec![small(), all, small()]), [1, 1, 1]);
    }

    #[tokio::test]
    async fn a_group_that_has_ended_refuses_all_that_waits_as_not_applied() {
        const WAITING: u64 = 10_000;
        let (_directory, storage) = storage();
        let led = Led::begin(&storage, Region::default()).await;
        led.shut_down().await;
        let proposer = led.proposer();
        // Each is a separate entry.
        let (queued, pending): (Vec<_>, Vec<_>) = (0..WAITING)
            .map(|number| waiting(&storage, vec![put(1)], number))
            .unzip();
        {
            let mut queue = proposer.lock();
            queue.waiting.extend(queued);
            proposer.propose(queue);
        }
        for pending in pending {
            let Err(Rejection::Fault(fault)) = pending.await else {
                panic!("it was not refused");
            };
            assert_eq!(fault.fate, Fate::NotApplied);
        }
    }

    /// The first reads, and cannot be queued while the queue is locked. So the turns of the others do not come.
    fn parts() -> impl Iterator<Item = Submission> {
        let commands = [swap("a"), put(1), swap("b")].into_iter();
        commands.map(|command| Submission::new(1, vec![command]))
    }

    #[tokio::test]
    async fn parts_that_wait_for_their_turn_are_refused_as_not_applied_when_the_storage_closes() {
        let (_directory, storage) = storage();
        let led = Led::begin(&storage, Region::default()).await;
        led.shut_down().await;
        let proposer = led.proposer();
        let (closing, submitted) = {
            let _queue = proposer.lock();
            let submitted = proposer.submit_in_turn(parts());
            let to_close = storage.clone();
            let closing = spawn_blocking(move || to_close.close());
            while storage.check_writes(1).is_ok() {
                thread::yield_now();
            }
            (closing, submitted)
        };
        closing.await.expect("no panic").expect("flushed");
        assert_eq!(submitted.len(), 3);
        for (position, submitted) in submitted.into_iter().enumerate() {
            let pending = submitted.expect("there is room");
            let refused = pending.await.expect_err("the group has ended");
            let is_closed = matches!(refused, Rejection::Routing(Kind::NotReady(_)));
            // A thread may have read for the first one before.
            let has_no_group = position == 0
                && matches!(&refused, Rejection::Fault(fault) if fault.fate == Fate::NotApplied);
            assert!(is_closed || has_no_group, "{position}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn what_follows_a_part_whose_caller_is_gone_is_not_applied() {
        let (_directory, storage) = storage();
        let led = Led::begin(&storage, Region::default()).await;
        let proposer = led.proposer();
        let last = {
            let _queue = proposer.lock();
            let mut submitted = proposer.submit_in_turn(parts());
            let last = submitted.pop().expect("one for each part");
            drop(submitted);
            last.expect("there is room")
        };
        let Err(Rejection::Fault(fault)) = last.await else {
            panic!("it was not lost");
        };
        assert_eq!(fault.fate, Fate::Unknown);
    }
}
