//! `kvrpc.KvCas`: the versioned keyspace.

use rdb_proto::kvrpc::{
    BatchGetRequest, BatchGetResponse, ScanRequest, ScanResponse, VersionedKeyValue,
    kv_cas_server::KvCas,
};
use rdb_proto::transport::Call;
use tonic::{Request, Response, Status};

use super::respond::respond;
use super::several::scan_range;
use super::{point, several};
use crate::metrics::{Begun, Kind};
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

    fn begin<'a>(&'a self, kind: Kind, call: &'a Call) -> Begun<'a> {
        self.router.figures().commands.begin(kind, call)
    }
}

#[tonic::async_trait]
impl KvCas for CasService {
    rdb_proto::point_methods!(KvCas, |service, request| point::call(
        &service.router,
        request
    ));

    async fn batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        let call = Call::of(&request);
        let mut begun = self.begin(Kind::BatchGet, &call);
        let BatchGetRequest { context, keys } = request.into_inner();
        let entry = |key, rdb_storage::Versioned { version, value }| VersionedKeyValue {
            key,
            version,
            value,
        };
        let response = |entries| BatchGetResponse {
            entries,
            region_error: None,
        };
        let read = RegionHandle::multi_get_versioned;
        let parts = (context, keys);
        let found = several::get(&self.router, &mut begun, parts, read, entry, response).await;
        respond(begun.end(found))
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        let call = Call::of(&request);
        let mut begun = self.begin(Kind::Scan, &call);
        let request = request.into_inner();
        let parts = (request.context, scan_range!(request));
        let entry = |entry: rdb_storage::VersionedKeyValue| VersionedKeyValue {
            key: entry.key,
            version: entry.version,
            value: entry.value,
        };
        let response = |entries: Vec<_>, resume_key| ScanResponse {
            entries: entries.into_iter().map(entry).collect(),
            resume_key,
            region_error: None,
        };
        let read = RegionHandle::scan_versioned;
        let page = several::scan(&self.router, &mut begun, parts, read, response).await;
        respond(begun.end(page))
    }
}
