//! The value of a write: from an argument, a file, or standard input.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use bytes::Bytes;

use crate::failure::Failure;

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
    /// The value's bytes, `bytes_max` at most. Blocks while it reads.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when a file cannot be read or the value is longer; no more than that is read then.
    pub(crate) fn read(self, bytes_max: u64) -> Result<Bytes, Failure> {
        match self {
            Self {
                file: Some(path), ..
            } if path.as_os_str() == "-" => read_stdin(bytes_max),
            Self {
                file: Some(path), ..
            } => {
                let name = path.display().to_string();
                let file = std::fs::File::open(&path).map_err(|error| unreadable(&name, &error))?;
                read(file, &name, bytes_max)
            }
            Self {
                value: Some(value), ..
            } if value == "-" => read_stdin(bytes_max),
            Self { value, .. } => Ok(value.unwrap_or_default().into_vec().into()),
        }
    }
}

fn read_stdin(bytes_max: u64) -> Result<Bytes, Failure> {
    read(std::io::stdin().lock(), "standard input", bytes_max)
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
        assert_eq!(arguments.read(10).expect("read"), &b"\xff\n"[..]);
    }

    #[test]
    fn a_file_is_read_whole_up_to_the_limit_and_refused_beyond_it() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(b"line\n\x00").expect("written");
        let path = file.path().to_owned();

        assert_eq!(
            from_file(path.clone()).read(6).expect("read"),
            &b"line\n\x00"[..]
        );
        let failure = from_file(path).read(5).expect_err("too long");
        assert!(matches!(&failure, Failure::Usage(message) if message.contains("at most 5")));
    }

    #[test]
    fn a_missing_file_is_named() {
        let failure = from_file("/no/such/file".into())
            .read(5)
            .expect_err("missing");
        assert!(failure.to_string().contains("/no/such/file"), "{failure}");
    }
}
