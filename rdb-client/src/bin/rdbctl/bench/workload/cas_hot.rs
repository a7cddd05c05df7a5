//! `cas-hot`: all callers swap one key; an operation ends when its swap succeeded.
//!
//! What a caller does after a conflict decides both how much work is wasted and who gets a turn. A conflict brings the
//! present version, which is soon outdated: a caller that sleeps first wakes up with an old one, and a caller that has
//! just succeeded would always win against sleepers. So after an odd conflict (its first, third, …) a caller tries again at
//! once, with the version that the conflict brought. After an even one too many callers are trying, so it pauses for a
//! random time, up to a bound that doubles each time ([`BACKOFF_MIN`] to `--backoff-max`). The attempt after the pause
//! usually conflicts. That costs as much as a read, and brings the version for the next attempt.
//!
//! `--backoff-max` has to grow with the callers and with what an attempt costs: with 64 callers, attempts of 100
//! microseconds of processor time and syncs of 350, most attempts are wasted at 16 ms and few at 64 ms.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use rdb_client::{Client, Error};

use super::{Caller, Done};
use crate::bench::recorder::OperationError;
use crate::bench::values::Values;

const HOT_KEY: &str = "bench/hot";

/// First bound of the pause. The runtime's timers are no finer.
const BACKOFF_MIN: Duration = Duration::from_millis(1);

/// Makes the key if it is not there, and says which version it has.
pub(crate) async fn create_hot_key(client: &Client) -> Result<u64, Error> {
    match client.cas_put(HOT_KEY, 0, Bytes::new()).await {
        Ok(version) => Ok(version),
        Err(Error::Conflict {
            current_version, ..
        }) => Ok(current_version),
        Err(error) => Err(error),
    }
}

pub(crate) struct CasHotCaller {
    pub(crate) client: Client,
    pub(crate) values: Values,
    pub(crate) rng: Rng,
    pub(crate) backoff_max: Duration,
    /// The version that this caller has seen last.
    pub(crate) version: u64,
}

impl Caller for CasHotCaller {
    async fn operate(&mut self) -> Result<Done, OperationError> {
        let mut conflicts = 0;
        loop {
            let value = self.values.next(&mut self.rng);
            match self.client.cas_put(HOT_KEY, self.version, value).await {
                Ok(version) => {
                    self.version = version;
                    return Ok(Done { conflicts });
                }
                Err(Error::Conflict {
                    current_version, ..
                }) => {
                    self.version = current_version;
                    conflicts += 1;
                    self.back_off(conflicts).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl CasHotCaller {
    async fn back_off(&mut self, conflicts: u64) {
        if conflicts % 2 == 1 {
            return;
        }
        let doublings = (conflicts / 2 - 1).min(16) as u32;
        let bound = (BACKOFF_MIN * 2_u32.pow(doublings)).min(self.backoff_max);
        if !bound.is_zero() {
            tokio::time::sleep(bound.mul_f64(self.rng.f64())).await;
        }
    }
}
