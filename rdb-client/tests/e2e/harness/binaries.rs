//! Finding the binaries under test: cargo puts them beside the directory of the test executables.

use std::path::PathBuf;

/// The path of a binary or an example (`examples/NAME`) of this workspace, built with this test's own profile; or in the
/// directory `RDB_BIN_DIR`, for trying another build.
pub(crate) fn binary(name: &str) -> PathBuf {
    let directory = match std::env::var_os("RDB_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let test = std::env::current_exe().expect("a running test has a path");
            let profile_dir = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
            profile_dir.to_owned()
        }
    };
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is missing; build it with: cargo build --workspace --all-features, and with --examples",
        path.display()
    );
    path
}
