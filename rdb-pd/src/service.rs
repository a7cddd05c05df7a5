//! `pdpb.Pd`: decode, check, delegate, answer. `auth` is `authpb.Auth`.

mod auth;
mod heartbeat;
mod timed;
mod tso_stream;

use std::sync::Arc;

use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::findings::{Finding, Severity};
use rdb_proto::metapb::Limits;
use rdb_proto::pdpb::pd_server::Pd;
use rdb_proto::pdpb::{
    self, AddOperatorRequest, AddOperatorResponse, CancelOperatorRequest, CancelOperatorResponse,
    GetClusterInfoRequest, GetClusterInfoResponse, GetOperatorsRequest, GetOperatorsResponse,
    GetRegionRequest, GetRegionResponse, GetStoresRequest, GetStoresResponse, GetTsoRequest,
    GetTsoResponse, RegisterStoreRequest, RegisterStoreResponse, RemoveStoreRequest,
    RemoveStoreResponse, ScanRegionsRequest, ScanRegionsResponse, StoreHeartbeatRequest,
    StoreHeartbeatResponse,
};
use rdb_proto::transport::limits::{ADMISSION_WAIT, BATCH_COMMANDS_MAX, MESSAGE_BYTES_MAX};
use rdb_proto::transport::{Busy, Call, check_advertised_address};
use rdb_storage::limits;
use tonic::{Code, Request, Response, Status, Streaming};

pub(crate) use self::auth::AuthService;
use self::heartbeat::checked_heartbeat;
use self::timed::Timed;
use self::tso_stream::TsoStream;
use crate::cluster::{
    Cluster, ClusterError, Impossible, REGIONS_MAX, Refusal, Registration, Start,
};
use crate::metrics::Figures;
use crate::page::{OfProcess, of_process};
use crate::tso::{Allocator, AllocatorError, COUNT_MAX, StorageBound, SystemClock};

/// The allocator of timestamps, with the machine's clocks and a durable bound.
pub(crate) type SystemAllocator = Allocator<SystemClock, StorageBound>;

/// Serves timestamps and the cluster.
pub(crate) struct PdService {
    allocator: Arc<SystemAllocator>,
    cluster: Cluster,
    figures: Arc<Figures>,
}

impl PdService {
    pub(crate) fn new(
        allocator: Arc<SystemAllocator>,
        cluster: Cluster,
        figures: Arc<Figures>,
    ) -> Self {
        Self {
            allocator,
            cluster,
            figures,
        }
    }

    /// What is wrong, as far as no other process knows it.
    fn findings(&self) -> Vec<pdpb::Finding> {
        let process = OfProcess::new(None, &self.cluster, &self.allocator);
        let findings = of_process(&process).into_iter();
        let findings = findings.chain(self.cluster.findings());
        let to_wire = |finding: Finding| pdpb::Finding {
            is_alarm: finding.severity == Severity::Alarm,
            what: finding.what,
            to_do: finding.to_do,
        };
        findings.map(to_wire).collect()
    }
}

