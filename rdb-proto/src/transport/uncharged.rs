//! Calls that nothing is charged for: those that wait for their first bytes in flight, and refused ones until their answers are sent.
//!
//! Each takes some KiB all the same, so a process has a number of places for each kind. A call that finds neither room nor a place to wait
//! is refused at once. A refusal that finds no place waits for nothing: neither for the rest of the request nor for its peer's window.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::Access;
use super::limits::UNCHARGED_CALLS_MAX;
use super::methods::{Method, Requests};

/// The places of such calls of one process.
#[derive(Debug)]
pub struct UnchargedCalls {
    users: Arc<Semaphore>,
    /// For calls that anybody may make and for those who may not call, so that strangers do not take the places of users.
    strangers: Arc<Semaphore>,
    /// For streams of other stores. What clients wait for may depend on them.
    stores: Arc<Semaphore>,
    /// For calls that are refused as busy.
    busy: Arc<Semaphore>,
    /// How many places each kind has.
    #[cfg(any(test, feature = "process"))]
    count_max: usize,
}

/// A place that is taken until this is dropped.
pub(super) type UnchargedPlace = OwnedSemaphorePermit;

impl UnchargedCalls {
    /// `count_max` places for each kind.
    pub fn new(count_max: usize) -> Self {
        let places = || Arc::new(Semaphore::new(count_max));
        Self {
            users: places(),
            strangers: places(),
            stores: places(),
            busy: places(),
            #[cfg(any(test, feature = "process"))]
            count_max,
        }
    }

    /// A place to wait for a call of `method`.
    pub(super) fn waiting(&self, method: &Method) -> Option<UnchargedPlace> {
        take(match (method.requests, method.access) {
            (Requests::StoreStream, _) => &self.stores,
            (_, Access::Open | Access::ByHandler) => &self.strangers,
            _ => &self.users,
        })
    }

    /// A place for a refusal as busy.
    pub(super) fn busy(&self) -> Option<UnchargedPlace> {
        take(&self.busy)
    }

    /// A place for the refusal of one who may not call.
    pub(super) fn denied(&self) -> Option<UnchargedPlace> {
        take(&self.strangers)
    }

    /// How many places each kind has.
    #[cfg(any(test, feature = "process"))]
    pub(super) fn count_max(&self) -> usize {
        self.count_max
    }

    /// How many places of each kind are taken.
    #[cfg(any(test, feature = "process"))]
    pub(super) fn taken(&self) -> [(&'static str, usize); 4] {
        let taken = |places: &Semaphore| self.count_max.saturating_sub(places.available_permits());
        [
            ("users", taken(&self.users)),
            ("strangers", taken(&self.strangers)),
            ("stores", taken(&self.stores)),
            ("busy", taken(&self.busy)),
        ]
    }
}

impl Default for UnchargedCalls {
    fn default() -> Self {
        Self::new(UNCHARGED_CALLS_MAX)
    }
}

fn take(places: &Arc<Semaphore>) -> Option<UnchargedPlace> {
    Arc::clone(places).try_acquire_owned().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_places_and_gets_them_back() {
        let calls = UnchargedCalls::new(1);
        let waiting = |path| calls.waiting(Method::of(path));
        let held = waiting("/kvrpc.KvRaw/RawGet");
        assert!(held.is_some() && waiting("/kvrpc.KvBatch/Batch").is_none());
        let others = [
            waiting("/grpc.health.v1.Health/Check"),
            waiting("/raftpb.RaftPeer/Bulk"),
            calls.busy(),
        ];
        assert!(others.iter().all(Option::is_some));
        assert!(waiting("/grpc.health.v1.Health/Watch").is_none());
        assert!(calls.busy().is_none() && calls.denied().is_none());
        assert!(calls.taken().iter().all(|(_, count)| *count == 1));
        drop(held);
        assert_eq!(calls.taken()[0], ("users", 0));
        assert!(waiting("/kvrpc.KvBatch/Batch").is_some());
    }
}
