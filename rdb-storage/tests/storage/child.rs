//! Other processes: this test binary starts itself again, to run one ignored test that does its work only when it is
//! told a directory.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const DIRECTORY: &str = "RDB_TEST_DIRECTORY";

/// Starts `test` in another process, on `directory`. What it prints can be read from the child's standard output.
pub(crate) fn spawn(test: &str, directory: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// In the child: its directory. `None`: the test was not started by [`spawn`] and has nothing to do.
pub(crate) fn directory() -> Option<PathBuf> {
    env::var_os(DIRECTORY).map(PathBuf::from)
}
