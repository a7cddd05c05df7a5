//! Finding the store that leads a key's region, and getting a request there.
//!
//! - `region_cache`: which region holds a key, and which store leads it, as far as this client knows.
//! - `placement_driver`: asks the placement driver.
//! - `routes`: looks up routes in the cache or at the placement driver, and learns from the answers of stores.
//! - `leader_search`: finds the leader of a region when the one that is known does not answer.
//! - `router`: the attempts of a call, each to the store that the route leads to.

mod leader_search;
mod placement_driver;
mod region_cache;
mod router;
mod routes;

pub(crate) use placement_driver::{Held, Member, Peer, PlacementDriver, wrong_address};
pub(crate) use region_cache::Route;
pub(crate) use router::Router;
