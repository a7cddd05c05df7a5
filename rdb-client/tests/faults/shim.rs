//! What `shim.c` does to a store in which it is loaded.
//!
//! - *A power cut* takes back what was not synced. The shim notes how far each file of the store was synced, and after the
//!   store was killed [`Shim::cut_power`] cuts its files there. Directories are taken to be synced always.
//! - *Syncs fail* while [`Shim::fail_syncs`] says so, and *do not end* while [`Shim::stall_syncs`] does.
//! - *The clock* that timeouts and leases are measured with runs at a rate of its own.
//! - *A kill* comes before a step of which the number is given: a sync, or what adds a file to the directory or takes one away. So each
//!   step of what a store does at its start can be its last.
//!
//! It needs a C compiler, as building RocksDB does.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiled shim.
#[derive(Debug, Clone)]
pub(crate) struct ShimLibrary(PathBuf);

impl ShimLibrary {
    /// `None` where there is no C compiler.
    pub(crate) fn compile(directory: &Path) -> Option<Self> {
        let library = directory.join("shim.so");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| OsString::from("cc"));
        let status = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../rdb-client/tests/faults/shim.c"
            ))
            .args(["-ldl", "-lpthread"])
            .status()
            .ok()?;
        assert!(status.success(), "the shim does not compile");
        Some(Self(library))
    }

    /// What makes a process load it and write its steps in `data_dir` to a file, one a line. It is killed before the step of this
    /// number; 0: before none.
    #[allow(dead_code, reason = "the tests of the server kill stores so")]
    pub(crate) fn killing_at(
        &self,
        step: usize,
        data_dir: &Path,
        steps: &Path,
    ) -> [(&'static str, OsString); 4] {
        [
            ("LD_PRELOAD", self.0.clone().into()),
            ("SHIM_DATA_DIR", data_dir.into()),
            ("SHIM_STEPS", steps.into()),
            ("SHIM_KILL_AT", step.to_string().into()),
        ]
    }
}

/// The shim in one store.
#[derive(Debug)]
pub(crate) struct Shim {
    data_dir: PathBuf,
    ledger: PathBuf,
    fail_sync: PathBuf,
    stall_sync: PathBuf,
    clock: PathBuf,
}

/// What a power cut took.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Lost {
    /// Files that had been synced, at least in part.
    pub(crate) synced_files: usize,
    pub(crate) bytes: u64,
}

impl Shim {
    /// The shim of a store with this data directory.
    pub(crate) fn of(data_dir: &Path) -> Self {
        let beside = |kind: &str| {
            let mut path = data_dir.to_owned().into_os_string();
            path.push(kind);
            PathBuf::from(path)
        };
        Self {
            data_dir: data_dir.to_owned(),
            ledger: beside(".ledger"),
            fail_sync: beside(".fail-sync"),
            stall_sync: beside(".stall-sync"),
            clock: beside(".clock"),
        }
    }

