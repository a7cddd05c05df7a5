//! Connections to processes of the cluster, below everything that sends.
//!
//! One [`Connection`] is one TCP connection. A broken connection stays broken and never reconnects. So what a client has
//! learned about its peer, such as the peer's cluster, holds for the whole connection.
//!
//! - `channel`: an HTTP/2 connection for gRPC stubs. Its errors say whether the peer can have processed a request.
//! - `pool`: one connection per address.
//! - `security`: whether they are encrypted, and the token that calls carry.

mod channel;
mod pool;
#[cfg(test)]
pub(crate) mod scripted_peer;
mod security;

#[cfg(test)]
pub(crate) use channel::CALLS_MAX;
pub(crate) use channel::{Channel, ConnectionError};
pub(crate) use pool::{ConnectFailure, Connection, ConnectionPool};
pub(crate) use security::Security;
