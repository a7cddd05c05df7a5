//! What `shim.c` does to a store in which it is loaded.
//!
//! - *A power cut* takes back what was not synced. The shim notes how far each file of the store was synced, and after the
//!   store was killed [`Shim::cut_power`] cuts its files there. Directories are taken to be synced always.
//! - *Syncs fail* while [`Shim::fail_syncs`] says so.
//! - *Syncs wait* from [`Shim::hold_syncs`] until they are released or the power is cut, so that there is something to lose.
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

/// The folder of the Raft log in a data directory.
const RAFT_LOG: &str = "raft";

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
    hold_sync: PathBuf,
    clock: PathBuf,
}

/// What a power cut took.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Lost {
    /// Files that had been synced, at least in part.
    pub(crate) synced_files: usize,
    pub(crate) bytes: u64,
    /// Those of the Raft log. There are others that no store ever syncs.
    pub(crate) log_bytes: u64,
}

/// The last file of a Raft log that is not empty, and its length.
pub(crate) type LogEnd = Option<(PathBuf, u64)>;

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
            hold_sync: beside(".hold-sync"),
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
            ("SHIM_HOLD_SYNC", self.hold_sync.clone().into()),
            ("SHIM_CLOCK", self.clock.clone().into()),
            ("SHIM_CLOCK_RATE", clock_rate.to_string().into()),
        ]
    }

    pub(crate) fn fail_syncs(&self, fails: bool) {
        switch(&self.fail_sync, fails);
    }

    /// Has syncs wait from now on, until they are released or the power is cut. Returns where the Raft log ends.
    pub(crate) fn hold_syncs(&self) -> LogEnd {
        switch(&self.hold_sync, true);
        self.log_end()
    }

    pub(crate) fn release_syncs(&self) {
        switch(&self.hold_sync, false);
    }

    /// Whether there is something in the Raft log that cannot become durable since syncs wait: a sync of it waits, or it has grown since.
    pub(crate) fn has_unsynced_log(&self, held_at: &LogEnd) -> bool {
        let waiting = fs::read_to_string(&self.hold_sync).expect("syncs wait");
        let mut waiting = waiting.lines().map(Path::new);
        waiting.any(is_raft_log) || self.log_end() > *held_at
    }

    fn log_end(&self) -> LogEnd {
        let files = fs::read_dir(self.data_dir.join(RAFT_LOG)).ok()?.flatten();
        let files = files.filter(|file| is_raft_log(&file.path()));
        // The store may remove one meanwhile.
        let lengths = files.filter_map(|file| Some((file.path(), file.metadata().ok()?.len())));
        lengths.filter(|(_, length)| *length > 0).max()
    }

    /// Takes back what the store has not synced. The store must have been killed.
    pub(crate) fn cut_power(&self) -> Lost {
        let mut lost = Lost::default();
        let durable = self.durable_bytes();
        cut(&self.data_dir, &durable, &mut lost);
        if self.hold_sync.exists() {
            switch(&self.hold_sync, false);
        }
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
            if is_raft_log(&path) {
                lost.log_bytes += file.len() - kept;
            }
        }
    }
}

/// Whether it is a file that RocksDB writes the batches of the Raft log to. Their names have an order.
fn is_raft_log(path: &Path) -> bool {
    let is_in_folder = path
        .parent()
        .is_some_and(|folder| folder.ends_with(RAFT_LOG));
    is_in_folder && path.extension().is_some_and(|kind| kind == "log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::skipped;

    /// The library, and an empty data directory. `None`: the test is skipped.
    fn compiled(directory: &Path) -> Option<(ShimLibrary, PathBuf)> {
        let Some(library) = ShimLibrary::compile(directory) else {
            skipped("there is no C compiler");
            return None;
        };
        let data_dir = directory.join("data");
        fs::create_dir(&data_dir).expect("the directory can be written");
        Some((library, data_dir))
    }

    #[test]
    fn a_power_cut_takes_back_what_was_not_synced_and_a_failing_or_waiting_sync_keeps_nothing() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let Some((library, data_dir)) = compiled(directory.path()) else {
            return;
        };
        let shim = Shim::of(&data_dir);
        let dd = |name: &str, arguments: &[&str]| {
            let mut dd = Command::new("dd");
            dd.args(["if=/dev/zero", "bs=100", "count=1", "status=none"])
                .arg(format!("of={}", data_dir.join(name).display()))
                .args(arguments)
                .envs(shim.environment(&library, 1.0));
            dd
        };
        let write = |name: &str, arguments: &[&str]| {
            let status = dd(name, arguments).status();
            status.expect("there is dd").success()
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

        fs::create_dir(data_dir.join(RAFT_LOG)).expect("the directory can be written");
        let held_at = shim.hold_syncs();
        let waiting = dd("raft/1.log", &["conv=fsync"]).spawn();
        let mut waiting = waiting.expect("there is dd");
        while !shim.has_unsynced_log(&held_at) {
            let ended = waiting.try_wait().expect("a child can be asked");
            assert_eq!(ended, None, "it waits");
        }
        waiting.kill().expect("a child can be killed");
        waiting.wait().expect("a child can be waited for");
        assert_eq!(shim.cut_power().log_bytes, 100);
        assert!(write("raft/2.log", &["conv=fsync"]), "syncs wait no more");
    }

    #[test]
    fn a_file_that_is_replaced_leaves_nothing_durable_to_the_next_one_with_its_inode() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let Some((library, data_dir)) = compiled(directory.path()) else {
            return;
        };
        let shim = Shim::of(&data_dir);
        let file = data_dir.join("file");
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).arg(&file);
            command.envs(shim.environment(&library, 1.0));
            let status = command.status().expect("there is such a program");
            assert!(status.success(), "{program}");
        };
        fs::write(&file, "before").expect("the directory can be written");
        let inode = fs::metadata(&file).expect("it is there").ino();
        run("sync", &["--data"]);
        assert_eq!(shim.durable_bytes().get(&inode), Some(&6));
        // It renames another file to this one.
        run("sed", &["--in-place", "s/before/after/"]);
        assert_ne!(fs::metadata(&file).expect("it is there").ino(), inode);
        assert_eq!(shim.durable_bytes().get(&inode), Some(&0));
    }
}
