//! Failures: a message for people, an object for programs, and an exit code for scripts.

use std::io;
use std::process::ExitCode;

use bytes::Bytes;
use rdb_client::Error;
use serde_json::{Value, json};

use crate::encoding::escape;
use crate::output::json_bytes;

/// Most bytes of a conflicting value that the message shows.
const SHOWN_VALUE_BYTES: usize = 256;

/// Why a subcommand failed. The help text documents the exit codes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Failed(String),
    /// As [`Failed`](Self::Failed), and the object that was printed says so.
    #[error("{0}")]
    Shown(String),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    /// The user lacks a right.
    #[error("{0}")]
    PermissionDenied(String),
    /// The cluster does not know who it is.
    #[error("{0}")]
    Unauthenticated(String),
    #[error("{}", conflict_message(*.current_version, .current_value.as_deref()))]
    Conflict {
        current_version: u64,
        current_value: Option<Bytes>,
    },
    #[error("{0}")]
    Undetermined(String),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::NotFound(message.into())
    }

    /// Somebody has ended a command with Ctrl-C that may have been writing.
    pub(crate) fn interrupted_write() -> Self {
        Self::Undetermined(
            "interrupted; a write under way may or may not be applied, now or later".to_owned(),
        )
    }

    /// The same failure of a command that has done a part of its work, which `done` tells. It is not one of usage, after which
    /// nothing was done.
    pub(crate) fn after_a_part(self, done: &str) -> Self {
        match self {
            Self::Failed(message) | Self::Usage(message) => {
                Self::Failed(format!("{message}; {done}"))
            }
            Self::Undetermined(message) => Self::Undetermined(format!("{message}; {done}")),
            Self::PermissionDenied(message) => Self::PermissionDenied(format!("{message}; {done}")),
            Self::Unauthenticated(message) => Self::Unauthenticated(format!("{message}; {done}")),
            other => other,
        }
    }

    /// Whether the reader of the output has closed it, as `head` does after ten lines.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        self.code_and_kind().0.into()
    }

    fn code_and_kind(&self) -> (u8, &'static str) {
        match self {
            Self::Failed(_) | Self::Shown(_) | Self::Output(_) => (1, "failed"),
            Self::PermissionDenied(_) => (1, "permission_denied"),
            Self::Unauthenticated(_) => (1, "unauthenticated"),
            Self::Usage(_) => (2, "usage"),
            Self::NotFound(_) => (3, "not_found"),
            Self::Conflict { .. } => (4, "conflict"),
            Self::Undetermined(_) => (5, "undetermined"),
        }
    }

    pub(crate) fn object(&self) -> Value {
        let (_, kind) = self.code_and_kind();
        let mut error = json!({ "kind": kind, "message": self.to_string() });
        if let Self::Conflict {
            current_version,
            current_value,
        } = self
        {
            error["current_version"] = json!(current_version);
            error["current_value"] = current_value.as_deref().map_or(Value::Null, json_bytes);
        }
        json!({ "error": error })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::InvalidArgument { field, cause, .. } => {
                Self::usage(format!("{}: {cause}", as_typed(&field)))
            }
            Error::Conflict {
                current_version,
                current_value,
            } => Self::Conflict {
                current_version,
                current_value,
            },
            Error::Undetermined { .. } => Self::Undetermined(message),
            Error::NotFound { .. } => Self::NotFound(message),
            Error::PermissionDenied { .. } => Self::PermissionDenied(message),
            Error::Unauthenticated { .. } => Self::Unauthenticated(message),
            _ => Self::Failed(message),
        }
    }
}

/// The client's name of an argument as the help has it.
fn as_typed(field: &str) -> &str {
    match field {
        "pd_addresses" => "--pd",
        "timeout" | "connect_timeout" => "--timeout",
        "key" | "keys" => "KEY",
        "value" => "VALUE",
        "start_key" => "START or --prefix",
        "end_key" => "END",
        "expected_version" => "--expect",
        "count" => "--count",
        "to_store" | "remove_store_id" => "STORE",
        "token" => "--token-file",
        "name" => "USER",
        "subject" => "--subject",
        "grant.prefix" => "--prefix",
        other => other,
    }
}

