//! Where a token, which is told only once, is written: alone to standard output, so that `>` works, or to a new file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use rdb_client::Token;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;

/// What the owner can do with the file, and nobody else can.
const FILE_MODE: u32 = 0o600;

#[derive(Debug, Args)]
pub(super) struct TokenOut {
    /// Write the token to this file, which only you can read, and not to standard output. It must not exist
    #[arg(long, value_name = "FILE")]
    token_out: Option<PathBuf>,
}

/// A place that is ready for a token before there is one: a token that cannot be kept is not made.
pub(super) enum Place {
    StandardOutput,
    File(NewFile),
}

/// A file that was made. It is removed again unless a token is written to it.
pub(crate) struct NewFile {
    path: PathBuf,
    file: File,
    is_written: bool,
}

/// A token that is made for the user of this name. If nobody gets it, what to do depends on which others there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NewToken {
    /// That of the first administrator. Nobody else can change users.
    First(String),
    /// That of a new user.
    Only(String),
    /// It takes the place of all that the user had, which are bad now.
    Replacing(String),
    /// The user has an older one, which stays good.
    Second(String),
}

/// Whose token it is. As an object it is told together with the token.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    pub(super) user: &'a str,
    #[serde(skip)]
    pub(super) made: &'a NewToken,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) enforced: Option<bool>,
}

#[derive(Serialize)]
struct Object<'a> {
    #[serde(flatten)]
    told: Told<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<&'a Path>,
}

impl NewToken {
    pub(super) fn user(&self) -> &str {
        let (Self::First(user) | Self::Only(user) | Self::Replacing(user) | Self::Second(user)) =
            self;
        user
    }

    /// What to do when it is lost. The older of two tokens may be in use, so it must stay good.
    pub(super) fn if_lost(&self) -> String {
        match self {
            Self::First(user) => format!(
                "`rdbctl auth user token {user} --replace` makes another one where rdb-pd runs without --auth, at an address that only \
                 users of this machine can reach (docs/security.md)"
            ),
            Self::Only(user) | Self::Replacing(user) => {
                format!("`rdbctl auth user token {user} --replace` makes another one")
            }
            Self::Second(user) => format!(
                "`rdbctl auth user token {user} --drop-new` makes it bad, and the older one stays good; then --add makes another one. If \
                 it is the only one, --replace makes another one"
            ),
        }
    }
}

impl<'a> Told<'a> {
    pub(super) fn of(made: &'a NewToken) -> Self {
        Self {
            user: made.user(),
            made,
            enforced: None,
        }
    }
}

impl TokenOut {
    /// # Errors
    ///
    /// [`Failure::Failed`] when the file exists or cannot be made.
    pub(super) fn open(&self) -> Result<Place, Failure> {
        match &self.token_out {
            Some(path) => NewFile::make(path).map(Place::File),
            None => Ok(Place::StandardOutput),
        }
    }
}

impl Place {
    pub(super) fn is_standard_output(&self) -> bool {
        matches!(self, Self::StandardOutput)
    }

    /// Puts the token where it belongs, and says so.
    pub(super) fn tell(
        self,
        token: &Token,
        told: Told<'_>,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        let (user, made) = (told.user, told.made);
        match self {
            Self::StandardOutput if output.is_for_programs() => output.object(&Object {
                told,
                token: Some(token.to_string()),
                token_file: None,
            })?,
            Self::StandardOutput => output.line(&token.to_string())?,
            Self::File(mut file) => {
                file.write(token).map_err(|failure| lost(made, &failure))?;
                if output.is_for_programs() {
                    output.object(&Object {
                        told,
                        token: None,
                        token_file: Some(&file.path),
                    })?;
                } else {
                    let path = file.path.display();
                    output.line(&format!("The token of user {user} is in {path}."))?;
                }
            }
        }
        // It is not told again.
        output.flush().map_err(|failure| lost(made, &failure))
    }
}

/// There is a token, and nobody has it.
fn lost(made: &NewToken, failure: &Failure) -> Failure {
    let (user, if_lost) = (made.user(), made.if_lost());
    Failure::failed(format!(
        "{failure}; the token of user {user} was made, and is lost: {if_lost}"
    ))
}

impl NewFile {
    pub(crate) fn make(path: &Path) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(FILE_MODE);
        let file = options.open(path).map_err(|error| {
            Failure::failed(format!("{}: {error}; no token was made", path.display()))
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            is_written: false,
        })
    }

    pub(crate) fn write(&mut self, token: &Token) -> Result<(), Failure> {
        let written = writeln!(self.file, "{token}").and_then(|()| self.file.sync_all());
        written.map_err(|error| Failure::failed(format!("{}: {error}", self.path.display())))?;
        self.is_written = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_written {
            // There is nothing in it that somebody could miss.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::output::{Format, printed};

    fn token() -> Token {
        let text = format!("flaredb_{}", "0f".repeat(32));
        text.parse().expect("it is one")
    }

    #[test]
    fn a_token_stands_alone_on_standard_output_and_beside_its_user_in_an_object() {
        let made = NewToken::Only("ada".to_owned());
        let tell = |format| {
            printed(format, |output| {
                let place = TokenOut { token_out: None }.open().expect("it is there");
                place.tell(&token(), Told::of(&made), output).expect("told");
            })
        };
        assert_eq!(tell(Format::Text), format!("{}\n", token()));
        assert_eq!(
            tell(Format::Json),
            format!("{{\"user\":\"ada\",\"token\":\"{}\"}}\n", token())
        );
    }

    #[test]
    fn a_token_in_a_file_is_the_owners_alone_and_not_printed() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let path = directory.path().join("ada.token");
        let token_out = || TokenOut {
            token_out: Some(path.clone()),
        };
        let made = NewToken::Only("ada".to_owned());
        let told = Told {
            enforced: Some(false),
            ..Told::of(&made)
        };
        let object = printed(Format::Json, |output| {
            let place = token_out().open().expect("it can be made");
            place.tell(&token(), told, output).expect("told");
        });
        let expected = format!(
            "{{\"user\":\"ada\",\"enforced\":false,\"token_file\":\"{}\"}}\n",
            path.display()
        );
        assert_eq!(object, expected);
        let mode = fs::metadata(&path).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o777, FILE_MODE);
        let written = fs::read_to_string(&path).expect("it is there");
        assert_eq!(written, format!("{}\n", token()));

        let Err(refused) = token_out().open() else {
            panic!("it exists");
        };
        assert!(refused.to_string().contains("ada.token"), "{refused}");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), written);
    }

    /// `--replace` would lock out everybody who uses the older token, e.g. all stores.
    #[test]
    fn a_second_token_that_is_lost_is_dropped_and_the_first_one_stays() {
        let told = |made: NewToken| lost(&made, &Failure::failed("the disk is full")).to_string();
        let second = told(NewToken::Second("stores".to_owned()));
        assert!(
            second.contains("the disk is full") && second.contains("token stores --drop-new"),
            "{second}"
        );
        let (_, otherwise) = second.split_once("stays good").expect("it says so");
        assert!(otherwise.contains("the only one, --replace"), "{second}");
        let only = told(NewToken::Only("ada".to_owned()));
        assert!(only.contains("token ada --replace"), "{only}");
    }

    #[test]
    fn a_file_without_a_token_does_not_stay() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let path = directory.path().join("ada.token");
        drop(NewFile::make(&path).expect("it can be made"));
        assert!(!path.exists());
    }
}
