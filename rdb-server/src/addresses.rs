//! Where the other stores are.
//!
//! They come from a placement driver that accepts the heartbeats of this store: another one may belong to another cluster. The last ones
//! are kept in a file of the data directory, so that stores find each other again while no placement driver answers. The file is only a
//! hint: if a store has moved, the store at its old address refuses requests that name another, and the placement driver knows the new
//! address.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use rdb_raft::transport::AddressBook;
use rdb_storage::replace_file;

/// The file: a line `ID ADDRESS` for each store.
const FILE: &str = "stores";

/// The addresses of stores, as far as they are known.
pub(crate) struct Addresses {
    file: PathBuf,
    known: RwLock<BTreeMap<u64, String>>,
    /// Whether somebody has looked one up since this was last asked, and at the start. Relaxed: a hint.
    wanted: AtomicBool,
    /// Whether the file says what is known. Relaxed: one task learns.
    is_kept: AtomicBool,
}

impl Addresses {
    /// What the data directory has kept. A file that cannot be read is one that knows nothing.
    pub(crate) fn open(data_directory: &Path) -> Self {
        let file = data_directory.join(FILE);
        let kept = fs::read_to_string(&file).unwrap_or_else(|error| {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "the addresses of other stores are not known");
            }
            String::new()
        });
        let known = kept.lines().filter_map(|line| {
            let (store_id, address) = line.split_once(' ')?;
            Some((store_id.parse().ok()?, address.to_owned()))
        });
        Self {
            known: RwLock::new(known.collect()),
            file,
            wanted: AtomicBool::new(true),
            is_kept: AtomicBool::new(true),
        }
    }

    /// The address of a store, `host:port`.
    pub(crate) fn of(&self, store_id: u64) -> Option<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&store_id).cloned()
    }

    /// Whether somebody has looked an address up since this was last asked, or it was never asked.
    pub(crate) fn were_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    /// Knows these addresses from now on, and keeps them. Blocks.
    pub(crate) fn learn(&self, stores: BTreeMap<u64, String>) -> io::Result<()> {
        {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if *known == stores && self.is_kept.load(Ordering::Relaxed) {
                return Ok(());
            }
            known.clone_from(&stores);
            self.is_kept.store(false, Ordering::Relaxed);
        }
        let lines = stores.iter();
        let lines = lines.map(|(store_id, address)| format!("{store_id} {address}\n"));
        replace_file(&self.file, lines.collect::<String>().as_bytes())?;
        self.is_kept.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl AddressBook for Addresses {
    fn address(&self, store_id: u64) -> BoxFuture<'_, Option<String>> {
        self.wanted.store(true, Ordering::Relaxed);
        ready(self.of(store_id)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_outlast_the_process_and_the_last_ones_count() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let addresses = Addresses::open(directory.path());
        assert_eq!(addresses.of(1), None);
        let told = |stores: &[(u64, &str)]| {
            let stores = stores.iter();
            stores
                .map(|(id, address)| (*id, (*address).to_owned()))
                .collect()
        };
        addresses
            .learn(told(&[(1, "a:1"), (2, "b:2")]))
            .expect("kept");
        addresses
            .learn(told(&[(1, "c:3"), (2, "b:2")]))
            .expect("kept");
        for addresses in [addresses, Addresses::open(directory.path())] {
            assert_eq!(addresses.of(1).as_deref(), Some("c:3"));
            assert_eq!(addresses.of(2).as_deref(), Some("b:2"));
            assert!(addresses.were_wanted(), "at the start");
            assert!(!addresses.were_wanted(), "nobody has asked to connect");
            drop(addresses.address(2));
            assert!(addresses.were_wanted());
            assert!(!addresses.were_wanted());
        }
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let lines = "\nx y\n7\n2 b:2\n-1 c:3\n";
        fs::write(directory.path().join(FILE), lines).expect("written");
        let addresses = Addresses::open(directory.path());
        assert_eq!(addresses.of(2).as_deref(), Some("b:2"));
        assert_eq!(addresses.of(7), None);
    }
}
