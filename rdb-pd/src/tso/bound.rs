//! The durable bound of timestamps.

use bytes::Bytes;
use rdb_storage::limits::EMBEDDED_REGION_ID;
use rdb_storage::{Command, Error, Storage, Submission};

use crate::error::PdError;
use crate::keys;

/// How far ahead of the present time the bound is moved, in milliseconds. After a restart, timestamps start at most this far
/// in the future.
pub(super) const WINDOW_MS: u64 = 3_000;

/// Persists the bound. Once `persist` has returned `Ok`, every later process reads at least that bound.
pub trait BoundStore: Send + Sync + 'static {
    /// Makes `bound_ms` durable.
    fn persist(&self, bound_ms: u64) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The bound in the placement driver's storage.
#[derive(Clone)]
pub struct StorageBound {
    storage: Storage,
}

impl StorageBound {
    /// Keeps the bound in `storage`, which has to sync its writes.
    pub fn new(storage: Storage) -> Self {
        Self { storage }
    }

    /// The bound of earlier processes; `None` when there was none. Blocks.
    ///
    /// # Errors
    ///
    /// When the storage cannot be read, or holds something else.
    pub fn load(&self) -> Result<Option<u64>, PdError> {
        let stored = self.storage.get_raw(keys::TSO_BOUND)?;
        let damaged = PdError::Damaged {
            what: "bound of timestamps",
        };
        stored
            .map(|bytes| keys::decode_u64(&bytes).ok_or(damaged))
            .transpose()
    }
}

impl BoundStore for StorageBound {
    async fn persist(&self, bound_ms: u64) -> Result<(), Error> {
        let command = Command::PutRaw {
            key: Bytes::from_static(keys::TSO_BOUND),
            value: keys::encode_u64(bound_ms),
        };
        self.storage
            .submit(Submission::new(EMBEDDED_REGION_ID, vec![command]))?
            .await?;
        Ok(())
    }
}
