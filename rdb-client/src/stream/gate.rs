//! Which stream takes requests from a queue, and whether a task keeps a stream open.

use std::task::Waker;

/// A part of a queue's state, under the queue's lock.
///
/// - Generations only grow. At most one is admitted, the newest; a stream of another one ends when it asks for a request.
/// - A waker is kept only while the admitted stream has nothing to take.
/// - At most one task counts as running: [`Gate::start`] says so to one caller until [`Gate::stop`].
#[derive(Debug, Default)]
pub(crate) struct Gate {
    generation: u64,
    is_open: bool,
    is_running: bool,
    sleeper: Option<Waker>,
}

impl Gate {
    /// Admits a new stream: its generation.
    pub(crate) fn open(&mut self) -> u64 {
        self.generation += 1;
        self.is_open = true;
        self.generation
    }

    /// Admits no stream. Wake the returned waker outside the lock, so that its stream ends.
    #[must_use]
    pub(crate) fn close(&mut self) -> Option<Waker> {
        self.is_open = false;
        self.sleeper.take()
    }

    pub(crate) fn admits(&self, generation: u64) -> bool {
        self.is_open && self.generation == generation
    }

    /// Keeps the waker of the admitted stream until there is something to take. Drop the previous waker outside the lock.
    #[must_use]
    pub(crate) fn sleep(&mut self, waker: Waker) -> Option<Waker> {
        self.sleeper.replace(waker)
    }

    /// There is something to take. Wake the returned waker outside the lock.
    #[must_use]
    pub(crate) fn wake(&mut self) -> Option<Waker> {
        self.sleeper.take()
    }

    /// Somebody waits for an answer. True: no task is running, and the caller has to start it.
    #[must_use]
    pub(crate) fn start(&mut self) -> bool {
        !std::mem::replace(&mut self.is_running, true)
    }

    /// The task is about to end.
    pub(crate) fn stop(&mut self) {
        self.is_running = false;
    }

    pub(crate) fn is_running(&self) -> bool {
        self.is_running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_stream_is_admitted_and_none_once_it_is_closed() {
        let mut gate = Gate::default();
        let first = gate.open();
        let second = gate.open();
        assert!(!gate.admits(first) && gate.admits(second));
        assert!(gate.sleep(Waker::noop().clone()).is_none());
        assert!(gate.close().is_some(), "its stream is told");
        assert!(!gate.admits(second) && gate.wake().is_none());
    }

    #[test]
    fn one_caller_starts_the_task_and_after_its_end_another() {
        let mut gate = Gate::default();
        assert!(gate.start() && !gate.start());
        gate.stop();
        assert!(!gate.is_running() && gate.start());
    }
}
