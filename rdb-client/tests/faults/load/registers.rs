//! Clients that read and write single keys of both keyspaces, and record what they see.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use rdb_client::{Client, Error, Versioned};

use super::{Worker, answered, may_be_applied, nanoseconds_since};
use crate::history::{Call, Entry, History, Outcome, RawCall, VersionedCall};

/// Keys of each keyspace.
const KEYS: usize = 10;

/// Who reads everything at the end.
const LAST_READER: u32 = 1000;

/// Returns how many writes have no known fate.
pub(super) async fn run(worker: Worker, only_reads: bool) -> usize {
    let mut client = Registering {
        worker,
        unknown: 0,
        written: 0,
        versions: HashMap::new(),
    };
    while client.worker.goes_on().await {
        let dice = if only_reads {
            0
        } else {
            client.worker.random.u8(0..100)
        };
        let (is_raw, key) = (
            client.worker.random.bool(),
            client.worker.random.usize(0..KEYS),
        );
        let answered = match (is_raw, dice) {
            (true, 0..45) => client.get(raw_key(key)).await,
            (true, 45..85) => client.put(raw_key(key)).await,
            (true, _) => client.delete(raw_key(key)).await,
            (false, 0..35) => client.read(versioned_key(key)).await,
            (false, 35..80) => client.swap(versioned_key(key)).await,
            (false, _) => client.remove(versioned_key(key)).await,
        };
        if answered {
            client.worker.done();
        }
    }
    client.unknown
}

/// Reads every key.
pub(super) async fn read_all(client: &Client, began: Instant) -> History {
    let mut history = History::default();
    for key in 0..KEYS {
        let (key, start) = (raw_key(key), nanoseconds_since(began));
        let found = answered(async || client.raw_get(&key).await).await;
        let found = found.as_ref().map(number);
        history.raw.push(Call {
            client: LAST_READER,
            key,
            began: start,
            ended: nanoseconds_since(began),
            did: RawCall::Get { found },
        });
    }
    for key in 0..KEYS {
        let (key, start) = (versioned_key(key), nanoseconds_since(began));
        let found = answered(async || client.get(&key).await).await;
        let found = found.as_ref().map(entry);
        history.versioned.push(Call {
            client: LAST_READER,
            key,
            began: start,
            ended: nanoseconds_since(began),
            did: VersionedCall::Get { found },
        });
    }
    history
}

struct Registering {
    worker: Worker,
    unknown: usize,
    written: u64,
    /// The version of each key that was seen last.
    versions: HashMap<String, u64>,
}

/// Each call returns whether it was answered.
impl Registering {
    async fn get(&mut self, key: String) -> bool {
        let began = self.worker.now();
        match self.worker.client.raw_get(&key).await {
            Ok(found) => {
                let found = found.as_ref().map(number);
                self.raw(key, began, RawCall::Get { found })
            }
            Err(error) => self.refused(&error),
        }
    }

    async fn put(&mut self, key: String) -> bool {
        let (value, began) = (self.next_value(), self.worker.now());
        let put = self.worker.client.raw_put(&key, value.to_string()).await;
        match put {
            Err(error) if !may_be_applied(&error) => false,
            put => {
                let is_known = put.is_ok();
                self.raw(key, began, RawCall::Put { value, is_known })
            }
        }
    }

    async fn delete(&mut self, key: String) -> bool {
        let began = self.worker.now();
        match self.worker.client.raw_delete(&key).await {
            Err(error) if !may_be_applied(&error) => false,
            deleted => {
                let is_known = deleted.is_ok();
                self.raw(key, began, RawCall::Delete { is_known })
            }
        }
    }

    async fn read(&mut self, key: String) -> bool {
        let began = self.worker.now();
        match self.worker.client.get(&key).await {
            Ok(found) => {
                let found = found.as_ref().map(entry);
                self.saw(&key, found.map_or(0, |entry| entry.version));
                self.versioned(key, began, VersionedCall::Get { found })
            }
            Err(error) => self.refused(&error),
        }
    }

    async fn swap(&mut self, key: String) -> bool {
        let expected = self.expected(&key);
        let (value, began) = (self.next_value(), self.worker.now());
        let swapped = self
            .worker
            .client
            .cas_put(&key, expected, value.to_string());
        let Some(outcome) = self.outcome(&key, swapped.await) else {
            return false;
        };
        let did = VersionedCall::Swap {
            expected,
            value,
            outcome,
        };
        self.versioned(key, began, did)
    }

    async fn remove(&mut self, key: String) -> bool {
        let expected = self.expected(&key);
        if expected == 0 {
            return self.read(key).await;
        }
        let began = self.worker.now();
        let removed = self.worker.client.cas_delete(&key, expected).await;
        let Some(outcome) = self.outcome(&key, removed.map(|()| 0)) else {
            return false;
        };
        self.versioned(key, began, VersionedCall::Delete { expected, outcome })
    }

    fn outcome(&mut self, key: &str, written: Result<u64, Error>) -> Option<Outcome> {
        let outcome = match written {
            Ok(version) => Outcome::Done(version),
            Err(Error::Conflict {
                current_version,
                current_value,
            }) => Outcome::Conflict {
                version: current_version,
                value: current_value.as_ref().map(number),
            },
            Err(error) => {
                return may_be_applied(&error).then_some(Outcome::Unknown { seen_as: None });
            }
        };
        // A version of a value that is not known is not used: nobody could tell whose it is.
        if let Outcome::Done(version)
        | Outcome::Conflict {
            version,
            value: Some(_),
        } = outcome
        {
            self.saw(key, version);
        } else {
            self.saw(key, 0);
        }
        Some(outcome)
    }

    fn refused(&self, error: &Error) -> bool {
        assert!(!may_be_applied(error), "a read");
        false
    }

    fn expected(&self, key: &str) -> u64 {
        self.versions.get(key).copied().unwrap_or(0)
    }

    fn saw(&mut self, key: &str, version: u64) {
        self.versions.insert(key.to_owned(), version);
    }

    fn next_value(&mut self) -> u64 {
        self.written += 1;
        (self.worker.number as u64 + 1) * 1_000_000_000 + self.written
    }

    fn raw(&mut self, key: String, began: u64, did: RawCall) -> bool {
        let is_known = did.is_known();
        let call = self.call(key, began, did);
        self.worker.history().raw.push(call);
        self.count(is_known)
    }

    fn versioned(&mut self, key: String, began: u64, did: VersionedCall) -> bool {
        let is_known = did.is_known();
        let call = self.call(key, began, did);
        self.worker.history().versioned.push(call);
        self.count(is_known)
    }

    fn call<C>(&self, key: String, began: u64, did: C) -> Call<C> {
        Call {
            client: u32::try_from(self.worker.number).expect("there are a few"),
            key,
            began,
            ended: self.worker.now(),
            did,
        }
    }

    fn count(&mut self, is_known: bool) -> bool {
        self.unknown += usize::from(!is_known);
        is_known
    }
}

fn raw_key(number: usize) -> String {
    format!("raw-{number}")
}

fn versioned_key(number: usize) -> String {
    format!("versioned-{number}")
}

fn number(value: &Bytes) -> u64 {
    let text = str::from_utf8(value).ok();
    let number = text.and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("VIOLATION: nobody wrote {value:?}"))
}

fn entry(versioned: &Versioned) -> Entry {
    Entry {
        version: versioned.version,
        value: number(&versioned.value),
    }
}
