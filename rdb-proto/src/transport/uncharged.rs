//! Calls that nothing is charged for: those that wait for their first bytes in flight, and refused ones until they are answered.
//!
//! Each takes some KiB all the same, so a process has so many of each only. A call that finds neither room nor a place to wait is refused
//! at once. A refusal that finds no place is one that needs none: it waits neither for the rest of the request nor for its peer's window.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::UNCHARGED_CALLS_MAX;
use super::methods::Requests;

/// The places of such calls of one process, of each kind so many.
#[derive(Debug)]
pub struct UnchargedCalls {
    clients: Arc<Semaphore>,
    /// What clients wait for may depend on those of other stores.
    stores: Arc<Semaphore>,
    /// Strangers are refused, too, and must not take the places of those who may call.
    refused: Arc<Semaphore>,
}

/// A place that is taken until this is dropped.
pub(super) type UnchargedPlace = OwnedSemaphorePermit;

impl UnchargedCalls {
    /// Places for so many calls of each kind.
    pub fn new(count_max: usize) -> Self {
        let places = || Arc::new(Semaphore::new(count_max));
        Self {
            clients: places(),
            stores: places(),
            refused: places(),
        }
    }

    /// A place to wait for a call with such requests.
    pub(super) fn waiting(&self, requests: Requests) -> Option<UnchargedPlace> {
        take(match requests {
            Requests::StoreStream => &self.stores,
            _ => &self.clients,
        })
    }

    /// A place for a refusal that takes some time.
    pub(super) fn refused(&self) -> Option<UnchargedPlace> {
        take(&self.refused)
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
        let held = calls.waiting(Requests::Unary);
        assert!(held.is_some() && calls.waiting(Requests::Stream).is_none());
        assert!(calls.waiting(Requests::StoreStream).is_some());
        let refused = calls.refused();
        assert!(refused.is_some() && calls.refused().is_none());
        drop(held);
        assert!(calls.waiting(Requests::Stream).is_some());
    }
}
