//! Finding the store that leads a key's region, and getting a request there.
//!
//! `RegionCache` remembers which region holds a key and who leads it; [`PlacementDriver`] knows when the cache does not;
//! [`ConnectionPool`] holds the connections to both kinds of process; [`Router`] makes one attempt with all three and
//! learns from its answer.

mod connection_pool;
mod placement_driver;
mod region_cache;
mod router;

pub(crate) use connection_pool::ConnectionPool;
pub(crate) use placement_driver::{Held, PlacementDriver};
pub(crate) use region_cache::Route;
pub(crate) use router::Router;
