//! The router checks whether a data request belongs to this store, and finds its region. A request that does not belong here
//! gets a routing answer and was certainly not applied.

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
use crate::metrics::Figures;
use crate::region::RegionHandle;

/// The cluster, the id and the regions of a registered store.
pub(crate) struct Membership {
    cluster_id: u64,
    store_id: u64,
    /// The regions that this store holds, by their start keys. They do not overlap.
    regions: Vec<Arc<RegionHandle>>,
    /// Their ids in ascending order, each with its position in `regions`.
    positions: Vec<(u64, usize)>,
}

/// Finds the region of a request, or the reason why there is none. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Router {
    membership: Arc<RwLock<Option<Arc<Membership>>>>,
    drain: CancellationToken,
    figures: Arc<Figures>,
}

/// A scan, cut to one region.
pub(crate) struct ScanTarget {
    pub(crate) region: Arc<RegionHandle>,
    pub(crate) range: ScanRange,
    /// Where the scan resumes beyond the region.
    pub(crate) resume_key: Option<Bytes>,
}

/// Where in the key space a region is looked for.
#[derive(Clone, Copy)]
enum Seek<'a> {
    /// The place of this key.
    At(&'a [u8]),
    /// The place right below this key. An empty key is no bound: above every key.
    Below(&'a [u8]),
}

impl Seek<'_> {
    /// Whether the place is behind where a region starts.
    fn is_behind_start(self, region: &Region) -> bool {
        match self {
            Self::At(key) => region.start_key <= key,
            Self::Below(&[]) => true,
            Self::Below(end_key) => region.start_key < end_key,
        }
    }

    fn is_in(self, region: &Region) -> bool {
        match self {
            Self::At(key) => region.contains(key),
            Self::Below(&[]) => region.end_key.is_empty(),
            Self::Below(end_key) => {
                region.start_key < end_key
                    && (region.end_key.is_empty() || region.end_key >= end_key)
            }
        }
    }
}

impl Router {
    /// A router that answers "not ready" until a membership is set, and again once `drain` is cancelled.
    pub(crate) fn new(drain: CancellationToken) -> Self {
        Self {
            membership: Arc::default(),
            drain,
            figures: Arc::default(),
        }
    }

    /// The same with figures that also log slow commands.
    pub(crate) fn noting_in(self, figures: Figures) -> Self {
        let figures = Arc::new(figures);
        Self { figures, ..self }
    }

    /// What is noted of the commands that come through it.
    pub(crate) fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// From now on this store is what `membership` says. Requests that were routed to a region that has changed since are
    /// refused. A region whose key range and version have not changed keeps its handle, since requests of any age may have it.
    pub(crate) fn set(&self, mut membership: Membership) {
        let mut current = self
            .membership
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for earlier in current.iter().flat_map(|earlier| &earlier.regions) {
            match membership.slot(earlier.region().id) {
                Some(handle) if earlier.is_of(handle.region()) => {
                    *handle = Arc::clone(earlier);
                }
                _ => earlier.set_outdated(),
            }
        }
        *current = Some(Arc::new(membership));
    }

    /// The region that holds `key`.
    pub(crate) fn for_key(
        &self,
        context: Option<&Context>,
        key: &[u8],
    ) -> Result<Arc<RegionHandle>, Rejection> {
        let context = context.copied().unwrap_or_default();
        self.membership()?.for_key(&context, key).map(Arc::clone)
    }

    /// The region that holds all of `keys`. The services have refused empty batches.
    pub(crate) fn for_keys<'a>(
        &self,
        context: Option<&Context>,
        mut keys: impl Iterator<Item = &'a Bytes>,
    ) -> Result<Arc<RegionHandle>, Rejection> {
        let first = keys.next().map(Bytes::as_ref).unwrap_or_default();
        let found = self.for_key(context, first)?;
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
        let found = self.for_key(context, start_key)?;
        if found.region().contains_range(start_key, end_key) {
            return Ok(found);
        }
        Err(not_in(&found))
    }

    /// The region that the context names; the lowest if it names none.
    pub(crate) fn for_id(&self, context: &Context) -> Result<Arc<RegionHandle>, Rejection> {
        let membership = self.membership()?;
        let found = membership.find(context, Seek::At(&[]));
        found.map(Arc::clone).map_err(Rejection::Routing)
    }

    /// The region in which the scan begins: that of its lowest key, in a reverse scan that of its highest key.
    pub(crate) fn for_scan(
        &self,
        context: Option<&Context>,
        mut range: ScanRange,
    ) -> Result<ScanTarget, Rejection> {
        let begin = if range.reverse {
            Seek::Below(&range.end_key)
        } else {
            Seek::At(&range.start_key)
        };
        let membership = self.membership()?;
        let found = membership.find(&context.copied().unwrap_or_default(), begin);
        let found = found.map_err(Rejection::Routing)?;
        let region = found.region();
        if !begin.is_in(region) {
            return Err(not_in(found));
        }
        let mut resume_key = None;
        if range.reverse {
            if region.start_key > range.start_key {
                range.start_key = region.start_key.clone();
                resume_key = Some(region.start_key.clone());
            }
        } else if !region.contains_range(&range.start_key, &range.end_key) {
            range.end_key = region.end_key.clone();
            resume_key = Some(region.end_key.clone());
        }
        Ok(ScanTarget {
            region: Arc::clone(found),
            range,
            resume_key,
        })
    }

    /// The present membership, for routing several requests by the same one.
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
}

