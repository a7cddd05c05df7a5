//! Grants, as they are typed and shown.

use std::fmt;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use rdb_client::auth::{Grant, Keyspace, Role};
use serde::Serialize;

use crate::encoding::{KeyArgument, KeyEncoding};
use crate::failure::Failure;
use crate::output::{Output, serialize_bytes};
use crate::session::Session;

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RoleName {
    /// Reads keys
    Reader,
    /// Reads and writes keys
    Writer,
    /// Does everything
    Admin,
    /// Is a store: registers, speaks to other stores, has a copy of the rights
    Store,
}

/// The keys of one keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeyspaceName {
    /// Those of `rdbctl raw`
    Raw,
    /// Those of `rdbctl cas`
    Versioned,
}

#[derive(Debug, Args)]
pub(crate) struct GrantArguments {
    /// The name of the user
    #[arg(value_name = "USER")]
    user: String,
    /// What it may do
    #[arg(value_name = "ROLE", value_enum)]
    role: RoleName,
    /// Over the keys of this keyspace alone. Without it: of both
    #[arg(long, value_name = "KEYSPACE", value_enum)]
    keyspace: Option<KeyspaceName>,
    /// Over the keys that begin so. Without it: over all
    #[arg(short, long, value_name = "PREFIX")]
    prefix: Option<KeyArgument>,
}

impl RoleName {
    pub(super) const ALL: [Self; 4] = [Self::Reader, Self::Writer, Self::Admin, Self::Store];

    fn is_over_everything(self) -> bool {
        Role::from(self).is_over_everything()
    }
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Reader => Self::Reader,
            RoleName::Writer => Self::Writer,
            RoleName::Admin => Self::Admin,
            RoleName::Store => Self::Store,
        }
    }
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::Reader => Self::Reader,
            Role::Writer => Self::Writer,
            Role::Admin => Self::Admin,
            Role::Store => Self::Store,
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Role::from(*self), formatter)
    }
}

impl From<KeyspaceName> for Keyspace {
    fn from(name: KeyspaceName) -> Self {
        match name {
            KeyspaceName::Raw => Self::Raw,
            KeyspaceName::Versioned => Self::Versioned,
        }
    }
}

impl From<Keyspace> for KeyspaceName {
    fn from(keyspace: Keyspace) -> Self {
        match keyspace {
            Keyspace::Raw => Self::Raw,
            Keyspace::Versioned => Self::Versioned,
        }
    }
}

impl fmt::Display for KeyspaceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Keyspace::from(*self), formatter)
    }
}

impl GrantArguments {
    /// # Errors
    ///
    /// [`Failure::Usage`] when the role takes no keys, or the prefix is empty, as an unset shell variable makes it: that would be all keys.
    pub(super) fn grant(self, session: &Session) -> Result<(String, Grant), Failure> {
        let Self {
            user,
            role,
            keyspace,
            prefix,
        } = self;
        if role.is_over_everything() && (keyspace.is_some() || prefix.is_some()) {
            return Err(Failure::usage(format!(
                "the role {role} takes no keys: leave --keyspace and --prefix out"
            )));
        }
        let mut grant = Grant::new(role.into());
        if let Some(keyspace) = keyspace {
            grant = grant.in_keyspace(keyspace.into());
        }
        if let Some(prefix) = prefix {
            let prefix = session.bound(prefix)?;
            if prefix.is_empty() {
                return Err(Failure::usage(
                    "the prefix is empty; leave --prefix out if all keys are meant",
                ));
            }
            grant = grant.with_prefix(prefix);
        }
        Ok((user, grant))
    }
}

pub(super) async fn grant(
    arguments: GrantArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let (user, grant) = arguments.grant(session)?;
    let changed = session.connect().await?.grant(&user, &grant).await?;
    output.event(&Granted {
        user,
        grant: Granting::of(&grant),
        changed,
    })
}

pub(super) async fn revoke(
    arguments: GrantArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let (user, grant) = arguments.grant(session)?;
    session.connect().await?.revoke(&user, &grant).await?;
    output.done()
}

/// What was granted, and whether it was before.
#[derive(Serialize)]
struct Granted {
    user: String,
    #[serde(flatten)]
    grant: Granting,
    changed: bool,
}

impl fmt::Display for Granted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changed {
            formatter.write_str("OK")
        } else {
            write!(formatter, "OK: user {} had it before", self.user)
        }
    }
}

/// A grant, as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Granting {
    role: RoleName,
    /// `None`: of both.
    keyspace: Option<KeyspaceName>,
    #[serde(serialize_with = "serialize_bytes")]
    prefix: Bytes,
}

impl Granting {
    pub(super) fn of(grant: &Grant) -> Self {
        Self {
            role: grant.role.into(),
            keyspace: grant.keyspace.map(KeyspaceName::from),
            prefix: grant.prefix.clone(),
        }
    }

    /// As it is typed to grant and to revoke it.
    pub(super) fn typed(&self, keys: KeyEncoding) -> String {
        let mut typed = self.role.to_string();
        if let Some(keyspace) = self.keyspace {
            typed.push_str(&format!(" --keyspace {keyspace}"));
        }
        if !self.prefix.is_empty() {
            if let Some(option) = keys.option(&self.prefix) {
                typed.push_str(&format!(" {option}"));
            }
            let prefix = keys.encode(&self.prefix);
            let quoted = shlex::try_quote(&prefix);
            // Behind a space it would be taken for an option.
            let between = if prefix.starts_with('-') { '=' } else { ' ' };
            typed.push_str(&format!(
                " --prefix{between}{}",
                quoted.as_deref().unwrap_or(&prefix)
            ));
        }
        typed
    }
}
