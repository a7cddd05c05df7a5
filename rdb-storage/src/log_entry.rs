//! Entries of a region's replicated log, as far as the engine has to know them, and how they are applied.

use bytes::Bytes;

use crate::apply::Entry;
use crate::keys::DecodeError;
use crate::limits::CONFLICT_VALUES_BYTES_MAX;
use crate::options::Durability;
use crate::proposal::{self, Proposal};
use crate::region::PeerDescriptor;

/// An entry of a region's replicated log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Where in the log the entry is, in bytes that the owner of the log chooses. Keep it short: it is written with every
    /// batch of entries.
    pub position: Bytes,
    /// What it does.
    pub change: LogChange,
}

/// What an entry of a log does beside moving the region's applied position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChange {
    /// Commands, and the epoch that they were proposed under.
    Proposal(Proposal),
    /// Who holds the region from then on.
    Membership(RegionMembership),
    /// Nothing. The applier of the log takes a snapshot right behind it, see [`Storage::view_region`](crate::Storage::view_region).
    Check,
    /// Nothing.
    Blank,
}

/// A membership of a region's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionMembership {
    /// The membership as the owner of the log reads it, with the position of its entry. It is stored and given back as it is.
    pub record: Bytes,
    /// The peers that it names. They become those of the region's descriptor.
    pub peers: Vec<PeerDescriptor>,
}

/// How entries of a log are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyOptions {
    /// When the write-ahead log is synced. `None`: the changes are not written to it. A crash then leaves what was flushed, and the entries
    /// behind that are applied again. A region whose log was once applied like this is never written in another way.
    pub write_ahead_log: Option<Durability>,
    /// Most bytes of values that the conflicts of one entry carry together, up to [`CONFLICT_VALUES_BYTES_MAX`]. 0 if
    /// nobody waits for the outcomes.
    pub conflict_values_bytes_max: usize,
}

impl Default for ApplyOptions {
    /// Without the write-ahead log, for a caller that wants the outcomes.
    fn default() -> Self {
        Self {
            write_ahead_log: None,
            conflict_values_bytes_max: CONFLICT_VALUES_BYTES_MAX,
        }
    }
}

impl LogChange {
    /// The payload of an entry that is a check.
    pub const CHECK: &[u8] = &[proposal::CHECK_FORMAT];

    /// Decodes the payload of an entry: a proposal or a check. Keys and values share the buffer of `encoded`.
    ///
    /// # Errors
    ///
    /// As [`Proposal::decode`].
    pub fn decode(encoded: Bytes) -> Result<Self, DecodeError> {
        if encoded == Self::CHECK {
            return Ok(Self::Check);
        }
        Proposal::decode(encoded).map(Self::Proposal)
    }
}

impl LogEntry {
    /// As it is applied.
    pub(crate) fn as_applied(&self, region_id: u64, options: ApplyOptions) -> Entry<'_> {
        let asked = options.conflict_values_bytes_max;
        let (proposal, membership) = match &self.change {
            LogChange::Proposal(proposal) => (Some(proposal), None),
            LogChange::Membership(membership) => (None, Some(membership)),
            LogChange::Check | LogChange::Blank => (None, None),
        };
        Entry {
            region_id,
            epoch_version: proposal.map(|proposal| proposal.epoch_version),
            commands: proposal.map_or(&[], |proposal| &proposal.commands),
            membership,
            conflict_values_bytes_max: asked.min(CONFLICT_VALUES_BYTES_MAX),
        }
    }
}
