//! Is this the right place? Every data request passes here first; what does not belong is answered with a routing error
//! and was certainly not applied.

use std::cmp::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use rdb_proto::errorpb::{
    ClusterMismatch, EpochNotMatch, KeyNotInRegion, NotReady, RegionNotFound, StoreMismatch,
    region_error::Kind,
};
use rdb_proto::metapb::{Context, Region};
use rdb_storage::ScanRange;
use tokio_util::sync::CancellationToken;

use crate::error::{Rejection, not_ready};
use crate::region::RegionHandle;

/// What this store is, once it is registered.
pub(crate) struct Membership {
    pub(crate) cluster_id: u64,
    pub(crate) store_id: u64,
    /// The regions that this store leads.
    pub(crate) regions: Vec<Arc<RegionHandle>>,
}

/// Finds the region of a request, or the reason why there is none. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Router {
    membership: Arc<RwLock<Option<Arc<Membership>>>>,
    drain: CancellationToken,
}

/// A scan, cut to one region.
pub(crate) struct ScanTarget {
    pub(crate) region: Arc<RegionHandle>,
    pub(crate) range: ScanRange,
    /// Where the scan goes on beyond the region.
    pub(crate) resume_key: Option<Bytes>,
}

impl Router {
    /// A router that answers "not ready" until a membership is set, and again once `drain` is cancelled.
    pub(crate) fn new(drain: CancellationToken) -> Self {
        Self {
            membership: Arc::default(),
            drain,
        }
    }

    pub(crate) fn set(&self, membership: Membership) {
        let mut current = self
            .membership
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Some(Arc::new(membership));
    }

    /// The region that holds all of `keys`. No key at all is left to whoever validates the request.
    pub(crate) fn for_keys<'a>(
        &self,
        context: Option<&Context>,
        keys: impl Iterator<Item = &'a Bytes> + Clone,
    ) -> Result<Arc<RegionHandle>, Rejection> {
        let first = keys.clone().next().map(Bytes::as_ref).unwrap_or_default();
        let found = self.find(context, |region| region.contains(first))?;
        let mut keys = keys;
        if keys.all(|key| found.region().contains(key)) {
            return Ok(found);
        }
        Err(not_in(&found))
    }

    /// The region that holds the whole range.
    pub(crate) fn for_range(
        &self,
        context: Option<&Context>,
        start_key: &[u8],
        end_key: &[u8],
    ) -> Result<Arc<RegionHandle>, Rejection> {
        let found = self.find(context, |region| region.contains(start_key))?;
        if found.region().contains_range(start_key, end_key) {
            return Ok(found);
        }
        Err(not_in(&found))
    }

    /// The region in which the scan begins, i.e. that of its lowest key, or of its highest if it is a reverse one.
    pub(crate) fn for_scan(
        &self,
        context: Option<&Context>,
        mut range: ScanRange,
    ) -> Result<ScanTarget, Rejection> {
        let begins_here = |region: &Region| match range.reverse {
            false => region.contains(&range.start_key),
            true => ends_in(region, &range.end_key),
        };
        let found = self.find(context, begins_here)?;
        let region = found.region();
        if !begins_here(region) {
            return Err(not_in(&found));
        }
        let resume_key = match range.reverse {
            false if region.contains_range(&range.start_key, &range.end_key) => None,
            true if region.start_key <= range.start_key => None,
            false => {
                range.end_key = region.end_key.clone();
                Some(region.end_key.clone())
            }
            true => {
                range.start_key = region.start_key.clone();
                Some(region.start_key.clone())
            }
        };
        Ok(ScanTarget {
            region: Arc::clone(&found),
            range,
            resume_key,
        })
    }

    /// What this store is at the moment, for requests that are routed one after the other.
    pub(crate) fn membership(&self) -> Result<Arc<Membership>, NotReady> {
        if self.drain.is_cancelled() {
            return Err(not_ready("the store is shutting down"));
        }
        let membership = self
            .membership
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        membership
            .ok_or_else(|| not_ready("the store is not registered with the placement driver yet"))
    }

    /// Checks the context and finds the region that it names, or else the one that is `wanted`.
    fn find(
        &self,
        context: Option<&Context>,
        wanted: impl Fn(&Region) -> bool,
    ) -> Result<Arc<RegionHandle>, Rejection> {
        let membership = self.membership()?;
        let found = membership.find(context.unwrap_or(&Context::default()), wanted);
        found.map(Arc::clone).map_err(Rejection::Routing)
    }
}

impl Membership {
    /// The region that holds `key`.
    pub(crate) fn for_key(
        &self,
        context: &Context,
        key: &[u8],
    ) -> Result<&Arc<RegionHandle>, Rejection> {
        let found = self.find(context, |region| region.contains(key));
        let found = found.map_err(Rejection::Routing)?;
        match found.region().contains(key) {
            true => Ok(found),
            false => Err(not_in(found)),
        }
    }

    fn find(
        &self,
        context: &Context,
        wanted: impl Fn(&Region) -> bool,
    ) -> Result<&Arc<RegionHandle>, Kind> {
        if ![0, self.cluster_id].contains(&context.cluster_id) {
            let cluster_id = self.cluster_id;
            return Err(Kind::ClusterMismatch(ClusterMismatch { cluster_id }));
        }
        if ![0, self.store_id].contains(&context.store_id) {
            let store_id = self.store_id;
            return Err(Kind::StoreMismatch(StoreMismatch { store_id }));
        }
        let mut handles = self.regions.iter();
        let found = match context.region_id {
            0 => handles.find(|handle| wanted(handle.region())),
            id => handles.find(|handle| handle.region().id == id),
        };
        let found = found.ok_or(Kind::RegionNotFound(RegionNotFound {
            region_id: context.region_id,
        }))?;
        let Some(epoch) = context.region_epoch else {
            return Ok(found);
        };
        match epoch.version.cmp(&found.region().version()) {
            Ordering::Equal => Ok(found),
            // The request is older than a split or a merge: tell what became of its region, and who has its key now.
            Ordering::Less => {
                let regions = self.regions.iter().map(|handle| handle.region());
                let current =
                    regions.filter(|region| region.id == context.region_id || wanted(region));
                Err(Kind::EpochNotMatch(EpochNotMatch {
                    current_regions: current.cloned().collect(),
                }))
            }
            Ordering::Greater => Err(Kind::EpochNotMatch(EpochNotMatch::default())),
        }
    }
}

/// Whether the keys right below `end_key` lie in `region`.
fn ends_in(region: &Region, end_key: &[u8]) -> bool {
    if end_key.is_empty() {
        return region.end_key.is_empty();
    }
    region.start_key < end_key && (region.end_key.is_empty() || region.end_key >= end_key)
}

fn not_in(handle: &RegionHandle) -> Rejection {
    Rejection::Routing(Kind::KeyNotInRegion(KeyNotInRegion {
        region: Some(handle.region().clone()),
    }))
}

#[cfg(test)]
mod tests;