    /// What makes a process load it. Its clock runs at this rate.
    pub(crate) fn environment(
        &self,
        library: &ShimLibrary,
        clock_rate: f64,
    ) -> [(&'static str, OsString); 7] {
        [
            ("LD_PRELOAD", library.0.clone().into()),
            ("SHIM_DATA_DIR", self.data_dir.clone().into()),
            ("SHIM_LEDGER", self.ledger.clone().into()),
            ("SHIM_FAIL_SYNC", self.fail_sync.clone().into()),
            ("SHIM_STALL_SYNC", self.stall_sync.clone().into()),
            ("SHIM_CLOCK", self.clock.clone().into()),
            ("SHIM_CLOCK_RATE", clock_rate.to_string().into()),
        ]
    }

    pub(crate) fn fail_syncs(&self, fails: bool) {
        switch(&self.fail_sync, fails);
    }

    #[allow(dead_code, reason = "the tests of the server look at such a store")]
    pub(crate) fn stall_syncs(&self, stalls: bool) {
        switch(&self.stall_sync, stalls);
    }

    /// Whether a sync waits for the stall to end.
    #[allow(dead_code, reason = "the tests of the server look at such a store")]
    pub(crate) fn is_stalled(&self) -> bool {
        fs::metadata(&self.stall_sync).is_ok_and(|file| file.len() > 0)
    }

    /// Takes back what the store has not synced. The store must have been killed.
    pub(crate) fn cut_power(&self) -> Lost {
        let mut lost = Lost::default();
        let durable = self.durable_bytes();
        cut(&self.data_dir, &durable, &mut lost);
        lost
    }

    /// How many bytes of each file were synced, by its inode.
    fn durable_bytes(&self) -> HashMap<u64, u64> {
        let ledger = fs::read(&self.ledger).expect("the store had the shim");
        let (records, rest) = ledger.as_chunks::<16>();
        assert!(rest.is_empty(), "each record is written at once");
        let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
        let records = records
            .iter()
            .map(|record| (number(&record[..8]), number(&record[8..])));
        records.collect()
    }

    /// How long the store has run by a clock that is right and by its own, in seconds.
    pub(crate) fn clock(&self) -> (f64, f64) {
        let reading = fs::read(&self.clock).expect("the store had the shim");
        let seconds = |bytes: &[u8]| {
            let nanoseconds = i64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
            nanoseconds as f64 / 1e9
        };
        (seconds(&reading[..8]), seconds(&reading[8..16]))
    }
}

/// Makes or removes a file that the shim looks for.
fn switch(file: &Path, is_on: bool) {
    if is_on {
        File::create(file).expect("the directory can be written");
    } else {
        fs::remove_file(file).expect("it was switched on before");
    }
}

fn cut(directory: &Path, durable: &HashMap<u64, u64>, lost: &mut Lost) {
    for entry in fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("the directory can be read").path();
        let file = fs::metadata(&path).expect("nobody removes it");
        if file.is_dir() {
            cut(&path, durable, lost);
            continue;
        }
        let kept = durable.get(&file.ino()).copied().unwrap_or(0);
        lost.synced_files += usize::from(kept > 0);
        if kept < file.len() {
            let opened = File::options().write(true).open(&path);
            opened
                .and_then(|file| file.set_len(kept))
                .expect("a file can be cut");
            lost.bytes += file.len() - kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::skipped;

    #[test]
    fn a_power_cut_takes_back_what_was_not_synced_and_a_failing_sync_keeps_nothing() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let Some(library) = ShimLibrary::compile(directory.path()) else {
            return skipped("there is no C compiler");
        };
        let data_dir = directory.path().join("data");
        fs::create_dir(&data_dir).expect("the directory can be written");
        let shim = Shim::of(&data_dir);
        let write = |name: &str, arguments: &[&str]| {
            let mut dd = Command::new("dd");
            dd.args(["if=/dev/zero", "bs=100", "count=1", "status=none"])
                .arg(format!("of={}", data_dir.join(name).display()))
                .args(arguments)
                .envs(shim.environment(&library, 1.0));
            dd.status().expect("there is dd").success()
        };
        let append = ["oflag=append", "conv=notrunc"];
        assert!(write("synced", &["conv=fsync"]));
        assert!(write("half", &["conv=fdatasync"]) && write("half", &append));
        assert!(write("never", &[]));
        shim.fail_syncs(true);
        assert!(!write("failed", &["conv=fsync"]));
        shim.fail_syncs(false);
        let lost = shim.cut_power();
        assert_eq!((lost.synced_files, lost.bytes), (2, 300));
        let left = ["synced", "half", "never", "failed"];
        let left = left.map(|name| {
            fs::metadata(data_dir.join(name))
                .expect("it is there")
                .len()
        });
        assert_eq!(left, [100, 100, 0, 0]);
    }
}
