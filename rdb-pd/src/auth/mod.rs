//! Users and what they are granted, as the placement driver keeps them.
//!
//! - [`Users`] is the pure part: all users at one moment, and what each [`Change`] makes of them or why not ([`Refusal`]).
//! - [`Authority`] is what the rest of the process holds. It shows what is, and takes changes.
//! - [`Keeper`] makes changes, one after the other: it decides, writes the whole record durably, shows it to the process's own
//!   [`Guard`](rdb_proto::auth::Guard), and answers.
//!
//! Invariants:
//! - A change that was answered holds at this process and at every later one on the data directory. Stores ask for it every two
//!   seconds.
//! - A change whose write failed is neither shown nor answered as done. The next process may find it.
//! - Two different records never have the same version, also when the data directory was restored from an older copy with
//!   `--tso-advance-ms`: stores ask by version.
//! - As soon as a user has the role admin and a credential, there is always one.
//!
//! Users are kept whether rights are enforced or not. Whether they are is up to the [`Guard`](rdb_proto::auth::Guard), which is off
//! without `--auth`.

mod change;
mod keeper;
mod refusal;
mod users;

pub(crate) use change::Change;
pub(crate) use keeper::{AuthError, Authority, Keeper, Present};
pub(crate) use refusal::Refusal;
pub(crate) use users::{Damage, Users};
