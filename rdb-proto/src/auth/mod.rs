//! Who may do what: tokens, the rights of users, and what holds a caller to them.
//!
//! The placement driver keeps users and their grants ([`authpb::Rights`](crate::authpb::Rights)); stores have a copy. In every server
//! one [`Guard`] holds the [`Rights`] of now, or nothing while rights are not enforced. On its way a call meets:
//!
//! 1. The transport, which makes a [`Caller`] of what the call and its connection show: a [`Token`] in the header
//!    [`AUTHORIZATION`], or a certificate's subject. It takes the header off: nobody behind needs it.
//! 2. The transport again: the [`Access`](crate::transport::Access) of the method says what the caller needs. A call without it is
//!    refused before it takes room. It looks again with each message of a stream, and, where rights have changed since, with each part
//!    of the body of any other call: a right that is revoked ends them.
//! 3. The handler of a method that is about keys. It takes a [`Pass`] for the call, or for each message of a stream, with
//!    [`Caller::pass`], and checks every key and range.
//!
//! What holds:
//!
//! - A token decides who calls, and a wrong one is refused even beside a good certificate. It is looked up by its SHA-256 only, so that
//!   the time that takes tells nothing of it. It is in no log, no error and no `Debug`.
//! - Several grants cover a range together: they are merged when rights are compiled, and a check is one binary search.
//! - `writer` may read, `admin` may do everything, what stores do included, and `store` has no access to keys.
//! - Rights that are missing or too old refuse everything that needs any, before anybody is looked up in them. Their age goes on while
//!   the machine sleeps.
//! - A call that began before rights were enforced is held to them from its next message on, and so is a request of which the rest has
//!   not arrived. What a handler has begun by then it may do to its end, unless it takes a pass anew.
//! - Who is signed in is found out by what was shown when the call or the connection began. A certificate that expires, or whose CA is
//!   taken away, signs nobody in any more on new connections; those that are open keep it.
//! - Each refusal is a [`Fault`](crate::error::Fault) that says NOT_APPLIED and names the missing right, never a key.
//! - Without a guard a call costs one branch more, and with one that is off a small allocation, so that it knows later who called.
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
    BadGrant, BadRights, BadUser, Caller, Guard, GuardState, Pass, Refusals, Rights, check_grant,
    is_user_name,
};
pub use hyper::header::AUTHORIZATION;
pub use role::{Keyspace, Permission, Role};
pub use token::{InvalidToken, Token};
pub use token_file::{TokenFile, TokenFileError};
