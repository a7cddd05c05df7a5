//! Which peer of a region this store has.
//!
//! It is noted with the log of the region when the log is opened for the first time. The note takes precedence over the region, which may
//! be stored as of when this store had another peer, or none. The note is wrong only if an older release that does not know notes was here
//! meanwhile: it has left the note of a peer that it destroyed, or that it replaced by a later one. Then the note is removed, and the
//! region says which peer it is.
//!
//! A region that such a release has left may not say it, either. Then the peer is not known.

use rdb_storage::RegionDescriptor;
use tokio::task::spawn_blocking;

use super::Regions;
use super::damage::not_opened;
use crate::error::ServerError;
use crate::region::peer_on;

impl Regions {
    /// The peer of a region that is stored. `None`: it is not known.
    pub(super) async fn own_peer(
        &self,
        region: &RegionDescriptor,
        store_id: u64,
    ) -> Result<Option<u64>, ServerError> {
        let region_id = region.id;
        let storage = self.storage.clone();
        let last_destroyed = spawn_blocking(move || storage.tombstone(region_id)).await??;
        let stored = latest([peer_id_on(region, store_id)], last_destroyed);
        let noted = match self.node.noted_peer(region_id).await {
            Ok(noted) => noted,
            Err(error) if stored.is_none() => {
                tracing::error!(region_id, %error, "it cannot be read which peer of a region is here");
                return Ok(None);
            }
            Err(error) => {
                let has_others = region.is_elsewhere(store_id);
                return Err(not_opened(region_id, error, has_others));
            }
        };
        let own = latest([noted, stored], last_destroyed);
        if noted.is_some() && own != noted {
            tracing::warn!(
                region_id,
                noted,
                own,
                "it is forgotten which peer of a region was noted: a release without notes was here since"
            );
            let forgotten = self.node.forget_peer(region_id).await;
            forgotten.map_err(|error| ServerError::region(region_id, error))?;
        }
        Ok(own)
    }

    /// The peer of a region that is left out because the install of its snapshot is not finished. A failed read does not stop the start.
    pub(super) async fn own_peer_left_out(
        &self,
        region: &RegionDescriptor,
        store_id: u64,
    ) -> Option<u64> {
        let own = self.own_peer(region, store_id).await;
        own.unwrap_or_else(|error| {
            let region_id = region.id;
            tracing::error!(region_id, %error, "it cannot be read which peer of a region is here");
            peer_id_on(region, store_id)
        })
    }
}

/// The peer of a region on a store, as far as the region says.
pub(super) fn peer_id_on(region: &RegionDescriptor, store_id: u64) -> Option<u64> {
    peer_on(region, store_id).map(|peer| peer.id)
}

/// The latest of some peers that was not destroyed: ids grow.
pub(super) fn latest<const N: usize>(
    peers: [Option<u64>; N],
    last_destroyed: Option<u64>,
) -> Option<u64> {
    let peers = peers.into_iter().flatten();
    let left = peers.filter(|peer_id| last_destroyed.is_none_or(|last| *peer_id > last));
    left.max()
}
