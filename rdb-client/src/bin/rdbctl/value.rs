//! The value of a write: from an argument, a file, or standard input.

use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use bytes::Bytes;
use rdb_client::Limits;

use crate::failure::Failure;
use crate::session::Session;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ValueArguments {
    /// The value, byte for byte; `-` reads standard input. One that starts with a dash stands behind `--`
    #[arg(
        required_unless_present = "file",
        conflicts_with = "file",
        allow_negative_numbers = true
    )]
    value: Option<OsString>,
    /// Take the bytes of a file as the value; `-` reads standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
}

impl ValueArguments {
    pub(crate) fn is_standard_input(&self) -> bool {
        let file = self.file.as_ref().map(|path| path.as_os_str());
        file.or(self.value.as_deref())
            .is_some_and(|name| name == "-")
    }

    /// The value's bytes.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when a file cannot be read, the value is too long, or it would be read from the terminal whose lines are
    /// those of a shell.
    pub(crate) async fn read_within(
        self,
        session: &Session,
        limits: Limits,
    ) -> Result<Bytes, Failure> {
        let refuses_terminals = session.is_in_shell();
        let reading = tokio::task::spawn_blocking(move || {
            self.read(limits.value_bytes_max, refuses_terminals)
        });
        let read = reading.await;
        read.map_err(|error| Failure::failed(format!("cannot read the value: {error}")))?
    }

    /// No more than `bytes_max` bytes are read of a value that is longer. Blocks while it reads.
    fn read(self, bytes_max: u64, refuses_terminals: bool) -> Result<Bytes, Failure> {
        match self {
            Self {
                file: Some(path), ..
            } if path.as_os_str() == "-" => read_stdin(bytes_max, refuses_terminals),
            Self {
                file: Some(path), ..
            } => {
                let name = path.display().to_string();
                let file = std::fs::File::open(&path).map_err(|error| unreadable(&name, &error))?;
                check_source(&file, refuses_terminals)?;
                read(file, &name, bytes_max)
            }
            Self {
                value: Some(value), ..
            } if value == "-" => read_stdin(bytes_max, refuses_terminals),
            Self { value, .. } => Ok(value.unwrap_or_default().into_vec().into()),
        }
    }
}

fn read_stdin(bytes_max: u64, refuses_terminals: bool) -> Result<Bytes, Failure> {
    let stdin = std::io::stdin().lock();
    check_source(&stdin, refuses_terminals)?;
    read(stdin, "standard input", bytes_max)
}

fn check_source(source: &impl IsTerminal, refuses_terminals: bool) -> Result<(), Failure> {
    if refuses_terminals && source.is_terminal() {
        let message = "the shell reads its lines from the terminal: name a file or write the value";
        return Err(Failure::usage(message));
    }
    Ok(())
}

fn read(source: impl Read, name: &str, bytes_max: u64) -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    source
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut value)
        .map_err(|error| unreadable(name, &error))?;
    if value.len() as u64 > bytes_max {
        let message =
            format!("{name} is too long for a value; at most {bytes_max} bytes are allowed");
        return Err(Failure::usage(message));
    }
    Ok(value.into())
}

fn unreadable(name: &str, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot read the value from {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn from_file(path: PathBuf) -> ValueArguments {
        ValueArguments {
            value: None,
            file: Some(path),
        }
    }

    #[test]
    fn an_argument_is_the_value_byte_for_byte() {
        let arguments = ValueArguments {
            value: Some(OsString::from_vec(b"\xff\n".to_vec())),
            file: None,
        };
        assert_eq!(arguments.read(10, true).expect("read"), &b"\xff\n"[..]);
    }

    #[test]
    fn a_file_is_read_whole_up_to_the_limit_and_refused_beyond_it() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(b"line\n\x00").expect("written");
        let path = file.path().to_owned();

        assert_eq!(
            from_file(path.clone()).read(6, true).expect("read"),
            &b"line\n\x00"[..]
        );
        let failure = from_file(path).read(5, true).expect_err("too long");
        assert!(matches!(&failure, Failure::Usage(message) if message.contains("at most 5")));
    }

    #[test]
    fn a_missing_file_is_named() {
        let failure = from_file("/no/such/file".into())
            .read(5, true)
            .expect_err("missing");
        assert!(failure.to_string().contains("/no/such/file"), "{failure}");
    }
}
