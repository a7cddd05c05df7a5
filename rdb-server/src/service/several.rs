//! Reads and writes of several keys by unary calls. Both keyspaces share them.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use rdb_proto::metapb::Context;
use rdb_storage::{Command, Page, ScanRange, validate_keys};

use super::point::{check, needed};
use super::room::{BATCH_ROOM, PAGE_ROOM, answer_with_room};
use crate::error::Rejection;
use crate::metrics::Begun;
use crate::region::{ReadFailure, RegionHandle};
use crate::router::{Router, ScanTarget};

/// The parts of a scan request, which both keyspaces name alike.
macro_rules! scan_range {
    ($request:expr) => {{
        let request = $request;
        rdb_storage::ScanRange {
            start_key: request.start_key,
            end_key: request.end_key,
            limit: request.limit.map(|limit| limit as usize),
            reverse: request.reverse,
            keys_only: request.keys_only,
        }
    }};
}
pub(super) use scan_range;

/// Checks that the caller may do this to every one of `keys`. A single one that it may not refuses all.
pub(super) fn check_keys<'k>(
    begun: &mut Begun<'_>,
    mut keys: impl Iterator<Item = &'k Bytes>,
) -> Result<(), Rejection> {
    let pass = begun.call().caller().pass().map_err(Rejection::Denied)?;
    let kind = begun.kind();
    keys.try_for_each(|key| check(&pass, kind, key).inspect_err(|_| begun.note_denied_key(key)))
}

/// Checks that the caller may do this to the whole range that it has asked for, not only to the part in one region. An empty `end_key`
/// is no bound.
pub(super) fn check_range(
    begun: &Begun<'_>,
    start_key: &Bytes,
    end_key: &Bytes,
) -> Result<(), Rejection> {
    let pass = begun.call().caller().pass().map_err(Rejection::Denied)?;
    let (permission, keyspace) = needed(begun.kind())?;
    let checked = pass.check_range(permission, keyspace, start_key, end_key);
    checked.map_err(Rejection::Denied)
}

/// Reads `keys` with `read`, and makes the response from those that exist.
pub(super) async fn get<V, E, R: Message, F>(
    router: &Router,
    begun: &mut Begun<'_>,
    (context, keys): (Option<Context>, Vec<Bytes>),
    read: impl Fn(Arc<RegionHandle>, Vec<Bytes>, usize) -> F,
    entry: impl Fn(Bytes, V) -> E,
    response: impl Fn(Vec<E>) -> R,
) -> Result<R, Rejection>
where
    F: Future<Output = Result<Vec<Option<V>>, ReadFailure>>,
{
    begun.note_keys(&keys);
    validate_keys(&keys)?;
    check_keys(begun, keys.iter())?;
    let region = router.for_keys(context.as_ref(), keys.iter())?;
    begun.note_region(region.region().id);
    let (keys, entry, response) = (&keys, &entry, &response);
    let get = |room| {
        let values = read(Arc::clone(&region), keys.clone(), room);
        async move {
            let found = keys.iter().zip(values.await?);
            let entries = found.filter_map(|(key, value)| Some(entry(key.clone(), value?)));
            Ok(response(entries.collect()))
        }
    };
    answer_with_room(begun.call(), BATCH_ROOM, R::encoded_len, get).await
}

/// Reads a page of `range` with `read`, and makes the response of its entries and the key where the scan resumes.
pub(super) async fn scan<E, R: Message, F>(
    router: &Router,
    begun: &mut Begun<'_>,
    (context, range): (Option<Context>, ScanRange),
    read: impl Fn(Arc<RegionHandle>, ScanRange, usize) -> F,
    response: impl Fn(Vec<E>, Option<Bytes>) -> R,
) -> Result<R, Rejection>
where
    F: Future<Output = Result<Page<E>, ReadFailure>>,
{
    begun.note_range(&range.start_key, &range.end_key);
    range.validate()?;
    check_range(begun, &range.start_key, &range.end_key)?;
    let ScanTarget {
        region,
        range,
        resume_key,
    } = router.for_scan(context.as_ref(), range)?;
    begun.note_region(region.region().id);
    let (resume_key, response) = (&resume_key, &response);
    let scan = |room| {
        let page = read(Arc::clone(&region), range.clone(), room);
        async move {
            let page = page.await?;
            let resume_key = page.resume_key.or_else(|| resume_key.clone());
            Ok(response(page.entries, resume_key))
        }
    };
    answer_with_room(begun.call(), PAGE_ROOM, R::encoded_len, scan).await
}

/// Applies commands as a whole, and gives their message back while they wait. `submit` copies them, so that nothing keeps
/// the message.
pub(super) async fn write(
    begun: &mut Begun<'_>,
    region: &RegionHandle,
    commands: Vec<Command>,
) -> Result<(), Rejection> {
    begun.note_region(region.region().id);
    let mut pending = region.submit(commands, 0)?;
    begun.note_submitted(&mut pending);
    begun.call().release_arrived();
    pending.await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
    use rdb_proto::kvrpc::{KeyValue, RawBatchPutRequest};

    use super::super::fixture::{Served, until};

    #[tokio::test]
    async fn a_batch_that_was_applied_is_not_charged_while_its_answer_cannot_be_sent() {
        const VALUE_BYTES: usize = 1 << 20;
        let server = Served::start().await;
        let channel = server.connect_unread().await;
        let batch = RawBatchPutRequest {
            context: None,
            entries: vec![KeyValue {
                key: "k".into(),
                value: vec![b'v'; VALUE_BYTES].into(),
            }],
        };
        let call =
            tokio::spawn(async move { KvRawClient::new(channel).raw_batch_put(batch).await });
        until("the message is given back", || {
            server.storage.get_raw(b"k").expect("read").is_some()
                && server.budget.bytes_taken() < VALUE_BYTES
        })
        .await;
        assert!(
            server.budget.bytes_taken() > 0 && !call.is_finished(),
            "it is not answered"
        );
    }
}
