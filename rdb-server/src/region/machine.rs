//! A region as its group sees it: the state machine that the log is applied to.
//!
//! A check ends a write, and its snapshot is taken before any later entry is applied. That blocks for a moment.
//!
//! The members of the region change with entries and with snapshots. Others are told after the storage shows the change.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rdb_raft::encoding::{log_id, stored_membership};
use rdb_raft::machine::{
    Applied, ApplyError, Committed, ReceivedSnapshot, SnapshotSink, SnapshotSource, StateMachine,
};
use rdb_raft::mutant::Mutant;
use rdb_raft::{Answer, Content, Entry, LogId, Membership, StoreNode};
use rdb_storage::limits::CONFLICT_VALUES_BYTES_MAX;
use rdb_storage::{
    AppliedState, ApplyOptions, Error, IncomingRegion, LogChange, LogEntry, Outcome,
    PeerDescriptor, ReceivedRegion, RegionDescriptor, RegionMembership, RegionSnapshot, Storage,
};

use super::outcomes::AppliedEntry;
use super::progress::Applying;
use crate::checks::Checks;
use crate::metrics::Figures;

/// Applies the entries of a region's log to the storage, without its write-ahead log: the log has them.
pub(crate) struct RegionMachine {
    region_id: u64,
    storage: Storage,
    /// Called with the damage that an entry met.
    tell_damage: Box<dyn Fn(&str) + Send + Sync>,
    /// Called when the region, its peers or their roles have changed.
    tell_change: Arc<dyn Fn() + Send + Sync>,
    checks: Arc<Checks>,
    figures: Arc<Figures>,
}

impl RegionMachine {
    /// A region without a first state waits for a snapshot.
    pub(crate) fn new(region_id: u64, storage: Storage, checks: Arc<Checks>) -> Self {
        Self {
            region_id,
            storage,
            checks,
            tell_damage: Box::new(|_| ()),
            tell_change: Arc::new(|| ()),
            figures: Arc::default(),
        }
    }

    /// The same with figures that are noted of each apply.
    pub(crate) fn measured_by(self, figures: Arc<Figures>) -> Self {
        Self { figures, ..self }
    }

    /// The same with a function that is told of damaged data that keeps the log from being applied.
    pub(crate) fn telling_damage(self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let tell_damage = Box::new(tell);
        Self {
            tell_damage,
            ..self
        }
    }

    /// The same with a function that is told when the region, its peers or their roles have changed.
    pub(crate) fn telling_changes(self, tell: impl Fn() + Send + Sync + 'static) -> Self {
        let tell_change = Arc::new(tell);
        Self {
            tell_change,
            ..self
        }
    }

    /// Only a write whose fate is open may be half done.
    fn failed(&self, error: Error) -> ApplyError {
        if let Error::DataLoss { cause } = &error {
            (self.tell_damage)(cause);
        }
        let is_open = matches!(error, Error::Undetermined { .. });
        let error = error.into();
        if is_open {
            ApplyError::Failed(error)
        } else {
            ApplyError::Refused(error)
        }
    }

    /// Applies entries in parts: each check ends one. If a part after the first is refused, the whole apply fails.
    fn apply_checks(
        &self,
        entries: &[LogEntry],
        options: ApplyOptions,
    ) -> Result<Vec<Vec<Outcome>>, ApplyError> {
        let mut outcomes = Vec::with_capacity(entries.len());
        for part in entries.split_inclusive(is_check) {
            let applied = self.storage.apply(self.region_id, part, options);
            let applied = applied.map_err(|error| match self.failed(error) {
                ApplyError::Refused(error) if !outcomes.is_empty() => ApplyError::Failed(error),
                error => error,
            })?;
            outcomes.extend(applied);
            if let Some(check) = part.last().filter(|last| is_check(last)) {
                let index = log_id::decode(&check.position)
                    .map_err(io::Error::from)?
                    .index;
                self.checks.hold(self.region_id, index, &check.position);
            }
        }
        Ok(outcomes)
    }
}

