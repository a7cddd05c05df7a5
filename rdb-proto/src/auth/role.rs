//! The words of rights: what is done, to which keys, and the roles that allow it.

use std::fmt;

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
    /// The keys of raw puts and gets.
    Raw,
    /// The keys of compare-and-swap.
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
    /// The role that has this number in messages. `None`: there is none, or this release does not know it.
    pub fn of_wire(role: i32) -> Option<Self> {
        match authpb::Role::try_from(role).ok()? {
            authpb::Role::Unspecified => None,
            authpb::Role::Reader => Some(Self::Reader),
            authpb::Role::Writer => Some(Self::Writer),
            authpb::Role::Admin => Some(Self::Admin),
            authpb::Role::Store => Some(Self::Store),
        }
    }

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
    fn the_number_of_a_role_leads_back_to_it() {
        for role in [Role::Reader, Role::Writer, Role::Admin, Role::Store] {
            assert_eq!(Role::of_wire(authpb::Role::from(role).into()), Some(role));
        }
        for none in [0, 99, -1] {
            assert_eq!(Role::of_wire(none), None);
        }
    }
}
