//! Batches, split by region.
//!
//! A round groups what is left of a batch by the regions as they are known then, and sends each group as one request; groups
//! go out side by side and keep the caller's order within. What got no answer but may be sent again is left for the next
//! round, which groups anew, since a region may have been split in between. Nothing is sent in a round before every entry
//! has found its region.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use rdb_proto::kvrpc::{
    BatchGetRequest, BatchGetResponse, KeyValue, RawBatchGetRequest, RawBatchGetResponse,
    RawBatchPutRequest, VersionedKeyValue,
};

use crate::Error;
use crate::retry::{Deadline, Failure, Pace};
use crate::routing::{Route, Router};
use crate::rpc::{Access, DataRequest};

/// How many groups of one batch are on their way at once.
const GROUPS_IN_FLIGHT_MAX: usize = 16;

/// A request that carries entries of one region.
pub(crate) trait BatchRequest: DataRequest {
    type Entry: Clone + Send + Sync;

    fn new(entries: Vec<Self::Entry>) -> Self;

    fn key(entry: &Self::Entry) -> &Bytes;
}

/// A batch request that is answered with those of its keys that exist, in its order.
pub(crate) trait BatchRead: BatchRequest<Entry = Bytes> {
    type Found: Send;

    fn found(answer: Self::Answer) -> Vec<Self::Found>;

    fn found_key(found: &Self::Found) -> &Bytes;
}

/// An entry and its position in the caller's batch.
type Placed<E> = (usize, E);

/// Entries that go to one region.
struct Group<E> {
    route: Arc<Route>,
    entries: Vec<Placed<E>>,
}

/// What became of a group.
type Outcome<R> = (
    Vec<Placed<<R as BatchRequest>::Entry>>,
    Result<<R as DataRequest>::Answer, Failure>,
);

/// Writes all entries, per region all or none.
///
/// # Errors
///
/// [`Error::Undetermined`] when a part was applied and another failed.
pub(crate) async fn write<R: BatchRequest>(
    router: &Router,
    entries: Vec<R::Entry>,
    deadline: Deadline,
) -> Result<(), Error> {
    run::<R>(router, entries, deadline, |_, _| Ok(())).await
}

/// Reads all keys and puts what was found back into the order they were given in.
pub(crate) async fn read<R: BatchRead>(
    router: &Router,
    keys: Vec<Bytes>,
    deadline: Deadline,
) -> Result<Vec<R::Found>, Error> {
    let mut found = Vec::new();
    run::<R>(router, keys, deadline, |keys, answer| {
        place::<R>(keys, answer, &mut found)
    })
    .await?;
    found.sort_unstable_by_key(|(position, _)| *position);
    Ok(found.into_iter().map(|(_, entry)| entry).collect())
}

async fn run<R: BatchRequest>(
    router: &Router,
    entries: Vec<R::Entry>,
    deadline: Deadline,
    mut answered: impl FnMut(Vec<Placed<R::Entry>>, R::Answer) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut retry = router.retry(deadline);
    let mut left: Vec<Placed<R::Entry>> = entries.into_iter().enumerate().collect();
    while !left.is_empty() {
        let groups = match group::<R>(router, &left, deadline).await {
            Ok(groups) => groups,
            Err(failure) => {
                retry.pause(failure).await?;
                continue;
            }
        };
        left.clear();
        let mut worst = None;
        for (entries, result) in round::<R>(router, groups, deadline).await {
            match result {
                Ok(answer) => {
                    if R::ACCESS == Access::Write {
                        retry.part_was_applied();
                    }
                    answered(entries, answer)?;
                }
                Err(failure) => {
                    left.extend(entries);
                    worst = Some(worse(worst, failure));
                }
            }
        }
        if let Some(failure) = worst {
            retry.pause(failure).await?;
        }
        left.sort_unstable_by_key(|(position, _)| *position);
    }
    Ok(())
}

/// Entries by region. Two entries of one key always come into one group, even if the cache changes meanwhile.
async fn group<R: BatchRequest>(
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
async fn round<R: BatchRequest>(
    router: &Router,
    groups: Vec<Group<R::Entry>>,
    deadline: Deadline,
) -> Vec<Outcome<R>> {
    let sent = groups
        .into_iter()
        .map(|Group { route, entries }| async move {
            let request = R::new(entries.iter().map(|(_, entry)| entry.clone()).collect());
            let result = router.attempt(&route, request, deadline).await;
            (entries, result)
        });
    stream::iter(sent)
        .buffer_unordered(GROUPS_IN_FLIGHT_MAX)
        .collect()
        .await
}

/// Which of two failures decides how the batch goes on: lost certainty before a final error before the longer wait.
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

/// Gives each found entry the position of its key. The found ones are a part of the keys, in the same order.
fn place<R: BatchRead>(
    keys: Vec<Placed<Bytes>>,
    answer: R::Answer,
    placed: &mut Vec<Placed<R::Found>>,
) -> Result<(), Error> {
    let mut keys = keys.into_iter();
    for entry in R::found(answer) {
        let Some((position, _)) = keys.find(|(_, key)| key == R::found_key(&entry)) else {
            return Err(Error::internal(
                "a store answered a batch read with keys in another order",
            ));
        };
        placed.push((position, entry));
    }
    Ok(())
}

impl BatchRequest for RawBatchPutRequest {
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

macro_rules! batch_read {
    ($request:ident, $response:ident, $found:ident) => {
        impl BatchRequest for $request {
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

        impl BatchRead for $request {
            type Found = $found;

            fn found(answer: $response) -> Vec<$found> {
                answer.entries
            }

            fn found_key(found: &$found) -> &Bytes {
                &found.key
            }
        }
    };
}

batch_read!(RawBatchGetRequest, RawBatchGetResponse, KeyValue);
batch_read!(BatchGetRequest, BatchGetResponse, VersionedKeyValue);