impl StateMachine for RegionMachine {
    fn apply(&self, entries: &[Committed], may_block: bool) -> Result<Vec<Answer>, ApplyError> {
        let log_entries = entries.iter().map(|committed| log_entry(&committed.entry));
        let log_entries = log_entries.collect::<io::Result<Vec<_>>>();
        let log_entries = log_entries.map_err(ApplyError::Refused)?;
        let is_awaited = entries.iter().any(|committed| committed.is_awaited);
        let options = ApplyOptions {
            write_ahead_log: None,
            conflict_values_bytes_max: if is_awaited {
                CONFLICT_VALUES_BYTES_MAX
            } else {
                0
            },
        };
        let began = Instant::now();
        let outcomes = if may_block {
            self.apply_checks(&log_entries, options)?
        } else if log_entries.iter().any(is_check) {
            return Err(ApplyError::Blocks);
        } else {
            let applied = self
                .storage
                .apply_from_memory(self.region_id, &log_entries, options);
            applied
                .map_err(|error| self.failed(error))?
                .ok_or(ApplyError::Blocks)?
        };
        let ended = Instant::now();
        self.figures.proposals.note_apply(ended - began);
        if log_entries.iter().any(is_membership) {
            (self.tell_change)();
        }
        let answers = entries.iter().zip(&log_entries).zip(outcomes);
        let answers = answers.map(|((committed, log_entry), outcomes)| {
            if !committed.is_awaited {
                Answer::default()
            } else if is_check(log_entry) {
                Answer::new(committed.entry.log_id)
            } else {
                let applying = Applying { began, ended };
                Answer::new(AppliedEntry { outcomes, applying })
            }
        });
        Ok(answers.collect())
    }

    fn flushed(&self) -> io::Result<Applied> {
        let flushed = self.storage.flushed(self.region_id)?;
        let flushed = flushed.as_ref().map(applied).transpose()?;
        Ok(flushed.unwrap_or_default())
    }

    fn log_is_damaged(&self, cause: &io::Error) {
        (self.tell_damage)(&cause.to_string());
    }

    fn flush(&self) -> io::Result<()> {
        Ok(self.storage.flush(self.region_id)?)
    }

    fn snapshot(&self) -> io::Result<(Applied, Box<dyn SnapshotSource>)> {
        let snapshot = self.storage.region_snapshot(self.region_id)?;
        Ok((applied(snapshot.applied())?, Box::new(Sent(snapshot))))
    }

    fn receive(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(Receiving {
            incoming: self.storage.receive_region(self.region_id)?,
            tell_change: Arc::clone(&self.tell_change),
        }))
    }
}

/// A region on its way to another store.
struct Sent(RegionSnapshot);

impl SnapshotSource for Sent {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.0.next_chunk()?)
    }
}

/// A region on its way here.
struct Receiving {
    incoming: IncomingRegion,
    tell_change: Arc<dyn Fn() + Send + Sync>,
}

impl SnapshotSink for Receiving {
    fn add(&mut self, chunk: Bytes) -> io::Result<()> {
        Ok(self.incoming.add(chunk)?)
    }

    fn complete(self: Box<Self>, expected: &Applied) -> io::Result<Box<dyn ReceivedSnapshot>> {
        let received = self.incoming.complete()?;
        if applied(received.applied())? != *expected {
            return Err(io::Error::other("the region is as of another position"));
        }
        Ok(Box::new(Received {
            received,
            tell_change: self.tell_change,
        }))
    }
}

struct Received {
    received: ReceivedRegion,
    tell_change: Arc<dyn Fn() + Send + Sync>,
}

impl ReceivedSnapshot for Received {
    fn install(self: Box<Self>) -> io::Result<()> {
        let Self {
            received,
            tell_change,
        } = *self;
        received.install()?;
        tell_change();
        Ok(())
    }
}

fn applied(state: &AppliedState) -> io::Result<Applied> {
    Ok(Applied {
        position: Some(log_id::decode(&state.position)?),
        membership: stored_membership::decode(&state.membership)?,
    })
}

/// The state that every first peer of a region begins with: its peers as voters, and a position below the first entry. An entry at index 0
/// would be part of the log. Then a peer that is added later would get the log without the data from before it.
pub(crate) fn first_state(region: &RegionDescriptor) -> Result<AppliedState, Error> {
    let beginning = LogId::new_term_index(0, 0);
    let voters = region.peers.iter().map(|peer| peer.id).collect();
    let nodes = region.peers.iter();
    let nodes = nodes.map(|peer| {
        (
            peer.id,
            StoreNode {
                store_id: peer.store_id,
            },
        )
    });
    let membership = Membership::new(vec![voters], nodes.collect::<BTreeMap<_, _>>());
    let membership = membership.map_err(|error| Error::InvalidArgument {
        field: "peers",
        limit: None,
        cause: error.to_string(),
    })?;
    Ok(AppliedState {
        position: log_id::encode(&beginning).to_vec().into(),
        membership: stored_membership::encode(&beginning, &membership).into(),
    })
}

