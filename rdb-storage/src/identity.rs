//! The identity file of a data directory: small, plain text, checked before RocksDB is opened.
//!
//! ```text
//! role = server
//! format = 2
//! initialized = yes
//! cluster_id = 1234
//! store_id = 1
//! incarnation = 5678
//! ```
//!
//! The last three lines are written once the placement driver has assigned or accepted them. Format 1 had no incarnation.
//! Format 3 only adds that there are writes in a log database beside the data. Other directories are written with format 2,
//! which older releases read. `initialized` becomes `yes` when RocksDB has been created. From then on, missing files of
//! RocksDB are damage; those of the log database are from format 3 on. The file is replaced atomically ([`replace_file`]).
//!
//! # Incarnations
//!
//! Each accepted start of a store has an incarnation. Its upper half is the *number* of the start, which grows from one to the
//! next, so that other stores can tell an older directory from a newer one. Its lower half is random, so that two starts of
//! copies differ. Stores tell each other only the number: a process that knows the whole incarnation can speak to the placement
//! driver as that store. The first number is random, too, since nothing else tells a new store from other new ones.
//!
//! The directory is locked with `flock` on the file `LOCK` for as long as the storage is open.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fmt, str};

use rustix::fs::{FlockOperation, flock};

use crate::durable_file::replace_file;
use crate::error::{Error, OpenError};

/// The identity file's name.
pub(crate) const IDENTITY_FILE: &str = "flaredb.identity";
const LOCK_FILE: &str = "LOCK";

/// The newest format that this release reads, that of a directory with a log database. It reads all older ones.
const FORMAT: u32 = 3;

/// The format of a directory without a log database.
const FORMAT_WITHOUT_LOG: u32 = 2;

/// Which kind of process a data directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A store.
    Server,
    /// The placement driver.
    Pd,
    /// An application that embeds this crate.
    Embedded,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Server => "server",
            Self::Pd => "pd",
            Self::Embedded => "embedded",
        })
    }
}

impl Role {
    fn named(name: &str) -> Option<Self> {
        let roles = [Self::Server, Self::Pd, Self::Embedded];
        roles.into_iter().find(|role| role.to_string() == name)
    }
}

/// What the identity file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Which kind of process the directory belongs to.
    pub role: Role,
    /// The cluster. `None`: not assigned yet.
    pub cluster_id: Option<u64>,
    /// The store. `None`: not assigned yet, or not a server's directory.
    pub store_id: Option<u64>,
    /// The last start of the store that the placement driver accepted. `None`: none yet, or not a server's directory.
    pub incarnation: Option<u64>,
    /// Whether RocksDB was created here.
    pub(crate) initialized: bool,
    /// Whether there are writes in a log database.
    pub(crate) has_log: bool,
}

impl Identity {
    /// The number of the last start that the placement driver accepted. 0: none yet.
    pub fn start(&self) -> u64 {
        self.incarnation.map_or(0, |incarnation| incarnation >> 32)
    }

    /// An incarnation for the next start, never 0. Its number is above that of the last incarnation and above `start`. The last number may
    /// be `start` alone: a release without numbers may have replaced the last incarnation by a random one.
    ///
    /// # Errors
    ///
    /// As [`random_id`].
    pub fn next_incarnation(&self, start: u64) -> Result<u64, Error> {
        let random = random_id()?;
        Ok(match self.incarnation {
            // Half of the numbers are left for later starts.
            None if start == 0 => random >> 1 | 1 << 32,
            _ => (self.start().max(start) + 1).min(u32::MAX.into()) << 32 | random >> 32,
        })
    }
}

/// A random id from the operating system, never 0. A generator that is seeded with the time since boot would give machines
/// that boot alike the same ids.
///
/// # Errors
///
/// [`Error::Io`] when the operating system has none.
pub fn random_id() -> Result<u64, Error> {
    loop {
        let id = getrandom::u64();
        let id =
            id.map_err(|error| Error::io("the operating system gives no random numbers", error))?;
        if id != 0 {
            return Ok(id);
        }
    }
}

