//! Where the data and the logs of a playground are.
//!
//! A directory that is kept remembers two things:
//!
//! - how many stores its cluster has. A region may need any of them.
//! - their addresses. Stores that keep theirs find each other at once when they start again.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::failure::Failure;

const STORES_DEFAULT: usize = 3;

/// The file: a line `NAME ADDRESS` for each process.
const ADDRESSES: &str = "addresses";

/// The file: the number of stores. It is written before any process starts, and stays as it is. A playground locks it.
const STORES: &str = "stores";

/// Dropping it removes a temporary one.
pub(super) struct Directory {
    path: PathBuf,
    is_kept: bool,
    store_count: usize,
    addresses: BTreeMap<String, String>,
    /// The file [`STORES`], locked as long as it is open.
    _lock: File,
}

/// The name of a store's process, and of its data in the directory.
pub(super) fn store_name(number: usize) -> String {
    format!("store-{number}")
}

impl Directory {
    /// The one that is given, or a temporary one. `asked` is the number of stores, if somebody asked for one.
    pub(super) fn open(given: Option<PathBuf>, asked: Option<usize>) -> Result<Self, Failure> {
        let is_kept = given.is_some();
        let (path, made) = match given {
            Some(path) => {
                let made = fs::create_dir_all(&path);
                (path, made)
            }
            None => {
                let name = format!("flaredb-playground.{:016x}", fastrand::u64(..));
                let path = std::env::temp_dir().join(name);
                let made = DirBuilder::new().mode(0o700).create(&path);
                (path, made)
            }
        };
        let cannot = |error: io::Error| Failure::failed(format!("{}: {error}", path.display()));
        made.map_err(cannot)?;
        // This path is passed to processes.
        let path = fs::canonicalize(&path).map_err(cannot)?;
        let lock = lock(&path)?;
        let store_count = store_count(&lock, &path, asked)?;
        let addresses = match fs::read_to_string(path.join(ADDRESSES)) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.map_err(cannot)?,
        };
        let addresses = addresses.lines().filter_map(|line| line.split_once(' '));
        Ok(Self {
            addresses: addresses
                .map(|(name, address)| (name.to_owned(), address.to_owned()))
                .collect(),
            path,
            is_kept,
            store_count,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Drops it without removing it.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    pub(super) fn store_count(&self) -> usize {
        self.store_count
    }

    /// The address that a process had, if it was started here before.
    pub(super) fn address(&self, name: &str) -> Option<&str> {
        self.addresses.get(name).map(String::as_str)
    }

    /// Notes the address of a process for its next start.
    pub(super) fn remember(&mut self, name: &str, address: &str) -> Result<(), Failure> {
        self.addresses.insert(name.to_owned(), address.to_owned());
        let lines = self.addresses.iter();
        let lines: String = lines
            .map(|(name, address)| format!("{name} {address}\n"))
            .collect();
        let file = self.path.join(ADDRESSES);
        fs::write(&file, lines)
            .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))
    }
}

/// Only one of the playgrounds at a directory gets the lock. It ends with the process that has it.
fn lock(path: &Path) -> Result<File, Failure> {
    let file = path.join(STORES);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let cannot = |error: io::Error| Failure::failed(format!("{}: {error}", file.display()));
    let lock = options.open(&file).map_err(cannot)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let path = path.display();
            Err(Failure::failed(format!(
                "another playground runs in {path}"
            )))
        }
        Err(error) => Err(cannot(error.into())),
    }
}

/// Reads the number of stores. In a new directory it writes the one that is asked for.
fn store_count(mut file: &File, path: &Path, asked: Option<usize>) -> Result<usize, Failure> {
    let shown = path.join(STORES);
    let cannot = |error: io::Error| Failure::failed(format!("{}: {error}", shown.display()));
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(cannot)?;
    if text.is_empty() {
        let count = asked.unwrap_or(STORES_DEFAULT);
        writeln!(file, "{count}").map_err(cannot)?;
        return Ok(count);
    }
    let stored = text
        .trim_end()
        .parse()
        .map_err(|error| cannot(io::Error::other(error)))?;
    match asked {
        Some(asked) if asked != stored => Err(Failure::usage(format!(
            "--stores {asked}: the cluster in {} has {stored}",
            path.display()
        ))),
        _ => Ok(stored),
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            let directory = self.path.display();
            tracing::warn!(%directory, %error, "the directory is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_stores_is_that_of_the_first_start() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        for (first, stored) in [(None, 3), (Some(2), 2)] {
            let path = temporary.path().join(stored.to_string());
            let count = |asked| {
                let directory = Directory::open(Some(path.clone()), asked)?;
                Ok::<_, Failure>(directory.store_count())
            };
            for asked in [first, None, Some(stored)] {
                assert_eq!(count(asked).expect("it is the same"), stored);
            }
            let refusal = count(Some(5)).expect_err("it is another number");
            assert!(matches!(refusal, Failure::Usage(_)), "{refusal}");
            let numbers = ["--stores 5", &format!("has {stored}")];
            assert!(
                numbers
                    .iter()
                    .all(|told| refusal.to_string().contains(told)),
                "{refusal}"
            );
        }
    }

    #[test]
    fn addresses_are_remembered_one_by_one() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        let open = || Directory::open(Some(temporary.path().to_owned()), None);
        for (name, address) in [("pd", "a:1"), ("store-1", "b:1"), ("pd", "c:1")] {
            let mut directory = open().expect("it can be made");
            directory.remember(name, address).expect("written");
        }
        let directory = open().expect("it can be made");
        assert_eq!(directory.address("pd"), Some("c:1"));
        assert_eq!(directory.address("store-1"), Some("b:1"));
        assert_eq!(directory.address("store-2"), None);
    }

    #[test]
    fn a_temporary_directory_goes_and_a_given_one_stays() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        for (given, stays) in [(None, false), (Some(temporary.path().to_owned()), true)] {
            let directory = Directory::open(given, None).expect("it can be made");
            let path = directory.path().to_owned();
            assert!(path.is_dir());
            drop(directory);
            assert_eq!(path.exists(), stays);
        }
    }
}
