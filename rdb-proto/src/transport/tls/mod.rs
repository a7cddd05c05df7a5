//! Encrypted connections: what is read from files, and the handshake of both ends.
//!
//! - [`Pem`] is where certificates and keys come from; `material` makes of them what rustls takes, and [`TlsError`] says what is
//!   wrong with them.
//! - [`ServerTls`] and [`ClientTls`] are the two ends. Each can be read again: connections that are made from then on use what was
//!   read, and those that are open are left alone. What cannot be used is refused, and the old one stays in use.
//! - [`PeerIdentity`] is whose certificate a peer has presented.
//! - `failure` says why a handshake failed, in words for whoever has to put it right.
//! - `files` are the flags of a server, and [`TlsKeeper`] reads its files again.
//!
//! Invariants:
//! - TLS 1.2 and 1.3, and the provider `ring`, whatever the process has installed as its default.
//! - Nothing is resumed: who connects shows a certificate each time, to the present configuration.
//! - Private keys are never in a message, a log, or what `Debug` shows.

mod certificate;
#[cfg(test)]
#[path = "../../../tests/transport/certificates.rs"]
pub(super) mod certificates;
mod client;
mod error;
pub(super) mod failure;
#[cfg(feature = "process")]
mod files;
#[cfg(feature = "process")]
mod keeper;
mod material;
mod pem;
mod server;

pub use certificate::PeerIdentity;
pub use client::{ClientTls, ClientTlsOptions};
pub use error::TlsError;
#[cfg(feature = "process")]
pub use files::{client_tls, server_tls};
#[cfg(feature = "process")]
pub use keeper::{TlsKeeper, keep};
pub use pem::Pem;
pub use server::{ServerTls, ServerTlsOptions};

/// Records are read in pieces of this size, in bytes: a whole one.
const RECORD_BYTES: usize = 16 << 10;

/// What is spoken over TLS (RFC 9113, section 3.2).
const ALPN: &[u8] = b"h2";
