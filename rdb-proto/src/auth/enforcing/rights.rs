//! The rights of all users at one moment, compiled for checks.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use prost::Message;

use super::bad_rights::{BadRights, BadUser};
use super::grant::Grant;
use super::intervals::Intervals;
use super::limits::{
    GRANTS_MAX, NAME_BYTES_MAX, RIGHTS_BYTES_MAX, SUBJECT_BYTES_MAX, TOKEN_BYTES, TOKENS_MAX,
    USERS_MAX,
};
use super::pass::Pass;
use super::role::{Keyspace, Permission, Role};
use crate::authpb;

/// The rights of all users at one moment. They do not change.
///
/// - Users are sorted by name, and no two have the same name, token or subject.
/// - A user's grants are merged to intervals by permission and keyspace: a check is one binary search.
/// - A writer's grants are in the intervals for reading, too; an admin's cover all keys; a store's none.
pub struct Rights {
    version: u64,
    users: Box<[UserRights]>,
    /// The positions of users by the hashes of their tokens.
    by_token: HashMap<[u8; TOKEN_BYTES], usize>,
    /// The positions of users by their subjects.
    by_subject: HashMap<Box<str>, usize>,
}

/// What one user may do.
pub(super) struct UserRights {
    pub(super) name: Arc<str>,
    pub(super) is_admin: bool,
    pub(super) is_store: bool,
    pub(super) has_grants: bool,
    raw: OfKeyspace,
    versioned: OfKeyspace,
}

struct OfKeyspace {
    read: Intervals,
    write: Intervals,
}

impl Rights {
    /// Compiles rights as the placement driver keeps and sends them.
    ///
    /// # Errors
    ///
    /// When they are not what the proto says. No message makes this panic.
    pub fn of(message: &authpb::Rights) -> Result<Self, BadRights> {
        if message.version == 0 {
            return Err(BadRights::NoVersion);
        }
        let count = message.users.len();
        if count > USERS_MAX {
            return Err(BadRights::TooManyUsers { count });
        }
        let bytes = message.encoded_len();
        if bytes > RIGHTS_BYTES_MAX {
            return Err(BadRights::TooLong { bytes });
        }
        let mut rights = Self {
            version: message.version,
            users: Box::default(),
            by_token: HashMap::new(),
            by_subject: HashMap::new(),
        };
        let mut users: Vec<UserRights> = Vec::with_capacity(count);
        for (position, user) in message.users.iter().enumerate() {
            let before = users.last().map(|user| &*user.name);
            let added = rights.add(position, before, user);
            users.push(added.map_err(|problem| BadRights::User {
                number: position + 1,
                problem,
            })?);
        }
        rights.users = users.into();
        Ok(rights)
    }

    /// Counts changes; never 0.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether any user has the role `admin`.
    pub fn has_admin(&self) -> bool {
        self.users.iter().any(|user| user.is_admin)
    }

    /// What the user of this name may do, whether rights are enforced or not. `None`: there is no such user.
    pub fn pass_of(self: &Arc<Self>, name: &str) -> Option<Pass> {
        let found = self.users.binary_search_by(|user| (*user.name).cmp(name));
        found.ok().map(|user| Pass::under(self, user))
    }

    pub(super) fn user(&self, position: usize) -> Option<&UserRights> {
        self.users.get(position)
    }

    /// The position of the user with the token of this hash.
    pub(super) fn user_of_token(&self, hash: &[u8; TOKEN_BYTES]) -> Option<usize> {
        self.by_token.get(hash).copied()
    }

    /// The position of the user with this subject.
    pub(super) fn user_of_subject(&self, subject: &str) -> Option<usize> {
        self.by_subject.get(subject).copied()
    }

    /// Notes how the user at `position` is found, and compiles its grants.
    fn add(
        &mut self,
        position: usize,
        before: Option<&str>,
        user: &authpb::User,
    ) -> Result<UserRights, BadUser> {
        if !is_user_name(&user.name) {
            return Err(BadUser::Name);
        }
        if before.is_some_and(|before| before >= user.name.as_str()) {
            return Err(BadUser::Order);
        }
        let count = user.token_hashes.len();
        if count > TOKENS_MAX {
            return Err(BadUser::TooManyTokens { count });
        }
        for hash in &user.token_hashes {
            let bytes = hash.len();
            let hash = <[u8; TOKEN_BYTES]>::try_from(&**hash);
            let hash = hash.map_err(|_| BadUser::TokenHash { bytes })?;
            if self.by_token.insert(hash, position).is_some() {
                return Err(BadUser::TokenTaken);
            }
        }
        let bytes = user.subject.len();
        if bytes > SUBJECT_BYTES_MAX {
            return Err(BadUser::SubjectTooLong { bytes });
        }
        if !user.subject.is_empty() {
            let subject = user.subject.as_str().into();
            if self.by_subject.insert(subject, position).is_some() {
                return Err(BadUser::SubjectTaken);
            }
        }
        UserRights::of(user)
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Rights");
        shown.field("version", &self.version);
        shown.field("user_count", &self.users.len());
        shown.finish_non_exhaustive()
    }
}

impl UserRights {
    fn of(user: &authpb::User) -> Result<Self, BadUser> {
        let count = user.grants.len();
        if count > GRANTS_MAX {
            return Err(BadUser::TooManyGrants { count });
        }
        let grants: Result<Vec<_>, _> = user.grants.iter().map(Grant::of).collect();
        let grants = grants.map_err(BadUser::Grant)?;
        let mut met = HashSet::new();
        if !grants.iter().all(|grant| met.insert(grant)) {
            return Err(BadUser::GrantTwice);
        }
        let has = |role| grants.iter().any(|grant| grant.role == role);
        Ok(Self {
            name: user.name.as_str().into(),
            is_admin: has(Role::Admin),
            is_store: has(Role::Store),
            has_grants: !grants.is_empty(),
            raw: OfKeyspace::of(&grants, Keyspace::Raw),
            versioned: OfKeyspace::of(&grants, Keyspace::Versioned),
        })
    }

    /// The keys of a keyspace that the user may do this to.
    pub(super) fn keys(&self, permission: Permission, keyspace: Keyspace) -> &Intervals {
        let of_keyspace = match keyspace {
            Keyspace::Raw => &self.raw,
            Keyspace::Versioned => &self.versioned,
        };
        match permission {
            Permission::Read => &of_keyspace.read,
            Permission::Write => &of_keyspace.write,
        }
    }
}

impl OfKeyspace {
    fn of(grants: &[Grant<'_>], keyspace: Keyspace) -> Self {
        let of_permission = |permission| {
            let grants = grants.iter().filter(|grant| grant.is_over(keyspace));
            let grants = grants.filter(|grant| grant.role.allows(permission));
            Intervals::of_prefixes(grants.map(|grant| grant.prefix))
        };
        Self {
            read: of_permission(Permission::Read),
            write: of_permission(Permission::Write),
        }
    }
}

/// Whether a user can have this name: 1 to 64 of a-z, 0-9, `.`, `_` and `-`, and a letter first.
pub fn is_user_name(name: &str) -> bool {
    let is_of_names = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    name.len() <= NAME_BYTES_MAX
        && name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_lowercase())
        && name.bytes().all(is_of_names)
}

#[cfg(test)]
mod tests;
