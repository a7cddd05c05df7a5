//! A placement driver that says what a test told it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::StreamExt;
use futures::stream::BoxStream;
use rdb_proto::authpb::auth_server::Auth;
use rdb_proto::authpb::*;
use rdb_proto::metapb::{self, Limits, RegionRoute};
use rdb_proto::pdpb::pd_server::Pd;
use rdb_proto::pdpb::*;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::harness::guarded;

/// The limits of a real cluster.
pub(crate) const LIMITS: Limits = Limits {
    key_bytes_max: 8192,
    value_bytes_max: 4 << 20,
    batch_entries_max: 4096,
    batch_bytes_max: 6 << 20,
    message_bytes_max: 8 << 20,
    scan_page_bytes: 1 << 20,
    conflict_value_bytes_max: 64 << 10,
    tso_count_max: 65_536,
    batch_commands_max: 4096,
};

/// The token of everybody.
pub(crate) const TOKEN: &str =
    "flaredb_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[derive(Default)]
struct State {
    stores: Vec<metapb::Store>,
    routes: Vec<RegionRoute>,
    next_timestamp: u64,
    /// The cluster that answers with timestamps name; `None`: its own.
    tso_cluster_id: Option<u64>,
    /// `None`: those of a real cluster.
    limits: Option<Limits>,
    /// What the next requests on streams are answered instead of timestamps.
    tso_faults: VecDeque<Status>,
    /// What the next operators are answered.
    operator_faults: VecDeque<Status>,
    /// What unary calls and new streams are answered. `None`: what they ask for.
    refusal: Option<Status>,
    /// What the next changes of users are answered.
    user_faults: VecDeque<Status>,
    /// How many of them were asked for.
    user_changes: usize,
}

/// A scripted placement driver. Tests hold one handle, the service another.
#[derive(Clone)]
pub(crate) struct ScriptedPd {
    cluster_id: u64,
    state: Arc<Mutex<State>>,
    region_lookups: watch::Sender<usize>,
    /// Whether their answers are kept back.
    lookups_held: watch::Sender<bool>,
    /// Whether streams of timestamps are left without a word.
    streams_held: watch::Sender<bool>,
    /// Requests for timestamps on streams.
    tso_requests: watch::Sender<usize>,
    /// Whether their answers are kept back.
    tso_held: watch::Sender<bool>,
}

impl ScriptedPd {
    pub(crate) fn new(cluster_id: u64) -> Self {
        Self {
            cluster_id,
            state: Arc::default(),
            region_lookups: watch::Sender::new(0),
            lookups_held: watch::Sender::new(false),
            streams_held: watch::Sender::new(false),
            tso_requests: watch::Sender::new(0),
            tso_held: watch::Sender::new(false),
        }
    }

    pub(crate) fn set_routes(&self, routes: Vec<RegionRoute>) {
        self.state().routes = routes;
    }

    pub(crate) fn set_stores(&self, stores: Vec<metapb::Store>) {
        self.state().stores = stores;
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        self.state().limits = Some(limits);
    }

    pub(crate) fn set_next_timestamp(&self, next_timestamp: u64) {
        self.state().next_timestamp = next_timestamp;
    }

    /// Timestamps are given in the name of this cluster from now on.
    pub(crate) fn give_timestamps_of(&self, cluster_id: u64) {
        self.state().tso_cluster_id = Some(cluster_id);
    }

    /// Keeps back the answers to region lookups, or lets them go.
    pub(crate) fn hold_lookups(&self, hold: bool) {
        self.lookups_held.send_replace(hold);
    }

    /// How often a region was asked for.
    pub(crate) fn region_lookups(&self) -> usize {
        *self.region_lookups.borrow()
    }

    /// Waits until a region has been asked for so many times in all.
    pub(crate) async fn wait_region_lookups(&self, count: usize) {
        let mut lookups = self.region_lookups.subscribe();
        let enough = lookups.wait_for(|lookups| *lookups >= count);
        guarded("regions are looked up", enough).await.unwrap();
    }

