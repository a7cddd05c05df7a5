//! Why a change of users is refused.

use rdb_proto::auth::BadGrant;
use rdb_proto::auth::limits::{
    GRANTS_MAX, NAME_BYTES_MAX, RIGHTS_BYTES_MAX, SUBJECT_BYTES_MAX, TOKENS_MAX, USERS_MAX,
};

/// A change or a question is refused. Each says what is wrong and what would be right. None shows a token, a prefix, or
/// any subject except the requested one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "that is no name of a user: it has 1 to {NAME_BYTES_MAX} characters of a-z, 0-9, '.', '_' and '-', and begins with a letter"
    )]
    BadName,
    #[error("the subject has {bytes} bytes; it has at most {SUBJECT_BYTES_MAX}")]
    LongSubject { bytes: usize },
    #[error(
        "that is not how the subject of a certificate is written, so no certificate could be this user: it is e.g. CN=ada,O=Example, \
         without spaces around = and commas, as `openssl x509 -noout -subject -nameopt rfc2253,-esc_msb` shows it{}", written_as(.canonical)
    )]
    BadSubject {
        /// How it would be written, if it can be read and is short.
        canonical: Option<String>,
    },
    #[error(
        "a user without a token needs the subject of a certificate: nobody could be it otherwise"
    )]
    NoCredential,
    #[error("that cannot be granted: {0}")]
    Grant(#[from] BadGrant),

    #[error("there is no user {name}; `rdbctl auth user list` shows who there is")]
    NoUser { name: String },
    #[error(
        "user {name} has no such grant: role, keyspace and prefix have to be those of one that it has, and `rdbctl auth user list` \
         shows them, with --key-encoding where a prefix is not typed as it is"
    )]
    NoGrant { name: String },

    #[error("there is a user {name} already; take another name, or remove it first")]
    UserExists { name: String },
    #[error(
        "user {name} has this subject: a certificate is one user's. Grant to that one, or remove it first"
    )]
    SubjectTaken { name: String },

    #[error(
        "there is an admin already, and only the first one is made like this: ask an admin to add a user and to grant it the role admin"
    )]
    AdminExists,
    #[error(
        "user {name} is the last admin, and nobody could change rights any more: grant another user the role admin first"
    )]
    LastAdmin { name: String },
    #[error(
        "user {name} has {TOKENS_MAX} tokens already: drop the older one first, once nobody uses it any more, or the newer one, if \
         it is certain that nobody has got it"
    )]
    TokensFull { name: String },
    #[error("user {name} has no second token that could stay: add one first, or remove the user")]
    NoOtherToken { name: String },
    #[error("there are {USERS_MAX} users already, the most that there can be: remove one first")]
    UsersFull,
    #[error(
        "user {name} has {GRANTS_MAX} grants already, the most that one can have: revoke one first, or grant a shorter prefix"
    )]
    GrantsFull { name: String },
    #[error(
        "all users with their subjects and grants would have more than {RIGHTS_BYTES_MAX} bytes together: remove users or grants \
         first, or grant shorter prefixes"
    )]
    RightsFull,
}

fn written_as(canonical: &Option<String>) -> String {
    let written_as = |canonical| format!("; this one is written {canonical}");
    canonical.as_ref().map(written_as).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_shows_it_right() {
        let subject = Refusal::BadSubject { canonical: None }.to_string();
        assert!(subject.contains("-nameopt rfc2253,-esc_msb"), "{subject}");
        let name = "ada".to_owned();
        let grant = Refusal::NoGrant { name }.to_string();
        assert!(grant.contains("--key-encoding"), "{grant}");
    }
}
