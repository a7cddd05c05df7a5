//! Warming: reads into memory, ahead of time, what applying a submission would read from the disk.
//!
//! A submission is *cold* while something that it reads is not in memory, or if it reads more than [`INLINE_READ_BYTES`]. It waits for
//! one of a few threads, which read it. Then the callback that was given with it is called. A closed warmer does not wait for the disk:
//! cold submissions are refused.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Admitted;
use super::health::Health;
use crate::apply::{self, INLINE_READ_BYTES};
use crate::engine::Engine;
use crate::error::Error;
use crate::read::{ReadError, Tier};

/// How many threads read, each for one submission at a time.
pub(super) const WARMERS: usize = 8;

/// Is called once, with the submission if it is warm. No lock is held meanwhile.
pub(super) type Then = Box<dyn FnOnce(Result<Admitted, NotWarmed>) + Send>;

/// Why a submission was not warmed. None of it was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotWarmed {
    /// What was met.
    pub error: Error,
    /// The position of the command that met it, in the submission. The others were not at fault. `None`: it concerns all of them.
    pub position: Option<usize>,
}

impl From<Error> for NotWarmed {
    fn from(error: Error) -> Self {
        let position = None;
        Self { error, position }
    }
}

pub(super) struct Warmer {
    engine: Arc<Engine>,
    health: Arc<Health>,
    state: Mutex<State>,
    arrived: Condvar,
    /// Submissions that were cold. Relaxed: a figure.
    cold_count: AtomicU64,
}

#[derive(Default)]
struct State {
    cold: VecDeque<Cold>,
    closed: bool,
}

impl Warmer {
    pub(super) fn new(engine: Arc<Engine>, health: Arc<Health>) -> Self {
        Self {
            engine,
            health,
            state: Mutex::default(),
            arrived: Condvar::new(),
            cold_count: AtomicU64::new(0),
        }
    }

    /// Calls `then` right here if the submission is not cold, else when it was warmed.
    pub(super) fn warm(
        &self,
        admitted: Admitted,
        then: impl FnOnce(Result<Admitted, NotWarmed>) + Send + 'static,
    ) {
        match self.warm_from_memory(admitted) {
            Ok(warmed) => then(warmed),
            Err(cold) => self.warm_from_disk(cold, Box::new(then)),
        }
    }

    /// What `then` would be called with. `Err`: the submission is cold, and was counted as such.
    pub(super) fn warm_from_memory(
        &self,
        admitted: Admitted,
    ) -> Result<Result<Admitted, NotWarmed>, Admitted> {
        let replacements = self.engine.replacements();
        match self.read(&admitted, Tier::Memory) {
            Ok(bytes) => Ok(Ok(admitted.warmed(bytes))),
            Err((_, ReadError::NotInMemory)) => {
                self.note_cold();
                Err(admitted)
            }
            Err((position, ReadError::Failed(error))) => {
                Ok(Err(self.met(&admitted, position, error, replacements)))
            }
        }
    }

    /// Counts a cold submission, and lets the threads read for it.
    pub(super) fn put_aside(&self, admitted: Admitted, then: Then) {
        self.note_cold();
        self.warm_from_disk(admitted, then);
    }

    /// Lets the threads read for a submission that was counted already, or of which the first part was.
    pub(super) fn warm_from_disk(&self, admitted: Admitted, then: Then) {
        let mut cold = Cold(Some((admitted, then)));
        let mut state = self.state();
        if state.closed {
            drop(state);
            return cold.answer(Err(Error::Closed.into()));
        }
        state.cold.push_back(cold);
        drop(state);
        self.arrived.notify_one();
    }

    /// What each of the threads does until the warmer is closed.
    pub(super) fn run(&self) {
        while self.warm_next() {}
    }

