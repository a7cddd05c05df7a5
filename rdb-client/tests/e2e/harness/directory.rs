//! Data directories.

use std::fs;
use std::path::Path;

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
