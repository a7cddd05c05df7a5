//! Where a client gets its token.

use std::path::PathBuf;

use rdb_proto::auth::Token;

/// Where a client has the token from that its calls carry. Its `Debug` output never shows one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenSource {
    /// The program has it, and it stays the same.
    Given(Token),
    /// A file holds it and nothing else. It is read again when it changes.
    File(PathBuf),
}
