//! What the transport promises when peers misbehave, over real sockets.
//!
//! The services behind it are the least that can show it; the peers speak HTTP/2 with `h2` itself, so that they can do what
//! no gRPC library does.

#[cfg(feature = "process")]
mod audit;
#[cfg(feature = "tls")]
mod certificates;
mod connections;
mod drain;
mod fixture;
mod lazy_peer;
mod peer;
mod requests;
mod responses;
#[cfg(feature = "process")]
mod rights;
#[cfg(feature = "process")]
mod status;
#[cfg(feature = "tls")]
mod tls;
