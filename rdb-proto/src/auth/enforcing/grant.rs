//! One grant: a role over keys.

use super::limits::PREFIX_BYTES_MAX;
use super::role::{Keyspace, Role};
use crate::authpb;

/// What is wrong with a grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadGrant {
    /// Its role is unknown here, or there is none.
    #[error("the role is unknown")]
    Role,
    /// Its keyspace is unknown here.
    #[error("the keyspace is unknown")]
    Keyspace,
    /// Its prefix is longer than keys are.
    #[error("the prefix has {bytes} bytes; at most {PREFIX_BYTES_MAX} are accepted")]
    PrefixTooLong {
        /// How long it is.
        bytes: usize,
    },
    /// It has a keyspace or a prefix that its role takes no notice of.
    #[error("the role {role} takes no keyspace and no prefix")]
    Narrowed {
        /// Its role.
        role: Role,
    },
}

/// A grant that means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Grant<'a> {
    pub(super) role: Role,
    /// `None`: both.
    pub(super) keyspace: Option<Keyspace>,
    pub(super) prefix: &'a [u8],
}

impl<'a> Grant<'a> {
    pub(super) fn of(grant: &'a authpb::Grant) -> Result<Self, BadGrant> {
        // Not by the getters: they take a number that they do not know for the first one, which is all keys.
        let role = Role::of_wire(grant.role).ok_or(BadGrant::Role)?;
        let keyspace = authpb::Keyspace::try_from(grant.keyspace);
        let keyspace = match keyspace.map_err(|_| BadGrant::Keyspace)? {
            authpb::Keyspace::All => None,
            authpb::Keyspace::Raw => Some(Keyspace::Raw),
            authpb::Keyspace::Versioned => Some(Keyspace::Versioned),
        };
        let prefix = &*grant.prefix;
        if prefix.len() > PREFIX_BYTES_MAX {
            let bytes = prefix.len();
            return Err(BadGrant::PrefixTooLong { bytes });
        }
        if role.is_over_everything() && (keyspace.is_some() || !prefix.is_empty()) {
            return Err(BadGrant::Narrowed { role });
        }
        Ok(Self {
            role,
            keyspace,
            prefix,
        })
    }

    pub(super) fn is_over(&self, keyspace: Keyspace) -> bool {
        self.keyspace.is_none_or(|own| own == keyspace)
    }
}

/// Checks a grant that somebody asks for.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_grant(grant: &authpb::Grant) -> Result<(), BadGrant> {
    Grant::of(grant).map(drop)
}
