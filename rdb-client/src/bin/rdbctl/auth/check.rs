//! `rdbctl auth check`: whether somebody may do something.

use std::fmt;

use clap::{Args, ValueEnum};
use rdb_client::KeyRange;
use rdb_client::auth::{Role, Verdict};
use serde::Serialize;

use super::grant::KeyspaceName;
use crate::encoding::KeyArgument;
use crate::failure::Failure;
use crate::key_range::RangeOptions;
use crate::output::Output;
use crate::session::Session;

pub(super) const AFTER_HELP: &str = "\
Without KEY and a range: over all keys. Without --keyspace: in both. Only administrators
can ask about others. It is the placement driver that says so: a store may know of a
change some seconds later.

Examples:
  rdbctl auth check read k1
  rdbctl auth check write --prefix app/ --keyspace raw
  rdbctl auth check write app/k1 --user ada
  rdbctl auth check admin --user ada";

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// What is to be done
    #[arg(value_name = "RIGHT", value_enum)]
    right: RightName,
    /// With this key
    #[arg(conflicts_with_all = ["start", "end", "prefix"])]
    key: Option<KeyArgument>,
    #[command(flatten)]
    range: RangeOptions,
    /// By this user. Without it: by the caller
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// In this keyspace. Without it: in both
    #[arg(long, value_name = "KEYSPACE", value_enum)]
    keyspace: Option<KeyspaceName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RightName {
    /// To read keys
    Read,
    /// To write keys
    Write,
    /// To administer the cluster and its users
    Admin,
    /// To be a store
    Store,
}

impl From<RightName> for Role {
    fn from(right: RightName) -> Self {
        match right {
            RightName::Read => Self::Reader,
            RightName::Write => Self::Writer,
            RightName::Admin => Self::Admin,
            RightName::Store => Self::Store,
        }
    }
}

impl CheckArguments {
    /// # Errors
    ///
    /// [`Failure::Usage`] for a key in another encoding, and for keys where the right is over everything.
    fn keys(&self, session: &Session) -> Result<KeyRange, Failure> {
        let is_over_everything = Role::from(self.right).is_over_everything();
        let names_keys = self.key.is_some() || self.keyspace.is_some() || self.range.is_given();
        if is_over_everything && names_keys {
            return Err(Failure::usage(
                "the rights `admin` and `store` take no keys: leave the keys and --keyspace out",
            ));
        }
        match &self.key {
            Some(key) => {
                let key = session.key(key.clone())?;
                Ok((key.clone()..=key).into())
            }
            None => self.range.range(session),
        }
    }
}

pub(super) async fn run(
    arguments: CheckArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let keys = arguments.keys(session)?;
    let CheckArguments {
        right,
        user,
        keyspace,
        ..
    } = arguments;
    let client = session.connect().await?;
    let keyspace = keyspace.map(Into::into);
    let checked = client.check_right(user.as_deref(), right.into(), keyspace, keys);
    let answer = Answer::from(checked.await?);
    output.event(&answer)?;
    if answer.allowed {
        return Ok(());
    }
    Err(Failure::Shown("it is not allowed".to_owned()))
}

#[derive(Debug, Serialize)]
struct Answer {
    user: Option<String>,
    allowed: bool,
    missing: Option<String>,
    enforced: bool,
}

impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Self {
        Self {
            user: verdict.user,
            allowed: verdict.allowed,
            missing: verdict.missing,
            enforced: verdict.enforced,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(user) = &self.user else {
            return formatter.write_str(
                "allowed: rights are not enforced, and this client has shown no identity",
            );
        };
        match &self.missing {
            _ if self.allowed => write!(formatter, "allowed for user {user}")?,
            Some(missing) => write!(
                formatter,
                "not allowed: user {user} lacks the right: {missing}"
            )?,
            None => write!(formatter, "not allowed for user {user}")?,
        }
        if self.enforced {
            return Ok(());
        }
        formatter.write_str("; but rights are not enforced, and everybody may do everything")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_who_lacks_what_and_whether_it_counts() {
        let answer = |user: Option<&str>, missing: Option<&str>, enforced| Answer {
            user: user.map(str::to_owned),
            allowed: missing.is_none(),
            missing: missing.map(str::to_owned),
            enforced,
        };
        for (answer, told) in [
            (answer(Some("ada"), None, true), "allowed for user ada"),
            (
                answer(Some("ada"), Some("admin"), true),
                "not allowed: user ada lacks the right: admin",
            ),
            (
                answer(Some("ada"), Some("admin"), false),
                "not allowed: user ada lacks the right: admin; but rights are not enforced, and everybody may do everything",
            ),
            (
                answer(None, None, false),
                "allowed: rights are not enforced, and this client has shown no identity",
            ),
        ] {
            assert_eq!(answer.to_string(), told);
        }
    }
}
