//! Changes of users, and who asked for them.

use rdb_proto::auth::{Caller, is_user_name};
use rdb_proto::authpb::{Grant, Keyspace, Role};
use rdb_proto::error::Fault;
use rdb_proto::transport::Call;

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
    /// Takes the newer of two tokens away.
    DropNewToken {
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

impl Change {
    /// Checks that the caller still has the right: it may have been revoked while the change waited.
    pub(super) fn check(&self, caller: &Caller) -> Result<(), Fault> {
        match self {
            // Nobody has a right yet.
            Self::Enable { .. } => Ok(()),
            _ => caller.pass()?.check_admin(),
        }
    }

    /// Whom it is about.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Enable { name, .. }
            | Self::AddUser { name, .. }
            | Self::RemoveUser { name }
            | Self::AddToken { name, .. }
            | Self::DropOldToken { name }
            | Self::DropNewToken { name }
            | Self::ReplaceTokens { name, .. }
            | Self::Grant { name, .. }
            | Self::Revoke { name, .. } => name,
        }
    }

    /// What it is, in words for the audit log. An invalid name is left out, since it may be a token.
    pub(crate) fn asked(&self) -> String {
        let name = match self.name() {
            name if is_user_name(name) => name,
            _ => "(no name)",
        };
        let asked = format!("{} {name}", self.kind());
        match self {
            Self::Grant { grant, .. } | Self::Revoke { grant, .. } => {
                let role = role_of(grant);
                let keyspaces = match grant.keyspace() {
                    Keyspace::All => "both keyspaces",
                    Keyspace::Raw => "the raw keyspace",
                    Keyspace::Versioned => "the versioned keyspace",
                };
                match (grant.role(), grant.prefix.len()) {
                    (Role::Admin | Role::Store, 0) => format!("{asked} {role}"),
                    (_, 0) => format!("{asked} {role} over all keys of {keyspaces}"),
                    (_, bytes) => {
                        format!("{asked} {role} over a prefix of {bytes} bytes of {keyspaces}")
                    }
                }
            }
            Self::AddUser {
                subject,
                token_hash,
                ..
            } if !subject.is_empty() => {
                // Text without a `=` is no subject.
                let subject = Some(subject).filter(|subject| subject.contains('='));
                let subject = subject.map_or("(no subject)", String::as_str);
                let token = token_hash.map_or(", without a token", |_| "");
                format!("{asked}{token}, with the subject {subject}")
            }
            _ => asked,
        }
    }

    /// The prefix of the keys that a grant is over. `None`: there is none.
    pub(crate) fn prefix(&self) -> Option<&[u8]> {
        match self {
            Self::Grant { grant, .. } | Self::Revoke { grant, .. } => {
                Some(&grant.prefix[..]).filter(|prefix| !prefix.is_empty())
            }
            _ => None,
        }
    }

    /// Tells of it once it is made, and by which call. Neither subjects of users nor prefixes are told.
    pub(super) fn log(&self, call: &Call, version: u64) {
        // The caller that makes the first admin is no user yet.
        let is_first = matches!(self, Self::Enable { .. });
        let certificate = call.peer_identity().filter(|_| is_first);
        let grant = match self {
            Self::Grant { grant, .. } | Self::Revoke { grant, .. } => Some(grant),
            _ => None,
        };
        let (role, keyspace) = (grant.map(role_of), grant.map(keyspace_of));
        tracing::info!(
            by = call.caller().name().as_deref(),
            certificate = certificate.map(|identity| identity.subject()),
            peer = call.peer().map(tracing::field::display),
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
            Self::DropNewToken { .. } => "drop_new_token",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(role: Role, keyspace: Keyspace, prefix: &'static str) -> String {
        let grant = Grant {
            role: role.into(),
            keyspace: keyspace.into(),
            prefix: prefix.into(),
        };
        let name = "ada".to_owned();
        Change::Grant { name, grant }.asked()
    }

    #[test]
    fn the_words_about_a_grant_say_over_what_it_is_and_name_no_key() {
        for (told, words) in [
            (
                asked(Role::Writer, Keyspace::All, ""),
                "grant ada writer over all keys of both keyspaces",
            ),
            (
                asked(Role::Reader, Keyspace::Raw, "secret/"),
                "grant ada reader over a prefix of 7 bytes of the raw keyspace",
            ),
            (asked(Role::Store, Keyspace::All, ""), "grant ada store"),
        ] {
            assert_eq!(told, words);
        }
    }

    #[test]
    fn the_words_about_a_new_user_have_its_subject_unless_it_is_none() {
        let added = |subject: &str, token_hash| Change::AddUser {
            name: "ada".to_owned(),
            subject: subject.to_owned(),
            token_hash,
        };
        assert_eq!(added("", None).asked(), "add_user ada");
        assert_eq!(
            added("CN=ada", None).asked(),
            "add_user ada, without a token, with the subject CN=ada"
        );
        assert_eq!(
            added("flaredb_00", Some([0; 32])).asked(),
            "add_user ada, with the subject (no subject)"
        );
    }
}
