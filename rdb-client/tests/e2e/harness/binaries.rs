//! Finding the binaries under test: cargo puts them beside the directory of the test executables.

use std::path::PathBuf;

/// The path of a binary or an example (`examples/NAME`) of this workspace, built with this test's own profile.
pub(crate) fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let profile_dir = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let path = profile_dir.join(name);
    assert!(
        path.is_file(),
        "{} is missing; build it with: cargo build --workspace --all-features, and with --examples",
        path.display()
    );
    path
}
