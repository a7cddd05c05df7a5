//! Requests for many keys, split by region.
//!
//! A round groups the remaining keys by region and sends each group as one request. Groups are sent concurrently, and each
//! keeps the caller's order. A group that failed and may be sent again is left for the next round. That round groups its
//! keys again, since a region may have been split in between. A round sends nothing before every key has its region.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use rdb_proto::kvrpc::{
    BatchGetRequest, BatchGetResponse, KeyValue, RawBatchDeleteRequest, RawBatchGetRequest,
    RawBatchGetResponse, RawBatchPutRequest,
};

use crate::detach::detach_all;
use crate::retry::{Deadline, Failure, Pace};
use crate::routing::{Route, Router};
use crate::rpc::{Access, DataRequest};
use crate::{Error, Versioned};

/// Most groups of one call that are sent at a time.
const GROUPS_IN_FLIGHT_MAX: usize = 16;

/// A request that carries entries of one region.
pub(crate) trait MultiKeyRequest: DataRequest {
    type Entry: Clone + Send + Sync;

    fn new(entries: Vec<Self::Entry>) -> Self;

    fn key(entry: &Self::Entry) -> &Bytes;
}

/// A request that reads keys. Its response has the keys that exist, in the order of the request.
pub(crate) trait MultiKeyRead: MultiKeyRequest<Entry = Bytes> {
    type Found: Clone + Send;

    /// The keys that exist, with their values.
    fn found(response: Self::Answer) -> Vec<(Bytes, Self::Found)>;
}

/// An entry and its position in the caller's order.
type Placed<E> = (usize, E);

/// Entries that go to one region.
struct Group<E> {
    route: Arc<Route>,
    entries: Vec<Placed<E>>,
}

/// The entries of a group, and the result of its request.
type Outcome<R> = (
    Vec<Placed<<R as MultiKeyRequest>::Entry>>,
    Result<<R as DataRequest>::Answer, Failure>,
);

/// Writes all entries, atomically per region.
///
/// # Errors
///
/// [`Error::Undetermined`] when a part was applied and another failed.
pub(crate) async fn write<R: MultiKeyRequest>(
    router: &Router,
    entries: Vec<R::Entry>,
    deadline: Deadline,
) -> Result<(), Error> {
    run::<R>(router, entries, deadline, |_, _| Ok(())).await
}

/// Reads all keys. Returns one value per key, in the caller's order; `None`: the key does not exist.
pub(crate) async fn read<R: MultiKeyRead>(
    router: &Router,
    keys: Vec<Bytes>,
    deadline: Deadline,
) -> Result<Vec<Option<R::Found>>, Error> {
    let mut found = vec![None; keys.len()];
    run::<R>(router, keys, deadline, |keys, response| {
        place::<R>(keys, response, &mut found)
    })
    .await?;
    Ok(found)
}

async fn run<R: MultiKeyRequest>(
    router: &Router,
    entries: Vec<R::Entry>,
    deadline: Deadline,
    mut answered: impl FnMut(Vec<Placed<R::Entry>>, R::Answer) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut retry = router.retry(deadline, R::KIND);
    let mut left: Vec<Placed<R::Entry>> = entries.into_iter().enumerate().collect();
    while !left.is_empty() {
        let groups = match group::<R>(router, &left, deadline).await {
            Ok(groups) => groups,
            Err(failure) => {
                retry.next_attempt(failure).await?;
                continue;
            }
        };
        left.clear();
        let mut worst = None;
        for (entries, result) in round::<R>(router, groups, deadline).await {
            match result {
                Ok(response) => {
                    if R::ACCESS == Access::Write {
                        retry.part_was_applied();
                    }
                    if let Err(error) = answered(entries, response) {
                        return retry.end(Err(error));
                    }
                }
                Err(failure) => {
                    left.extend(entries);
                    worst = Some(worse(worst, failure));
                }
            }
        }
        if let Some(failure) = worst {
            retry.next_attempt(failure).await?;
        }
        left.sort_unstable_by_key(|(position, _)| *position);
    }
    retry.end(Ok(()))
}

