//! A question whether somebody may do something.

use bytes::Bytes;
use rdb_proto::auth::{Keyspace, Pass, Permission, Role};
use rdb_proto::authpb;
use rdb_proto::error::Fault;
use tonic::Status;

use super::super::check_bound;

/// What somebody is asked to have the right to.
pub(super) enum Asked {
    Keys {
        permission: Permission,
        keyspaces: &'static [Keyspace],
        start_key: Bytes,
        end_key: Bytes,
    },
    Admin,
    Store,
}

impl Asked {
    pub(super) fn checked(
        role: i32,
        keyspace: i32,
        start_key: Bytes,
        end_key: Bytes,
    ) -> Result<Self, Status> {
        let refused =
            |field, cause: &str| Status::from(Fault::invalid_argument(field, None, cause));
        let permission = match Role::of_wire(role) {
            Some(Role::Reader) => Permission::Read,
            Some(Role::Writer) => Permission::Write,
            Some(Role::Admin) => return Ok(Self::Admin),
            Some(Role::Store) => return Ok(Self::Store),
            None => {
                let cause = "that is no role; there are reader, writer, admin and store";
                return Err(refused("role", cause));
            }
        };
        let keyspaces: &'static [Keyspace] = match authpb::Keyspace::try_from(keyspace) {
            Ok(authpb::Keyspace::All) => &[Keyspace::Raw, Keyspace::Versioned],
            Ok(authpb::Keyspace::Raw) => &[Keyspace::Raw],
            Ok(authpb::Keyspace::Versioned) => &[Keyspace::Versioned],
            Err(_) => {
                let cause = "that is no keyspace; there are raw, versioned and all";
                return Err(refused("keyspace", cause));
            }
        };
        check_bound("start_key", &start_key)?;
        check_bound("end_key", &end_key)?;
        if !end_key.is_empty() && end_key <= start_key {
            return Err(refused(
                "end_key",
                "no key is between start_key and end_key",
            ));
        }
        Ok(Self::Keys {
            permission,
            keyspaces,
            start_key,
            end_key,
        })
    }

    /// The right to it that is missing, in words.
    pub(super) fn missing(&self, pass: &Pass) -> Option<String> {
        match self {
            Self::Admin => pass.check_admin().err().map(|_| Role::Admin.to_string()),
            Self::Store => pass.check_store().err().map(|_| Role::Store.to_string()),
            Self::Keys {
                permission,
                keyspaces,
                start_key,
                end_key,
            } => {
                let lacks = |keyspace: Keyspace| {
                    pass.check_range(*permission, keyspace, start_key, end_key)
                        .is_err()
                };
                let missing = keyspaces.iter().find(|keyspace| lacks(**keyspace))?;
                let role = permission.role();
                let is_one_key = end_key.strip_suffix(b"\0") == Some(&start_key[..]);
                let keys = if is_one_key {
                    "this key"
                } else {
                    "all of these keys"
                };
                Some(format!("{role} over {keys} of the {missing} keyspace"))
            }
        }
    }
}
