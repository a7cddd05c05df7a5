//! All users at one moment, and the results of changes.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use rdb_proto::auth::limits::{
    GRANTS_MAX, RIGHTS_BYTES_MAX, SUBJECT_BYTES_MAX, TOKENS_MAX, USERS_MAX,
};
use rdb_proto::auth::{BadRights, Rights, check_grant, is_user_name};
use rdb_proto::authpb::{self, Grant, Keyspace, Role, User, UserInfo};
use rdb_proto::transport::tls::PeerIdentity;

use super::{Change, Refusal};

/// The version of a placement driver that was never told of a user. It has no record.
const FIRST_VERSION: u64 = 1;

/// A record with a greater version was not written by this program: it counts changes, from a time in microseconds at most.
const VERSION_MAX: u64 = u64::MAX / 2;

/// How far the version moves ahead, at least, when the data directory may be an older copy.
const RESTORED_VERSIONS_SKIPPED: u64 = 1_000_000;

/// Longest subject that a refusal shows, in bytes.
const SHOWN_SUBJECT_BYTES_MAX: usize = 256;

/// Bytes that a growing record leaves below the longest accepted record. A change that removes something may use them, since its version
/// may be longer than the last one.
const SPARE_BYTES: usize = 16;

/// The positions of a user's two tokens.
const OLDER: usize = 0;
const NEWER: usize = 1;

/// All users and what they are granted.
///
/// - Users are in the order of their names, which are unique, and so are subjects.
/// - Each has a token or a subject, so that somebody can sign in as it.
/// - Grants are as the protocol defines them, and no user has the same grant twice.
/// - [`Rights::of`] accepts it.
/// - A change results in a greater version. Once a user is an admin, there is always one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Users {
    message: authpb::Rights,
}

