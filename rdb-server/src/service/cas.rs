//! `kvrpc.KvCas`: the versioned keyspace.

use prost::Message;
use rdb_proto::kvrpc::{
    BatchGetRequest, BatchGetResponse, CompareAndDeleteRequest, CompareAndDeleteResponse,
    CompareAndSwapRequest, CompareAndSwapResponse, GetRequest, GetResponse, ScanRequest,
    ScanResponse, VersionedKeyValue, kv_cas_server::KvCas,
};
use rdb_proto::transport::CallBudget;
use rdb_storage::{ScanRange, validate_keys};
use tonic::{Request, Response, Status};

use super::point;
use super::respond::respond;
use super::room::{BATCH_ROOM, PAGE_ROOM, answer_with_room};
use crate::error::Rejection;
use crate::router::{Router, ScanTarget};

/// Serves the versioned keyspace of the regions that the router knows.
pub(crate) struct CasService {
    router: Router,
}

impl CasService {
    pub(crate) fn new(router: Router) -> Self {
        Self { router }
    }

    async fn get_several(
        &self,
        call: &CallBudget,
        request: BatchGetRequest,
    ) -> Result<BatchGetResponse, Rejection> {
        let BatchGetRequest { context, keys } = request;
        validate_keys(&keys)?;
        let region = self.router.for_keys(context.as_ref(), keys.iter())?;
        let read = |room| {
            let (region, keys) = (&region, keys.clone());
            async move {
                let permit = region.permit_read().await?;
                let values = permit.multi_get_versioned(keys.clone(), room).await?;
                let found = keys.iter().zip(values);
                let entries = found.filter_map(|(key, found)| {
                    let rdb_storage::Versioned { version, value } = found?;
                    Some(VersionedKeyValue {
                        key: key.clone(),
                        version,
                        value,
                    })
                });
                Ok(BatchGetResponse {
                    entries: entries.collect(),
                    region_error: None,
                })
            }
        };
        answer_with_room(call, BATCH_ROOM, Message::encoded_len, read).await
    }

    async fn scan_page(
        &self,
        call: &CallBudget,
        request: ScanRequest,
    ) -> Result<ScanResponse, Rejection> {
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
        range.validate()?;
        let ScanTarget {
            region,
            range,
            resume_key,
        } = self.router.for_scan(context.as_ref(), range)?;
        let read = |room| {
            let (region, range, resume_key) = (&region, range.clone(), resume_key.clone());
            async move {
                let permit = region.permit_read().await?;
                let page = permit.scan_versioned(range, room).await?;
                let entries = page.entries.into_iter();
                Ok(ScanResponse {
                    entries: entries
                        .map(|entry| VersionedKeyValue {
                            key: entry.key,
                            version: entry.version,
                            value: entry.value,
                        })
                        .collect(),
                    resume_key: page.resume_key.or(resume_key),
                    region_error: None,
                })
            }
        };
        answer_with_room(call, PAGE_ROOM, Message::encoded_len, read).await
    }
}

#[tonic::async_trait]
impl KvCas for CasService {
    async fn compare_and_swap(
        &self,
        request: Request<CompareAndSwapRequest>,
    ) -> Result<Response<CompareAndSwapResponse>, Status> {
        point::call(&self.router, request).await
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        point::call(&self.router, request).await
    }

    async fn compare_and_delete(
        &self,
        request: Request<CompareAndDeleteRequest>,
    ) -> Result<Response<CompareAndDeleteResponse>, Status> {
        point::call(&self.router, request).await
    }

    async fn batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        let call = CallBudget::of(&request);
        respond(self.get_several(&call, request.into_inner()).await)
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        let call = CallBudget::of(&request);
        respond(self.scan_page(&call, request.into_inner()).await)
    }
}
