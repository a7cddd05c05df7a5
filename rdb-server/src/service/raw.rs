//! `kvrpc.KvRaw`: the raw keyspace.

use bytes::Bytes;
use rdb_proto::kvrpc::{
    KeyValue, RawBatchDeleteRequest, RawBatchDeleteResponse, RawBatchGetRequest,
    RawBatchGetResponse, RawBatchPutRequest, RawBatchPutResponse, RawDeleteRangeRequest,
    RawDeleteRangeResponse, RawScanRequest, RawScanResponse, kv_raw_server::KvRaw,
};
use rdb_proto::transport::Call;
use rdb_storage::{Command, validate_keys};
use tonic::{Request, Response, Status};

use super::respond::respond;
use super::several::scan_range;
use super::{point, several};
use crate::error::Rejection;
use crate::metrics::{Begun, Kind};
use crate::region::RegionHandle;
use crate::router::Router;

/// Serves the raw keyspace of the regions that the router knows.
pub(crate) struct RawService {
    router: Router,
}

impl RawService {
    pub(crate) fn new(router: Router) -> Self {
        Self { router }
    }

    fn begin<'a>(&'a self, kind: Kind, call: &'a Call) -> Begun<'a> {
        self.router.figures().commands.begin(kind, call)
    }

    async fn batch_put(
        &self,
        begun: &mut Begun<'_>,
        RawBatchPutRequest { context, entries }: RawBatchPutRequest,
    ) -> Result<RawBatchPutResponse, Rejection> {
        let keys: Vec<Bytes> = entries.iter().map(|entry| entry.key.clone()).collect();
        let entries = entries.into_iter().map(|entry| (entry.key, entry.value));
        let command = Command::PutBatchRaw {
            entries: entries.collect(),
        };
        begun.note_keys(&keys);
        command.validate()?;
        several::check_keys(begun, keys.iter())?;
        let region = self.router.for_keys(context.as_ref(), keys.iter())?;
        drop(keys);
        several::write(begun, &region, vec![command]).await?;
        Ok(RawBatchPutResponse::default())
    }

    async fn batch_delete(
        &self,
        begun: &mut Begun<'_>,
        RawBatchDeleteRequest { context, keys }: RawBatchDeleteRequest,
    ) -> Result<RawBatchDeleteResponse, Rejection> {
        begun.note_keys(&keys);
        validate_keys(&keys)?;
        several::check_keys(begun, keys.iter())?;
        let region = self.router.for_keys(context.as_ref(), keys.iter())?;
        let deletes = keys.into_iter().map(|key| Command::DeleteRaw { key });
        several::write(begun, &region, deletes.collect()).await?;
        Ok(RawBatchDeleteResponse::default())
    }

    async fn delete_range(
        &self,
        begun: &mut Begun<'_>,
        request: RawDeleteRangeRequest,
    ) -> Result<RawDeleteRangeResponse, Rejection> {
        let RawDeleteRangeRequest {
            context,
            start_key,
            end_key,
        } = request;
        begun.note_range(&start_key, &end_key);
        let command = Command::DeleteRangeRaw {
            start_key: start_key.clone(),
            end_key: end_key.clone(),
        };
        command.validate()?;
        several::check_range(begun, &start_key, &end_key)?;
        let region = self
            .router
            .for_range(context.as_ref(), &start_key, &end_key)?;
        drop((start_key, end_key));
        several::write(begun, &region, vec![command]).await?;
        Ok(RawDeleteRangeResponse::default())
    }
}

#[tonic::async_trait]
impl KvRaw for RawService {
    rdb_proto::point_methods!(KvRaw, |service, request| point::call(
        &service.router,
        request
    ));

    async fn raw_batch_put(
        &self,
        request: Request<RawBatchPutRequest>,
    ) -> Result<Response<RawBatchPutResponse>, Status> {
        let call = Call::of(&request);
        let mut begun = self.begin(Kind::RawBatchPut, &call);
        let result = self.batch_put(&mut begun, request.into_inner()).await;
        respond(begun.end(result))
    }

    async fn raw_batch_delete(
        &self,
        request: Request<RawBatchDeleteRequest>,
    ) -> Result<Response<RawBatchDeleteResponse>, Status> {
        let call = Call::of(&request);
        let mut begun = self.begin(Kind::RawBatchDelete, &call);
        let result = self.batch_delete(&mut begun, request.into_inner()).await;
        respond(begun.end(result))
    }

    async fn raw_batch_get(
        &self,
        request: Request<RawBatchGetRequest>,
    ) -> Result<Response<RawBatchGetResponse>, Status> {
        let call = Call::of(&request);
        let mut begun = self.begin(Kind::RawBatchGet, &call);
        let RawBatchGetRequest { context, keys } = request.into_inner();
        let entry = |key, value| KeyValue { key, value };
        let response = |entries| RawBatchGetResponse {
            entries,
            region_error: None,
        };
        let read = RegionHandle::multi_get_raw;
        let parts = (context, keys);
        let found = several::get(&self.router, &mut begun, parts, read, entry, response).await;
        respond(begun.end(found))
    }

    async fn raw_scan(
        &self,
        request: Request<RawScanRequest>,
    ) -> Result<Response<RawScanResponse>, Status> {
        let call = Call::of(&request);
        let mut begun = self.begin(Kind::RawScan, &call);
        let request = request.into_inner();
        let parts = (request.context, scan_range!(request));
        let entry = |entry: rdb_storage::KeyValue| KeyValue {
            key: entry.key,
            value: entry.value,
        };
        let response = |entries: Vec<_>, resume_key| RawScanResponse {
            entries: entries.into_iter().map(entry).collect(),
            resume_key,
            region_error: None,
        };
        let read = RegionHandle::scan_raw;
        let page = several::scan(&self.router, &mut begun, parts, read, response).await;
        respond(begun.end(page))
    }

    async fn raw_delete_range(
        &self,
        request: Request<RawDeleteRangeRequest>,
    ) -> Result<Response<RawDeleteRangeResponse>, Status> {
        let call = Call::of(&request);
        let mut begun = self.begin(Kind::RawDeleteRange, &call);
        let result = self.delete_range(&mut begun, request.into_inner()).await;
        respond(begun.end(result))
    }
}

#[cfg(test)]
mod tests {
    use rdb_proto::error::details;
    use rdb_proto::errorpb::Fate;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::*;

    /// The field to blame. A store without regions refuses everything that it routes.
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
