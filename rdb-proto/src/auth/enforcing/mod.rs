//! The part of [`auth`](super) that only servers have: who calls, what that user may do now, and how that is enforced.

mod bad_rights;
mod caller;
mod clock;
mod credentials;
mod grant;
mod guard;
mod intervals;
mod pass;
mod refusal;
mod rights;
#[cfg(test)]
mod tests;

use super::{limits, role, token};

pub use bad_rights::{BadRights, BadUser};
pub use caller::Caller;
pub use clock::Moment;
pub(crate) use credentials::Credentials;
pub use grant::{BadGrant, check_grant};
pub use guard::{Guard, GuardState, Refusals, RefusedStores};
pub use pass::Pass;
pub use rights::{Rights, is_user_name};
