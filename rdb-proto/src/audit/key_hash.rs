//! The hash of a key in the audit log, and the secret that keeps anybody from guessing the key.
//!
//! The hash of a key is the first 8 bytes of its HMAC-SHA-256. The secret, 256 random bits as hex digits, is in a file beside the log,
//! which the process makes when there is none. So lines of all files of a log can be compared, also across restarts. With the secret and
//! any tool for HMAC one can look for a given key; with the lines alone nobody can try a dictionary of keys. Servers whose secret files
//! have the same content write the same hashes.
//!
//! The file is locked for as long as the process runs. So no second process writes to the same log.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use super::AuditError;
use super::file::options;
use crate::hex::from_hex;

/// Added to the name of the log.
const SUFFIX: &str = ".key";

const SECRET_BYTES: usize = 32;

/// Longest content of the file that is looked at: the digits, and what an editor adds.
const FILE_BYTES_MAX: u64 = 1024;

/// How many bytes of a key its hash is made of. Longer ones break a limit, and are told by their length.
const HASHED_BYTES: usize = 8 << 10;

/// What the secret is known by: `key_id` is the hash of this.
const ID: &[u8] = b"flaredb-audit-key-id";

/// What the log tells of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditKey {
    /// Its length in bytes.
    pub bytes: usize,
    /// The beginning of its HMAC-SHA-256.
    pub hash: u64,
}

/// Makes the hashes of keys.
#[derive(Debug)]
pub(super) struct KeyHasher {
    secret: hmac::Key,
    /// Locked until it is dropped.
    _file: File,
}

impl KeyHasher {
    /// Takes the secret beside `log`, or makes one. No other process can until this is dropped.
    pub(super) fn open(log: &Path) -> Result<Self, AuditError> {
        let path = beside(log);
        let at = |what| {
            let path = path.clone();
            move |source| AuditError::Io { path, what, source }
        };
        let file = options().open(&path).map_err(at("opened"))?;
        let metadata = file.metadata().map_err(at("looked at"))?;
        if !metadata.is_file() {
            return Err(AuditError::NoFile { path });
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(AuditError::Held {
                    path: log.to_owned(),
                });
            }
            Err(error) => return Err(at("locked")(error.into())),
        }
        let mut text = String::new();
        let read = (&file).take(FILE_BYTES_MAX).read_to_string(&mut text);
        read.map_err(at("read"))?;
        let secret = if text.is_empty() {
            let secret = random().map_err(at("made"))?;
            let written = write(&file, &secret);
            if written.is_err() {
                // Half a secret would be refused at the next start.
                let _ = file.set_len(0);
            }
            written.map_err(at("written"))?;
            secret
        } else {
            let secret = from_hex(text.trim_end().as_bytes());
            secret.ok_or_else(|| AuditError::BadSecret { path: path.clone() })?
        };
        if metadata.mode() & 0o077 != 0 || metadata.uid() != geteuid().as_raw() {
            let path = path.display();
            tracing::warn!(
                %path,
                "others than the user of this process can read the secret of the audit log: they can find out which keys its hashes \
                 are of"
            );
        }
        Ok(Self {
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            _file: file,
        })
    }

    pub(super) fn key(&self, key: &[u8]) -> AuditKey {
        AuditKey {
            bytes: key.len(),
            hash: self.hash(&key[..key.len().min(HASHED_BYTES)]),
        }
    }

    /// What the secret is known by. Lines whose files name the same one can be compared.
    pub(super) fn id(&self) -> u64 {
        self.hash(ID)
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        let tag = hmac::sign(&self.secret, bytes);
        let beginning = tag.as_ref().first_chunk();
        u64::from_be_bytes(*beginning.expect("SHA-256 has 32 bytes"))
    }
}

fn beside(log: &Path) -> PathBuf {
    let mut name = OsString::from(log);
    name.push(SUFFIX);
    name.into()
}

fn random() -> io::Result<[u8; SECRET_BYTES]> {
    let mut secret = [0; SECRET_BYTES];
    let filled = SystemRandom::new().fill(&mut secret);
    filled.map_err(|_| io::Error::other("the system has no random bytes"))?;
    Ok(secret)
}

fn write(mut file: &File, secret: &[u8]) -> io::Result<()> {
    let digits = secret.iter().map(|byte| format!("{byte:02x}"));
    let mut text: String = digits.collect();
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_key_has_the_same_hash_after_a_restart_and_another_with_another_secret() {
        let directory = tempfile::tempdir().expect("it can be written");
        let log = directory.path().join("audit.log");
        let first = KeyHasher::open(&log).expect("a new directory");
        let (key, id) = (first.key(b"secret key"), first.id());
        assert_eq!(key.bytes, 10);
        assert_ne!(first.key(b"secret kez").hash, key.hash);
        drop(first);
        let again = KeyHasher::open(&log).expect("it was closed");
        assert_eq!((again.key(b"secret key"), again.id()), (key, id));
        let other = KeyHasher::open(&directory.path().join("other.log"));
        let other = other.expect("another log");
        assert_ne!((other.key(b"secret key").hash, other.id()), (key.hash, id));
        let mode = fs::metadata(beside(&log)).expect("it is there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    /// Test case 1 of RFC 4231. The secret is padded with zero bytes, as HMAC does itself.
    #[test]
    fn the_hash_is_what_other_tools_make() {
        let directory = tempfile::tempdir().expect("it can be written");
        let log = directory.path().join("audit.log");
        let secret = format!("{}{}\n", "0b".repeat(20), "00".repeat(12));
        fs::write(beside(&log), secret).expect("it can be written");
        let hasher = KeyHasher::open(&log).expect("a secret");
        assert_eq!(hasher.key(b"Hi There").hash, 0xb034_4c61_d8db_3853);
    }

    #[test]
    fn a_second_process_and_a_file_that_is_no_secret_are_refused() {
        let directory = tempfile::tempdir().expect("it can be written");
        let log = directory.path().join("audit.log");
        let held = KeyHasher::open(&log).expect("a new directory");
        let refused = KeyHasher::open(&log).expect_err("it is held");
        assert!(matches!(refused, AuditError::Held { .. }), "{refused}");
        drop(held);
        fs::remove_file(beside(&log)).expect("it is there");
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, beside(&log), FileType::Fifo, mode, 0).expect("made");
        let refused = KeyHasher::open(&log).expect_err("it is a pipe");
        assert!(matches!(refused, AuditError::NoFile { .. }), "{refused}");
        fs::remove_file(beside(&log)).expect("it is there");
        for wrong in ["0", "zz", "00ff", &"0".repeat(66), "ü"] {
            fs::write(beside(&log), wrong).expect("it can be written");
            let refused = KeyHasher::open(&log).expect_err(wrong);
            assert!(matches!(refused, AuditError::BadSecret { .. }), "{refused}");
        }
    }
}
