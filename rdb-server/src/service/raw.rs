//! `kvrpc.KvRaw`: the raw keyspace.

use bytes::Bytes;
use prost::Message;
use rdb_proto::kvrpc::{
    KeyValue, RawBatchDeleteRequest, RawBatchDeleteResponse, RawBatchGetRequest,
    RawBatchGetResponse, RawBatchPutRequest, RawBatchPutResponse, RawDeleteRangeRequest,
    RawDeleteRangeResponse, RawDeleteRequest, RawDeleteResponse, RawGetRequest, RawGetResponse,
    RawPutRequest, RawPutResponse, RawScanRequest, RawScanResponse, kv_raw_server::KvRaw,
};
use rdb_proto::transport::CallBudget;
use rdb_storage::{Command, ScanRange, validate_keys};
use tonic::{Request, Response, Status};

use super::point;
use super::respond::respond;
use super::room::{BATCH_ROOM, PAGE_ROOM, answer_with_room};
use crate::error::Rejection;
use crate::router::{Router, ScanTarget};

/// Serves the raw keyspace of the regions that the router knows.
pub(crate) struct RawService {
    router: Router,
}

impl RawService {
    pub(crate) fn new(router: Router) -> Self {
        Self { router }
    }

    async fn batch_put(
        &self,
        request: RawBatchPutRequest,
    ) -> Result<RawBatchPutResponse, Rejection> {
        let RawBatchPutRequest { context, entries } = request;
        let entries = entries.into_iter().map(|entry| (entry.key, entry.value));
        let entries: Vec<(Bytes, Bytes)> = entries.collect();
        let keys: Vec<Bytes> = entries.iter().map(|(key, _)| key.clone()).collect();
        let command = Command::PutBatchRaw { entries };
        command.validate()?;
        let region = self.router.for_keys(context.as_ref(), keys.iter())?;
        // `submit` copies the command, so that nothing keeps the message.
        drop(keys);
        region.submit(vec![command], 0)?.await?;
        Ok(RawBatchPutResponse::default())
    }

    /// Deletes keys in one submission, which is applied as a whole.
    async fn batch_delete(
        &self,
        request: RawBatchDeleteRequest,
    ) -> Result<RawBatchDeleteResponse, Rejection> {
        let RawBatchDeleteRequest { context, keys } = request;
        validate_keys(&keys)?;
        let region = self.router.for_keys(context.as_ref(), keys.iter())?;
        let deletes = keys.into_iter().map(|key| Command::DeleteRaw { key });
        region.submit(deletes.collect(), 0)?.await?;
        Ok(RawBatchDeleteResponse::default())
    }

    async fn batch_get(
        &self,
        call: &CallBudget,
        request: RawBatchGetRequest,
    ) -> Result<RawBatchGetResponse, Rejection> {
        let RawBatchGetRequest { context, keys } = request;
        validate_keys(&keys)?;
        let region = self.router.for_keys(context.as_ref(), keys.iter())?;
        let read = |room| {
            let (region, keys) = (&region, keys.clone());
            async move {
                let permit = region.permit_read().await?;
                let values = permit.multi_get_raw(keys.clone(), room).await?;
                let found = keys.iter().zip(values);
                let entries = found.filter_map(|(key, value)| {
                    let (key, value) = (key.clone(), value?);
                    Some(KeyValue { key, value })
                });
                Ok(RawBatchGetResponse {
                    entries: entries.collect(),
                    region_error: None,
                })
            }
        };
        answer_with_room(call, BATCH_ROOM, Message::encoded_len, read).await
    }

