//! The words of rights: what is done, to which keys, and the roles that allow it.

use std::fmt;
use std::str::FromStr;

use crate::authpb;

/// What is done to keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// They are read.
    Read,
    /// They are written, whether the answer says what they were or not.
    Write,
}

/// Which keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keyspace {
    /// Those of raw puts and gets.
    Raw,
    /// Those of compare-and-swap.
    Versioned,
}

/// What is granted to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads keys.
    Reader,
    /// Reads and writes keys.
    Writer,
    /// Does everything.
    Admin,
    /// Does what a store does, and has no access to keys.
    Store,
}

/// A word is not the name of a role or of a keyspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no such {what}; there are: {expected}")]
pub struct UnknownName {
    what: &'static str,
    expected: &'static str,
}

impl Permission {
    /// The least role that allows it.
    pub fn role(self) -> Role {
        match self {
            Self::Read => Role::Reader,
            Self::Write => Role::Writer,
        }
    }
}

impl Role {
    /// Whether it is always over all keys: a prefix or a keyspace with it means nothing.
    pub fn is_over_everything(self) -> bool {
        matches!(self, Self::Admin | Self::Store)
    }

    /// Whether it allows `permission` on the keys that it is over.
    pub fn allows(self, permission: Permission) -> bool {
        match self {
            Self::Reader => permission == Permission::Read,
            Self::Writer | Self::Admin => true,
            Self::Store => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Admin => "admin",
            Self::Store => "store",
        }
    }
}

impl Keyspace {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Versioned => "versioned",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Role {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [Self::Reader, Self::Writer, Self::Admin, Self::Store];
        let found = all.into_iter().find(|role| role.name() == text);
        found.ok_or(UnknownName {
            what: "role",
            expected: "reader, writer, admin, store",
        })
    }
}

impl FromStr for Keyspace {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let mut all = [Self::Raw, Self::Versioned].into_iter();
        let found = all.find(|keyspace| keyspace.name() == text);
        found.ok_or(UnknownName {
            what: "keyspace",
            expected: "raw, versioned",
        })
    }
}

impl From<Role> for authpb::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Reader => Self::Reader,
            Role::Writer => Self::Writer,
            Role::Admin => Self::Admin,
            Role::Store => Self::Store,
        }
    }
}

impl TryFrom<authpb::Role> for Role {
    type Error = UnknownName;

    fn try_from(role: authpb::Role) -> Result<Self, UnknownName> {
        match role {
            authpb::Role::Unspecified => "".parse(),
            authpb::Role::Reader => Ok(Self::Reader),
            authpb::Role::Writer => Ok(Self::Writer),
            authpb::Role::Admin => Ok(Self::Admin),
            authpb::Role::Store => Ok(Self::Store),
        }
    }
}

impl From<Keyspace> for authpb::Keyspace {
    fn from(keyspace: Keyspace) -> Self {
        match keyspace {
            Keyspace::Raw => Self::Raw,
            Keyspace::Versioned => Self::Versioned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_of_roles_and_keyspaces_lead_back_to_them() {
        for role in [Role::Reader, Role::Writer, Role::Admin, Role::Store] {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(Role::try_from(authpb::Role::from(role)), Ok(role));
        }
        for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
            assert_eq!(keyspace.to_string().parse(), Ok(keyspace));
        }
        assert!(Role::try_from(authpb::Role::Unspecified).is_err());
        assert!("Admin".parse::<Role>().is_err());
        assert!("all".parse::<Keyspace>().is_err());
    }
}