/// A record is not one that this program has written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error("it is no protobuf message of the right kind")]
    Encoding(#[from] prost::DecodeError),
    #[error("it has version {0}, which is none that it can have")]
    Version(u64),
    #[error("it holds what this release does not know")]
    Newer,
    #[error("{0}")]
    Unusable(#[from] BadRights),
    #[error("user {name} has neither a token nor a subject")]
    NoCredential { name: String },
}

impl Users {
    /// There are none yet.
    pub(super) fn none() -> Self {
        Self {
            message: authpb::Rights {
                version: FIRST_VERSION,
                users: Vec::new(),
            },
        }
    }

    /// Reads a record.
    pub(super) fn decode(record: &[u8]) -> Result<Self, Damage> {
        let message = authpb::Rights::decode(record)?;
        if !(FIRST_VERSION..=VERSION_MAX).contains(&message.version) {
            return Err(Damage::Version(message.version));
        }
        // Fields that are not known are not decoded. The next change would lose them, and widen rights if they narrow them.
        if message.encode_to_vec() != record || !has_known_grants(&message) {
            return Err(Damage::Newer);
        }
        Rights::of(&message)?;
        if let Some(user) = message.users.iter().find(|user| !has_credential(user)) {
            return Err(Damage::NoCredential {
                name: user.name.clone(),
            });
        }
        Ok(Self { message })
    }

    /// The record.
    pub(super) fn encode(&self) -> Bytes {
        self.message.encode_to_vec().into()
    }

    /// How long the record is, in bytes.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.message.encoded_len()
    }

    /// How much memory an answer with all of them takes at most, in bytes: the list, and the same encoded.
    pub(crate) fn answer_bytes_max(&self) -> usize {
        let user_bytes = |user: &User| {
            let lists = user.grants.len() * size_of::<Grant>()
                + user.token_hashes.len() * size_of::<Bytes>();
            size_of::<User>() + user.name.len() + user.subject.len() + lists
        };
        let listed_bytes: usize = self.message.users.iter().map(user_bytes).sum();
        self.encoded_bytes() + listed_bytes
    }

    /// The same, as everybody else looks at it.
    pub(super) fn compile(&self) -> Result<Rights, BadRights> {
        Rights::of(&self.message)
    }

    pub(crate) fn message(&self) -> &authpb::Rights {
        &self.message
    }

    pub(crate) fn version(&self) -> u64 {
        self.message.version
    }

    pub(crate) fn count(&self) -> usize {
        self.message.users.len()
    }

    /// Whether anybody is an admin.
    pub(crate) fn has_admin(&self) -> bool {
        self.message.users.iter().any(is_admin)
    }

    /// All of them as administrators see them.
    pub(crate) fn infos(&self) -> Vec<UserInfo> {
        let infos = self.message.users.iter().map(|user| UserInfo {
            name: user.name.clone(),
            token_count: user.token_hashes.len() as u32,
            subject: user.subject.clone(),
            grants: user.grants.clone(),
        });
        infos.collect()
    }

    /// The same users in a data directory that may be an older copy: no store has seen the version.
    ///
    /// The version is the time in microseconds. There is less than one change per microsecond, so a later restore of the same copy
    /// finds a greater version. The skip is for a clock that is behind.
    pub(super) fn restored(&self, now: SystemTime) -> Self {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_us = u64::try_from(now.as_micros()).unwrap_or(VERSION_MAX);
        let mut restored = self.clone();
        let skipped = self.version().saturating_add(RESTORED_VERSIONS_SKIPPED);
        restored.message.version = skipped.max(now_us).min(VERSION_MAX);
        restored
    }

    /// What a change makes of them. `None`: it is so already.
    pub(crate) fn changed(&self, change: &Change) -> Result<Option<Self>, Refusal> {
        if !is_user_name(change.name()) {
            return Err(Refusal::BadName);
        }
        // Nobody needs a right to ask for it, so a refusal has to be cheap.
        if matches!(change, Change::Enable { .. }) {
            self.check_no_admin()?;
        }
        let mut next = self.clone();
        let size = match change {
            Change::Enable { name, token_hash } => next.enable(name, token_hash)?,
            Change::AddUser {
                name,
                subject,
                token_hash,
            } => next.add_user(name, subject, token_hash.as_ref())?,
            Change::RemoveUser { name } => next.remove_user(name)?,
            Change::AddToken { name, token_hash } => next.add_token(name, token_hash)?,
            Change::DropOldToken { name } => next.drop_token(name, OLDER)?,
            Change::DropNewToken { name } => next.drop_token(name, NEWER)?,
            Change::ReplaceTokens { name, token_hash } => next.replace_tokens(name, token_hash)?,
            Change::Grant { name, grant } => next.grant(name, grant)?,
            Change::Revoke { name, grant } => next.revoke(name, grant)?,
        };
        if next == *self {
            return Ok(None);
        }
        next.message.version += 1;
        // Changes that remove something are never refused for lack of room.
        if size == Size::Grows && next.encoded_bytes() > RIGHTS_BYTES_MAX - SPARE_BYTES {
            return Err(Refusal::RightsFull);
        }
        Ok(Some(next))
    }

    /// Checks that there can be a first admin.
    pub(super) fn check_no_admin(&self) -> Result<(), Refusal> {
        if self.has_admin() {
            return Err(Refusal::AdminExists);
        }
        Ok(())
    }

    fn enable(&mut self, name: &str, token_hash: &[u8; 32]) -> Result<Size, Refusal> {
        self.add_user(name, "", Some(token_hash))?;
        let admin = Grant {
            role: Role::Admin.into(),
            keyspace: Keyspace::All.into(),
            prefix: Bytes::new(),
        };
        self.grant(name, &admin)
    }

    fn add_user(
        &mut self,
        name: &str,
        subject: &str,
        token_hash: Option<&[u8; 32]>,
    ) -> Result<Size, Refusal> {
        check_subject(subject)?;
        if subject.is_empty() && token_hash.is_none() {
            return Err(Refusal::NoCredential);
        }
        let Err(at) = self.position(name) else {
            return Err(Refusal::UserExists {
                name: name.to_owned(),
            });
        };
        let mut users = self.message.users.iter();
        if let Some(other) = users.find(|user| !subject.is_empty() && user.subject == subject) {
            return Err(Refusal::SubjectTaken {
                name: other.name.clone(),
            });
        }
        if self.count() >= USERS_MAX {
            return Err(Refusal::UsersFull);
        }
        let user = User {
            name: name.to_owned(),
            token_hashes: token_hash.map(token).into_iter().collect(),
            subject: subject.to_owned(),
            grants: Vec::new(),
        };
        self.message.users.insert(at, user);
        Ok(Size::Grows)
    }

    fn remove_user(&mut self, name: &str) -> Result<Size, Refusal> {
        let at = self.existing(name)?;
        self.check_not_last_admin(at)?;
        self.message.users.remove(at);
        Ok(Size::Shrinks)
    }

    fn add_token(&mut self, name: &str, token_hash: &[u8; 32]) -> Result<Size, Refusal> {
        let user = self.user_mut(name)?;
        if user.token_hashes.len() >= TOKENS_MAX {
            return Err(Refusal::TokensFull {
                name: name.to_owned(),
            });
        }
        user.token_hashes.push(token(token_hash));
        Ok(Size::Grows)
    }

    /// One token stays, so it is nobody's last credential.
    fn drop_token(&mut self, name: &str, position: usize) -> Result<Size, Refusal> {
        let user = self.user_mut(name)?;
        if user.token_hashes.len() < 2 {
            return Err(Refusal::NoOtherToken {
                name: name.to_owned(),
            });
        }
        user.token_hashes.remove(position);
        Ok(Size::Shrinks)
    }

    fn replace_tokens(&mut self, name: &str, token_hash: &[u8; 32]) -> Result<Size, Refusal> {
        let user = self.user_mut(name)?;
        // One that was known by its subject alone gets its first token.
        let size = match user.token_hashes.len() {
            0 => Size::Grows,
            _ => Size::Shrinks,
        };
        user.token_hashes = vec![token(token_hash)];
        Ok(size)
    }

    fn grant(&mut self, name: &str, grant: &Grant) -> Result<Size, Refusal> {
        check_grant(grant)?;
        let user = self.user_mut(name)?;
        if user.grants.contains(grant) {
            return Ok(Size::Shrinks);
        }
        if user.grants.len() >= GRANTS_MAX {
            return Err(Refusal::GrantsFull {
                name: name.to_owned(),
            });
        }
        user.grants.push(grant.clone());
        Ok(Size::Grows)
    }

    fn revoke(&mut self, name: &str, grant: &Grant) -> Result<Size, Refusal> {
        check_grant(grant)?;
        let at = self.existing(name)?;
        let mut grants = self.message.users[at].grants.iter();
        let Some(position) = grants.position(|held| held == grant) else {
            return Err(Refusal::NoGrant {
                name: name.to_owned(),
            });
        };
        if grant.role() == Role::Admin {
            self.check_not_last_admin(at)?;
        }
        self.message.users[at].grants.remove(position);
        Ok(Size::Shrinks)
    }

    fn check_not_last_admin(&self, at: usize) -> Result<(), Refusal> {
        let user = &self.message.users[at];
        let admins = self.message.users.iter().filter(|user| is_admin(user));
        if is_admin(user) && admins.count() == 1 {
            return Err(Refusal::LastAdmin {
                name: user.name.clone(),
            });
        }
        Ok(())
    }

    fn user_mut(&mut self, name: &str) -> Result<&mut User, Refusal> {
        let at = self.existing(name)?;
        Ok(&mut self.message.users[at])
    }

    fn existing(&self, name: &str) -> Result<usize, Refusal> {
        self.position(name).map_err(|_| Refusal::NoUser {
            name: name.to_owned(),
        })
    }

    /// Where the user is, or belongs.
    fn position(&self, name: &str) -> Result<usize, usize> {
        let users = &self.message.users;
        users.binary_search_by(|user| user.name.as_str().cmp(name))
    }
}

