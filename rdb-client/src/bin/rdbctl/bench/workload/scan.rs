//! `scan`: raw entries from a random key on, a page at a time.

use std::sync::Arc;

use fastrand::Rng;
use futures::TryStreamExt;
use rdb_client::{Client, ScanOptions};

use super::{Caller, Done};
use crate::bench::keys::{KeyChooser, key};
use crate::bench::recorder::OperationError;

pub(crate) struct ScanCaller {
    pub(crate) client: Client,
    pub(crate) chooser: Arc<KeyChooser>,
    pub(crate) limit: usize,
    pub(crate) rng: Rng,
}

impl Caller for ScanCaller {
    async fn operate(&mut self) -> Result<Done, OperationError> {
        let start = key(self.chooser.choose(&mut self.rng));
        let options = ScanOptions::default().with_limit(self.limit);
        let mut entries = self.client.raw_scan(start.as_slice().., options);
        let mut found = 0;
        while entries.try_next().await?.is_some() {
            found += 1;
        }
        if found == 0 {
            return Err(OperationError {
                kind: "not found".to_owned(),
                message: "a scan that begins at a loaded key found nothing".to_owned(),
            });
        }
        Ok(Done::default())
    }
}
