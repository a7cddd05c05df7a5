//! `kvrpc.KvCas`: the versioned keyspace.

use std::iter::once;

use rdb_proto::kvrpc::{
    BatchGetRequest, BatchGetResponse, CompareAndDeleteRequest, CompareAndDeleteResponse,
    CompareAndSwapRequest, CompareAndSwapResponse, GetRequest, GetResponse, ScanRequest,
    ScanResponse, VersionedKeyValue, kv_cas_server::KvCas,
};
use rdb_storage::{Command, Outcome, PointRead, PointValue, ScanRange};
use tonic::{Request, Response, Status};

use super::answer::answer;
use super::outcome;
use crate::error::Rejection;
use crate::region::RegionHandle;
use crate::router::Router;

/// Serves the versioned keyspace of the regions that the router knows.
pub(crate) struct CasService {
    router: Router,
}

impl CasService {
    pub(crate) fn new(router: Router) -> Self {
        Self { router }
    }

    async fn swap(
        &self,
        request: CompareAndSwapRequest,
    ) -> Result<CompareAndSwapResponse, Rejection> {
        let CompareAndSwapRequest {
            context,
            key,
            expected_version,
            value,
        } = request;
        let region = self.router.for_keys(context.as_ref(), once(&key))?;
        let command = Command::CompareAndSwap {
            key,
            expected_version,
            value,
        };
        outcome::swapped(write_one(&region, command).await?)
    }

    async fn get_one(&self, request: GetRequest) -> Result<GetResponse, Rejection> {
        let region = self
            .router
            .for_keys(request.context.as_ref(), once(&request.key))?;
        let read = PointRead::versioned(request.key)?;
        let PointValue::Versioned(found) = region.reader().read(read, usize::MAX).await? else {
            return Err(outcome::unexpected());
        };
        Ok(outcome::versioned(found))
    }

    async fn delete(
        &self,
        request: CompareAndDeleteRequest,
    ) -> Result<CompareAndDeleteResponse, Rejection> {
        let CompareAndDeleteRequest {
            context,
            key,
            expected_version,
        } = request;
        let region = self.router.for_keys(context.as_ref(), once(&key))?;
        let command = Command::CompareAndDelete {
            key,
            expected_version,
        };
        outcome::deleted(write_one(&region, command).await?)
    }

    async fn get_several(&self, request: BatchGetRequest) -> Result<BatchGetResponse, Rejection> {
        let BatchGetRequest { context, keys } = request;
        let region = self.router.for_keys(context.as_ref(), keys.iter())?;
        let reader = region.reader();
        let values = reader.multi_get_versioned(keys.clone(), usize::MAX).await?;
        let found = keys.into_iter().zip(values);
        let entries = found.filter_map(|(key, found)| {
            let rdb_storage::Versioned { version, value } = found?;
            Some(VersionedKeyValue {
                key,
                version,
                value,
            })
        });
        Ok(BatchGetResponse {
            entries: entries.collect(),
            region_error: None,
        })
    }

    async fn scan_page(&self, request: ScanRequest) -> Result<ScanResponse, Rejection> {
        let ScanRequest {
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
        let page = reader.scan_versioned(target.range, usize::MAX).await?;
        let entries = page.entries.into_iter().map(|entry| VersionedKeyValue {
            key: entry.key,
            version: entry.version,
            value: entry.value,
        });
        Ok(ScanResponse {
            entries: entries.collect(),
            resume_key: page.resume_key.or(target.resume_key),
            region_error: None,
        })
    }
}

async fn write_one(region: &RegionHandle, command: Command) -> Result<Outcome, Rejection> {
    let mut outcomes = region.write(vec![command]).await?;
    outcomes.pop().ok_or_else(outcome::unexpected)
}

#[tonic::async_trait]
impl KvCas for CasService {
    async fn compare_and_swap(
        &self,
        request: Request<CompareAndSwapRequest>,
    ) -> Result<Response<CompareAndSwapResponse>, Status> {
        answer(self.swap(request.into_inner()).await)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        answer(self.get_one(request.into_inner()).await)
    }

    async fn compare_and_delete(
        &self,
        request: Request<CompareAndDeleteRequest>,
    ) -> Result<Response<CompareAndDeleteResponse>, Status> {
        answer(self.delete(request.into_inner()).await)
    }

    async fn batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        answer(self.get_several(request.into_inner()).await)
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        answer(self.scan_page(request.into_inner()).await)
    }
}
