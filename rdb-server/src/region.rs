//! One region as the services see it: something that takes commands and answers outcomes.

use std::sync::Arc;

use rdb_proto::metapb::{Peer, Region, RegionEpoch};
use rdb_storage::{
    Command, Outcome, PeerDescriptor, PendingWrite, Reader, RegionDescriptor, Storage, Submission,
};

use crate::error::Rejection;

/// A region that this store leads. Behind it is the local engine; its users cannot tell.
pub(crate) struct RegionHandle {
    region: Region,
    storage: Storage,
    reader: Reader,
}

impl RegionHandle {
    pub(crate) fn new(region: Region, storage: &Storage) -> Self {
        Self {
            region,
            storage: storage.clone(),
            reader: storage.reader(),
        }
    }

    /// The region's description, as of when the handle was made.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Applies `commands` in order, as a whole or not at all, and answers one outcome for each.
    ///
    pub(crate) async fn write(&self, commands: Vec<Command>) -> Result<Vec<Outcome>, Rejection> {
        let submission = Submission::new(self.region.id, commands);
        Ok(self.storage.submit(submission)?.await?)
    }

    /// The same without a copy: the commands share the buffer of a message that had `message_bytes` on the wire, which is
    /// what they are charged. Dropping the answer to come does not take the writes back.
    pub(crate) fn submit(
        &self,
        commands: Vec<Command>,
        message_bytes: usize,
    ) -> Result<PendingWrite, Rejection> {
        let room = self.storage.take_write_room(message_bytes)?;
        let submission = Submission::new(self.region.id, commands).of_message(Arc::new(room));
        Ok(self.storage.submit(submission)?)
    }

    /// Reads what was applied.
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }
}

/// As it goes over the wire.
pub(crate) fn to_wire(descriptor: RegionDescriptor) -> Region {
    let peers = descriptor.peers.into_iter();
    Region {
        id: descriptor.id,
        start_key: descriptor.start_key,
        end_key: descriptor.end_key,
        epoch: Some(RegionEpoch {
            conf_version: descriptor.conf_version,
            version: descriptor.version,
        }),
        peers: peers
            .map(|PeerDescriptor { id, store_id }| Peer { id, store_id })
            .collect(),
    }
}

/// As it is stored.
pub(crate) fn from_wire(region: Region) -> RegionDescriptor {
    let epoch = region.epoch_or_default();
    let peers = region.peers.into_iter();
    RegionDescriptor {
        id: region.id,
        start_key: region.start_key,
        end_key: region.end_key,
        conf_version: epoch.conf_version,
        version: epoch.version,
        peers: peers
            .map(|Peer { id, store_id }| PeerDescriptor { id, store_id })
            .collect(),
    }
}
