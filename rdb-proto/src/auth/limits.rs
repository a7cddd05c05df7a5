//! Limits of users and their rights.

use crate::transport::limits::MESSAGE_BYTES_MAX;

/// Most users.
pub const USERS_MAX: usize = 1000;

/// Longest name of a user, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Most tokens of a user: the old one and the new one while it is replaced.
pub const TOKENS_MAX: usize = 2;

/// Random bytes of a token, and bytes of its hash.
pub const TOKEN_BYTES: usize = 32;

/// Longest subject of a certificate that can be a user, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 1024;

/// Most grants of a user.
pub const GRANTS_MAX: usize = 64;

/// Longest prefix of a grant, in bytes: that of a key.
pub const PREFIX_BYTES_MAX: usize = 8192;

/// Largest encoded [`authpb::Rights`](crate::authpb::Rights), in bytes.
pub const RIGHTS_BYTES_MAX: usize = 2 << 20;

// Stores receive them in one message.
const _: () = assert!(RIGHTS_BYTES_MAX < MESSAGE_BYTES_MAX);
