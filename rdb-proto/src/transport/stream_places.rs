//! The places for the streams of one connection, by their kind.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code;

use super::limits::{
    BATCH_STREAMS_MAX, REFLECTION_STREAMS_MAX, STORE_STREAMS_MAX, TSO_STREAMS_MAX, WATCHES_MAX,
};
use super::methods::{Method, Requests};
use crate::error::Fault;
use crate::errorpb::Fate;

/// A stream takes much more than a unary call does, so a connection has a few of each kind only.
#[derive(Debug)]
pub(super) struct StreamPlaces {
    batch: Arc<Semaphore>,
    stores: Arc<Semaphore>,
    tso: Arc<Semaphore>,
    reflection: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

/// Keeps the place of a stream until it is dropped. `None` for a call with one answer.
pub(super) type StreamPlace = Option<OwnedSemaphorePermit>;

impl Default for StreamPlaces {
    fn default() -> Self {
        Self {
            batch: Arc::new(Semaphore::new(BATCH_STREAMS_MAX)),
            stores: Arc::new(Semaphore::new(STORE_STREAMS_MAX)),
            tso: Arc::new(Semaphore::new(TSO_STREAMS_MAX)),
            reflection: Arc::new(Semaphore::new(REFLECTION_STREAMS_MAX)),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
        }
    }
}

impl StreamPlaces {
    /// A place for a call of `method`.
    ///
    /// # Errors
    ///
    /// When all places for them are taken.
    pub(super) fn take(&self, method: &Method) -> Result<StreamPlace, Fault> {
        let (places, count_max) = match method.requests {
            Requests::Stream => (&self.batch, BATCH_STREAMS_MAX),
            Requests::StoreStream => (&self.stores, STORE_STREAMS_MAX),
            Requests::SmallStream => (&self.tso, TSO_STREAMS_MAX),
            Requests::ForeignStream => (&self.reflection, REFLECTION_STREAMS_MAX),
            Requests::Unary if method.is_watch => (&self.watches, WATCHES_MAX),
            Requests::Unary => return Ok(None),
        };
        let place = Arc::clone(places).try_acquire_owned();
        place.map(Some).map_err(|_| {
            let cause = format!("the connection has {count_max} streams of this service already");
            Fault {
                limit: Some(count_max as u64),
                fate: Fate::NotApplied,
                ..Fault::new(Code::ResourceExhausted, cause)
            }
        })
    }
}
