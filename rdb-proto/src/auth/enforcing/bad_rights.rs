//! Why rights cannot be used.

use super::grant::BadGrant;
use super::limits::{
    GRANTS_MAX, RIGHTS_BYTES_MAX, SUBJECT_BYTES_MAX, TOKEN_BYTES, TOKENS_MAX, USERS_MAX,
};

/// Rights cannot be used. All or nothing: rights with a part left out would deny what is granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRights {
    /// They have no version.
    #[error("the rights have no version")]
    NoVersion,
    /// They have more bytes than is allowed.
    #[error("the rights have {bytes} bytes; at most {RIGHTS_BYTES_MAX} are accepted")]
    TooLong {
        /// How many they have.
        bytes: usize,
    },
    /// There are more users than is allowed.
    #[error("there are {count} users; at most {USERS_MAX} are accepted")]
    TooManyUsers {
        /// How many there are.
        count: usize,
    },
    /// One of the users is wrong.
    #[error("user {number}: {problem}")]
    User {
        /// Which one, beginning with 1.
        number: usize,
        /// What is wrong with it.
        problem: BadUser,
    },
}

/// What is wrong with a user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUser {
    /// It is not named as users are.
    #[error("a name has 1 to 64 of a-z, 0-9, '.', '_' and '-', and begins with a letter")]
    Name,
    /// Users are not sorted by their names, or two have the same.
    #[error("its name is not behind the one before it")]
    Order,
    /// It has too many tokens.
    #[error("it has {count} tokens; at most {TOKENS_MAX} are accepted")]
    TooManyTokens {
        /// How many it has.
        count: usize,
    },
    /// The hash of a token has a wrong length.
    #[error("the hash of a token has {bytes} bytes instead of {TOKEN_BYTES}")]
    TokenHash {
        /// How long it is.
        bytes: usize,
    },
    /// It has a token twice, or one of another user.
    #[error("it has a token that is taken")]
    TokenTaken,
    /// Its subject is too long.
    #[error("its subject has {bytes} bytes; at most {SUBJECT_BYTES_MAX} are accepted")]
    SubjectTooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Its subject is that of another user.
    #[error("it has a subject that is taken")]
    SubjectTaken,
    /// It has too many grants.
    #[error("it has {count} grants; at most {GRANTS_MAX} are accepted")]
    TooManyGrants {
        /// How many it has.
        count: usize,
    },
    /// It has the same grant twice.
    #[error("it has a grant twice")]
    GrantTwice,
    /// One of its grants is wrong.
    #[error("one of its grants: {0}")]
    Grant(BadGrant),
}