impl Membership {
    /// `regions` do not overlap.
    pub(crate) fn new(cluster_id: u64, store_id: u64, mut regions: Vec<Arc<RegionHandle>>) -> Self {
        regions.sort_by(|one, other| one.region().start_key.cmp(&other.region().start_key));
        let ids = regions.iter().map(|handle| handle.region().id);
        let mut positions: Vec<_> = ids.zip(0..).collect();
        positions.sort_unstable();
        Self {
            cluster_id,
            store_id,
            regions,
            positions,
        }
    }

    /// The region that holds `key`.
    pub(crate) fn for_key(
        &self,
        context: &Context,
        key: &[u8],
    ) -> Result<&Arc<RegionHandle>, Rejection> {
        let found = self.find(context, Seek::At(key));
        let found = found.map_err(Rejection::Routing)?;
        if found.region().contains(key) {
            Ok(found)
        } else {
            Err(not_in(found))
        }
    }

    /// Checks the context and finds the region that it names. Where it names none, finds the region at `seek`.
    fn find(&self, context: &Context, seek: Seek<'_>) -> Result<&Arc<RegionHandle>, Kind> {
        if ![0, self.cluster_id].contains(&context.cluster_id) {
            let cluster_id = self.cluster_id;
            return Err(Kind::ClusterMismatch(ClusterMismatch { cluster_id }));
        }
        if ![0, self.store_id].contains(&context.store_id) {
            let store_id = self.store_id;
            return Err(Kind::StoreMismatch(StoreMismatch { store_id }));
        }
        let found = match context.region_id {
            0 => self.at(seek),
            id => self.with_id(id),
        };
        let found = found.ok_or(Kind::RegionNotFound(RegionNotFound {
            region_id: context.region_id,
        }))?;
        let Some(epoch) = context.region_epoch else {
            return Ok(found);
        };
        match epoch.version.cmp(&found.region().version()) {
            Ordering::Equal => Ok(found),
            // The request is older than a split or a merge. The answer describes its region and the one that has its key.
            Ordering::Less => {
                let now_there = self.at(seek).filter(|region| !Arc::ptr_eq(region, found));
                let current = [Some(found), now_there].into_iter().flatten();
                let current = current.map(|handle| (handle.described(), handle.leader()));
                let (current_regions, leaders) = current.unzip();
                Err(Kind::EpochNotMatch(EpochNotMatch {
                    current_regions,
                    leaders,
                }))
            }
            Ordering::Greater => Err(Kind::EpochNotMatch(EpochNotMatch::default())),
        }
    }

    fn with_id(&self, id: u64) -> Option<&Arc<RegionHandle>> {
        self.regions.get(self.position(id)?)
    }

    fn slot(&mut self, id: u64) -> Option<&mut Arc<RegionHandle>> {
        let position = self.position(id)?;
        self.regions.get_mut(position)
    }

    fn position(&self, id: u64) -> Option<usize> {
        let found = self.positions.binary_search_by_key(&id, |&(id, _)| id);
        let &(_, position) = self.positions.get(found.ok()?)?;
        Some(position)
    }

    fn at(&self, seek: Seek<'_>) -> Option<&Arc<RegionHandle>> {
        let found = self.last(|region| seek.is_behind_start(region));
        found.filter(|handle| seek.is_in(handle.region()))
    }

    /// The last region that `starts_before` holds for. It holds for all regions below that one, too.
    fn last(&self, starts_before: impl Fn(&Region) -> bool) -> Option<&Arc<RegionHandle>> {
        let regions = &self.regions;
        let count = regions.partition_point(|handle| starts_before(handle.region()));
        regions.get(count.checked_sub(1)?)
    }
}

fn not_in(handle: &RegionHandle) -> Rejection {
    Rejection::Routing(Kind::KeyNotInRegion(KeyNotInRegion {
        region: Some(handle.described()),
    }))
}

#[cfg(test)]
mod tests;
