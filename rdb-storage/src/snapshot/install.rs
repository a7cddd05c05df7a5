//! Where snapshots arrive, and what the mark of an install says.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::RegionState;
use crate::error::Error;
use crate::read::Keyspace;
use crate::reserve::Space;

/// The folder of a data directory in which snapshots arrive, each in its own folder. What is there at an open is left over, unless a mark
/// names it.
const FOLDER: &str = "snapshots";

/// Space that has to be free when a file is begun: one part in [`FREE_SHARE_MIN`] of the file system, or
/// [`FREE_BYTES_MIN`] if that is less.
const FREE_SHARE_MIN: u64 = 20;
const FREE_BYTES_MIN: u64 = 2 << 30;

/// What an install replaces a region with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installing {
    pub(crate) state: RegionState,
    /// The folder of the files, below that of all snapshots.
    pub(crate) folder: String,
    /// How many there are of each keyspace.
    pub(crate) files: [u32; 2],
}

/// A folder that a snapshot arrives in. It goes away with this.
pub(crate) struct Staging {
    path: PathBuf,
    name: String,
    is_kept: bool,
}

impl Staging {
    pub(super) fn create(data_directory: &Path, region_id: u64) -> Result<Self, Error> {
        // An open removes what was left, but not what it could not install.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let doing = "making a folder for a snapshot";
        check_space(data_directory)?;
        let folder = data_directory.join(FOLDER);
        fs::create_dir_all(&folder).map_err(|error| Error::io(doing, error))?;
        loop {
            let number = LAST.fetch_add(1, Ordering::Relaxed);
            let name = format!("{region_id}-{number}");
            let path = folder.join(&name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => {
                    created.map_err(|error| Error::io(doing, error))?;
                    return Ok(Self {
                        path,
                        name,
                        is_kept: false,
                    });
                }
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn file(&self, keyspace: Keyspace, number: u32) -> PathBuf {
        self.path.join(file_name(keyspace, number))
    }

    pub(super) fn check_space(&self) -> Result<(), Error> {
        check_space(&self.path)
    }

    /// Makes the names of the files durable. The files are.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let folders = self.path.ancestors().take(3);
        let mut synced = folders.map(|folder| File::open(folder)?.sync_all());
        let synced: io::Result<()> = synced.try_for_each(|synced| synced);
        synced.map_err(|error| Error::io("syncing the folder of a snapshot", error))
    }

    /// Leaves it to an install.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_kept {
            remove(&self.path);
        }
    }
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the files of a snapshot stay until the next open");
        }
        _ => {}
    }
}

fn file_name(keyspace: Keyspace, number: u32) -> String {
    let name = match keyspace {
        Keyspace::Raw => "raw",
        Keyspace::Versioned => "versioned",
    };
    format!("{name}-{number}.sst")
}

/// Refuses to fill a disk for something that can be sent or done again.
fn check_space(path: &Path) -> Result<(), Error> {
    find_space(path, |space| {
        FREE_BYTES_MIN.min(space.capacity_bytes / FREE_SHARE_MIN)
    })
}

/// Refuses unless `bytes` are free.
pub(crate) fn find_bytes(path: &Path, bytes: u64) -> Result<(), Error> {
    find_space(path, |_| bytes)
}

fn find_space(path: &Path, bytes_min: impl FnOnce(&Space) -> u64) -> Result<(), Error> {
    let doing = "looking for space for a snapshot";
    let space = Space::of(path).map_err(|error| Error::io(doing, error))?;
    if space.available_bytes < bytes_min(&space) {
        return Err(Error::io(doing, "the disk is almost full"));
    }
    Ok(())
}

/// Removes the files of an install that is done, or that nobody will finish.
pub(crate) fn remove_staged(data_directory: &Path, installing: &Installing) {
    remove(&data_directory.join(FOLDER).join(&installing.folder));
}

/// The files of a keyspace.
pub(crate) struct Staged {
    pub(crate) files: Vec<PathBuf>,
    /// Whether RocksDB may take the files away: each is a second name of one that stays. Else it has to copy them.
    pub(crate) can_move: bool,
}

impl Staged {
    /// How many bytes are copied.
    pub(crate) fn copied_bytes(&self) -> io::Result<u64> {
        if self.can_move {
            return Ok(0);
        }
        let bytes = self.files.iter().map(|file| Ok(fs::metadata(file)?.len()));
        bytes.sum()
    }
}

/// The files of a keyspace, each under a second name if the file system has such. A crash may have left one.
pub(crate) fn staged(
    data_directory: &Path,
    installing: &Installing,
    keyspace: Keyspace,
) -> io::Result<Staged> {
    let folder = data_directory.join(FOLDER).join(&installing.folder);
    let files = 0..installing.files[keyspace as usize];
    let files: Vec<_> = files
        .map(|number| folder.join(file_name(keyspace, number)))
        .collect();
    let mut moving = Vec::with_capacity(files.len());
    for file in &files {
        let name = file.with_extension("moving");
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::hard_link(file, &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Err(error) => {
                tracing::info!(%error, "the files of a snapshot are copied");
                return Ok(Staged {
                    files,
                    can_move: false,
                });
            }
            Ok(()) => moving.push(name),
        }
    }
    Ok(Staged {
        files: moving,
        can_move: true,
    })
}

/// Removes what arrived before this open, but for the folders of installs that could not be finished.
pub(crate) fn remove_leftovers(data_directory: &Path, kept: &BTreeSet<String>) -> io::Result<()> {
    let folder = data_directory.join(FOLDER);
    let arrived = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        arrived => arrived?,
    };
    for entry in arrived {
        let entry = entry?;
        let is_kept = entry
            .file_name()
            .to_str()
            .is_some_and(|name| kept.contains(name));
        if !is_kept {
            fs::remove_dir_all(entry.path())?;
        }
    }
    if kept.is_empty() {
        fs::remove_dir(folder)?;
    }
    Ok(())
}