#[tonic::async_trait]
impl Pd for PdService {
    async fn get_tso(
        &self,
        request: Request<GetTsoRequest>,
    ) -> Result<Response<GetTsoResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "GetTso");
        let answering = async {
            let count = checked_tso_count(request.get_ref())?;
            let first = allocate(&self.allocator, count).await?;
            Ok(Response::new(GetTsoResponse {
                first,
                count,
                cluster_id: self.cluster.id(),
            }))
        };
        timed.end(answering.await)
    }

    type TsoStream = TsoStream<Streaming<GetTsoRequest>>;

    async fn tso(
        &self,
        request: Request<Streaming<GetTsoRequest>>,
    ) -> Result<Response<Self::TsoStream>, Status> {
        let call = Call::of(&request);
        let requests = request.into_inner();
        let allocator = Arc::clone(&self.allocator);
        let (cluster_id, figures) = (self.cluster.id(), Arc::clone(&self.figures));
        // The stream is open. Its requests are timed by themselves.
        let opened = Timed::begin(&self.figures, &call, "Tso");
        let stream = TsoStream::new(requests, allocator, cluster_id, Arc::clone(&call), figures);
        opened.end(Ok(Response::new(stream)))
    }

    async fn register_store(
        &self,
        request: Request<RegisterStoreRequest>,
    ) -> Result<Response<RegisterStoreResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "RegisterStore");
        let answering = async {
            let request = request.into_inner();
            let kept = request.kept_incarnation;
            let registration = Registration {
                start: checked_start(
                    request.address,
                    request.store_id,
                    request.cluster_id,
                    request.incarnation,
                )?,
                kept_incarnation: (kept != 0).then_some(kept),
            };
            let registered = self.cluster.register(registration).await;
            let registered = self.figures.registrations.note(registered);
            Ok(Response::new(registered.map_err(cluster_fault)?))
        };
        timed.end(answering.await)
    }

    async fn store_heartbeat(
        &self,
        request: Request<StoreHeartbeatRequest>,
    ) -> Result<Response<StoreHeartbeatResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "StoreHeartbeat");
        let answering = async {
            let heartbeat = checked_heartbeat(request.into_inner())?;
            let answer = self.cluster.heartbeat(heartbeat).await;
            let answer = self.figures.heartbeats.note(answer);
            Ok(Response::new(answer.map_err(cluster_fault)?))
        };
        timed.end(answering.await)
    }

    async fn get_stores(
        &self,
        request: Request<GetStoresRequest>,
    ) -> Result<Response<GetStoresResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "GetStores");
        let answering = async {
            let stores = || GetStoresResponse {
                stores: self.cluster.stores(),
            };
            answer_with_room(&call, self.cluster.stores_bytes_max(), stores).await
        };
        timed.end(answering.await)
    }

    async fn get_region(
        &self,
        request: Request<GetRegionRequest>,
    ) -> Result<Response<GetRegionResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "GetRegion");
        let answering = async {
            let key = request.into_inner().key;
            check_bound("key", &key)?;
            let response = match self.cluster.region(&key) {
                Ok(route) => GetRegionResponse {
                    route: Some(route),
                    cause: String::new(),
                },
                Err(cause) => GetRegionResponse { route: None, cause },
            };
            Ok(Response::new(response))
        };
        timed.end(answering.await)
    }

    async fn scan_regions(
        &self,
        request: Request<ScanRegionsRequest>,
    ) -> Result<Response<ScanRegionsResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "ScanRegions");
        let answering = async {
            let ScanRegionsRequest {
                start_key,
                end_key,
                limit,
            } = request.into_inner();
            check_bound("start_key", &start_key)?;
            check_bound("end_key", &end_key)?;
            if !end_key.is_empty() && end_key < start_key {
                let cause = "end_key is below start_key";
                return Err(Fault::invalid_argument("end_key", None, cause).into());
            }
            let limit = checked_count("limit", limit, REGIONS_MAX, REGIONS_MAX)?;
            let limit = limit as usize;
            let routes = || ScanRegionsResponse {
                routes: self.cluster.regions(&start_key, &end_key, limit),
            };
            answer_with_room(&call, self.cluster.regions_bytes_max(limit), routes).await
        };
        timed.end(answering.await)
    }

    async fn remove_store(
        &self,
        request: Request<RemoveStoreRequest>,
    ) -> Result<Response<RemoveStoreResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "RemoveStore");
        let answering = async {
            let RemoveStoreRequest { store_id, cancel } = request.into_inner();
            let wish = if cancel { "stays" } else { "leaves" };
            call.note_asked(|| format!("store {store_id} {wish}"));
            check_id("store_id", store_id)?;
            let changed = self.cluster.change_leaving(store_id, !cancel).await;
            Ok(Response::new(changed.map_err(cluster_fault)?))
        };
        timed.end(answering.await)
    }

    async fn add_operator(
        &self,
        request: Request<AddOperatorRequest>,
    ) -> Result<Response<AddOperatorResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "AddOperator");
        let answering = async {
            let AddOperatorRequest {
                region_id,
                add_store_id,
                remove_store_id,
            } = request.into_inner();
            call.note_asked(|| {
                format!("region {region_id}: to store {add_store_id}, from store {remove_store_id}")
            });
            check_id("region_id", region_id)?;
            if add_store_id == remove_store_id {
                let cause = if add_store_id == 0 {
                    "no store is named; one is to get a replica, or to lose its own".to_owned()
                } else {
                    format!("store {add_store_id} is to get a replica and to lose it")
                };
                return Err(Fault::invalid_argument("remove_store_id", None, cause).into());
            }
            let named = |store_id| (store_id != 0).then_some(store_id);
            let added =
                self.cluster
                    .add_operator(region_id, named(add_store_id), named(remove_store_id));
            let operator = Some(added.map_err(|error| cluster_fault(error.into()))?);
            Ok(Response::new(AddOperatorResponse { operator }))
        };
        timed.end(answering.await)
    }

    async fn get_operators(
        &self,
        request: Request<GetOperatorsRequest>,
    ) -> Result<Response<GetOperatorsResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "GetOperators");
        let operators = self.cluster.operators();
        timed.end(Ok(Response::new(GetOperatorsResponse { operators })))
    }

    async fn cancel_operator(
        &self,
        request: Request<CancelOperatorRequest>,
    ) -> Result<Response<CancelOperatorResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "CancelOperator");
        let answering = async {
            let region_id = request.into_inner().region_id;
            call.note_asked(|| format!("region {region_id}"));
            check_id("region_id", region_id)?;
            let cancelled = self.cluster.cancel_operator(region_id);
            let operator = Some(cancelled.map_err(|error| cluster_fault(error.into()))?);
            Ok(Response::new(CancelOperatorResponse { operator }))
        };
        timed.end(answering.await)
    }

    async fn get_cluster_info(
        &self,
        request: Request<GetClusterInfoRequest>,
    ) -> Result<Response<GetClusterInfoResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "GetClusterInfo");
        let GetClusterInfoRequest { without_findings } = request.into_inner();
        let findings = (!without_findings).then(|| self.findings());
        timed.end(Ok(Response::new(GetClusterInfoResponse {
            cluster_id: self.cluster.id(),
            limits: Some(advertised_limits()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            findings: findings.unwrap_or_default(),
        })))
    }
}

