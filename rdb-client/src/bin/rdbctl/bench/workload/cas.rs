//! `cas`: compare-and-swap. Each caller cycles through keys that no other caller of the run touches.
//!
//! So there are no conflicts, unless something else writes these keys; the caller then takes the version that the
//! conflict reports and swaps again at once.

use fastrand::Rng;
use rdb_client::{Client, Error};

use super::{Caller, Done};
use crate::bench::keys::key;
use crate::bench::recorder::OperationError;
use crate::bench::values::Values;

/// A key and its version, `None` as long as it is not known.
pub(crate) type OwnedKey = (u64, Option<u64>);

pub(crate) struct CasCaller {
    client: Client,
    values: Values,
    rng: Rng,
    keys: Vec<OwnedKey>,
    next: usize,
}

impl CasCaller {
    /// `keys` must not be empty. They are taken in random order, as uniformly chosen keys would be.
    pub(crate) fn new(
        client: Client,
        values: Values,
        mut rng: Rng,
        mut keys: Vec<OwnedKey>,
    ) -> Self {
        rng.shuffle(&mut keys);
        Self {
            client,
            values,
            rng,
            keys,
            next: 0,
        }
    }
}

impl Caller for CasCaller {
    async fn operate(&mut self) -> Result<Done, OperationError> {
        let (number, known_version) = self.keys[self.next];
        let key = key(number);
        let mut version = match known_version {
            Some(version) => version,
            None => {
                let entry = self.client.get(key).await?;
                entry.map_or(0, |entry| entry.version)
            }
        };
        let mut conflicts = 0;
        let version = loop {
            let value = self.values.next(&mut self.rng);
            match self.client.cas_put(key, version, value).await {
                Ok(version) => break version,
                Err(Error::Conflict {
                    current_version, ..
                }) => {
                    version = current_version;
                    conflicts += 1;
                }
                Err(error) => return Err(error.into()),
            }
        };
        self.keys[self.next] = (number, Some(version));
        self.next = (self.next + 1) % self.keys.len();
        Ok(Done { conflicts })
    }
}
