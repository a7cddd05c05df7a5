//! Single keys, read and written in some proportion: `raw-put`, `raw-get`, `mixed` and YCSB's A, B and C.

use std::sync::Arc;

use fastrand::Rng;

use super::{Caller, Done};
use crate::bench::keys::{KeyChooser, key};
use crate::bench::recorder::OperationError;
use crate::bench::target::Target;
use crate::bench::values::Values;

pub(crate) struct PointCaller {
    pub(crate) target: Target,
    pub(crate) chooser: Arc<KeyChooser>,
    pub(crate) values: Values,
    pub(crate) read_ratio: f64,
    pub(crate) rng: Rng,
}

impl Caller for PointCaller {
    async fn operate(&mut self) -> Result<Done, OperationError> {
        let key = key(self.chooser.choose(&mut self.rng));
        if self.rng.f64() < self.read_ratio {
            // Finding nothing is cheaper than finding something, so it is no result.
            if self.target.get(key).await?.is_none() {
                return Err(OperationError {
                    kind: "not found".to_owned(),
                    message: "a key that should have been loaded does not exist".to_owned(),
                });
            }
        } else {
            let value = self.values.next(&mut self.rng);
            self.target.put(key, value).await?;
        }
        Ok(Done::default())
    }
}