fn conflict_message(version: u64, value: Option<&[u8]>) -> String {
    match value {
        _ if version == 0 => "conflict: the key does not exist".to_owned(),
        None => {
            format!(
                "conflict: the key has version {version}; its value was not sent along; read it"
            )
        }
        Some(value) => {
            let shown = value.get(..SHOWN_VALUE_BYTES).unwrap_or(value);
            let rest = match value.len() - shown.len() {
                0 => String::new(),
                _ => format!("… ({} bytes)", value.len()),
            };
            format!(
                "conflict: the key has version {version} and the value {}{rest}",
                escape(shown)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict(current_version: u64, current_value: Option<&'static [u8]>) -> Failure {
        Failure::from(Error::Conflict {
            current_version,
            current_value: current_value.map(Bytes::from_static),
        })
    }

    #[test]
    fn every_kind_has_its_documented_exit_code() {
        let undetermined = Error::Undetermined {
            cause: "lost".into(),
        };
        let invalid = Error::InvalidArgument {
            field: "key".to_owned(),
            limit: Some(8192),
            cause: "it is too long".to_owned(),
        };
        let expected = [
            (Failure::failed("no"), 1),
            (Failure::Shown("2 alarms".to_owned()), 1),
            (
                Failure::from(Error::Unavailable {
                    cause: "gone".into(),
                }),
                1,
            ),
            (Failure::from(invalid), 2),
            (Failure::not_found("no"), 3),
            (
                Failure::from(Error::NotFound {
                    cause: "there is no store 9".into(),
                }),
                3,
            ),
            (
                Failure::from(Error::Refused {
                    cause: "too few stores".into(),
                }),
                1,
            ),
            (
                Failure::from(Error::PermissionDenied {
                    cause: "user ada lacks the right: admin".into(),
                }),
                1,
            ),
            (
                Failure::from(Error::Unauthenticated {
                    cause: "the token is no user's".into(),
                }),
                1,
            ),
            (conflict(10, Some(b"v")), 4),
            (Failure::from(undetermined), 5),
        ];
        for (failure, code) in expected {
            assert_eq!(failure.exit_code(), ExitCode::from(code), "{failure:?}");
        }
    }

    #[test]
    fn a_program_is_told_whether_a_right_is_missing_or_who_it_is() {
        let denied = Failure::from(Error::PermissionDenied {
            cause: "user ada lacks the right: admin".into(),
        });
        let object = denied.after_a_part("3 entries were written").object();
        assert_eq!(object["error"]["kind"], "permission_denied");
        assert_eq!(
            object["error"]["message"],
            "not allowed: user ada lacks the right: admin; 3 entries were written"
        );
        let nobody = Failure::from(Error::Unauthenticated { cause: "no".into() });
        assert_eq!(nobody.object()["error"]["kind"], "unauthenticated");
    }

    #[test]
    fn a_conflict_says_what_is_there_in_words_and_as_an_object() {
        let failure = conflict(10, Some(b"v10\n"));
        assert_eq!(
            failure.to_string(),
            r"conflict: the key has version 10 and the value v10\n"
        );
        let object = failure.object();
        assert_eq!(object["error"]["kind"], "conflict");
        assert_eq!(object["error"]["current_version"], 10);
        assert_eq!(object["error"]["current_value"], "v10\n");

        assert_eq!(
            conflict(0, None).to_string(),
            "conflict: the key does not exist"
        );
        assert_eq!(
            conflict(0, None).object()["error"]["current_value"],
            Value::Null
        );
        assert_eq!(
            conflict(3, None).to_string(),
            "conflict: the key has version 3; its value was not sent along; read it"
        );
    }

    #[test]
    fn a_long_conflicting_value_is_cut_in_the_message_only() {
        static LONG: [u8; 1000] = [b'x'; 1000];
        let failure = conflict(1, Some(&LONG));
        assert!(failure.to_string().len() < 400, "{failure}");
        assert!(failure.to_string().ends_with("… (1000 bytes)"), "{failure}");
        let object = failure.object();
        assert_eq!(
            object["error"]["current_value"].as_str().map(str::len),
            Some(1000)
        );
    }

    #[test]
    fn only_a_broken_pipe_ends_quietly() {
        assert!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).is_broken_pipe());
        assert!(!Failure::from(io::Error::from(io::ErrorKind::StorageFull)).is_broken_pipe());
    }
}