/// What a change does to the size of the record, apart from its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Grows,
    /// Or stays.
    Shrinks,
}

/// Checks a subject. An empty one means none.
fn check_subject(subject: &str) -> Result<(), Refusal> {
    let bytes = subject.len();
    if bytes > SUBJECT_BYTES_MAX {
        return Err(Refusal::LongSubject { bytes });
    }
    if subject.is_empty() {
        return Ok(());
    }
    let readable = Some(subject).filter(|subject| !subject.contains(char::is_control));
    let canonical = readable.and_then(PeerIdentity::canonical_subject);
    if canonical.as_deref() == Some(subject) {
        return Ok(());
    }
    let canonical = canonical.filter(|canonical| canonical.len() <= SHOWN_SUBJECT_BYTES_MAX);
    Err(Refusal::BadSubject { canonical })
}

/// Whether this release knows what each grant is.
fn has_known_grants(message: &authpb::Rights) -> bool {
    let mut grants = message.users.iter().flat_map(|user| &user.grants);
    grants.all(|grant| {
        Role::try_from(grant.role).is_ok() && Keyspace::try_from(grant.keyspace).is_ok()
    })
}

fn is_admin(user: &User) -> bool {
    let mut grants = user.grants.iter();
    has_credential(user) && grants.any(|grant| grant.role() == Role::Admin)
}

fn has_credential(user: &User) -> bool {
    !user.token_hashes.is_empty() || !user.subject.is_empty()
}

fn token(hash: &[u8; 32]) -> Bytes {
    Bytes::copy_from_slice(hash)
}

#[cfg(test)]
mod tests;
