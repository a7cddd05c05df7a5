//! Users and their grants.

use bytes::Bytes;
use rdb_proto::auth::{Keyspace, Role};
use rdb_proto::authpb::{self, CheckResponse, GetUsersResponse, UserInfo};

use crate::{Error, Key};

/// All users of a cluster, as they are at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Users {
    /// In the order of their names.
    pub users: Vec<User>,
    /// Whether rights are enforced: the placement driver runs with `--auth`.
    pub enforced: bool,
    /// Counts changes.
    pub version: u64,
}

/// A user, as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// Its name.
    pub name: String,
    /// How many tokens it has, at most two.
    pub token_count: u32,
    /// The subject of the certificate that is this user, as RFC 4514 writes it, e.g. `CN=ada,O=Example`.
    pub subject: Option<String>,
    /// What it may do.
    pub grants: Vec<Grant>,
}

/// A role over keys.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// What it allows.
    pub role: Role,
    /// Over the keys of this keyspace. `None`: of both.
    pub keyspace: Option<Keyspace>,
    /// Over the keys that begin so. Empty: over all.
    pub prefix: Bytes,
}

/// How a user shows who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// By a token, which is made for it.
    Token,
    /// By a client certificate.
    Certificate {
        /// The certificate's subject, as RFC 4514 writes it, e.g. `CN=ada,O=Example`.
        subject: String,
    },
    /// By either. A call that carries a token is judged by that.
    TokenOrCertificate {
        /// The certificate's subject, as RFC 4514 writes it, e.g. `CN=ada,O=Example`.
        subject: String,
    },
}

/// Whether a user may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// Whether it may.
    pub allowed: bool,
    /// Who it is. `None`: rights are not enforced, and the client has shown no identity.
    pub user: Option<String>,
    /// Which right is missing, in words.
    pub missing: Option<String>,
    /// Whether rights are enforced.
    pub enforced: bool,
}

impl Grant {
    /// A role over all keys of both keyspaces. [`Role::Admin`] and [`Role::Store`] can only be granted like this.
    ///
    /// ```
    /// # use rdb_client::auth::{Grant, Keyspace, Role};
    /// let grant = Grant::new(Role::Writer).in_keyspace(Keyspace::Raw).with_prefix("app/");
    /// ```
    pub fn new(role: Role) -> Self {
        Self {
            role,
            keyspace: None,
            prefix: Bytes::new(),
        }
    }

    /// The same over the keys of one keyspace.
    pub fn in_keyspace(self, keyspace: Keyspace) -> Self {
        Self {
            keyspace: Some(keyspace),
            ..self
        }
    }

    /// The same over the keys that begin so.
    pub fn with_prefix(self, prefix: impl Key) -> Self {
        Self {
            prefix: prefix.into_key(),
            ..self
        }
    }
}

impl Identity {
    pub(super) fn into_subject(self) -> Option<String> {
        match self {
            Self::Token => None,
            Self::Certificate { subject } | Self::TokenOrCertificate { subject } => Some(subject),
        }
    }
}

pub(super) fn wire_keyspace(keyspace: Option<Keyspace>) -> authpb::Keyspace {
    match keyspace {
        None => authpb::Keyspace::All,
        Some(Keyspace::Raw) => authpb::Keyspace::Raw,
        Some(Keyspace::Versioned) => authpb::Keyspace::Versioned,
    }
}

impl From<&Grant> for authpb::Grant {
    fn from(grant: &Grant) -> Self {
        Self {
            role: authpb::Role::from(grant.role).into(),
            keyspace: wire_keyspace(grant.keyspace).into(),
            prefix: grant.prefix.clone(),
        }
    }
}

/// A grant that this release does not know is none that can be shown: it may be over more than it seems.
impl TryFrom<authpb::Grant> for Grant {
    type Error = Error;

    fn try_from(grant: authpb::Grant) -> Result<Self, Error> {
        let unknown = || {
            Error::internal("the placement driver told of a grant that this release does not know")
        };
        let role = Role::of_wire(grant.role);
        let keyspace = authpb::Keyspace::try_from(grant.keyspace);
        Ok(Self {
            role: role.ok_or_else(unknown)?,
            keyspace: match keyspace.map_err(|_| unknown())? {
                authpb::Keyspace::All => None,
                authpb::Keyspace::Raw => Some(Keyspace::Raw),
                authpb::Keyspace::Versioned => Some(Keyspace::Versioned),
            },
            prefix: grant.prefix,
        })
    }
}

impl TryFrom<UserInfo> for User {
    type Error = Error;

    fn try_from(user: UserInfo) -> Result<Self, Error> {
        let grants = user.grants.into_iter().map(Grant::try_from);
        Ok(Self {
            name: user.name,
            token_count: user.token_count,
            subject: present(user.subject),
            grants: grants.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<GetUsersResponse> for Users {
    type Error = Error;

    fn try_from(answer: GetUsersResponse) -> Result<Self, Error> {
        let users = answer.users.into_iter().map(User::try_from);
        Ok(Self {
            users: users.collect::<Result<_, _>>()?,
            enforced: answer.enforced,
            version: answer.version,
        })
    }
}

impl From<CheckResponse> for Verdict {
    fn from(answer: CheckResponse) -> Self {
        Self {
            allowed: answer.allowed,
            user: present(answer.name),
            missing: present(answer.missing),
            enforced: answer.enforced,
        }
    }
}

fn present(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_survives_the_wire_and_an_unknown_one_is_not_shown_as_another() {
        let grants = [
            Grant::new(Role::Admin),
            Grant::new(Role::Store),
            Grant::new(Role::Reader).in_keyspace(Keyspace::Versioned),
            Grant::new(Role::Writer)
                .in_keyspace(Keyspace::Raw)
                .with_prefix(b"\xff/"),
        ];
        for grant in grants {
            let sent = authpb::Grant::from(&grant);
            assert_eq!(Grant::try_from(sent.clone()), Ok(grant));
            for (role, keyspace) in [(0, 0), (99, 0), (sent.role, 99)] {
                let unknown = authpb::Grant {
                    role,
                    keyspace,
                    ..sent.clone()
                };
                assert!(Grant::try_from(unknown).is_err(), "{role} {keyspace}");
            }
        }
    }
}
