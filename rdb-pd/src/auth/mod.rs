//! Users and their grants, as the placement driver keeps them.
//!
//! - [`Users`] is the pure part: all users at one moment, and the result of each [`Change`], or why it is refused ([`Refusal`]).
//! - [`Authority`] is what the rest of the process holds. It shows the users, and takes changes.
//! - [`Keeper`] makes changes, one after the other: it decides, writes the whole record durably, shows it to this process's
//!   [`Guard`](rdb_proto::auth::Guard), and answers.
//!
//! Invariants:
//! - An answered change holds in this process and in every later one on the data directory. Stores ask for changes every two seconds.
//! - A change whose write failed is not shown, and not answered as done. The next process may find it.
//! - Two different records never have the same version, also when the data directory was restored from an older copy with
//!   `--tso-advance-ms`: stores ask by version.
//! - Once there is an admin with a credential, there is always one.
//!
//! Users are kept even if rights are not enforced. The [`Guard`](rdb_proto::auth::Guard) enforces them; without `--auth` it is off.

mod change;
mod keeper;
mod refusal;
mod users;

pub(crate) use change::Change;
pub(crate) use keeper::{AuthError, Authority, Keeper, Present};
pub(crate) use refusal::Refusal;
pub(crate) use users::{Damage, Users};
