//! Who may do what: tokens, the rights of users, and how they are enforced.
//!
//! The placement driver keeps users and their grants ([`authpb::Rights`](crate::authpb::Rights)); stores have a copy. In every server
//! one [`Guard`] holds the current [`Rights`], or nothing while rights are not enforced. A call passes:
//!
//! 1. The transport, which makes a [`Caller`] of what the call and its connection show: a [`Token`] in the header
//!    [`AUTHORIZATION`], or a certificate's subject. It removes the header, which no later step needs.
//! 2. The transport again: the [`Access`](crate::transport::Access) of the method says what the caller needs. A call without it is
//!    refused before it takes room. It looks again with each message of a stream. If rights have changed since, it also looks with
//!    each part of the body of any other call. So a revoked right ends running calls.
//! 3. The handler, if the method is about keys. It takes a [`Pass`] for the call, or for each message of a stream, with
//!    [`Caller::pass`], and checks every key and range.
//!
//! What holds:
//!
//! - A token decides who calls, and a wrong token is refused even beside a good certificate. It is looked up only by its SHA-256, so
//!   that the time of the look-up reveals nothing. It is in no log, no error and no `Debug`.
//! - Several grants cover a range together: they are merged when rights are compiled, and a check is one binary search.
//! - `writer` may read, `admin` may do everything, what stores do included, and `store` has no access to keys.
//! - While rights are missing or too old, everything that needs any is refused before the caller is looked up. Their age also grows
//!   while the machine sleeps.
//! - A call that began before rights were enforced is checked from its next message on, and so is a request that has not arrived in
//!   full. A handler may finish what it has begun by then, unless it takes a new pass.
//! - A caller is who it showed to be when the call or the connection began. A certificate that expires, or whose CA is removed, is not
//!   accepted on new connections; open connections keep it.
//! - Each refusal is a [`Fault`](crate::error::Fault) that says NOT_APPLIED and names the missing right, never a key.
//! - Without a guard a call costs one branch more; with a guard that is off, a small allocation, to know later who called.
//!
//! What it leaves out: how users are kept and changed (the placement driver), how copies travel (the store), and who a connection's peer
//! is (`transport::tls`).

#[cfg(feature = "process")]
mod enforcing;
pub mod limits;
mod role;
mod token;
mod token_file;

#[cfg(feature = "process")]
pub(crate) use enforcing::Credentials;
#[cfg(feature = "process")]
pub use enforcing::{
    BadGrant, BadRights, BadUser, Caller, Guard, GuardState, Moment, Pass, Refusals, RefusedStores,
    Rights, check_grant, is_user_name,
};
pub use hyper::header::AUTHORIZATION;
pub use role::{Keyspace, Permission, Role};
pub use token::{InvalidToken, Token};
pub use token_file::{TokenFile, TokenFileError};
