//! Finding the store that leads a key's region, and getting a request there.
//!
//! - `region_cache`: which region holds a key, and who leads it, as far as this client has heard.
//! - `placement_driver`: who knows when the cache does not.
//! - `routes`: both together, and what is learned from the answers of stores.
//! - `router`: one attempt to have a request served.

mod placement_driver;
mod region_cache;
mod router;
mod routes;

pub(crate) use placement_driver::{Held, Peer, PlacementDriver};
pub(crate) use region_cache::Route;
pub(crate) use router::Router;
