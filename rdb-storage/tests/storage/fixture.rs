//! Settings, directories and short ways of saying things that several modules need.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use bytes::Bytes;
use rdb_storage::{
    Command, Durability, Error, KeyValue, OpenError, PointRead, PointValue, Reader, Role,
    ScanRange, Storage, StorageOptions, Submission,
};

/// Synced writes, small caches, no reserve.
pub(crate) fn synced() -> StorageOptions {
    StorageOptions {
        block_cache_bytes: 8 << 20,
        disk_reserve_bytes: 0,
        replicated: true,
        ..StorageOptions::new(Role::Embedded)
    }
}

/// The same without waiting for the disk.
pub(crate) fn unsynced() -> StorageOptions {
    StorageOptions {
        durability: Durability::Os,
        ..synced()
    }
}

/// Memtables so small that they are flushed all the time.
pub(crate) fn flushing() -> StorageOptions {
    StorageOptions {
        write_buffer_bytes: 64 << 10,
        ..unsynced()
    }
}

pub(crate) fn open(directory: &Path, options: &StorageOptions) -> Storage {
    Storage::open(directory, options.clone()).unwrap()
}

/// The error of an open that has to fail.
pub(crate) fn refused(directory: &Path, options: &StorageOptions) -> OpenError {
    match Storage::open(directory, options.clone()) {
        Ok(_) => panic!("{} was opened", directory.display()),
        Err(error) => error,
    }
}

pub(crate) fn invalid_field<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    match result {
        Err(Error::InvalidArgument { field, .. }) => field,
        other => panic!("expected an invalid argument, got {other:?}"),
    }
}

/// A submission of one command for region 1.
pub(crate) fn single(command: Command) -> Submission {
    Submission::new(1, vec![command])
}

pub(crate) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
    Command::PutRaw {
        key: key.into(),
        value: value.into(),
    }
}

pub(crate) fn swap(
    key: impl Into<Bytes>,
    expected_version: u64,
    value: impl Into<Bytes>,
) -> Command {
    Command::CompareAndSwap {
        key: key.into(),
        expected_version,
        value: value.into(),
    }
}

pub(crate) fn remove(key: impl Into<Bytes>, expected_version: u64) -> Command {
    Command::CompareAndDelete {
        key: key.into(),
        expected_version,
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut noise = vec![0; bytes];
    random.fill(&mut noise);
    noise.into()
}

/// Reads a raw value for which there is any room.
pub(crate) async fn read_raw(reader: &Reader, key: Bytes) -> Result<Option<Bytes>, Error> {
    match reader
        .read(PointRead::raw(key).unwrap(), usize::MAX)
        .await?
    {
        PointValue::Raw(value) => Ok(value),
        other => panic!("{other:?}"),
    }
}

/// All of the raw keyspace, page by page.
pub(crate) fn all_raw(storage: &Storage) -> Result<Vec<KeyValue>, Error> {
    let mut range = ScanRange::default();
    let mut entries = Vec::new();
    loop {
        let page = storage.scan_raw(&range)?;
        entries.extend(page.entries);
        match page.resume_key {
            Some(resume_key) => range.start_key = resume_key,
            None => return Ok(entries),
        }
    }
}

/// RocksDB's files of a data directory whose names end with `suffix`, by name.
pub(crate) fn database_files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    files_of(&directory.join("db"), suffix)
}

/// The same of a directory of RocksDB.
pub(crate) fn files_of(database: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(database).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| path.to_str().unwrap().ends_with(suffix))
        .collect();
    files.sort();
    files
}

/// Takes the names of the next table files, so that no flush succeeds: RocksDB cannot create a file where there is a
/// directory.
pub(crate) fn occupy_table_files(directory: &Path) -> Vec<PathBuf> {
    occupy_table_files_of(&directory.join("db"))
}

/// The same in a directory of RocksDB.
pub(crate) fn occupy_table_files_of(database: &Path) -> Vec<PathBuf> {
    let names = (1..100).map(|number| database.join(format!("{number:06}.sst")));
    let taken: Vec<_> = names.filter(|name| !name.exists()).collect();
    for name in &taken {
        fs::create_dir(name).unwrap();
    }
    taken
}

/// Gives the names back.
pub(crate) fn free_table_files(taken: Vec<PathBuf>) {
    for name in taken {
        fs::remove_dir(name).unwrap();
    }
}

/// The settings that RocksDB noted at the last open, each as `name=value`.
pub(crate) fn noted_options(directory: &Path) -> Vec<String> {
    noted_options_of(&directory.join("db"))
}

/// The same in a directory of RocksDB.
pub(crate) fn noted_options_of(database: &Path) -> Vec<String> {
    let files = files_of(database, "").into_iter().filter(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.starts_with("OPTIONS")
    });
    let noted = fs::read_to_string(files.max().unwrap()).unwrap();
    noted.lines().map(|line| line.trim().to_owned()).collect()
}

/// A copy of a data directory that nobody has open.
pub(crate) fn copy_of(directory: &Path) -> tempfile::TempDir {
    copy_of_files(files(directory))
}

/// A copy of a data directory that is open and not written to, once RocksDB changes nothing there any more: after a flush it deletes files
/// in the background. What a crash at that moment would leave.
pub(crate) fn copy_of_open(directory: &Path) -> tempfile::TempDir {
    loop {
        let twice = try_files(directory).and_then(|before| Ok((before, try_files(directory)?)));
        match twice {
            Ok((before, after)) if before == after => return copy_of_files(after),
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
        }
    }
}

fn copy_of_files(files: BTreeMap<PathBuf, Vec<u8>>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (file, contents) in files {
        let target = copy.path().join(file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, contents).unwrap();
    }
    copy
}

/// Every file below `directory` with its contents.
pub(crate) fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    try_files(directory).unwrap()
}

fn try_files(directory: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let contents = fs::read(&path)?;
                files.insert(path.strip_prefix(directory).unwrap().to_owned(), contents);
            }
        }
    }
    Ok(files)
}

/// Flips one bit of a file.
pub(crate) fn flip_bit(file: &Path, offset: usize) {
    let mut contents = fs::read(file).unwrap();
    contents[offset] ^= 0x10;
    fs::write(file, contents).unwrap();
}

/// Cuts a file off.
pub(crate) fn truncate(file: &Path, bytes: u64) {
    let file = fs::File::options().write(true).open(file).unwrap();
    file.set_len(bytes).unwrap();
}

/// A runtime whose only thread drives tasks; `blocking_threads` may wait for the disk.
pub(crate) fn one_worker(blocking_threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(blocking_threads)
        .build()
        .unwrap()
}
