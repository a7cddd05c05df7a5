//! `rdbctl auth user …`: administers users.

use clap::{Args, Subcommand};
use rdb_client::auth::{Identity, User};
use serde::Serialize;

use super::grant::Granting;
use super::token_out::{NewToken, TokenOut, Told};
use crate::encoding::{KeyEncoding, escape};
use crate::failure::Failure;
use crate::output::{Output, Record, Row, cell};
use crate::session::Session;

const ADD_AFTER_HELP: &str = "\
Prints the token, and nothing else, on standard output, or writes it to --token-out. It is
not shown again. The user may do nothing until something is granted to it.

With --subject it is also whoever presents a certificate with that subject, which a CA in
rdb-pd's --tls-client-ca has signed: written as `openssl x509 -noout -subject -nameopt
rfc2253,-esc_msb` shows it. A call that carries a token is judged by that.

Examples:
  rdbctl auth user add ada --token-out ada.token
  rdbctl auth user add ada --subject CN=ada,O=Example --without-token";

const TOKEN_AFTER_HELP: &str = "\
To replace a token without a failed call:

  rdbctl auth user token ada --add --token-out new.token    both are good
  mv new.token ada.token              10 seconds later, where programs read it
  rdbctl auth user token ada --drop-old       another 10 seconds later, or more

Stores hear of a change within 10 seconds, and programs that are given a file look at it
again every five. When the answer of --add is lost, nobody has the new token: --drop-new
makes it bad, and the one in use stays good. Once programs use the new one, --drop-new
would lock them out.

When a token was stolen, --replace makes all of the user's tokens bad and a new one at once;
on stores they are bad within 10 seconds. Write your own new token to another file: `>`
empties the one that you are known by before it is read, and makes one that others can
read unless `umask 077` was said.

Examples:
  rdbctl auth user token ada --replace --token-out new.token
  rdbctl auth user token ada --drop-old
  rdbctl auth user token ada --drop-new";

const LIST_AFTER_HELP: &str = "\
TOKENS is how many there are, two at most. GRANTS are as they are typed behind
`auth grant USER` and `auth revoke USER`, with commas between them. A prefix that is
no plain text has --key-encoding before it.

Examples:
  rdbctl auth user list
  rdbctl auth user list -o json     one object for each user";

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user, and print its token
    #[command(after_help = ADD_AFTER_HELP)]
    Add(AddArguments),
    /// Remove a user, with its tokens and all that was granted to it
    #[command(after_help = "\
The last user with the role admin cannot be removed.

Example:
  rdbctl auth user remove ada")]
    Remove {
        /// The name of the user
        #[arg(value_name = "USER")]
        name: String,
    },
    /// List the users, and what they may do
    #[command(after_help = LIST_AFTER_HELP)]
    List,
    /// Give a user another token, or make one bad
    #[command(after_help = TOKEN_AFTER_HELP)]
    Token(TokenArguments),
}

#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// What the user is called: 1 to 64 of a-z, 0-9, '.', '_' and '-', the first one a letter
    #[arg(value_name = "USER")]
    name: String,
    /// A caller whose certificate has this subject is the user, too, e.g. CN=ada,O=Example
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Make no token: the certificate alone says who it is
    #[arg(long, requires = "subject", conflicts_with = "token_out")]
    without_token: bool,
    #[command(flatten)]
    token_out: TokenOut,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArguments {
    /// The name of the user
    #[arg(value_name = "USER")]
    name: String,
    #[command(flatten)]
    change: ChangeArguments,
    #[command(flatten)]
    token_out: TokenOut,
}

/// One of them, and `add` if none is given.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct ChangeArguments {
    /// Make a second token; the one that there is stays good (the default)
    #[arg(long)]
    add: bool,
    /// Make the older one of two tokens bad
    #[arg(long, conflicts_with = "token_out")]
    drop_old: bool,
    /// Make the newer one of two tokens bad
    #[arg(long, conflicts_with = "token_out")]
    drop_new: bool,
    /// Make all tokens of the user bad, and a new one
    #[arg(long)]
    replace: bool,
}

impl UserCommand {
    pub(super) fn may_write(&self) -> bool {
        !matches!(self, Self::List)
    }

    /// The token that it makes, if it makes one.
    pub(super) fn new_token(&self) -> Option<NewToken> {
        match self {
            Self::Add(arguments) if !arguments.without_token => {
                Some(NewToken::Only(arguments.name.clone()))
            }
            Self::Token(arguments) => arguments.new_token(),
            Self::Add(_) | Self::Remove { .. } | Self::List => None,
        }
    }
}

impl TokenArguments {
    fn new_token(&self) -> Option<NewToken> {
        let Self { name, change, .. } = self;
        if change.drop_old || change.drop_new {
            None
        } else if change.replace {
            Some(NewToken::Replacing(name.clone()))
        } else {
            Some(NewToken::Second(name.clone()))
        }
    }
}

pub(super) async fn run(
    command: UserCommand,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    match command {
        UserCommand::Add(arguments) => add(arguments, session, output).await,
        UserCommand::Remove { name } => {
            session.connect().await?.remove_user(&name).await?;
            output.done()
        }
        UserCommand::List => {
            let users = session.connect().await?.users().await?.users;
            let lines: Vec<Line> = users.into_iter().map(Line::from).collect();
            output.table(&lines)
        }
        UserCommand::Token(arguments) => change_token(arguments, session, output).await,
    }
}

async fn add(
    arguments: AddArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let AddArguments {
        name,
        subject,
        without_token,
        token_out,
    } = arguments;
    let identity = match subject {
        Some(subject) if without_token => Identity::Certificate { subject },
        Some(subject) => Identity::TokenOrCertificate { subject },
        None => Identity::Token,
    };
    let client = session.connect().await?;
    if without_token {
        client.add_user(&name, identity).await?;
        return output.done();
    }
    let place = token_out.open()?;
    let added = client.add_user(&name, identity).await?;
    match added {
        Some(token) => place.tell(&token, Told::of(&NewToken::Only(name)), output),
        None => output.done(),
    }
}

async fn change_token(
    arguments: TokenArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let made = arguments.new_token();
    let TokenArguments {
        name,
        change,
        token_out,
    } = arguments;
    let client = session.connect().await?;
    let Some(made) = made else {
        if change.drop_old {
            client.drop_old_token(&name).await?;
        } else {
            client.drop_new_token(&name).await?;
        }
        return output.done();
    };
    let place = token_out.open()?;
    let token = if change.replace {
        client.replace_tokens(&name).await?
    } else {
        client.add_token(&name).await?
    };
    place.tell(&token, Told::of(&made), output)
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    token_count: u32,
    subject: Option<String>,
    grants: Vec<Granting>,
}

impl From<User> for Line {
    fn from(user: User) -> Self {
        Self {
            grants: user.grants.iter().map(Granting::of).collect(),
            name: user.name,
            token_count: user.token_count,
            subject: user.subject,
        }
    }
}

impl Row for Line {
    const HEADINGS: &[&str] = &["USER", "TOKENS", "CERTIFICATE", "GRANTS"];
}

impl Record for Line {
    fn cells(&self, keys: KeyEncoding) -> Vec<String> {
        let grants = self.grants.iter().map(|grant| grant.typed(keys));
        let grants: Vec<String> = grants.collect();
        let grants = Some(grants.join(", ")).filter(|grants| !grants.is_empty());
        let subject = self.subject.as_deref();
        vec![
            self.name.clone(),
            self.token_count.to_string(),
            cell(subject.map(|subject| escape(subject.as_bytes()))),
            cell(grants),
        ]
    }
}

#[cfg(test)]
mod tests {
    use rdb_client::auth::{Grant, Keyspace, Role};

    use super::*;
    use crate::output::{Format, printed};

    #[test]
    fn a_user_is_shown_with_its_grants_as_they_are_typed() {
        let grants = [
            Grant::new(Role::Reader),
            Grant::new(Role::Writer)
                .in_keyspace(Keyspace::Raw)
                .with_prefix("my app/"),
        ];
        let line = Line {
            name: "ada".to_owned(),
            token_count: 1,
            subject: None,
            grants: grants.iter().map(Granting::of).collect(),
        };
        assert_eq!(
            line.cells(KeyEncoding::Text),
            [
                "ada",
                "1",
                "-",
                "reader, writer --keyspace raw --prefix 'my app/'"
            ]
        );
        assert_eq!(
            printed(Format::Json, |output| output
                .record(&line)
                .expect("printed")),
            "{\"name\":\"ada\",\"token_count\":1,\"subject\":null,\"grants\":[\
             {\"role\":\"reader\",\"keyspace\":null,\"prefix\":\"\"},\
             {\"role\":\"writer\",\"keyspace\":\"raw\",\"prefix\":\"my app/\"}]}\n"
        );
        for (prefix, keys, typed) in [
            (
                &b"\xff"[..],
                KeyEncoding::Text,
                r"reader --key-encoding escaped --prefix '\xff'",
            ),
            (
                b"\xff",
                KeyEncoding::Hex,
                "reader --key-encoding hex --prefix ff",
            ),
            (b"-a", KeyEncoding::Text, "reader --prefix=-a"),
        ] {
            let granting = Granting::of(&Grant::new(Role::Reader).with_prefix(prefix.to_vec()));
            let words = |text: &str| shlex::split(text).expect("it is quoted");
            assert_eq!(words(&granting.typed(keys)), words(typed));
        }
        let nobody = Line {
            subject: Some("CN=a\tb".to_owned()),
            grants: Vec::new(),
            ..line
        };
        assert_eq!(
            nobody.cells(KeyEncoding::Text)[2..],
            [r"CN=a\tb".to_owned(), "-".to_owned()]
        );
    }
}
