//! openraft's view of a state machine.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use tokio::task::spawn_blocking;

use super::{
    Applied, ApplyError, Committed, Position, PositionBuilder, StateMachine, Strides, User,
};
use crate::log::LogReader;
use crate::types::{
    Answer, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, entry_bytes,
};

/// Most that is applied at once, in entries and in bytes; at least one entry is. It bounds how long an apply holds up the
/// thread that it runs on.
const APPLY_ENTRIES_MAX: usize = 256;
const APPLY_BYTES_MAX: usize = 1 << 20;

/// Feeds a [`StateMachine`] the entries that are committed.
///
/// What is ready is applied at once, on the task of the group. Only what has to read the disk goes to a blocking thread.
pub(crate) struct Machine {
    machine: Arc<dyn StateMachine>,
    /// Reader of the group's log. It is told what is applied, which need not stay in memory.
    log: LogReader,
    strides: Arc<Strides>,
    /// Whether an apply has failed. Released before anybody can learn of it.
    has_failed: Arc<AtomicBool>,
    snapshots: PositionBuilder,
    user: User,
}

impl Machine {
    /// The state machine of the group whose log it is.
    pub(crate) fn new(
        machine: Arc<dyn StateMachine>,
        log: LogReader,
        strides: Arc<Strides>,
        has_failed: Arc<AtomicBool>,
        snapshots: PositionBuilder,
        user: User,
    ) -> Self {
        Self {
            machine,
            log,
            strides,
            has_failed,
            snapshots,
            user,
        }
    }

    async fn apply_chunk(&self, chunk: Chunk) -> io::Result<()> {
        let Chunk {
            entries,
            responders,
            bytes,
        } = chunk;
        let last_index = entries.last().map(|last| last.entry.log_id.index);
        let answers = match self.apply_entries(entries).await {
            Ok(answers) => answers,
            Err(ApplyError::Refused(error)) => return Err(error),
            Err(error) => {
                self.has_failed.store(true, Ordering::Release);
                return Err(io::Error::other(error));
            }
        };
        if let Some(last_index) = last_index {
            self.log.set_applied(last_index);
            self.strides.add(last_index, answers.len(), bytes);
        }
        for (responder, answer) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    /// The answer to each.
    async fn apply_entries(&self, entries: Vec<Committed>) -> Result<Vec<Answer>, ApplyError> {
        let count = entries.len();
        let answers = match apply(&*self.machine, &entries, false) {
            Err(ApplyError::Blocks) => {
                let machine = Arc::clone(&self.machine);
                let blocking = spawn_blocking(move || apply(&*machine, &entries, true));
                blocking.await.map_err(io::Error::other)?
            }
            applied => applied,
        }?;
        if answers.len() != count {
            let answers = answers.len();
            let message = format!("the state machine answered {answers} of {count} entries");
            return Err(io::Error::other(message).into());
        }
        Ok(answers)
    }
}

/// A panic is a failure. openraft would not notice that its task is gone, and lead on.
fn apply(
    machine: &dyn StateMachine,
    entries: &[Committed],
    may_block: bool,
) -> Result<Vec<Answer>, ApplyError> {
    // What may be half done is never looked at again.
    let apply = AssertUnwindSafe(|| machine.apply(entries, may_block));
    catch_unwind(apply).unwrap_or_else(|_| {
        let panicked = io::Error::other("the state machine panicked");
        Err(ApplyError::Failed(panicked))
    })
}

/// Entries that are applied together.
#[derive(Default)]
struct Chunk {
    entries: Vec<Committed>,
    responders: Vec<Option<ApplyResponder<TypeConfig>>>,
    bytes: usize,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.entries.len() >= APPLY_ENTRIES_MAX || self.bytes >= APPLY_BYTES_MAX
    }

    fn push(&mut self, (entry, responder): EntryResponder<TypeConfig>) {
        self.bytes += entry_bytes(&entry);
        let is_awaited = responder.is_some();
        self.entries.push(Committed { entry, is_awaited });
        self.responders.push(responder);
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Position;
    type SnapshotBuilder = PositionBuilder;

    /// openraft asks at the start only.
    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let Applied {
            position,
            membership,
        } = self.machine.flushed()?;
        Ok((position, membership))
    }

    async fn apply<Entries>(&mut self, entries: Entries) -> io::Result<()>
    where
        Entries: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            // The group's core has ended, and left what it had queued.
            if self.user.should_stop() {
                return Err(io::Error::other("the group has ended"));
            }
            let mut chunk = Chunk::default();
            chunk.push(first?);
            while !chunk.is_full()
                && let Some(Some(next)) = entries.next().now_or_never()
            {
                chunk.push(next?);
            }
            self.apply_chunk(chunk).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> PositionBuilder {
        self.snapshots.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, _: Position) -> io::Result<()> {
        let message = "a position cannot be installed: it has no data";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<Position>>> {
        Ok(self.snapshots.last_built())
    }
}