/// Entries by region. Two entries of one key always come into one group, even if the cache changes meanwhile.
async fn group<R: MultiKeyRequest>(
    router: &Router,
    entries: &[Placed<R::Entry>],
    deadline: Deadline,
) -> Result<Vec<Group<R::Entry>>, Failure> {
    let mut groups: Vec<Group<R::Entry>> = Vec::new();
    for placed in entries {
        let key = R::key(&placed.1);
        if let Some(group) = groups
            .iter_mut()
            .find(|group| group.route.region.contains(key))
        {
            group.entries.push(placed.clone());
            continue;
        }
        let route = router.locate(key, deadline).await?;
        groups.push(Group {
            route,
            entries: vec![placed.clone()],
        });
    }
    Ok(groups)
}

/// Sends each group once.
async fn round<R: MultiKeyRequest>(
    router: &Router,
    groups: Vec<Group<R::Entry>>,
    deadline: Deadline,
) -> Vec<Outcome<R>> {
    let sent = groups
        .into_iter()
        .map(|Group { route, entries }| async move {
            let request = R::new(entries.iter().map(|(_, entry)| entry.clone()).collect());
            let key = entries
                .first()
                .map_or(&route.region.start_key, |(_, entry)| R::key(entry));
            let result = router.attempt(&route, key, request, deadline).await;
            (entries, result)
        });
    stream::iter(sent)
        .buffer_unordered(GROUPS_IN_FLIGHT_MAX)
        .collect()
        .await
}

/// The failure of two that decides how the call goes on: first an unknown fate, then a final error, then the longer wait.
fn worse(one: Option<Failure>, other: Failure) -> Failure {
    let rank = |failure: &Failure| match failure {
        Failure::Final(Error::Undetermined { .. }) => (3, None),
        Failure::Final(_) => (2, None),
        Failure::Again {
            pace: Pace::AtLeast(minimum),
            ..
        } => (1, Some(*minimum)),
        Failure::Again {
            pace: Pace::Backoff,
            ..
        } => (1, None),
        Failure::Again {
            pace: Pace::AtOnce, ..
        } => (0, None),
    };
    match one {
        Some(one) if rank(&one) >= rank(&other) => one,
        _ => other,
    }
}

/// Puts the values at the positions of their keys.
fn place<R: MultiKeyRead>(
    keys: Vec<Placed<Bytes>>,
    response: R::Answer,
    placed: &mut [Option<R::Found>],
) -> Result<(), Error> {
    let mut keys = keys.into_iter();
    for (found_key, found) in R::found(response) {
        let position = keys.find(|(_, key)| *key == found_key);
        let Some(place) = position.and_then(|(position, _)| placed.get_mut(position)) else {
            return Err(Error::internal(
                "a store answered a read of several keys with keys in another order",
            ));
        };
        *place = Some(found);
    }
    Ok(())
}

impl MultiKeyRequest for RawBatchPutRequest {
    type Entry = KeyValue;

    fn new(entries: Vec<KeyValue>) -> Self {
        Self {
            context: None,
            entries,
        }
    }

    fn key(entry: &KeyValue) -> &Bytes {
        &entry.key
    }
}

macro_rules! requests_of_keys {
    ($($request:ident),+) => {$(
        impl MultiKeyRequest for $request {
            type Entry = Bytes;

            fn new(keys: Vec<Bytes>) -> Self {
                Self {
                    context: None,
                    keys,
                }
            }

            fn key(key: &Bytes) -> &Bytes {
                key
            }
        }
    )+};
}

requests_of_keys!(RawBatchDeleteRequest, RawBatchGetRequest, BatchGetRequest);

impl MultiKeyRead for RawBatchGetRequest {
    type Found = Bytes;

    fn found(mut response: RawBatchGetResponse) -> Vec<(Bytes, Bytes)> {
        let entries = &mut response.entries;
        detach_all(entries.iter_mut().map(|entry| &mut entry.value));
        let found = response.entries.into_iter();
        found.map(|entry| (entry.key, entry.value)).collect()
    }
}

impl MultiKeyRead for BatchGetRequest {
    type Found = Versioned;

    fn found(mut response: BatchGetResponse) -> Vec<(Bytes, Versioned)> {
        let entries = &mut response.entries;
        detach_all(entries.iter_mut().map(|entry| &mut entry.value));
        let found = response.entries.into_iter().map(|entry| {
            let versioned = Versioned {
                version: entry.version,
                value: entry.value,
            };
            (entry.key, versioned)
        });
        found.collect()
    }
}
