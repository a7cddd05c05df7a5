//! Room for file descriptors: connections and RocksDB's files share one limit of the process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What a process needs beside its connections: RocksDB's files, and its own.
const FILES_BESIDE_CONNECTIONS: u64 = 1024;

/// Raises the soft limit of open files to the hard one, and warns when that is too low for `connections_max`
/// connections beside the files of a store. Out of descriptors, RocksDB could not write and would stop.
pub fn raise_open_files_limit(connections_max: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let needed = connections_max as u64 + FILES_BESIDE_CONNECTIONS;
    if let Some(open_files_max) = getrlimit(Resource::Nofile).current
        && open_files_max < needed
    {
        tracing::warn!(
            open_files_max,
            needed,
            "too few open files are allowed for that many connections; raise `ulimit -n` or lower the connections"
        );
    }
}
