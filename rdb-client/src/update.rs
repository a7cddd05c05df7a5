//! Read, change and swap, until a swap succeeds.
//!
//! A swap whose response got lost is sent again, unchanged. That is safe, since it names the version that it replaces, and
//! no key ever shows a version twice. At most one of the two swaps is applied, and once the second has succeeded or met a
//! conflict, the first can no longer be applied. A conflict of the second swap shows the fate of the first:
//!
//! - The version is the next one, with another value: another writer replaced the old version. The first swap was not
//!   applied, and the update goes on.
//! - The version is the next one, with the same value: the first swap wrote it, or another writer wrote the same. Two
//!   writers that both count from 5 to 6 cannot be told apart. Undetermined.
//! - Anything else: the first swap may have been applied, and its value replaced since. Undetermined.
//!
//! A swap that creates the key cannot name a version. After a deletion the key does not exist again, and the first swap
//! could still create it. So such a swap is not sent twice.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::retry::{Deadline, backoff};
use crate::{Client, Error, Key, Versioned};

/// First bound of the pause after conflicts, and the resolution of the runtime's timers.
const PAUSE_FIRST: Duration = Duration::from_millis(1);

/// Upper bound of every pause. It keeps most attempts of dozens of writers on one key from conflicts.
const PAUSE_MAX: Duration = Duration::from_millis(64);

/// A compare-and-swap whose key and value have been checked.
struct Swap<'a> {
    key: &'a Bytes,
    /// 0: the key must not exist.
    expected_version: u64,
    value: &'a Bytes,
}

/// How a swap ended.
enum Swapped {
    /// It was applied, once.
    Applied {
        /// The key's new version.
        version: u64,
    },
    /// It was not applied, and will not be. This is the present state of the key.
    Refused(Option<Versioned>),
}

impl Client {
    /// Replaces a value of the versioned keyspace by one that `change` makes from it, and returns the new value and version.
    /// `change` gets `None` for a key that does not exist. When another writer was faster, it is called again with that
    /// writer's value.
    ///
    /// ```no_run
    /// # async fn append(client: rdb_client::Client) -> Result<(), rdb_client::Error> {
    /// let written = client.update("log", |current| {
    ///     let mut lines = current.map_or(Vec::new(), |current| current.value.to_vec());
    ///     lines.extend_from_slice(b"one more\n");
    ///     lines
    /// });
    /// println!("version {}", written.await?.version);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The whole update has the client's timeout. After conflicts it pauses for random times.
    ///
    /// # Errors
    ///
    /// [`Error::Undetermined`] when the fate of a swap is unknown and a second swap did not settle it: the last value that
    /// `change` returned may have been written. With any other error nothing was written: [`Error::Conflict`] when other
    /// writers were faster until the deadline; [`Error::InvalidArgument`] when the key or a value exceeds the
    /// [`limits`](Self::limits), or the key is empty.
    pub async fn update<V: Into<Bytes>>(
        &self,
        key: impl Key,
        mut change: impl FnMut(Option<&Versioned>) -> V,
    ) -> Result<Versioned, Error> {
        let deadline = self.deadline();
        let key = self.limits().checked_key(key)?;
        let mut current = self.get_until(key.clone(), deadline).await?;
        let mut conflicts = 0_u32;
        loop {
            let value = self
                .limits()
                .checked_value(change(current.as_ref()).into())?;
            let swap = Swap {
                key: &key,
                expected_version: current.map_or(0, |current| current.version),
                value: &value,
            };
            current = match self.swap_fenced(&swap, deadline).await? {
                Swapped::Applied { version } => return Ok(Versioned { version, value }),
                Swapped::Refused(current) => current,
            };
            conflicts = conflicts.saturating_add(1);
            if !slept(pause(conflicts, fastrand::f64()), deadline).await {
                return Err(conflict(current));
            }
        }
    }

    /// Swaps, and swaps again while the fate of the first swap is unknown; see the module.
    async fn swap_fenced(&self, swap: &Swap<'_>, deadline: Deadline) -> Result<Swapped, Error> {
        let unknown = match self.swap_once(swap, deadline).await {
            Err(error) if !error.is_certain() && swap.expected_version > 0 => error,
            known => return known,
        };
        let mut waits = 0;
        while slept(backoff(waits, fastrand::f64()), deadline).await {
            match self.swap_once(swap, deadline).await {
                Ok(Swapped::Refused(Some(current))) if swap.was_preceded_by(&current) => {
                    return Ok(Swapped::Refused(Some(current)));
                }
                Ok(Swapped::Refused(_)) => return Err(unknown),
                Ok(applied) => return Ok(applied),
                Err(error) if !error.is_certain() => waits += 1,
                // This error is about the second swap only.
                Err(_) => return Err(unknown),
            }
        }
        Err(unknown)
    }

    async fn swap_once(&self, swap: &Swap<'_>, deadline: Deadline) -> Result<Swapped, Error> {
        let (key, value) = (swap.key.clone(), swap.value.clone());
        let swapped = self.swap(key, swap.expected_version, value, deadline);
        match swapped.await {
            Ok(version) => Ok(Swapped::Applied { version }),
            Err(Error::Conflict {
                current_version: 0, ..
            }) => Ok(Swapped::Refused(None)),
            Err(Error::Conflict {
                current_version: version,
                current_value: Some(value),
            }) => Ok(Swapped::Refused(Some(Versioned { version, value }))),
            // The conflict came without the value.
            Err(Error::Conflict { .. }) => {
                let current = self.get_until(swap.key.clone(), deadline).await?;
                Ok(Swapped::Refused(current))
            }
            Err(error) => Err(error),
        }
    }
}

impl Swap<'_> {
    /// Whether another swap has replaced the expected version, as a conflict shows.
    fn was_preceded_by(&self, current: &Versioned) -> bool {
        let next_version = self.expected_version.checked_add(1);
        Some(current.version) == next_version && current.value != *self.value
    }
}

/// The pause after a conflict. A conflict brings the present version, which becomes stale during a pause. So only every
/// other conflict is followed by a pause, of a random length below a bound that doubles. `jitter` is from 0 to 1.
fn pause(conflicts: u32, jitter: f64) -> Duration {
    if conflicts % 2 == 1 {
        return Duration::ZERO;
    }
    let doublings = conflicts / 2 - 1;
    let doubled = PAUSE_FIRST.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
    doubled.min(PAUSE_MAX).mul_f64(jitter)
}

/// Sleeps and returns true, unless the deadline would come before the end of the pause.
async fn slept(pause: Duration, deadline: Deadline) -> bool {
    let fits = pause < deadline.remaining();
    if fits && !pause.is_zero() {
        sleep(pause).await;
    }
    fits
}

fn conflict(current: Option<Versioned>) -> Error {
    Error::Conflict {
        current_version: current.as_ref().map_or(0, |current| current.version),
        current_value: current.map(|current| current.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_conflict_is_followed_by_a_pause_that_doubles_up_to_its_bound() {
        let longest: Vec<u128> = (1..=20).map(|n| pause(n, 1.0).as_millis()).collect();
        let expected = [
            0, 1, 0, 2, 0, 4, 0, 8, 0, 16, 0, 32, 0, 64, 0, 64, 0, 64, 0, 64,
        ];
        assert_eq!(longest, expected);
        assert_eq!(pause(u32::MAX - 1, 0.5), PAUSE_MAX / 2);
    }
}