    /// Accepts no stream of timestamps, and refuses none, or goes on.
    pub(crate) fn hold_streams(&self, hold: bool) {
        self.streams_held.send_replace(hold);
    }

    /// How many requests for timestamps came on streams.
    pub(crate) fn tso_requests(&self) -> usize {
        *self.tso_requests.borrow()
    }

    /// Waits until so many came in all.
    pub(crate) async fn wait_tso_requests(&self, count: usize) {
        let mut requests = self.tso_requests.subscribe();
        requests.wait_for(|came| *came >= count).await.unwrap();
    }

    /// Keeps back the answers to requests on streams, whose timestamps are taken by then, or lets them go.
    pub(crate) fn hold_timestamps(&self, hold: bool) {
        self.tso_held.send_replace(hold);
    }

    /// The next request on a stream is answered by this, which ends the stream.
    pub(crate) fn fail_timestamps(&self, status: Status) {
        self.state().tso_faults.push_back(status);
    }

    /// The next operators that are asked for are answered by these, one each.
    pub(crate) fn fail_operators(&self, statuses: impl IntoIterator<Item = Status>) {
        self.state().operator_faults.extend(statuses);
    }

    /// Lets no client in any more, or again.
    pub(crate) fn refuse(&self, status: Option<Status>) {
        self.state().refusal = status;
    }

    /// The next changes of users are answered by these, one each.
    pub(crate) fn fail_users(&self, statuses: impl IntoIterator<Item = Status>) {
        self.state().user_faults.extend(statuses);
    }

    /// How many changes of users were asked for.
    pub(crate) fn user_changes(&self) -> usize {
        self.state().user_changes
    }

    fn let_in(&self) -> Result<(), Status> {
        self.state().refusal.clone().map_or(Ok(()), Err)
    }

