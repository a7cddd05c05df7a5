//! Tests that cannot run everywhere.

use std::fs::File;
use std::io::Write;
use std::{env, thread};

/// Notes that the running test cannot do its work on this machine. It passes then, unless `RDB_REQUIRE_ALL_TESTS` is set;
/// the line goes to the file `RDB_SKIPPED_TESTS`, where that is set, so that a summary can show it.
pub(crate) fn skipped(why: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("skipped: {name}: {why}");
    if let Some(file) = env::var_os("RDB_SKIPPED_TESTS") {
        let file = File::options().create(true).append(true).open(file);
        let mut file = file.expect("RDB_SKIPPED_TESTS names a file that can be written");
        writeln!(file, "{line}").expect("the file can be written");
    }
    assert!(
        env::var_os("RDB_REQUIRE_ALL_TESTS").is_none(),
        "{line}; RDB_REQUIRE_ALL_TESTS is set: give the test what it lacks, often root, or unset it"
    );
    println!("{line}");
}
