//! Where certificates and keys come from.

use std::fmt;
use std::path::PathBuf;

use super::TlsError;
use crate::regular_file;

/// Far more than any chain of certificates has.
const PEM_BYTES_MAX: usize = 1 << 20;

/// Certificates or a key as PEM. `Debug` shows where it is from, and nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The text itself.
    Text(Vec<u8>),
    /// A regular file, which is read again.
    File(PathBuf),
}

impl Pem {
    /// Reads it. `what` names it in errors.
    pub(super) fn read(&self, what: &str) -> Result<Vec<u8>, TlsError> {
        let path = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::File(path) => path,
        };
        let text = regular_file::read(path, PEM_BYTES_MAX as u64 + 1).map_err(|error| {
            TlsError::new(self.named(what), format!("it cannot be read: {error}"))
        })?;
        if text.len() > PEM_BYTES_MAX {
            let problem = format!("it has more than {PEM_BYTES_MAX} bytes, so it is no PEM file");
            return Err(TlsError::new(self.named(what), problem));
        }
        Ok(text)
    }

    /// `what`, with the file if it is one.
    pub(super) fn named(&self, what: &str) -> String {
        match self {
            Self::Text(_) => what.to_owned(),
            Self::File(path) => format!("{what} {}", path.display()),
        }
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(formatter, "Text({} bytes)", text.len()),
            Self::File(path) => write!(formatter, "File({})", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_a_key() {
        let shown = format!("{:?}", Pem::Text(b"SECRET".to_vec()));
        assert_eq!(shown, "Text(6 bytes)");
    }

    #[test]
    fn only_what_can_be_read_again_is_read() {
        let directory = Pem::File("/".into());
        let error = directory.read("--tls-key").expect_err("it is no file");
        let error = error.to_string();
        assert!(error.contains("it is no regular file"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_file() {
        let missing = Pem::File("/nonexistent/tls.pem".into());
        let error = missing.read("--tls-cert").expect_err("there is no file");
        let error = error.to_string();
        assert!(
            error.starts_with("--tls-cert /nonexistent/tls.pem: it cannot be read: "),
            "{error}"
        );
    }
}
