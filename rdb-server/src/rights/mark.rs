//! The mark in a data directory that rights are enforced.
//!
//! It is the file `rights-enforced`; its content is for people. It is replaced atomically and removed durably.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rdb_storage::{remove_file, replace_file};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

const CONTENT: &str = "A placement driver has told this store that rights are enforced. While this file is here, a start of the store refuses \
                       all calls until it has a copy of the rights. It goes when a placement driver says that they are not enforced any more.\n";

/// How long a change is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a data directory says that rights are enforced.
#[derive(Debug)]
pub(crate) struct Mark {
    file: PathBuf,
    /// Whether it is there. `None`: it may be.
    is_there: Option<bool>,
    /// A change that is being made. A disk that hangs holds one thread, not one for each try.
    changing: Option<JoinHandle<io::Result<bool>>>,
}

impl Mark {
    /// The name of the file.
    pub(crate) const FILE: &str = "rights-enforced";

    /// Looks whether it is there. One that cannot be looked at may be. Blocks.
    pub(crate) fn open(data_directory: &Path) -> Self {
        let file = data_directory.join(Self::FILE);
        let is_there = match fs::symlink_metadata(&file) {
            Ok(_) => Some(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Some(false),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "whether rights are enforced is not known: calls are refused until it is");
                None
            }
        };
        Self {
            file,
            is_there,
            changing: None,
        }
    }

    /// Whether it is there, or may be.
    pub(crate) fn may_be_there(&self) -> bool {
        self.is_there != Some(false)
    }

    /// Makes or removes it, unless that was done. When this returns, it is durable. Call it again until it succeeds.
    ///
    /// # Errors
    ///
    /// Why it is not done, or not yet.
    pub(crate) async fn set(&mut self, is_there: bool) -> Result<(), String> {
        if self.changing.is_none() && self.is_there == Some(is_there) {
            return Ok(());
        }
        self.is_there = None;
        let file = self.file.clone();
        let changing = self
            .changing
            .get_or_insert_with(|| spawn_blocking(move || change(&file, is_there)));
        let changed = timeout(PATIENCE, changing).await;
        let changed = changed.map_err(|_| "the disk does not answer".to_owned())?;
        self.changing = None;
        let now_there = changed.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let now_there = now_there.map_err(|error| error.to_string())?;
        self.is_there = Some(now_there);
        if now_there == is_there {
            return Ok(());
        }
        Err("the disk has just made an earlier change".to_owned())
    }
}

fn change(file: &Path, is_there: bool) -> io::Result<bool> {
    if is_there {
        replace_file(file, CONTENT.as_bytes())?;
    } else {
        remove_file(file)?;
    }
    Ok(is_there)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn the_mark_is_there_after_a_restart_until_it_is_removed() {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let mut mark = Mark::open(directory.path());
        assert!(!mark.may_be_there());
        mark.set(true).await.expect("written");
        assert!(mark.may_be_there());
        let mut again = Mark::open(directory.path());
        assert!(again.may_be_there());
        again.set(true).await.expect("it is there");
        again.set(false).await.expect("removed");
        assert!(!again.may_be_there());
        assert!(!Mark::open(directory.path()).may_be_there());
        again.set(false).await.expect("it is gone already");
    }

    #[tokio::test]
    async fn a_mark_that_cannot_be_written_is_tried_again() {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let missing = directory.path().join("missing");
        let mut mark = Mark::open(&missing);
        assert!(!mark.may_be_there());
        mark.set(true).await.expect_err("there is no directory");
        assert!(mark.may_be_there(), "nobody knows");
        fs::create_dir(&missing).expect("created");
        mark.set(true).await.expect("written");
        assert!(Mark::open(&missing).may_be_there());
    }
}
