//! Connections to processes of the cluster, below everything that sends.
//!
//! One [`Connection`] is one TCP connection. A broken one stays broken: it is never replaced in silence, so what was found
//! out about a peer holds for as long as its connection.
//!
//! - `channel`: one HTTP/2 connection, as gRPC stubs use it, and what its failures say about a request.
//! - `pool`: one connection per address.

mod channel;
mod pool;

pub(crate) use channel::{Channel, ConnectionError};
pub(crate) use pool::{Connection, ConnectionPool};
