//! `adminpb.RegionAdmin`: requests of operators to regions.

use std::sync::Arc;
use std::time::Duration;

use rdb_proto::adminpb::get_checksum_response::State;
use rdb_proto::adminpb::region_admin_server::RegionAdmin;
use rdb_proto::adminpb::{
    BeginCheckRequest, BeginCheckResponse, Checksum, GetChecksumRequest, GetChecksumResponse,
    Position, TransferLeaderRequest, TransferLeaderResponse,
};
use rdb_proto::error::Fault;
use rdb_proto::metapb::Context;
use rdb_proto::transport::Call;
use rdb_raft::LogId;
use tonic::{Request, Response, Status};

use super::respond::respond;
use crate::checks::{Checks, Progress};
use crate::error::Rejection;
use crate::router::Router;

/// Longest wait of a call for a checksum.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a check whose position is applied may take to be held.
const PASSED_WAIT: Duration = Duration::from_secs(1);

const PASSED: &str = "it has gone past the position and holds no snapshot of it: it was started anew since, or got its data from \
                      another store";

/// Serves the regions that the router knows.
pub(crate) struct RegionAdminService {
    router: Router,
    checks: Arc<Checks>,
}

impl RegionAdminService {
    pub(crate) fn new(router: Router, checks: Arc<Checks>) -> Self {
        Self { router, checks }
    }

    async fn begin(&self, request: BeginCheckRequest) -> Result<BeginCheckResponse, Rejection> {
        let context = request.context.unwrap_or_default();
        let region = self.router.for_id(&context)?;
        let position = region.propose_check().await?;
        let (region_id, index) = (region.region().id, position.index);
        tracing::info!(region_id, index, "a check has begun");
        Ok(BeginCheckResponse {
            region_error: None,
            position: Some(on_wire(&position)),
        })
    }

    async fn checksum(
        &self,
        request: GetChecksumRequest,
    ) -> Result<GetChecksumResponse, Rejection> {
        let context = request.context.unwrap_or_default();
        let Some(position) = request.position else {
            let cause = "position is missing; it is that of the check";
            let fault = Fault::invalid_argument("position", None, cause);
            return Err(Rejection::Fault(fault));
        };
        let region = self.router.for_id(&context)?;
        let wait = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
        let (region_id, index) = (region.region().id, position.index);
        let mut progress = self.checks.progress(region_id, index, wait).await;
        let applied = region.applied()?;
        if progress.is_none() && applied.index >= index {
            // It may have been applied this very moment.
            progress = self.checks.progress(region_id, index, PASSED_WAIT).await;
            let passed = || Progress::Failed(PASSED.to_owned());
            progress = Some(progress.unwrap_or_else(passed));
        }
        let state = match progress {
            None => State::NotReached(on_wire(&applied)),
            Some(Progress::Summed { bytes }) => State::SummedBytes(bytes),
            Some(Progress::Failed(cause)) => State::Failure(cause),
            Some(Progress::Done(checksum)) => State::Checksum(Checksum {
                digest: checksum.digest.to_be_bytes().to_vec().into(),
                key_count: checksum.key_count,
                bytes: checksum.bytes,
            }),
        };
        Ok(GetChecksumResponse {
            region_error: None,
            state: Some(state),
        })
    }

    async fn transfer(
        &self,
        request: TransferLeaderRequest,
    ) -> Result<TransferLeaderResponse, Rejection> {
        let context = request.context.unwrap_or_default();
        let region = self.router.for_id(&context)?;
        let leading_term = region.transfer_leader(request.to_store).await?;
        if leading_term.is_none() {
            let (region_id, to_store) = (region.region().id, request.to_store);
            tracing::info!(region_id, to_store, "handing over, as an operator wants it");
        }
        Ok(TransferLeaderResponse {
            region_error: None,
            leading_term: leading_term.unwrap_or_default(),
        })
    }
}

/// The region that a request names, for the audit log.
fn region_of(context: Option<Context>) -> u64 {
    context.unwrap_or_default().region_id
}

fn on_wire(position: &LogId) -> Position {
    Position {
        term: position.leader_id.term,
        index: position.index,
    }
}

#[tonic::async_trait]
impl RegionAdmin for RegionAdminService {
    async fn begin_check(
        &self,
        request: Request<BeginCheckRequest>,
    ) -> Result<Response<BeginCheckResponse>, Status> {
        let region_id = region_of(request.get_ref().context);
        Call::of(&request).note_asked(|| format!("region {region_id}"));
        respond(self.begin(request.into_inner()).await)
    }

    async fn get_checksum(
        &self,
        request: Request<GetChecksumRequest>,
    ) -> Result<Response<GetChecksumResponse>, Status> {
        let region_id = region_of(request.get_ref().context);
        Call::of(&request).note_asked(|| format!("region {region_id}"));
        respond(self.checksum(request.into_inner()).await)
    }
    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let TransferLeaderRequest { context, to_store } = request.get_ref();
        let region_id = region_of(*context);
        let asked = || format!("region {region_id} to store {to_store}");
        Call::of(&request).note_asked(asked);
        respond(self.transfer(request.into_inner()).await)
    }
}