/// A locked data directory with its identity file. Dropping it gives the lock back.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    lock: File,
    /// What the file says.
    identity: Mutex<Identity>,
}

impl DataDirectory {
    /// Locks the directory and reads its identity. With `create`, a directory that is missing or empty is made one.
    pub(crate) fn open(path: &Path, role: Role, create: bool) -> Result<Self, OpenError> {
        if !create && !path.join(IDENTITY_FILE).exists() {
            return Err(OpenError::NoDataDirectory(path.to_owned()));
        }
        create_durably(path).map_err(|error| io_error(path, "creating it", &error))?;
        let path =
            fs::canonicalize(path).map_err(|error| io_error(path, "resolving it", &error))?;
        let identity_file = path.join(IDENTITY_FILE);
        if !identity_file.exists() {
            refuse_foreign_files(&path)?;
        }
        let directory = Self {
            lock: lock(&path)?,
            path,
            identity: Mutex::new(Identity {
                role,
                cluster_id: None,
                store_id: None,
                incarnation: None,
                initialized: false,
                has_log: false,
            }),
        };
        // Checked again under the lock, since another process may have created the file meanwhile.
        if !identity_file.exists() {
            let written = directory.write(directory.identity());
            written
                .map_err(|error| io_error(&directory.path, "writing its identity file", &error))?;
            return Ok(directory);
        }
        let identity = directory.read()?;
        if identity.role != role {
            return Err(OpenError::ForeignRole {
                directory: directory.path.clone(),
                found: identity.role.to_string(),
                wanted: role.to_string(),
            });
        }
        *directory.lock_identity() = identity;
        Ok(directory)
    }

    pub(crate) fn identity(&self) -> Identity {
        *self.lock_identity()
    }

    /// Notes that RocksDB was created here.
    pub(crate) fn note_initialized(&self) -> io::Result<()> {
        self.note(|identity| identity.initialized = true)
    }

    /// Notes that the log database is about to be written to.
    pub(crate) fn note_log(&self) -> io::Result<()> {
        self.note(|identity| identity.has_log = true)
    }

    /// Refuses a directory with a log database, as releases do that do not know it.
    pub(crate) fn refuse_log(&self) -> Result<(), OpenError> {
        if self.identity().has_log {
            return Err(OpenError::NewerFormat {
                directory: self.path().to_owned(),
                found: FORMAT,
                supported: FORMAT_WITHOUT_LOG,
            });
        }
        Ok(())
    }

    fn note(&self, change: impl FnOnce(&mut Identity)) -> io::Result<()> {
        let mut identity = self.lock_identity();
        let mut changed = *identity;
        change(&mut changed);
        if changed != *identity {
            self.write(changed)?;
            *identity = changed;
        }
        Ok(())
    }

