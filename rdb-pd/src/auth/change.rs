//! What can be done to users, and by whom it was.

use std::sync::Arc;

use rdb_proto::auth::{Caller, is_user_name};
use rdb_proto::authpb::{Grant, Keyspace, Role};
use rdb_proto::error::Fault;
use rdb_proto::transport::CallBudget;

/// A change of one user.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// Makes the first admin.
    Enable {
        name: String,
        token_hash: [u8; 32],
    },
    /// Adds a user. Without the hash of a token it gets none.
    AddUser {
        name: String,
        subject: String,
        token_hash: Option<[u8; 32]>,
    },
    RemoveUser {
        name: String,
    },
    AddToken {
        name: String,
        token_hash: [u8; 32],
    },
    /// Takes the older of two tokens away.
    DropOldToken {
        name: String,
    },
    /// Takes all tokens away, and gives another one.
    ReplaceTokens {
        name: String,
        token_hash: [u8; 32],
    },
    Grant {
        name: String,
        grant: Grant,
    },
    Revoke {
        name: String,
        grant: Grant,
    },
}

/// Who asks for a change.
pub(crate) enum Author {
    /// Whoever makes this call.
    Call(Arc<CallBudget>),
    /// One that makes no call.
    #[cfg(test)]
    Caller(Caller),
}

impl Author {
    fn caller(&self) -> &Caller {
        match self {
            Self::Call(call) => call.caller(),
            #[cfg(test)]
            Self::Caller(caller) => caller,
        }
    }

    fn call(&self) -> Option<&CallBudget> {
        match self {
            Self::Call(call) => Some(call),
            #[cfg(test)]
            Self::Caller(_) => None,
        }
    }

    /// Checks that the caller may still make the change: its own rights may have been revoked while it waited.
    pub(super) fn check(&self, change: &Change) -> Result<(), Fault> {
        match change {
            // Nobody has a right yet.
            Change::Enable { .. } => Ok(()),
            _ => self.caller().pass()?.check_admin(),
        }
    }
}

impl Change {
    /// Whom it is about.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Enable { name, .. }
            | Self::AddUser { name, .. }
            | Self::RemoveUser { name }
            | Self::AddToken { name, .. }
            | Self::DropOldToken { name }
            | Self::ReplaceTokens { name, .. }
            | Self::Grant { name, .. }
            | Self::Revoke { name, .. } => name,
        }
    }

    /// What it is, in words for the audit log. Whatever was given as a name may be a token, unless it is one.
    pub(crate) fn asked(&self) -> String {
        let name = match self.name() {
            name if is_user_name(name) => name,
            _ => "(no name)",
        };
        let asked = format!("{} {name}", self.kind());
        match self {
            Self::Grant { grant, .. } | Self::Revoke { grant, .. } => {
                format!("{asked} {} {}", role_of(grant), keyspace_of(grant))
            }
            _ => asked,
        }
    }

    /// Tells of it once it is made, and by whom. Neither subjects of users nor prefixes are told.
    pub(super) fn log(&self, author: &Author, version: u64) {
        let call = author.call();
        // Whoever makes the first admin is no user yet.
        let is_first = matches!(self, Self::Enable { .. });
        let certificate = call
            .filter(|_| is_first)
            .and_then(CallBudget::peer_identity);
        let grant = match self {
            Self::Grant { grant, .. } | Self::Revoke { grant, .. } => Some(grant),
            _ => None,
        };
        let (role, keyspace) = (grant.map(role_of), grant.map(keyspace_of));
        tracing::info!(
            by = author.caller().name().as_deref(),
            certificate = certificate.map(|identity| identity.subject()),
            peer = call.and_then(CallBudget::peer).map(tracing::field::display),
            change = self.kind(),
            user = self.name(),
            role,
            keyspace,
            prefix_bytes = grant.map(|grant| grant.prefix.len()),
            version,
            "users or rights were changed"
        );
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Enable { .. } => "enable",
            Self::AddUser { .. } => "add_user",
            Self::RemoveUser { .. } => "remove_user",
            Self::AddToken { .. } => "add_token",
            Self::DropOldToken { .. } => "drop_old_token",
            Self::ReplaceTokens { .. } => "replace_tokens",
            Self::Grant { .. } => "grant",
            Self::Revoke { .. } => "revoke",
        }
    }
}

fn role_of(grant: &Grant) -> &'static str {
    match grant.role() {
        Role::Unspecified => "none",
        Role::Reader => "reader",
        Role::Writer => "writer",
        Role::Admin => "admin",
        Role::Store => "store",
    }
}

fn keyspace_of(grant: &Grant) -> &'static str {
    match grant.keyspace() {
        Keyspace::All => "all",
        Keyspace::Raw => "raw",
        Keyspace::Versioned => "versioned",
    }
}
