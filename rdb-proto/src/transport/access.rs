//! What a caller needs for a method.

use crate::auth::{Keyspace, Permission};

/// What a caller needs for a method, once rights are enforced. See [`auth`](crate::auth).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: everybody may call it.
    Open,
    /// The handler decides who may call it.
    ByHandler,
    /// To be a user with any grant.
    SignedIn,
    /// The role `store`.
    Store,
    /// The role `admin`.
    Admin,
    /// To be a user with any grant; and the handler checks that it may do this to the keys.
    Keys(Permission, Keyspace),
    /// To be a user with any grant; and the handler checks each command.
    Commands,
}
