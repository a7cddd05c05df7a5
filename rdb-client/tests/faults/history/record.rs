//! The history of a run while it is made.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::History;

/// What the clients of a run have seen so far. If the run fails, it is written to a file, in whatever way it fails.
pub(crate) struct Record {
    /// Names the run, and the file.
    name: String,
    history: Mutex<History>,
}

impl Record {
    pub(crate) fn of(name: &str, seed: u64) -> Self {
        Self {
            name: format!("{name}-{seed}"),
            history: Mutex::default(),
        }
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes it down if this thread is panicking.
    pub(crate) fn write_if_failed(&self) {
        if !thread::panicking() {
            return;
        }
        let file = std::env::temp_dir().join(format!("flaredb-{}.history", self.name));
        match fs::write(&file, self.history().to_string()) {
            Ok(()) => println!(
                "The history is in {0}. To check it again:\n\
                 RDB_FAULTS_HISTORY={0} cargo test --workspace --all-features --locked --test faults -- --ignored replay",
                file.display()
            ),
            Err(error) => println!("The history cannot be written: {error}"),
        }
    }
}