/// The entry in the form that the storage applies.
fn log_entry(entry: &Entry) -> io::Result<LogEntry> {
    let change = match &entry.payload {
        Content::Blank => LogChange::Blank,
        Content::Normal(payload) => LogChange::decode(payload.0.clone())?,
        Content::Membership(membership) => {
            let record = stored_membership::encode(&entry.log_id, membership).into();
            let nodes = membership.nodes();
            let peers = nodes.map(|(&id, &StoreNode { store_id })| PeerDescriptor { id, store_id });
            let peers = peers.collect();
            LogChange::Membership(RegionMembership { record, peers })
        }
    };
    let position = if Mutant::DropPosition.is_on() {
        LogId::new_term_index(0, 0)
    } else {
        entry.log_id
    };
    Ok(LogEntry {
        position: log_id::encode(&position).to_vec().into(),
        change,
    })
}

fn is_membership(entry: &LogEntry) -> bool {
    matches!(entry.change, LogChange::Membership(_))
}

fn is_check(entry: &LogEntry) -> bool {
    entry.change == LogChange::Check
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use rdb_raft::Payload;
    use rdb_storage::{Command, Proposal, Role, StorageOptions};

    use super::*;
    use crate::checks::Progress;

    const REGION: u64 = 1;

    fn machine() -> (tempfile::TempDir, RegionMachine) {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let options = StorageOptions::new(Role::Server);
        let storage = Storage::open(directory.path(), options).expect("a new directory");
        let region = RegionDescriptor {
            id: REGION,
            start_key: Bytes::new(),
            end_key: Bytes::new(),
            conf_version: 1,
            version: 1,
            peers: vec![PeerDescriptor { id: 1, store_id: 1 }],
        };
        let state = first_state(&region).expect("it has a peer");
        let begun = storage.bootstrap_regions(&[(region, state)]);
        begun.expect("written");
        let checks = Arc::new(Checks::new(storage.clone()));
        (directory, RegionMachine::new(REGION, storage, checks))
    }

    fn put(value: &'static str) -> Bytes {
        let proposal = Proposal {
            epoch_version: 1,
            commands: vec![Command::PutRaw {
                key: "k".into(),
                value: value.into(),
            }],
        };
        proposal.encode()
    }

    fn check() -> Bytes {
        Bytes::from_static(LogChange::CHECK)
    }

    fn committed(payloads: impl IntoIterator<Item = Bytes>) -> Vec<Committed> {
        let entries = (1..).zip(payloads).map(|(index, payload)| Committed {
            entry: Entry {
                log_id: LogId::new_term_index(1, index),
                payload: Content::Normal(Payload(payload)),
            },
            is_awaited: true,
        });
        entries.collect()
    }

    async fn checksum(machine: &RegionMachine, index: u64) -> u128 {
        let wait = Duration::from_secs(300);
        match machine.checks.progress(REGION, index, wait).await {
            Some(Progress::Done(checksum)) => checksum.digest,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_check_is_of_its_position_whatever_is_applied_with_it() {
        let (_directory, alone) = machine();
        let apply = |machine: &RegionMachine, payloads: Vec<Bytes>| {
            machine.apply(&committed(payloads), true).expect("applied")
        };
        apply(&alone, vec![put("one"), check()]);
        let expected = checksum(&alone, 2).await;

        let (_directory, together) = machine();
        let answers = apply(&together, vec![put("one"), check(), put("two")]);
        assert_eq!(checksum(&together, 2).await, expected);
        let mut answers = answers.into_iter();
        let mut next = || answers.next().expect("one for each");
        let outcomes = |answer: Answer| {
            let applied = answer.into_inner::<AppliedEntry>();
            applied.expect("awaited").outcomes
        };
        assert_eq!(outcomes(next()), [Outcome::Done]);
        let position = Some(LogId::new_term_index(1, 2));
        assert_eq!(next().into_inner::<LogId>(), position);
        assert_eq!(outcomes(next()), [Outcome::Done]);
    }

    #[tokio::test]
    async fn a_check_is_applied_where_it_may_block() {
        let (_directory, machine) = machine();
        let entries = committed([put("one"), check()]);
        let blocks = machine.apply(&entries, false);
        assert!(matches!(blocks, Err(ApplyError::Blocks)), "{blocks:?}");
        let flushed = machine.storage.applied_position(REGION).expect("read");
        let first = log_id::encode(&LogId::new_term_index(0, 0));
        assert_eq!(flushed.as_deref(), Some(&first[..]), "nothing was applied");
        machine.apply(&entries, true).expect("applied");
    }
}
