//! The thread that writes the audit log.
//!
//! It takes all that waits at once and writes it in pieces of up to [`PIECE_BYTES`]. So the operating system has every line as soon as
//! nothing waits any more. Lines are synced to the disk within [`SYNC_INTERVAL`], at each rotation, and at the end.
//!
//! What cannot be written is kept and tried again. Meanwhile events gather in the queue; when it is full they are dropped.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

use super::file::{Failure, LogFile};
use super::line::Lines;
use super::log::Shared;
use super::queue::{Noted, Taken};
use crate::rare_line::RareLine;
use crate::spans::Origin;
use crate::transport::limits::{AUDIT_END_TIMEOUT, CLOSE_TIMEOUT};

/// Bytes of lines that are written at once, and some more.
const PIECE_BYTES: usize = 64 << 10;

/// How long a line may be written and not synced.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// How long after a failure it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The thread. Dropped, it writes what waits, and nobody waits for it.
#[derive(Debug)]
pub struct AuditWriter {
    shared: Arc<Shared>,
    /// `None`: it is waited for.
    thread: Option<JoinHandle<()>>,
}

impl AuditWriter {
    pub(super) fn start(writer: Writer) -> io::Result<Self> {
        let shared = Arc::clone(&writer.shared);
        let thread = Builder::new()
            .name("audit-log".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Writes all that was noted, or tries to, and waits until it is on the disk. What is noted later is dropped.
    pub fn end(mut self) {
        self.shared.queue.end();
        let thread = self.thread.take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the writer of the audit log has failed");
        }
    }
}

impl Drop for AuditWriter {
    fn drop(&mut self) {
        self.shared.queue.end();
    }
}

/// Ends the writer, if there is one. The process has begun to close its storage at `closing_began`, and has a bounded time for both: a
/// writer whose disk does not answer is left behind.
pub async fn end(writer: Option<AuditWriter>, closing_began: tokio::time::Instant) {
    let Some(writer) = writer else {
        return;
    };
    let ending = spawn_blocking(move || writer.end());
    let deadline = closing_began + CLOSE_TIMEOUT + AUDIT_END_TIMEOUT;
    if timeout_at(deadline, ending).await.is_err() {
        tracing::warn!("the last lines of the audit log could not be written in time");
    }
}

/// What the thread has.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    file: LogFile,
    lines: Lines,
    /// Lines that are not written yet.
    piece: Vec<u8>,
    /// The first of them tells of the file that it begins.
    is_headed: bool,
    /// Events that have no line yet.
    taken: VecDeque<Noted>,
    /// How many events were dropped when a line said so last.
    told_dropped: u64,
    /// How many of them were refusals.
    told_refusals: u64,
    /// The lines of the process's own log about dropped events, and how many events those lines have counted.
    dropped_line: RareLine,
    logged_dropped: u64,
    /// When the first line was written that is not synced.
    unsynced_since: Option<Instant>,
}

