//! Descriptions of regions: on the wire and on the disk.

use rdb_proto::metapb::{Peer, Region, RegionEpoch};
use rdb_storage::{PeerDescriptor, RegionDescriptor};

/// The region in its form on the wire.
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
            .map(|PeerDescriptor { id, store_id }| Peer {
                id,
                store_id,
                learner: false,
            })
            .collect(),
    }
}

/// The region in its stored form.
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
            .map(|Peer { id, store_id, .. }| PeerDescriptor { id, store_id })
            .collect(),
    }
}
