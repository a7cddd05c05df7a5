//! `kvrpc.KvRaw`: the raw keyspace.

use std::iter::once;

use rdb_proto::kvrpc::{
    KeyValue, RawBatchGetRequest, RawBatchGetResponse, RawBatchPutRequest, RawBatchPutResponse,
    RawDeleteRangeRequest, RawDeleteRangeResponse, RawDeleteRequest, RawDeleteResponse,
    RawGetRequest, RawGetResponse, RawPutRequest, RawPutResponse, RawScanRequest, RawScanResponse,
    kv_raw_server::KvRaw,
};
use rdb_storage::{Command, PointRead, PointValue, ScanRange};
use tonic::{Request, Response, Status};

use super::answer::answer;
use super::outcome;
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
        let read = PointRead::raw(request.key)?;
        let PointValue::Raw(value) = region.reader().read(read, usize::MAX).await? else {
            return Err(outcome::unexpected());
        };
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

    async fn batch_get(
        &self,
        request: RawBatchGetRequest,
    ) -> Result<RawBatchGetResponse, Rejection> {
        let RawBatchGetRequest { context, keys } = request;
        let region = self.router.for_keys(context.as_ref(), keys.iter())?;
        let values = region
            .reader()
            .multi_get_raw(keys.clone(), usize::MAX)
            .await?;
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
        let reader = target.region.reader();
        let page = reader.scan_raw(target.range, usize::MAX).await?;
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
