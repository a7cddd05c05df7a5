//! The device of a store: the log database of its data directory.

use std::io;

use bytes::Bytes;
use rdb_storage::{Error, LogBatch, LogDatabase};

use super::{Batch, Change, LogDevice, Visit};

impl LogDevice for LogDatabase {
    fn write(&self, batch: &Batch, sync: bool) -> io::Result<()> {
        let mut changes = LogBatch::default();
        for change in batch.changes() {
            match change {
                Change::Put { key, value } => changes.put(key, value),
                Change::Delete { key } => changes.delete(key),
                Change::DeleteRange { start, end } => changes.delete_range(start, end),
            }
        }
        self.write(changes, sync).map_err(failed)
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.get(key).map_err(failed)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        self.scan(start, end, visit).map_err(failed)
    }

    fn last(&self, start: &[u8], end: &[u8]) -> io::Result<Option<(Vec<u8>, Bytes)>> {
        self.last(start, end).map_err(failed)
    }

    fn background_error(&self) -> Option<String> {
        self.background_error()
    }
}

fn failed(error: Error) -> io::Error {
    match error {
        // The log stops, so nobody asks for the fate of this write.
        Error::Undetermined { cause } => io::Error::other(cause),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_failed_is_told_by_its_cause_alone() {
        let cause = "writing the Raft log: IO error: No space left on device";
        let error = failed(Error::Undetermined {
            cause: cause.to_owned(),
        });
        assert_eq!(error.to_string(), cause);
    }
}
