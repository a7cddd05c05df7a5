//! Where logs are kept.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::Batch;

/// An ordered map from keys to values that survives a crash: the boundary between the logs and what stores them.
///
/// One thread writes, any number of threads read. All methods may block.
///
/// A crash keeps every batch up to the last one that was written with `sync`, and a prefix of the batches after it. A batch
/// is kept as a whole or not at all.
///
/// Errors are final for the writer: after one of [`LogDevice::write`] or [`LogDevice::background_error`] it writes nothing
/// more.
pub trait LogDevice: Send + Sync + 'static {
    /// Makes the changes of a batch, in order. When it returns, reads see all of them. With `sync`, they and all earlier
    /// ones are durable, too.
    ///
    /// # Errors
    ///
    /// Any failure. The batch may or may not have been written.
    fn write(&self, batch: &Batch, sync: bool) -> io::Result<()>;

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// When the device cannot be read.
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Calls `visit` with the keys from `start` up to but not including `end` and their values, in key order and as of one
    /// moment, until it breaks.
    ///
    /// # Errors
    ///
    /// When the device cannot be read.
    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> io::Result<()>;

    /// The last key from `start` up to but not including `end`, and its value.
    ///
    /// # Errors
    ///
    /// When the device cannot be read.
    fn last(&self, start: &[u8], end: &[u8]) -> io::Result<Option<(Vec<u8>, Bytes)>>;

    /// A failure that no write has returned. The writer asks now and then.
    fn background_error(&self) -> Option<String>;
}

/// What a scan calls with a key and its value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;
