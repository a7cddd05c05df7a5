//! A region as its group sees it: what the entries of the log are applied to.

use std::collections::BTreeMap;
use std::io;

use rdb_raft::encoding::{log_id, stored_membership};
use rdb_raft::machine::{Applied, ApplyError, Committed, StateMachine};
use rdb_raft::mutant::Mutant;
use rdb_raft::{Answer, Content, Entry, LogId, Membership, StoreNode};
use rdb_storage::limits::CONFLICT_VALUES_BYTES_MAX;
use rdb_storage::{
    AppliedState, ApplyOptions, Error, LogChange, LogEntry, PeerDescriptor, Proposal,
    RegionDescriptor, RegionMembership, Storage,
};

/// Applies the entries of a region's log to the storage, without its write-ahead log: the log has them.
pub(crate) struct RegionMachine {
    region_id: u64,
    storage: Storage,
}

impl RegionMachine {
    /// The region must have its first state.
    pub(crate) fn new(region_id: u64, storage: Storage) -> Self {
        Self { region_id, storage }
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
        let outcomes = if may_block {
            self.storage
                .apply(self.region_id, &log_entries, options)
                .map(Some)
        } else {
            self.storage
                .apply_from_memory(self.region_id, &log_entries, options)
        };
        let outcomes = outcomes.map_err(failed)?.ok_or(ApplyError::Blocks)?;
        let answers = entries.iter().zip(outcomes).map(|(committed, outcomes)| {
            if committed.is_awaited {
                Answer::new(outcomes)
            } else {
                Answer::default()
            }
        });
        Ok(answers.collect())
    }

    fn flushed(&self) -> io::Result<Applied> {
        let flushed = self
            .storage
            .flushed(self.region_id)
            .map_err(io::Error::other)?;
        let flushed = flushed.ok_or_else(|| {
            let region_id = self.region_id;
            io::Error::other(format!("region {region_id} has no first state"))
        })?;
        Ok(Applied {
            position: Some(log_id::decode(&flushed.position)?),
            membership: stored_membership::decode(&flushed.membership)?,
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.storage.flush(self.region_id).map_err(io::Error::other)
    }
}

/// What every first peer of a region begins with: its peers as voters, and a position below the first entry. An entry at index
/// 0 would be part of the log, and a peer that is added later would be fed the log, without the data that lies below.
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
        Content::Normal(payload) => LogChange::Proposal(Proposal::decode(payload.0.clone())?),
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

/// Only a write whose fate is open may be half done.
fn failed(error: Error) -> ApplyError {
    let is_open = matches!(error, Error::Undetermined { .. });
    let error = io::Error::other(error);
    if is_open {
        ApplyError::Failed(error)
    } else {
        ApplyError::Refused(error)
    }
}
