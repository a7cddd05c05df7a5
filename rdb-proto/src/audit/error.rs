//! Why there can be no audit log.

use std::io;
use std::path::PathBuf;

/// The audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file does not work.
    #[error("--audit-log: {} cannot be {what}", path.display())]
    Io {
        /// The log, or the file of its secret.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it does not work.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("--audit-log: another process writes into {}; each needs a file of its own", path.display())]
    Held {
        /// The log.
        path: PathBuf,
    },
    /// It is a directory, a link, a pipe or a device.
    #[error("--audit-log: {} is no regular file", path.display())]
    NoFile {
        /// The log.
        path: PathBuf,
    },
    /// Its directory is missing.
    #[error("--audit-log: there is no directory {} for {}; make it first", directory.display(), path.display())]
    NoDirectory {
        /// The log.
        path: PathBuf,
        /// Where it would be.
        directory: PathBuf,
    },
    /// Something else is in it.
    #[error("--audit-log: {} exists, and is no audit log; name another file, or move it away", path.display())]
    NoLog {
        /// The file.
        path: PathBuf,
    },
    /// Its name is that of a file of another log.
    #[error(
        "--audit-log: {} is what the secret or a rotated file of another log would be called: it cannot end with .key, and not with a dot and \
         a number up to 5",
        path.display()
    )]
    KeptName {
        /// The log.
        path: PathBuf,
    },
    /// It is in the data directory, which takes no other files.
    #[error("--audit-log: {} is in the data directory; give it a place elsewhere", path.display())]
    InDataDirectory {
        /// The log.
        path: PathBuf,
    },
    /// Hashes of keys cannot be made.
    #[error(
        "--audit-log: {} is not the secret that hashes of keys are made with, 64 digits of 0-9 and a-f; restore it, or remove it for a new one",
        path.display()
    )]
    BadSecret {
        /// The file of the secret.
        path: PathBuf,
    },
}

impl AuditError {
    /// Whether starting again may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Held { .. } => true,
            Self::Io { source, .. } => !is_of_setting(source),
            Self::NoFile { .. }
            | Self::NoDirectory { .. }
            | Self::NoLog { .. }
            | Self::KeptName { .. }
            | Self::InDataDirectory { .. }
            | Self::BadSecret { .. } => false,
        }
    }
}

/// Whether it is the path that is wrong, or may not be written to. A disk may have room again, or be there again.
fn is_of_setting(error: &io::Error) -> bool {
    use io::ErrorKind;
    let is_loop = rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP);
    is_loop
        || matches!(
            error.kind(),
            ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::NotADirectory
                | ErrorKind::IsADirectory
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::InvalidInput
                | ErrorKind::InvalidFilename
        )
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_disk_that_is_full_or_away_may_be_there_at_the_next_start_and_a_wrong_path_may_not() {
        let of = |errno: Errno| AuditError::Io {
            path: "log".into(),
            what: "opened",
            source: errno.into(),
        };
        for passing in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::IO,
            Errno::STALE,
            Errno::TIMEDOUT,
            Errno::MFILE,
        ] {
            assert!(of(passing).may_pass(), "{passing}");
        }
        for setting in [
            Errno::NOENT,
            Errno::ACCESS,
            Errno::NOTDIR,
            Errno::ISDIR,
            Errno::ROFS,
            Errno::LOOP,
        ] {
            assert!(!of(setting).may_pass(), "{setting}");
        }
    }
}