/// The process ends, and its last lines cannot be written.
struct Abandoned;

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, file: LogFile, origin: &Origin) -> Self {
        Self {
            shared,
            file,
            lines: Lines::of(origin),
            piece: Vec::new(),
            is_headed: false,
            taken: VecDeque::new(),
            told_dropped: 0,
            told_refusals: 0,
            dropped_line: RareLine::default(),
            logged_dropped: 0,
            unsynced_since: None,
        }
    }

    pub(super) fn run(mut self) {
        if self.write_all().is_err() {
            self.abandon();
        }
    }

    fn write_all(&mut self) -> Result<(), Abandoned> {
        // The first line tells of the file.
        self.write()?;
        loop {
            let until_sync = self
                .unsynced_since
                .map(|since| SYNC_INTERVAL.saturating_sub(since.elapsed()));
            let taken = self.shared.queue.take(&mut self.taken, until_sync);
            if taken == Taken::End {
                self.tell_dropped();
                self.lines.closed(&mut self.piece);
            }
            self.write_taken()?;
            self.sync_if_due(taken == Taken::End)?;
            if taken == Taken::End {
                return Ok(());
            }
        }
    }

    fn write_taken(&mut self) -> Result<(), Abandoned> {
        while let Some(Noted { at, event }) = self.taken.pop_front() {
            self.lines.event(at, &event, &mut self.piece);
            if self.piece.len() >= PIECE_BYTES {
                self.write()?;
            }
        }
        self.tell_dropped();
        if self.piece.is_empty() {
            return Ok(());
        }
        self.write()
    }

    /// Adds a line about events that were dropped since the last one. They came after those that were taken.
    fn tell_dropped(&mut self) {
        let refusals = self.shared.dropped_refusals.get();
        let dropped = self.shared.dropped.get();
        let since = dropped - mem::replace(&mut self.told_dropped, dropped);
        if since > 0 {
            let refusals = refusals - mem::replace(&mut self.told_refusals, refusals);
            // Some may have been counted between the two looks of the last time.
            self.lines
                .dropped(since, refusals.min(since), &mut self.piece);
            self.log_dropped();
        }
    }

    fn log_dropped(&mut self) {
        let dropped = self.shared.dropped.get();
        if dropped > self.logged_dropped && self.dropped_line.take_turn(Instant::now()).is_some() {
            let events = dropped - mem::replace(&mut self.logged_dropped, dropped);
            tracing::warn!(
                events,
                "the audit log is not written as fast as events come: some are missing in it, and a line there says how many"
            );
        }
    }

    /// Writes the piece, however long that takes.
    fn write(&mut self) -> Result<(), Abandoned> {
        self.persist("written", |writer| {
            writer.file.prepare(writer.piece.len())?;
            writer.tell_of_file();
            let written = writer.file.write(&mut writer.piece, &writer.shared.written);
            writer.is_headed &= writer.file.is_begun_anew();
            if writer.file.is_unsynced() {
                writer.unsynced_since.get_or_insert_with(Instant::now);
            }
            written
        })
    }

    /// Begins a file with a line about it, also when an earlier attempt failed.
    fn tell_of_file(&mut self) {
        if self.is_headed || !self.file.is_begun_anew() {
            return;
        }
        let (key_id, notes_writes) = (self.shared.hasher.id(), self.shared.notes_writes);
        let mut piece = Vec::new();
        self.lines.opened(key_id, notes_writes, &mut piece);
        piece.append(&mut self.piece);
        self.piece = piece;
        self.is_headed = true;
    }

    fn sync_if_due(&mut self, is_end: bool) -> Result<(), Abandoned> {
        let is_due = |since: Instant| is_end || since.elapsed() >= SYNC_INTERVAL;
        if !self.unsynced_since.is_some_and(is_due) {
            return Ok(());
        }
        self.persist("synced", |writer| writer.file.sync())?;
        self.unsynced_since = None;
        Ok(())
    }

    /// Tries until it works, or until it has failed at the end of the process.
    fn persist(
        &mut self,
        what: &'static str,
        mut attempt: impl FnMut(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Abandoned> {
        let mut is_end = false;
        loop {
            match attempt(self) {
                Ok(()) => {
                    self.tell_works();
                    return Ok(());
                }
                Err(failure) => self.tell_failure(&failure, what),
            }
            if is_end {
                return Err(Abandoned);
            }
            self.log_dropped();
            is_end = self.shared.queue.pause(RETRY_PAUSE);
        }
    }

    fn tell_failure(&self, Failure { what, error }: &Failure, wanted: &str) {
        self.shared.errors.increment();
        let path = self.file.path().display();
        let warning = format!(
            "the audit log {path} cannot be {what}: {error}; events are missing in it once many wait"
        );
        if self.shared.warn(Some(warning)) {
            tracing::error!(%path, %error, wanted, "the audit log cannot be {what}; it is tried again every second");
        }
    }

    fn tell_works(&self) {
        let path = self.file.path().display();
        let unrotated = self.file.unrotated();
        let warning = unrotated.map(|Failure { error, .. }| {
            format!("the audit log {path} cannot be rotated, and grows: {error}")
        });
        let is_wrong = warning.is_some();
        if !self.shared.warn(warning) {
            return;
        }
        if is_wrong {
            self.shared.errors.increment();
            let error = unrotated.map(|unrotated| tracing::field::display(&unrotated.error));
            tracing::error!(%path, error, "the audit log cannot be rotated, and grows");
        } else {
            tracing::info!(%path, "the audit log is written again");
        }
    }

    /// Counts what will not be written.
    fn abandon(mut self) {
        let in_hand = self.piece.iter().filter(|byte| **byte == b'\n').count();
        let left = in_hand + self.taken.len() + self.shared.queue.abandon();
        self.taken.clear();
        self.shared.dropped.add(left as u64);
        tracing::error!(lines = left, "the last lines of the audit log are lost");
    }
}

#[cfg(test)]
mod tests;