    fn take_timestamps(&self, request: GetTsoRequest) -> GetTsoResponse {
        let count = request.count.unwrap_or(1);
        let mut state = self.state();
        let first = state.next_timestamp;
        state.next_timestamp = first.wrapping_add(count.into());
        GetTsoResponse {
            first,
            count,
            cluster_id: state.tso_cluster_id.unwrap_or(self.cluster_id),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Pd for ScriptedPd {
    async fn get_tso(&self, request: Request<GetTsoRequest>) -> Answer<GetTsoResponse> {
        self.let_in()?;
        Ok(Response::new(self.take_timestamps(request.into_inner())))
    }

    type TsoStream = BoxStream<'static, Result<GetTsoResponse, Status>>;

    async fn tso(&self, requests: Request<Streaming<GetTsoRequest>>) -> Answer<Self::TsoStream> {
        let mut held = self.streams_held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        self.let_in()?;
        let this = self.clone();
        let answers = requests.into_inner().then(move |request| {
            let this = this.clone();
            async move {
                let request = request?;
                this.tso_requests.send_modify(|requests| *requests += 1);
                let fault = this.state().tso_faults.pop_front();
                if let Some(status) = fault {
                    return Err(status);
                }
                let answer = this.take_timestamps(request);
                let mut held = this.tso_held.subscribe();
                held.wait_for(|held| !held).await.unwrap();
                Ok(answer)
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn register_store(
        &self,
        _: Request<RegisterStoreRequest>,
    ) -> Answer<RegisterStoreResponse> {
        Err(Status::unimplemented("for stores"))
    }

    async fn store_heartbeat(
        &self,
        _: Request<StoreHeartbeatRequest>,
    ) -> Answer<StoreHeartbeatResponse> {
        Err(Status::unimplemented("for stores"))
    }

    async fn get_stores(&self, _: Request<GetStoresRequest>) -> Answer<GetStoresResponse> {
        let stores = self.state().stores.clone();
        Ok(Response::new(GetStoresResponse { stores }))
    }

    async fn get_region(&self, request: Request<GetRegionRequest>) -> Answer<GetRegionResponse> {
        let key = request.into_inner().key;
        self.region_lookups.send_modify(|lookups| *lookups += 1);
        let mut held = self.lookups_held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        self.let_in()?;
        let state = self.state();
        let holds_key = |route: &&RegionRoute| route.region.as_ref().unwrap().contains(&key);
        let route = state.routes.iter().find(holds_key).cloned();
        Ok(Response::new(GetRegionResponse {
            route,
            ..GetRegionResponse::default()
        }))
    }

    async fn scan_regions(
        &self,
        request: Request<ScanRegionsRequest>,
    ) -> Answer<ScanRegionsResponse> {
        let start_key = request.into_inner().start_key;
        let mut routes = self.state().routes.clone();
        routes.retain(|route| route.region.as_ref().unwrap().overlaps(&start_key, b""));
        // One at a time, so that whoever wants all has to go on asking.
        routes.truncate(1);
        Ok(Response::new(ScanRegionsResponse { routes }))
    }

    async fn remove_store(&self, _: Request<RemoveStoreRequest>) -> Answer<RemoveStoreResponse> {
        Err(Status::unimplemented("for operators"))
    }

    async fn add_operator(&self, _: Request<AddOperatorRequest>) -> Answer<AddOperatorResponse> {
        let fault = self.state().operator_faults.pop_front();
        Err(fault.unwrap_or_else(|| Status::unimplemented("for operators")))
    }

    async fn get_operators(&self, _: Request<GetOperatorsRequest>) -> Answer<GetOperatorsResponse> {
        Err(Status::unimplemented("for operators"))
    }

    async fn cancel_operator(
        &self,
        _: Request<CancelOperatorRequest>,
    ) -> Answer<CancelOperatorResponse> {
        Err(Status::unimplemented("for operators"))
    }

    async fn get_cluster_info(
        &self,
        _: Request<GetClusterInfoRequest>,
    ) -> Answer<GetClusterInfoResponse> {
        self.let_in()?;
        Ok(Response::new(GetClusterInfoResponse {
            cluster_id: self.cluster_id,
            limits: Some(self.state().limits.unwrap_or(LIMITS)),
            version: "test".to_owned(),
            findings: Vec::new(),
        }))
    }
}

/// Users are not kept: a change of them is refused as a test says, or told as done.
#[tonic::async_trait]
impl Auth for ScriptedPd {
    async fn enable(&self, _: Request<EnableRequest>) -> Answer<EnableResponse> {
        self.change_users()?;
        Ok(Response::new(EnableResponse {
            token: TOKEN.to_owned(),
            enforced: true,
        }))
    }

    async fn add_user(&self, _: Request<AddUserRequest>) -> Answer<AddUserResponse> {
        self.change_users()?;
        Ok(Response::new(AddUserResponse {
            token: TOKEN.to_owned(),
        }))
    }

    async fn remove_user(&self, _: Request<RemoveUserRequest>) -> Answer<RemoveUserResponse> {
        self.change_users()?;
        Ok(Response::new(RemoveUserResponse {}))
    }

    async fn change_token(&self, _: Request<ChangeTokenRequest>) -> Answer<ChangeTokenResponse> {
        self.change_users()?;
        Ok(Response::new(ChangeTokenResponse {
            token: TOKEN.to_owned(),
        }))
    }

    async fn get_users(&self, _: Request<GetUsersRequest>) -> Answer<GetUsersResponse> {
        Ok(Response::new(GetUsersResponse::default()))
    }

    async fn grant(&self, _: Request<GrantRequest>) -> Answer<GrantResponse> {
        self.change_users()?;
        Ok(Response::new(GrantResponse { changed: true }))
    }

    async fn revoke(&self, _: Request<RevokeRequest>) -> Answer<RevokeResponse> {
        self.change_users()?;
        Ok(Response::new(RevokeResponse {}))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Answer<CheckResponse> {
        Ok(Response::new(CheckResponse::default()))
    }

    async fn get_rights(&self, _: Request<GetRightsRequest>) -> Answer<GetRightsResponse> {
        Err(Status::unimplemented("for stores"))
    }
}

impl ScriptedPd {
    fn change_users(&self) -> Result<(), Status> {
        let mut state = self.state();
        state.user_changes += 1;
        state.user_faults.pop_front().map_or(Ok(()), Err)
    }
}
