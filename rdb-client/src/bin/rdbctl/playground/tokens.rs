//! The users of a playground with enforced rights: its operator, and its stores.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rdb_client::auth::{Grant, Identity, Role};
use rdb_client::{Client, Config, Error, Token};
use serde::Serialize;

use crate::auth::NewFile;
use crate::failure::Failure;

/// Who may do everything.
const ADMIN: &str = "admin";

/// Who the stores are.
const STORES: &str = "stores";

/// Where the tokens of a playground are.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Tokens {
    pub(super) admin: PathBuf,
    pub(super) stores: PathBuf,
}

impl Tokens {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self {
            admin: directory.join("admin.token"),
            stores: directory.join("stores.token"),
        }
    }

    /// Makes the administrator and the user of the stores, unless they were made at an earlier start.
    ///
    /// # Errors
    ///
    /// Why the placement driver at `pd` does not, or a file cannot be written.
    pub(super) async fn make(&self, pd: &str, config: &Config) -> Result<(), Failure> {
        if !has_token(&self.admin)? {
            let mut file = new_file(&self.admin)?;
            let enabled = Client::enable_auth_at([pd], config.clone(), ADMIN).await;
            let enabled = enabled.map_err(without_admin)?;
            file.write(&enabled.token)?;
        }
        if !has_token(&self.stores)? {
            let mut file = new_file(&self.stores)?;
            let config = config.clone().with_token_file(&self.admin);
            let client = Client::connect_with([pd], config).await?;
            let token = store_token(&client).await?;
            file.write(&token)?;
        }
        Ok(())
    }
}

/// A start that was cut after the administrator was made and before its token was written leaves one that nobody can be.
fn without_admin(error: Error) -> Failure {
    match error {
        Error::Refused { cause, .. } => Failure::failed(format!(
            "{cause}; its token was lost when an earlier start ended too early: remove the directory, or start without --auth"
        )),
        error => error.into(),
    }
}

/// The user may have been made by a start that ended before it had written its token.
async fn store_token(client: &Client) -> Result<Token, Failure> {
    let known = client.users().await?.users;
    let token = if known.iter().any(|user| user.name == STORES) {
        Some(client.replace_tokens(STORES).await?)
    } else {
        client.add_user(STORES, Identity::Token).await?
    };
    client.grant(STORES, &Grant::new(Role::Store)).await?;
    token.ok_or_else(|| Failure::failed("the placement driver made no token for the stores"))
}

/// A start that ended too early leaves an empty file.
fn has_token(path: &Path) -> Result<bool, Failure> {
    match fs::read(path) {
        Ok(token) => Ok(!token.is_empty()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::failed(format!("{}: {error}", path.display()))),
    }
}

fn new_file(path: &Path) -> Result<NewFile, Failure> {
    // What has no token in it is in the way.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::failed(format!("{}: {error}", path.display())))
        }
        _ => NewFile::make(path),
    }
}

/// The line that gives `rdbctl` the rights of the administrator.
impl fmt::Display for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.admin.display().to_string();
        let quoted = shlex::try_quote(&path);
        let quoted = quoted.as_deref().unwrap_or(&path);
        write!(formatter, "export RDBCTL_TOKEN_FILE={quoted}")
    }
}
