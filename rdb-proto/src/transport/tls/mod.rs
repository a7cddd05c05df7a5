//! Encrypted connections: what is read from files, and the handshake of both ends.
//!
//! - [`Pem`] is where certificates and keys come from. `material` turns them into what rustls takes, and [`TlsError`] says what
//!   is wrong with them.
//! - [`ServerTls`] and [`ClientTls`] are the two ends. Each can be read again: later connections use what was read, and open ones
//!   are left alone. What cannot be used is refused, and the old material stays in use.
//! - [`PeerIdentity`] is the subject of the certificate that a peer has presented.
//! - `failure` says why a handshake failed, in words for the operator who has to fix it.
//! - `files` are the flags of a server, and [`TlsKeeper`] reads its files again.
//!
//! Invariants:
//! - TLS 1.2 and 1.3, and the provider `ring`, even if the process has installed another default.
//! - No session is resumed: a peer shows its certificate on every connection, to the present configuration.
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