    async fn scan(
        &self,
        call: &CallBudget,
        request: RawScanRequest,
    ) -> Result<RawScanResponse, Rejection> {
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
                let page = permit.scan_raw(range, room).await?;
                let entries = page.entries.into_iter();
                Ok(RawScanResponse {
                    entries: entries
                        .map(|entry| KeyValue {
                            key: entry.key,
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

    async fn delete_range(
        &self,
        request: RawDeleteRangeRequest,
    ) -> Result<RawDeleteRangeResponse, Rejection> {
        let RawDeleteRangeRequest {
            context,
            start_key,
            end_key,
        } = request;
        let command = Command::DeleteRangeRaw {
            start_key: start_key.clone(),
            end_key: end_key.clone(),
        };
        command.validate()?;
        let region = self
            .router
            .for_range(context.as_ref(), &start_key, &end_key)?;
        drop((start_key, end_key));
        region.submit(vec![command], 0)?.await?;
        Ok(RawDeleteRangeResponse::default())
    }
}

#[tonic::async_trait]
impl KvRaw for RawService {
    async fn raw_put(
        &self,
        request: Request<RawPutRequest>,
    ) -> Result<Response<RawPutResponse>, Status> {
        point::call(&self.router, request).await
    }

    async fn raw_get(
        &self,
        request: Request<RawGetRequest>,
    ) -> Result<Response<RawGetResponse>, Status> {
        point::call(&self.router, request).await
    }

    async fn raw_delete(
        &self,
        request: Request<RawDeleteRequest>,
    ) -> Result<Response<RawDeleteResponse>, Status> {
        point::call(&self.router, request).await
    }

    async fn raw_batch_put(
        &self,
        request: Request<RawBatchPutRequest>,
    ) -> Result<Response<RawBatchPutResponse>, Status> {
        respond(self.batch_put(request.into_inner()).await)
    }

    async fn raw_batch_delete(
        &self,
        request: Request<RawBatchDeleteRequest>,
    ) -> Result<Response<RawBatchDeleteResponse>, Status> {
        respond(self.batch_delete(request.into_inner()).await)
    }

    async fn raw_batch_get(
        &self,
        request: Request<RawBatchGetRequest>,
    ) -> Result<Response<RawBatchGetResponse>, Status> {
        let call = CallBudget::of(&request);
        respond(self.batch_get(&call, request.into_inner()).await)
    }

    async fn raw_scan(
        &self,
        request: Request<RawScanRequest>,
    ) -> Result<Response<RawScanResponse>, Status> {
        let call = CallBudget::of(&request);
        respond(self.scan(&call, request.into_inner()).await)
    }

    async fn raw_delete_range(
        &self,
        request: Request<RawDeleteRangeRequest>,
    ) -> Result<Response<RawDeleteRangeResponse>, Status> {
        respond(self.delete_range(request.into_inner()).await)
    }
}

#[cfg(test)]
mod tests {
    use rdb_proto::error::details;
    use rdb_proto::errorpb::Fate;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::*;

    /// The field to blame. A store that knows no regions refuses whatever it routes.
    fn refused<T: std::fmt::Debug>(response: Result<Response<T>, Status>) -> String {
        let status = response.expect_err("refused, and not routed");
        assert_eq!(status.code(), Code::InvalidArgument);
        let error = details(&status).expect("a fault");
        assert_eq!(error.fate(), Fate::NotApplied);
        error.field
    }

    #[tokio::test]
    async fn empty_batches_and_inverted_ranges_are_refused_before_they_are_routed() {
        let service = RawService::new(Router::new(CancellationToken::new()));
        let put = Request::new(RawBatchPutRequest::default());
        assert_eq!(refused(service.raw_batch_put(put).await), "entries");
        let delete = Request::new(RawBatchDeleteRequest::default());
        assert_eq!(refused(service.raw_batch_delete(delete).await), "keys");
        let get = Request::new(RawBatchGetRequest::default());
        assert_eq!(refused(service.raw_batch_get(get).await), "keys");
        let (start_key, end_key) = ("b", "a");
        let scan = Request::new(RawScanRequest {
            start_key: start_key.into(),
            end_key: end_key.into(),
            ..RawScanRequest::default()
        });
        assert_eq!(refused(service.raw_scan(scan).await), "end_key");
        let delete = Request::new(RawDeleteRangeRequest {
            context: None,
            start_key: start_key.into(),
            end_key: end_key.into(),
        });
        assert_eq!(refused(service.raw_delete_range(delete).await), "end_key");
    }
}
