//! `rdbctl auth …`: users, and what they may do.
//!
//! - `user` administers users, `grant` has what they may do, `check` asks whether somebody may do something.
//! - `token_out` is where a token, which is told only once, is written.

mod check;
mod grant;
mod token_out;
mod user;

use std::fmt;
use std::io::Write;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::encoding::KeyEncoding;
use crate::failure::Failure;
use crate::output::{Output, Record, Row};
use crate::session::Session;
use check::CheckArguments;
use grant::{GrantArguments, RoleName};
pub(crate) use token_out::NewFile;
use token_out::{NewToken, TokenOut, Told};
use user::UserCommand;

pub(crate) const AFTER_HELP: &str = "\
Rights are enforced when rdb-pd runs with --auth. Then every call is a user's, known by a
token or by a client certificate, and what was not granted to it is refused. Stores hear of
changes within 10 seconds, two most of the time.

Examples:
  rdbctl auth enable --token-out admin.token
  export RDBCTL_TOKEN_FILE=admin.token
  rdbctl auth user add ada --token-out ada.token
  rdbctl auth grant ada writer --keyspace raw --prefix app/
  rdbctl auth check write app/k1 --keyspace raw --user ada
  rdbctl --token-file ada.token raw put app/k1 v1";

const ENABLE_AFTER_HELP: &str = "\
Works as long as no user has the role admin, on the machine of rdb-pd, over a loopback
address, or with a client certificate (--cert, --key). Whoever does it first is the
administrator: do it as soon as rdb-pd runs.

Prints the token, and nothing else, on standard output, or writes it to --token-out. It is
not shown again. Rights are enforced when rdb-pd runs with --auth; users and grants are
kept before, too, so that they can be made while the cluster serves everybody.

Examples:
  rdbctl auth enable --token-out admin.token
  export RDBCTL_TOKEN_FILE=admin.token
  rdbctl auth user list";

const ROLE_AFTER_HELP: &str = "\
Whoever has any role is told where keys are, and gets timestamps.

Example:
  rdbctl auth role list";

const GRANT_AFTER_HELP: &str = "\
Several grants of a user add up. The role admin is always over everything, and the role
store over no keys. A grant counts on every store within 10 seconds.

Examples:
  rdbctl auth grant ada reader                                 all keys
  rdbctl auth grant ada writer --keyspace raw --prefix app/    raw keys that begin so
  rdbctl auth grant ops admin
  rdbctl auth grant stores store                               what rdb-server needs";

const REVOKE_AFTER_HELP: &str = "\
Role, keyspace and prefix have to be those of the grant: `auth user list` shows them as
they are typed here. It counts on every store within 10 seconds, on streams that are open,
too; on one that cannot reach rdb-pd it counts when it can.

Example:
  rdbctl auth revoke ada writer --keyspace raw --prefix app/";

/// How to see whether a change was made.
const LOOK: &str = "look with `rdbctl auth user list`";

#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    /// Make the first administrator, and print its token
    #[command(after_help = ENABLE_AFTER_HELP)]
    Enable(EnableArguments),
    /// Users, and the tokens by which they are known
    #[command(subcommand)]
    User(UserCommand),
    /// What can be granted
    #[command(subcommand)]
    Role(RoleCommand),
    /// Let a user do something
    #[command(after_help = GRANT_AFTER_HELP)]
    Grant(GrantArguments),
    /// Take away what was granted to a user
    #[command(after_help = REVOKE_AFTER_HELP)]
    Revoke(GrantArguments),
    /// Say whether somebody may do something; exit code 1 when not
    #[command(after_help = check::AFTER_HELP)]
    Check(CheckArguments),
}

#[derive(Debug, Args)]
pub(crate) struct EnableArguments {
    /// What the administrator is called
    #[arg(long, value_name = "NAME", default_value = "admin")]
    user: String,
    #[command(flatten)]
    token_out: TokenOut,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// List the roles
    #[command(after_help = ROLE_AFTER_HELP)]
    List,
}

impl AuthCommand {
    /// Whether it changes users.
    pub(crate) fn may_write(&self) -> bool {
        match self {
            Self::User(command) => command.may_write(),
            Self::Enable(_) | Self::Grant(_) | Self::Revoke(_) => true,
            Self::Role(_) | Self::Check(_) => false,
        }
    }

    /// The token that it makes, if it makes one.
    fn new_token(&self) -> Option<NewToken> {
        match self {
            Self::Enable(arguments) => Some(NewToken::First(arguments.user.clone())),
            Self::User(command) => command.new_token(),
            Self::Role(_) | Self::Grant(_) | Self::Revoke(_) | Self::Check(_) => None,
        }
    }
}