/// Makes a list when there is room for `bytes_max`. The transport gives back what the list does not need.
async fn answer_with_room<T>(
    call: &Call,
    bytes_max: usize,
    list: impl FnOnce() -> T,
) -> Result<Response<T>, Status> {
    let budgets = call.bytes_in_flight();
    let reserved = match budgets.try_reserve(bytes_max) {
        Some(room) => Ok(room),
        None => {
            let _wait = call.waited().begin();
            budgets.reserve(bytes_max, ADMISSION_WAIT).await
        }
    };
    let busy = |busy: Busy| {
        Fault::new(Code::ResourceExhausted, busy.to_string()).with_fate(Fate::NotApplied)
    };
    call.hold_until_sent(reserved.map_err(busy)?);
    Ok(Response::new(list()))
}

/// Takes `count` consecutive timestamps and returns the first. The caller has checked `count`. If it is dropped before it is
/// done, no timestamps are spent.
async fn allocate(allocator: &SystemAllocator, count: u32) -> Result<u64, Status> {
    let unavailable = |error: AllocatorError| Fault::new(Code::Unavailable, error.to_string());
    let allocated = allocator.allocate(count).await;
    allocated.map_err(|error| unavailable(error).into())
}

fn checked_tso_count(request: &GetTsoRequest) -> Result<u32, Status> {
    checked_count("count", request.count, 1, COUNT_MAX)
}

fn checked_start(
    address: String,
    store_id: u64,
    cluster_id: u64,
    incarnation: u64,
) -> Result<Start, Status> {
    check_advertised_address(&address)
        .map_err(|error| Fault::invalid_argument("address", None, error.to_string()))?;
    if incarnation == 0 {
        let cause = "incarnation is 0; a store makes a random one at each start, and releases before 0.1.0 made none";
        return Err(Fault::invalid_argument("incarnation", None, cause).into());
    }
    Ok(Start {
        address,
        store_id,
        cluster_id,
        incarnation,
    })
}

fn checked_count(
    field: &'static str,
    count: Option<u32>,
    absent: u32,
    maximum: u32,
) -> Result<u32, Status> {
    let count = count.unwrap_or(absent);
    if (1..=maximum).contains(&count) {
        return Ok(count);
    }
    let cause = format!("{field} is {count}; it has to be from 1 to {maximum}");
    Err(Fault::invalid_argument(field, Some(maximum.into()), cause).into())
}

