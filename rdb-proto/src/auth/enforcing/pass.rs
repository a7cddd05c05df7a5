//! What a caller may do at one moment.

use std::fmt;
use std::sync::Arc;

use super::guard::Held;
use super::refusal::{Missing, denied};
use super::rights::{Rights, UserRights};
use super::role::{Keyspace, Permission, Role};
use crate::error::Fault;

/// What a caller may do at one moment: for one call, or for one message of a stream. A pass that is kept longer misses revocations.
///
/// When rights are not enforced, it allows everything, and each check is one branch.
#[derive(Clone)]
pub struct Pass(Option<Holder>);

#[derive(Clone)]
struct Holder {
    held: Arc<Held>,
    /// The position of the user in the rights.
    user: usize,
}

impl Pass {
    /// The pass of every caller when rights are not enforced.
    pub fn anyone() -> Self {
        Self(None)
    }

    pub(super) fn of_user(held: Arc<Held>, user: usize) -> Self {
        Self(Some(Holder { held, user }))
    }

    /// The pass of the user at a position of `rights`. Its refusals are not counted.
    pub(super) fn under(rights: &Arc<Rights>, user: usize) -> Self {
        let held = Held {
            rights: Arc::clone(rights),
            refusals: Arc::default(),
        };
        Self::of_user(Arc::new(held), user)
    }

    /// Checks that the caller may do this to a key.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED. It names the missing right, and not the key.
    pub fn check_key(
        &self,
        permission: Permission,
        keyspace: Keyspace,
        key: &[u8],
    ) -> Result<(), Fault> {
        let missing = Missing::Key(permission, keyspace);
        self.check(missing, |user| {
            user.keys(permission, keyspace).cover_key(key)
        })
    }

    /// Checks that the caller may do this to every key from `start` on and before `end`. An empty `end`: there is no end.
    ///
    /// # Errors
    ///
    /// As with [`check_key`](Self::check_key).
    pub fn check_range(
        &self,
        permission: Permission,
        keyspace: Keyspace,
        start: &[u8],
        end: &[u8],
    ) -> Result<(), Fault> {
        let missing = Missing::Range(permission, keyspace);
        self.check(missing, |user| {
            user.keys(permission, keyspace).cover_range(start, end)
        })
    }

    /// Checks that the caller is an admin.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED.
    pub fn check_admin(&self) -> Result<(), Fault> {
        self.check(Missing::Role(Role::Admin), |user| user.is_admin)
    }

    /// Checks that the caller may do what a store does. An admin may, too.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED.
    pub fn check_store(&self) -> Result<(), Fault> {
        let missing = Missing::Role(Role::Store);
        self.check(missing, |user| user.is_store || user.is_admin)
    }

    /// Checks that the caller has been granted anything at all.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED.
    pub fn check_signed_in(&self) -> Result<(), Fault> {
        self.check(Missing::AnyRole, |user| user.has_grants)
    }

    /// Whether the other one allows the same: it is of the same user, and rights were not set in between.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(own), Some(other)) => {
                own.user == other.user && Arc::ptr_eq(&own.held, &other.held)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// The name of the user that the caller is. `None`: rights are not enforced.
    pub fn user(&self) -> Option<&str> {
        let holder = self.0.as_ref()?;
        Some(&holder.held.rights.user(holder.user)?.name)
    }

    fn check(
        &self,
        missing: Missing,
        allows: impl FnOnce(&UserRights) -> bool,
    ) -> Result<(), Fault> {
        let Some(Holder { held, user }) = &self.0 else {
            return Ok(());
        };
        let user = held.rights.user(*user);
        if user.is_some_and(allows) {
            return Ok(());
        }
        let refusal = denied(user.map_or("", |user| &user.name), missing);
        held.refusals.note(&refusal);
        Err(refusal)
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Pass").field(&self.user()).finish()
    }
}
