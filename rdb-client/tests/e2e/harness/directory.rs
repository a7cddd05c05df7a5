//! Data directories.

use std::fs;
use std::path::{Path, PathBuf};

/// Copies the files of a directory, and those of its directories, to one that may be there.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the copy can be made");
    for entry in fs::read_dir(from).expect("the directory can be read") {
        let entry = entry.expect("the directory can be read");
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_directory(&source, &target);
        } else {
            fs::copy(source, target).expect("a file can be copied");
        }
    }
}

/// Changes a bit in the middle of the largest table of a database, which has at least so many bytes.
pub(crate) fn damage_largest_table(database: &Path, least_bytes: usize) {
    let entries = fs::read_dir(database).expect("the database is there");
    let tables = entries.map(|entry| entry.expect("it can be read").path());
    let tables = tables.filter(|path| path.extension().is_some_and(|name| name == "sst"));
    let length = |table: &PathBuf| fs::metadata(table).expect("it is there").len();
    let largest = tables.max_by_key(length).expect("it was flushed");
    let mut bytes = fs::read(&largest).expect("it can be read");
    assert!(bytes.len() >= least_bytes, "a table of {}", bytes.len());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(largest, bytes).expect("it can be written");
}