    /// Assigns the directory to a cluster, and to a store of it, for good.
    pub(crate) fn assign(
        &self,
        cluster_id: u64,
        store_id: Option<u64>,
        incarnation: Option<u64>,
    ) -> Result<(), Error> {
        let mut identity = self.lock_identity();
        let wanted = Identity {
            cluster_id: Some(cluster_id),
            store_id: store_id.or(identity.store_id),
            incarnation: incarnation.or(identity.incarnation),
            ..*identity
        };
        if wanted == *identity {
            return Ok(());
        }
        let taken = |present: Option<u64>, wanted| present.is_some() && present != wanted;
        if taken(identity.cluster_id, wanted.cluster_id)
            || taken(identity.store_id, wanted.store_id)
        {
            return Err(Error::ForeignAssignment {
                owner: owner(&identity),
                wanted: owner(&wanted),
            });
        }
        let written = self.write(wanted);
        written.map_err(|error| Error::io("the identity file could not be written", error))?;
        *identity = wanted;
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the identity file. When this returns, the new one is durable.
    fn write(&self, identity: Identity) -> io::Result<()> {
        let file = self.path.join(IDENTITY_FILE);
        replace_file(&file, format_identity(&identity).as_bytes())
    }

    fn lock_identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<Identity, OpenError> {
        let file = self.path.join(IDENTITY_FILE);
        let bytes = fs::read(&file)
            .map_err(|error| io_error(&self.path, "reading its identity file", &error))?;
        parse_identity(&bytes).map_err(|problem| match problem {
            Problem::Newer(found) => OpenError::NewerFormat {
                directory: self.path.clone(),
                found,
                supported: FORMAT,
            },
            Problem::Damaged(problem) => OpenError::DamagedIdentity { file, problem },
        })
    }
}

impl Drop for DataDirectory {
    /// Closing the file is not enough: a child process that is just being started may have inherited it.
    fn drop(&mut self) {
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

fn owner(identity: &Identity) -> String {
    let part = |name, id: Option<u64>| id.map(|id| format!("{name} {id}"));
    let parts = [
        part("store", identity.store_id),
        part("cluster", identity.cluster_id),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    parts.join(" of ")
}

fn io_error(directory: &Path, doing: &str, error: &io::Error) -> OpenError {
    OpenError::Io {
        directory: directory.to_owned(),
        cause: format!("{doing}: {error}"),
    }
}

/// Creates the directory and what is missing above it, so that a power cut does not take them away again.
fn create_durably(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|part| !part.exists()).collect();
    fs::create_dir_all(path)?;
    for created in missing {
        let parent = match created.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// A directory without an identity file may hold only files that an open leaves when it crashes early.
fn refuse_foreign_files(path: &Path) -> Result<(), OpenError> {
    let entries = fs::read_dir(path).map_err(|error| io_error(path, "reading it", &error))?;
    for entry in entries {
        let name = entry
            .map_err(|error| io_error(path, "reading it", &error))?
            .file_name();
        if name != LOCK_FILE && name != "flaredb.identity.new" && name != "lost+found" {
            return Err(OpenError::NotADataDirectory(path.to_owned()));
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK_FILE))
        .map_err(|error| io_error(path, "opening its lock file", &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(path.to_owned())),
        Err(error) => Err(io_error(path, "locking it", &error.into())),
    }
}

fn format_identity(identity: &Identity) -> String {
    let initialized = if identity.initialized { "yes" } else { "no" };
    let format = if identity.has_log {
        FORMAT
    } else {
        FORMAT_WITHOUT_LOG
    };
    let mut text = format!(
        "role = {}\nformat = {format}\ninitialized = {initialized}\n",
        identity.role
    );
    for (name, id) in [
        ("cluster_id", identity.cluster_id),
        ("store_id", identity.store_id),
        ("incarnation", identity.incarnation),
    ] {
        if let Some(id) = id {
            text.push_str(&format!("{name} = {id}\n"));
        }
    }
    text
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Newer(u32),
    Damaged(String),
}

/// Reads the format first: a newer release may have changed everything else.
fn parse_identity(bytes: &[u8]) -> Result<Identity, Problem> {
    let damaged = |problem: &str| Problem::Damaged(problem.to_owned());
    let text = str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (mut fields, mut twice) = (BTreeMap::new(), None);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| damaged("a line is not `name = value`"))?;
        if fields.insert(name.trim(), value.trim()).is_some() {
            twice = Some(name.trim());
        }
    }
    let missing = |name: &str| Problem::Damaged(format!("{name} is missing or unreadable"));

    let format = fields
        .remove("format")
        .and_then(|format| format.parse().ok());
    let has_log = match format {
        Some(format @ 1..=FORMAT) => format > FORMAT_WITHOUT_LOG,
        Some(format) if format > FORMAT => return Err(Problem::Newer(format)),
        _ => return Err(missing("format")),
    };
    if let Some(name) = twice {
        return Err(Problem::Damaged(format!("{name} is there twice")));
    }
    let mut id = |name| {
        let id = fields.remove(name).map(str::parse).transpose();
        id.map_err(|_| missing(name))
    };
    let (cluster_id, store_id) = (id("cluster_id")?, id("store_id")?);
    let incarnation = id("incarnation")?;
    let role = fields.remove("role").and_then(Role::named);
    let initialized = match fields.remove("initialized") {
        Some("yes") => true,
        Some("no") => false,
        _ => return Err(missing("initialized")),
    };
    if let Some((name, _)) = fields.first_key_value() {
        return Err(Problem::Damaged(format!("{name:?} is not known")));
    }
    Ok(Identity {
        role: role.ok_or_else(|| missing("role"))?,
        cluster_id,
        store_id,
        incarnation,
        initialized,
        has_log,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        let identity = Identity {
            role: Role::Server,
            cluster_id: Some(1234),
            store_id: Some(1),
            incarnation: Some(5678),
            initialized: true,
            has_log: false,
        };
        let text = "role = server\nformat = 2\ninitialized = yes\ncluster_id = 1234\nstore_id = 1\n\
                    incarnation = 5678\n";
        assert_eq!(format_identity(&identity), text);
        assert_eq!(parse_identity(text.as_bytes()), Ok(identity));
        let older =
            "role = server\nformat = 1\ninitialized = yes\ncluster_id = 1234\nstore_id = 1\n";
        let read = Identity {
            incarnation: None,
            ..identity
        };
        assert_eq!(parse_identity(older.as_bytes()), Ok(read));
        let with_log = Identity {
            has_log: true,
            ..identity
        };
        let text = text.replace("format = 2", "format = 3");
        assert_eq!(format_identity(&with_log), text);
        assert_eq!(parse_identity(text.as_bytes()), Ok(with_log));
    }

    #[test]
    fn the_numbers_of_starts_grow_and_incarnations_of_copies_differ() {
        let mut identity = Identity {
            role: Role::Server,
            cluster_id: None,
            store_id: None,
            incarnation: None,
            initialized: true,
            has_log: true,
        };
        assert_eq!(identity.start(), 0);
        for _ in 0..3 {
            let copy = identity;
            let earlier = identity.start();
            let incarnation = identity.next_incarnation(0).expect("random numbers");
            let of_copy = copy.next_incarnation(0).expect("random numbers");
            assert_ne!(incarnation, of_copy);
            identity.incarnation = Some(incarnation);
            assert!(identity.start() > earlier);
        }
        let start = identity.start();
        // As releases wrote it that had no numbers.
        identity.incarnation = Some(7 << 32);
        let incarnation = identity.next_incarnation(start).expect("random numbers");
        assert_eq!(incarnation >> 32, start + 1);
        identity.incarnation = Some(u64::MAX);
        assert!(identity.next_incarnation(0).expect("random numbers") >> 32 >= identity.start());
    }

    #[test]
    fn a_newer_format_is_told_from_damage_whatever_else_it_holds() {
        assert_eq!(
            parse_identity(b"format = 9\nshards = 3\n"),
            Err(Problem::Newer(9))
        );
        for damaged in [
            "",
            "role = server\n",
            "role = server\nformat = 1\n",
            "nonsense",
            "format = x",
        ] {
            assert!(
                matches!(parse_identity(damaged.as_bytes()), Err(Problem::Damaged(_))),
                "{damaged}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
            let _ = parse_identity(&bytes);
        }

        #[test]
        fn reads_what_was_written(
            cluster_id: Option<u64>,
            store_id: Option<u64>,
            incarnation: Option<u64>,
            initialized: bool,
            has_log: bool,
        ) {
            let identity = Identity {
                role: Role::Pd, cluster_id, store_id, incarnation, initialized, has_log,
            };
            prop_assert_eq!(parse_identity(format_identity(&identity).as_bytes()), Ok(identity));
        }
    }
}
