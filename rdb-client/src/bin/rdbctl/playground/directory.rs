//! Where the data and the logs of a playground are.
//!
//! A directory that is kept remembers the addresses: stores that keep theirs find each other at once when they start again.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::process::Process;
use crate::failure::Failure;

const STORES_DEFAULT: usize = 3;

/// The file: a line `NAME ADDRESS` for each process.
const ADDRESSES: &str = "addresses";

/// Dropping it removes a temporary one.
pub(super) struct Directory {
    path: PathBuf,
    is_kept: bool,
    addresses: BTreeMap<String, String>,
}

/// The name of a store's process, and of its data in the directory.
pub(super) fn store_name(number: usize) -> String {
    format!("store-{number}")
}

impl Directory {
    /// The one that is given, or a temporary one.
    pub(super) fn open(given: Option<PathBuf>) -> Result<Self, Failure> {
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
        // Processes are told of it.
        let path = fs::canonicalize(&path).map_err(cannot)?;
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
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// How many stores to start. None that has data here is left out: a region may need it.
    pub(super) fn store_count(&self, asked: Option<usize>) -> Result<usize, Failure> {
        let stored = (1..).take_while(|number| self.path.join(store_name(*number)).exists());
        match (asked, stored.count()) {
            (Some(asked), stored) if asked < stored => Err(Failure::usage(format!(
                "--stores: {} has the data of {stored} stores; all of them are needed",
                self.path.display()
            ))),
            (Some(asked), _) => Ok(asked),
            (None, 0) => Ok(STORES_DEFAULT),
            (None, stored) => Ok(stored),
        }
    }

    /// The address that a process had, if it was started here before.
    pub(super) fn address(&self, name: &str) -> Option<&str> {
        self.addresses.get(name).map(String::as_str)
    }

    /// Notes the addresses for the next start.
    pub(super) fn remember(&self, processes: &[Process]) -> Result<(), Failure> {
        let lines = processes.iter();
        let lines: String = lines
            .map(|process| format!("{} {}\n", process.name, process.address))
            .collect();
        let file = self.path.join(ADDRESSES);
        fs::write(&file, lines)
            .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))
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
    fn a_directory_with_stores_is_started_with_all_of_them() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        let path = temporary.path().join("new");
        let count = |asked| {
            let directory = Directory::open(Some(path.clone())).expect("it can be made");
            directory.store_count(asked).ok()
        };
        assert_eq!(count(None), Some(3));
        assert_eq!(count(Some(1)), Some(1));
        for number in 1..=2 {
            fs::create_dir(path.join(store_name(number))).expect("written");
        }
        assert_eq!(count(None), Some(2));
        assert_eq!(count(Some(5)), Some(5));
        assert_eq!(count(Some(1)), None);
    }

    #[test]
    fn a_temporary_directory_goes_and_a_given_one_stays() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        for (given, stays) in [(None, false), (Some(temporary.path().to_owned()), true)] {
            let directory = Directory::open(given).expect("it can be made");
            let path = directory.path().to_owned();
            assert!(path.is_dir());
            drop(directory);
            assert_eq!(path.exists(), stays);
        }
    }
}
