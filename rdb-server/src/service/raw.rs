//! `kvrpc.KvRaw`: the raw keyspace.

use std::iter::once;

use bytes::Bytes;
use rdb_proto::error::Fault;
use rdb_proto::kvrpc::{
    KeyValue, RawBatchDeleteRequest, RawBatchDeleteResponse, RawBatchGetRequest,
    RawBatchGetResponse, RawBatchPutRequest, RawBatchPutResponse, RawDeleteRangeRequest,
    RawDeleteRangeResponse, RawDeleteRequest, RawDeleteResponse, RawGetRequest, RawGetResponse,
    RawPutRequest, RawPutResponse, RawScanRequest, RawScanResponse, kv_raw_server::KvRaw,
};
use rdb_storage::limits::BATCH_ENTRIES_MAX;
use rdb_storage::{Command, ScanRange};
use tonic::{Request, Response, Status};

use super::answer::answer;
use crate::error::Rejection;
use crate::router::Router;

/// Serves the raw keyspace of the regions that the router knows.
pub(crate) struct RawService {
    router: Router,
}

impl RawService {
    pub(crate) fn new(router: Router) -> Self {
        Self { router }
    }

    async fn put(&self, request: RawPutRequest) -> Result<RawPutResponse, Rejection> {
        let RawPutRequest {
            context,
            key,
            value,
        } = request;
        let region = self.router.for_keys(context.as_ref(), once(&key))?;
        region.write(vec![Command::PutRaw { key, value }]).await?;
        Ok(RawPutResponse::default())
    }

    async fn get(&self, request: RawGetRequest) -> Result<RawGetResponse, Rejection> {
        let region = self
            .router
            .for_keys(request.context.as_ref(), once(&request.key))?;
        let value = region.reader().get_raw(request.key).await?;
        Ok(RawGetResponse {
            value,
            region_error: None,
        })
    }

    async fn delete(&self, request: RawDeleteRequest) -> Result<RawDeleteResponse, Rejection> {
        let RawDeleteRequest { context, key } = request;
        let region = self.router.for_keys(context.as_ref(), once(&key))?;
        region.write(vec![Command::DeleteRaw { key }]).await?;
        Ok(RawDeleteResponse::default())
    }

    async fn batch_put(
        &self,
        request: RawBatchPutRequest,
    ) -> Result<RawBatchPutResponse, Rejection> {
        let keys = request.entries.iter().map(|entry| &entry.key);
        let region = self.router.for_keys(request.context.as_ref(), keys)?;
        let entries = request
            .entries
            .into_iter()
            .map(|entry| (entry.key, entry.value));
        let entries = entries.collect();
        region.write(vec![Command::PutBatchRaw { entries }]).await?;
        Ok(RawBatchPutResponse::default())
    }

    /// One submission of deletes is applied as a whole.
    async fn batch_delete(
        &self,
        request: RawBatchDeleteRequest,
    ) -> Result<RawBatchDeleteResponse, Rejection> {
        let RawBatchDeleteRequest { context, keys } = request;
        validate_key_count(&keys)?;
        let region = self.router.for_keys(context.as_ref(), keys.iter())?;
        let deletes = keys.into_iter().map(|key| Command::DeleteRaw { key });
        region.write(deletes.collect()).await?;
        Ok(RawBatchDeleteResponse::default())
    }

    async fn batch_get(
        &self,
        request: RawBatchGetRequest,
    ) -> Result<RawBatchGetResponse, Rejection> {
        let RawBatchGetRequest { context, keys } = request;
        let region = self.router.for_keys(context.as_ref(), keys.iter())?;
        let values = region.reader().multi_get_raw(keys.clone()).await?;
        let found = keys.into_iter().zip(values);
        let entries = found.filter_map(|(key, value)| Some(KeyValue { key, value: value? }));
        Ok(RawBatchGetResponse {
            entries: entries.collect(),
            region_error: None,
        })
    }

    async fn scan(&self, request: RawScanRequest) -> Result<RawScanResponse, Rejection> {
        let RawScanRequest {
            context,
            start_key,
            end_key,
            limit,
            reverse,
            keys_only,
        } = request;
        let range = ScanRange {
            start_key,
            end_key,
            limit: limit.map(|limit| limit as usize),
            reverse,
            keys_only,
        };
        let target = self.router.for_scan(context.as_ref(), range)?;
        let page = target.region.reader().scan_raw(target.range).await?;
        let entries = page.entries.into_iter();
        Ok(RawScanResponse {
            entries: entries
                .map(|entry| KeyValue {
                    key: entry.key,
                    value: entry.value,
                })
                .collect(),
            resume_key: page.resume_key.or(target.resume_key),
            region_error: None,
        })
    }

    async fn delete_range(
        &self,
        request: RawDeleteRangeRequest,
    ) -> Result<RawDeleteRangeResponse, Rejection> {
        let RawDeleteRangeRequest {
            context,
            start_key,
            end_key,
        } = request;
        let region = self
            .router
            .for_range(context.as_ref(), &start_key, &end_key)?;
        region
            .write(vec![Command::DeleteRangeRaw { start_key, end_key }])
            .await?;
        Ok(RawDeleteRangeResponse::default())
    }
}

#[tonic::async_trait]
impl KvRaw for RawService {
    async fn raw_put(
        &self,
        request: Request<RawPutRequest>,
    ) -> Result<Response<RawPutResponse>, Status> {
        answer(self.put(request.into_inner()).await)
    }

    async fn raw_get(
        &self,
        request: Request<RawGetRequest>,
    ) -> Result<Response<RawGetResponse>, Status> {
        answer(self.get(request.into_inner()).await)
    }

    async fn raw_delete(
        &self,
        request: Request<RawDeleteRequest>,
    ) -> Result<Response<RawDeleteResponse>, Status> {
        answer(self.delete(request.into_inner()).await)
    }

    async fn raw_batch_put(
        &self,
        request: Request<RawBatchPutRequest>,
    ) -> Result<Response<RawBatchPutResponse>, Status> {
        answer(self.batch_put(request.into_inner()).await)
    }

    async fn raw_batch_delete(
        &self,
        request: Request<RawBatchDeleteRequest>,
    ) -> Result<Response<RawBatchDeleteResponse>, Status> {
        answer(self.batch_delete(request.into_inner()).await)
    }

    async fn raw_batch_get(
        &self,
        request: Request<RawBatchGetRequest>,
    ) -> Result<Response<RawBatchGetResponse>, Status> {
        answer(self.batch_get(request.into_inner()).await)
    }

    async fn raw_scan(
        &self,
        request: Request<RawScanRequest>,
    ) -> Result<Response<RawScanResponse>, Status> {
        answer(self.scan(request.into_inner()).await)
    }

    async fn raw_delete_range(
        &self,
        request: Request<RawDeleteRangeRequest>,
    ) -> Result<Response<RawDeleteRangeResponse>, Status> {
        answer(self.delete_range(request.into_inner()).await)
    }
}

/// The number of keys in a batch, which is no limit of the deletes that it becomes.
fn validate_key_count(keys: &[Bytes]) -> Result<(), Rejection> {
    let (count, limit) = (keys.len(), BATCH_ENTRIES_MAX);
    if (1..=limit).contains(&count) {
        return Ok(());
    }
    let exceeded = (count > 0).then_some(limit as u64);
    let cause = format!("the batch has {count} keys; a batch has 1 to {limit}");
    Err(Rejection::Fault(Fault::invalid_argument(
        "keys", exceeded, cause,
    )))
}
