//! How far a submission has come on its way into the log and out of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// When an apply of log entries began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Applying {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// When a submission passed each step, for the caller that waits for it or gives it up.
///
/// Each step is noted with a time that is read for the whole entry, or the whole apply, anyway. All atomics are relaxed: each is
/// an independent figure, and a reader may miss a step that has just been passed.
#[derive(Debug)]
pub(crate) struct WriteProgress {
    submitted: Instant,
    /// These are in nanoseconds since `submitted`, plus one; 0: not yet.
    proposed: AtomicU64,
    apply_began: AtomicU64,
    applied: AtomicU64,
}

/// How long each step took. The last that was begun lasts until the submission was looked at; those behind it are `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct WriteSteps {
    /// Until its entry was proposed, reading of its keys included.
    pub(crate) queue: Option<Duration>,
    /// Until a quorum had the entry on its disks, and the apply of it began.
    pub(crate) sync: Option<Duration>,
    pub(crate) apply: Option<Duration>,
    /// Since then.
    pub(crate) answer: Option<Duration>,
}

impl WriteProgress {
    pub(super) fn submitted_at(submitted: Instant) -> Self {
        Self {
            submitted,
            proposed: AtomicU64::new(0),
            apply_began: AtomicU64::new(0),
            applied: AtomicU64::new(0),
        }
    }

    pub(crate) fn submitted(&self) -> Instant {
        self.submitted
    }

    pub(super) fn note_proposed(&self, at: Instant) {
        self.note(&self.proposed, at);
    }

    pub(super) fn note_applied(&self, applying: Applying) {
        self.note(&self.apply_began, applying.began);
        self.note(&self.applied, applying.ended);
    }

    fn note(&self, step: &AtomicU64, at: Instant) {
        let since = at.saturating_duration_since(self.submitted);
        let nanoseconds = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        step.store(nanoseconds.saturating_add(1), Relaxed);
    }

    /// How long its steps have taken by `now`.
    pub(crate) fn steps(&self, now: Instant) -> WriteSteps {
        let mut begun = Some(Duration::ZERO);
        let until = now.saturating_duration_since(self.submitted);
        let mut step = |passed: Option<&AtomicU64>| {
            let began = begun?;
            let passed = passed.and_then(|passed| passed.load(Relaxed).checked_sub(1));
            begun = passed.map(Duration::from_nanos);
            Some(begun.unwrap_or(until).saturating_sub(began))
        };
        WriteSteps {
            queue: step(Some(&self.proposed)),
            sync: step(Some(&self.apply_began)),
            apply: step(Some(&self.applied)),
            answer: step(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_step_that_was_begun_last_lasts_until_now_and_none_is_behind_it() {
        let submitted = Instant::now();
        let progress = WriteProgress::submitted_at(submitted);
        let mut steps = WriteSteps {
            queue: Some(ms(700)),
            ..WriteSteps::default()
        };
        assert_eq!(progress.steps(submitted + ms(700)), steps);

        progress.note_proposed(submitted + ms(200));
        steps.queue = Some(ms(200));
        steps.sync = Some(ms(500));
        assert_eq!(progress.steps(submitted + ms(700)), steps);

        progress.note_applied(Applying {
            began: submitted + ms(600),
            ended: submitted + ms(650),
        });
        steps.sync = Some(ms(400));
        steps.apply = Some(ms(50));
        steps.answer = Some(ms(50));
        assert_eq!(progress.steps(submitted + ms(700)), steps);
    }

    #[test]
    fn an_entry_that_began_to_be_applied_before_its_proposal_was_noted_takes_no_negative_time() {
        let submitted = Instant::now();
        let progress = WriteProgress::submitted_at(submitted);
        progress.note_proposed(submitted + ms(200));
        progress.note_applied(Applying {
            began: submitted + ms(100),
            ended: submitted + ms(300),
        });
        let steps = progress.steps(submitted + ms(300));
        assert_eq!(steps.sync, Some(ms(0)));
    }
}