pub(crate) async fn run(
    command: AuthCommand,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let made = command.new_token();
    let done = match command {
        AuthCommand::Enable(arguments) => enable(&arguments, session, output).await,
        AuthCommand::User(command) => user::run(command, session, output).await,
        AuthCommand::Role(RoleCommand::List) => output.table(&RoleName::ALL.map(RoleLine::from)),
        AuthCommand::Grant(arguments) => grant::grant(arguments, session, output).await,
        AuthCommand::Revoke(arguments) => grant::revoke(arguments, session, output).await,
        AuthCommand::Check(arguments) => check::run(arguments, session, output).await,
    };
    done.map_err(|failure| or_look(failure, made.as_ref()))
}

/// Adds to a change whose answer got lost what to do then. `made` is the token that was in the answer.
fn or_look(failure: Failure, made: Option<&NewToken>) -> Failure {
    let Failure::Undetermined(message) = failure else {
        return failure;
    };
    let advice = match made {
        None => LOOK.to_owned(),
        Some(made) => {
            let (look, done) = match made {
                NewToken::First(_) => ("run it again", "there is an admin already"),
                NewToken::Only(_) => (LOOK, "the user is there"),
                NewToken::Replacing(_) => (
                    "the tokens before it may be bad already, run it again",
                    "that is refused since it was your own",
                ),
                NewToken::Second(_) => (LOOK, "there is one token more than before"),
            };
            let (user, if_lost) = (made.user(), made.if_lost());
            format!("{look}; if {done}, the token of user {user} is lost: {if_lost}")
        }
    };
    Failure::Undetermined(format!("{message}; {advice}"))
}

async fn enable(
    arguments: &EnableArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let EnableArguments { user, token_out } = arguments;
    let place = token_out.open()?;
    let enabled = session.enable_auth(user).await?;
    let next = Next {
        enforced: enabled.enforced,
    };
    let is_alone = place.is_standard_output();
    let made = NewToken::First(user.clone());
    let told = Told {
        enforced: Some(enabled.enforced),
        ..Told::of(&made)
    };
    place.tell(&enabled.token, told, output)?;
    if output.is_for_programs() {
        return Ok(());
    }
    if is_alone {
        // The token stands alone on standard output. An error is ignored here: the documents say the same.
        let _ = write!(std::io::stderr(), "{next}");
        return Ok(());
    }
    Ok(write!(output.writer(), "{next}")?)
}

/// What comes after the first administrator is made.
struct Next {
    enforced: bool,
}

impl fmt::Display for Next {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(
            "The token is not shown again. Give it to rdbctl with --token-file or RDBCTL_TOKEN_FILE.\n",
        )?;
        if self.enforced {
            formatter.write_str(
                "\
Rights are enforced. Stores need a user of their own before they are let in:

  rdbctl auth user add stores --token-out stores.token
  rdbctl auth grant stores store
  rdb-server --auth-token-file stores.token …
",
            )
        } else {
            formatter.write_str(
                "\
Rights are NOT enforced: whoever reaches the cluster may do everything, and make users.
Make one for the stores and one for each application, give them their tokens, and then
start rdb-pd again with --auth:

  rdbctl auth user add stores --token-out stores.token
  rdbctl auth grant stores store
  rdb-server --auth-token-file stores.token …     # each store, one after the other
  rdb-pd --auth …
",
            )
        }
    }
}

/// A role in the list of all.
#[derive(Serialize)]
struct RoleLine {
    role: RoleName,
    keys: &'static str,
    allows: &'static str,
}

impl From<RoleName> for RoleLine {
    fn from(role: RoleName) -> Self {
        let (keys, allows) = match role {
            RoleName::Reader => ("those of the grant", "to read"),
            RoleName::Writer => ("those of the grant", "to read and to write"),
            RoleName::Admin => (
                "all",
                "everything: also users, stores, and what operators ask of regions",
            ),
            RoleName::Store => (
                "none",
                "what rdb-server does: to register, to speak to other stores, to have a copy of the rights",
            ),
        };
        Self { role, keys, allows }
    }
}

impl Row for RoleLine {
    const HEADINGS: &[&str] = &["ROLE", "KEYS", "ALLOWS"];
}

impl Record for RoleLine {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        vec![
            self.role.to_string(),
            self.keys.to_owned(),
            self.allows.to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests;