fn check_id(field: &'static str, id: u64) -> Result<(), Status> {
    if id != 0 {
        return Ok(());
    }
    Err(Fault::invalid_argument(field, None, format!("{field} is 0")).into())
}

fn check_bound(field: &'static str, key: &[u8]) -> Result<(), Status> {
    let (bytes, maximum) = (key.len(), limits::SCAN_BOUND_BYTES_MAX);
    if bytes <= maximum {
        return Ok(());
    }
    let cause = format!("{field} has {bytes} bytes; it has at most {maximum}");
    Err(Fault::invalid_argument(field, Some(maximum as u64), cause).into())
}

fn cluster_fault(error: ClusterError) -> Status {
    let code = match &error {
        ClusterError::Impossible(
            Impossible::NoRegion { .. }
            | Impossible::NoStore { .. }
            | Impossible::NoOperator { .. },
        ) => Code::NotFound,
        // Most likely the next try is answered otherwise.
        ClusterError::Impossible(Impossible::Unheard { .. } | Impossible::Unconfirmed { .. }) => {
            Code::Unavailable
        }
        ClusterError::Impossible(_) => Code::FailedPrecondition,
        // It names the field, unlike the refusals of a placement driver that may be the wrong one.
        ClusterError::Refused(Refusal::Removed { .. }) => {
            return Fault {
                field: "store_id",
                ..Fault::new(Code::FailedPrecondition, error.to_string())
            }
            .into();
        }
        ClusterError::Refused(Refusal::ForeignCluster { .. } | Refusal::UnknownStore { .. }) => {
            Code::FailedPrecondition
        }
        ClusterError::Refused(
            Refusal::LivesElsewhere { .. }
            | Refusal::LivesHere { .. }
            | Refusal::AddressTaken { .. }
            | Refusal::Superseded { .. },
        ) => Code::AlreadyExists,
        ClusterError::Refused(Refusal::TooManyStores) => Code::ResourceExhausted,
        ClusterError::Refused(Refusal::MayBeAlive { .. })
        | ClusterError::Storage(_)
        | ClusterError::Busy
        | ClusterError::Stopping => Code::Unavailable,
    };
    let fate = match &error {
        ClusterError::Refused(_) | ClusterError::Impossible(_) | ClusterError::Busy => {
            Fate::NotApplied
        }
        // Even if the failed write was not made, an earlier one may have been: `RemoveStore` makes two.
        ClusterError::Storage(_) | ClusterError::Stopping => Fate::Unknown,
    };
    Fault::new(code, error.to_string()).with_fate(fate).into()
}

fn advertised_limits() -> Limits {
    Limits {
        key_bytes_max: limits::KEY_BYTES_MAX as u64,
        value_bytes_max: limits::VALUE_BYTES_MAX as u64,
        batch_entries_max: limits::BATCH_ENTRIES_MAX as u64,
        batch_bytes_max: limits::BATCH_BYTES_MAX as u64,
        message_bytes_max: MESSAGE_BYTES_MAX as u64,
        scan_page_bytes: limits::SCAN_PAGE_BYTES as u64,
        conflict_value_bytes_max: limits::CONFLICT_VALUE_BYTES_MAX as u64,
        tso_count_max: COUNT_MAX.into(),
        batch_commands_max: BATCH_COMMANDS_MAX as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rdb_proto::transport::limits::CONNECTION_BYTES_IN_FLIGHT_MAX;

    use super::*;

    #[tokio::test]
    async fn a_list_that_finds_no_room_is_not_made_and_refused_as_not_applied() {
        let call = Call::of(&Request::new(()));
        let made = Cell::new(0);
        let list = || made.set(made.get() + 1);
        let budget = call.bytes_in_flight();
        let all = budget.reserve(CONNECTION_BYTES_IN_FLIGHT_MAX, ADMISSION_WAIT);
        let all = all.await.unwrap();
        let bytes_max = 2_500_000;
        let refused = answer_with_room(&call, bytes_max, list).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let fate = rdb_proto::error::details(&refused).unwrap().fate();
        assert_eq!(fate, Fate::NotApplied);
        assert_eq!(made.get(), 0);
        drop(all);
        answer_with_room(&call, bytes_max, list).await.unwrap();
        assert_eq!(made.get(), 1);
    }
}