    /// Waits for a cold submission and reads for it. `false`: the warmer is closed.
    pub(super) fn warm_next(&self) -> bool {
        let waits = |state: &mut State| state.cold.is_empty() && !state.closed;
        let waited = self.arrived.wait_while(self.state(), waits);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(mut cold) = state.cold.pop_front() else {
            return false;
        };
        drop(state);
        // The other submissions need the thread. Dropping `cold` answers it when reading panicked.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| {
            let read = cold
                .admitted()
                .map(|admitted| self.read_from_disk(admitted));
            cold.answer(read.unwrap_or(Ok(0)));
        }));
        true
    }

    fn note_cold(&self) {
        self.cold_count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many submissions were cold.
    pub(super) fn cold_count(&self) -> u64 {
        self.cold_count.load(Ordering::Relaxed)
    }

    /// Refuses what is cold, now and later, and ends the threads.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let refused = std::mem::take(&mut state.cold);
        drop(state);
        self.arrived.notify_all();
        for mut cold in refused {
            cold.answer(Err(Error::Closed.into()));
        }
    }

    fn read_from_disk(&self, admitted: &Admitted) -> Result<usize, NotWarmed> {
        let replacements = self.engine.replacements();
        let read = self.read(admitted, Tier::Disk);
        read.map_err(|(position, error)| match Error::from(error) {
            Error::Closed => Error::Closed.into(),
            error => self.met(admitted, position, error, replacements),
        })
    }

    /// Ends writing to a region of which the command at a position could not read a key, unless a region was replaced since
    /// `replacements` was read ([`Engine::replacements`]): the damage may be gone with it. If not, the next read meets it.
    fn met(
        &self,
        admitted: &Admitted,
        position: usize,
        error: Error,
        replacements: u64,
    ) -> NotWarmed {
        let is_there = || self.engine.replacements() == replacements;
        let (health, region_id) = (&self.health, admitted.region_id());
        NotWarmed {
            error: health.stop_region_if(region_id, error, is_there),
            position: Some(position),
        }
    }

    /// How many bytes of records were read, or which command failed.
    fn read(&self, admitted: &Admitted, tier: Tier) -> Result<usize, (usize, ReadError)> {
        let go_on = |bytes_read: usize| match tier {
            Tier::Memory if bytes_read > INLINE_READ_BYTES => Err(ReadError::NotInMemory),
            Tier::Disk if self.state().closed => Err(Error::Closed.into()),
            Tier::Disk | Tier::Memory => Ok(()),
        };
        apply::read_ahead(&self.engine, &admitted.entry(), tier, go_on)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cold submission until it is answered. Dropped before, it says so itself.
struct Cold(Option<(Admitted, Then)>);

impl Cold {
    fn admitted(&self) -> Option<&Admitted> {
        self.0.as_ref().map(|(admitted, _)| admitted)
    }

    /// `read` says how many bytes of records were read.
    fn answer(&mut self, read: Result<usize, NotWarmed>) {
        if let Some((admitted, then)) = self.0.take() {
            then(read.map(|bytes| admitted.warmed(bytes)));
        }
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        let panicked = Error::io("reading keys", "the thread panicked");
        self.answer(Err(panicked.into()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver};

    use super::super::{Submission, WriteHealth, WriteShare};
    use super::*;
    use crate::command::Command;
    use crate::engine::Family;
    use crate::keys;
    use crate::limits::VALUE_BYTES_MAX;

    type Answer = Result<Admitted, NotWarmed>;

    /// A warmer that no thread runs.
    fn warmer() -> (tempfile::TempDir, Warmer) {
        let (directory, engine) = Engine::temporary(8 << 20);
        (directory, Warmer::new(engine, Arc::new(Health::new())))
    }

    /// A swap of a key that is expected at a version.
    fn swap(expected_version: u64) -> Admitted {
        swaps(&["k"], expected_version)
    }

    /// Swaps of keys that are expected at a version.
    fn swaps(keys: &[&'static str], expected_version: u64) -> Admitted {
        let swaps = keys.iter().map(|key| Command::CompareAndSwap {
            key: (*key).into(),
            expected_version,
            value: "v".into(),
        });
        let room = WriteShare::of_queue(1).take(1, 1).unwrap();
        Admitted::new(Submission::new(1, swaps.collect()), 0, room)
    }

    /// Puts a record of `bytes` into the memtable.
    fn put_record(warmer: &Warmer, key: &str, bytes: usize) {
        let mut record = keys::versioned::encode(1, b"");
        record.resize(bytes, b'v');
        let family = warmer.engine.family(Family::Versioned);
        warmer.engine.database.put_cf(family, key, record).unwrap();
    }

    fn answer() -> (Then, Receiver<Answer>) {
        let (sender, answer) = mpsc::channel();
        (Box::new(move |read| sender.send(read).unwrap()), answer)
    }

    fn refusal(answer: &Receiver<Answer>) -> Error {
        answer.try_recv().unwrap().unwrap_err().error
    }

    #[test]
    fn what_is_cold_is_refused_when_the_warmer_closes_and_afterwards() {
        let (_directory, warmer) = warmer();
        let (then, before) = answer();
        warmer.put_aside(swap(1), then);
        assert!(before.try_recv().is_err());
        warmer.close();
        let (then, after) = answer();
        warmer.put_aside(swap(1), then);
        for answer in [before, after] {
            assert_eq!(refusal(&answer), Error::Closed);
        }
        assert!(!warmer.warm_next());
        // One that a thread has taken.
        let taken = warmer.read_from_disk(&swap(1));
        assert_eq!(taken, Err(Error::Closed.into()));
        assert_eq!(*warmer.health.watch().borrow(), WriteHealth::Healthy);
        assert_eq!(warmer.cold_count(), 2);
    }

    /// RocksDB copies a record out of a memtable with each read.
    #[test]
    fn a_key_is_read_once_for_all_commands_of_a_submission() {
        let (_directory, warmer) = warmer();
        put_record(&warmer, "k", VALUE_BYTES_MAX);
        let (then, answer) = answer();
        warmer.warm(swaps(&["k"; 4096], 7), then);
        let warm = answer.try_recv().unwrap().unwrap();
        assert_eq!(warm.read_bytes(), VALUE_BYTES_MAX);
    }

    #[test]
    fn much_that_is_in_memory_is_read_by_the_threads_and_a_single_record_right_here() {
        const RECORD_BYTES: usize = INLINE_READ_BYTES + 1;
        let (_directory, warmer) = warmer();
        let keys = ["a", "b", "c"];
        for key in keys {
            put_record(&warmer, key, RECORD_BYTES);
        }
        let (then, alone) = answer();
        warmer.warm(swaps(&keys[..1], 1), then);
        assert_eq!(
            alone.try_recv().unwrap().unwrap().read_bytes(),
            RECORD_BYTES
        );

        let cold = warmer.warm_from_memory(swaps(&keys, 1)).unwrap_err();
        assert_eq!(cold.commands().len(), keys.len());
        let (then, together) = answer();
        warmer.warm_from_disk(cold, then);
        assert!(together.try_recv().is_err());
        assert!(warmer.warm_next());
        let warm = together.try_recv().unwrap().unwrap();
        assert_eq!(warm.read_bytes(), keys.len() * RECORD_BYTES);
        assert_eq!(warmer.cold_count(), 1);
    }

    #[test]
    fn a_panic_ends_neither_the_thread_nor_the_wait_for_an_answer() {
        let (_directory, warmer) = warmer();
        warmer.put_aside(swap(1), Box::new(|_| panic!("the test says so")));
        let (then, next) = answer();
        warmer.put_aside(swap(1), then);
        assert!(warmer.warm_next() && warmer.warm_next());
        assert!(next.try_recv().unwrap().is_ok());

        let (then, unanswered) = answer();
        drop(Cold(Some((swap(1), then))));
        let told = refusal(&unanswered);
        assert!(matches!(told, Error::Io { .. }), "{told:?}");
    }

    #[test]
    fn what_could_not_be_read_does_not_stop_a_region_whose_data_was_replaced_meanwhile() {
        let (_directory, warmer) = warmer();
        let damage = || Error::DataLoss {
            cause: "a damaged block".to_owned(),
        };
        // The read begins, the region is replaced and takes writes again, and the read fails.
        let replacements = warmer.engine.replacements();
        warmer.engine.begin_replacement();
        warmer.health.resume_region(1);
        let met = |replacements| warmer.met(&swap(0), 0, damage(), replacements).error;
        assert_eq!(met(replacements), damage());
        assert_eq!(warmer.health.check(1), Ok(()));
        assert_eq!(met(warmer.engine.replacements()), damage());
        assert!(warmer.health.check(1).is_err());
    }

    #[test]
    fn the_command_that_met_damage_is_named_in_either_way_of_warming() {
        let (_directory, warmer) = warmer();
        let family = warmer.engine.family(Family::Versioned);
        let damaged = warmer.engine.database.put_cf(family, "b", "short");
        damaged.unwrap();
        let keys = ["a", "b", "c"];
        let (then, warmed) = answer();
        warmer.warm(swaps(&keys, 1), then);
        let warmed = warmed.try_recv().unwrap().unwrap_err();
        let read = warmer.read_from_disk(&swaps(&keys, 1)).unwrap_err();
        for met in [warmed, read] {
            assert!(matches!(met.error, Error::DataLoss { .. }), "{met:?}");
            assert_eq!(met.position, Some(1));
        }
    }

    #[test]
    fn a_version_floor_that_cannot_be_read_is_met_by_what_depends_on_it() {
        let (_directory, warmer) = warmer();
        let (key, family) = (keys::version_floor::key(1), Family::RaftState);
        let family = warmer.engine.family(family);
        warmer.engine.database.put_cf(family, key, "short").unwrap();
        let (then, update) = answer();
        warmer.warm(swap(7), then);
        assert!(update.try_recv().unwrap().is_ok());
        assert_eq!(*warmer.health.watch().borrow(), WriteHealth::Healthy);
        let (then, create) = answer();
        warmer.warm(swap(0), then);
        let met = refusal(&create);
        assert!(matches!(met, Error::DataLoss { .. }), "{met:?}");
        let refused = warmer.health.check(1);
        assert!(matches!(refused, Err(Error::WritesStopped { .. })));
    }
}
