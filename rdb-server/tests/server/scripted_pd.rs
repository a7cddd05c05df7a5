//! A placement driver that tells stores what a test told it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::stream::{BoxStream, StreamExt, empty};
use rdb_proto::auth::{Guard, Rights};
use rdb_proto::authpb::auth_server::{Auth, AuthServer};
use rdb_proto::authpb::{self, GetRightsRequest, GetRightsResponse};
use rdb_proto::metapb::{Peer, Region, RegionEpoch, Store};
use rdb_proto::pdpb::pd_server::{Pd, PdServer};
use rdb_proto::pdpb::*;
use rdb_proto::transport::{ServeOptions, Services, serve};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

const CLUSTER_ID: u64 = 7;
/// The first store that registers.
const STORE_ID: u64 = 1;
pub(crate) const REGION_ID: u64 = 1;
/// How often stores send heartbeats unless a test says otherwise.
pub(crate) const INTERVAL_MS: u64 = 100;

/// Serves until it is dropped.
pub(crate) struct ScriptedPd {
    address: SocketAddr,
    script: Script,
    _drain: DropGuard,
}

#[derive(Clone)]
struct Script {
    /// Those of the first store.
    regions: Arc<Mutex<Vec<Region>>>,
    heartbeats_refused: Arc<Mutex<Option<Status>>>,
    /// How many were, since the test has said so.
    refusals: Arc<AtomicUsize>,
    stores: Arc<Mutex<Vec<Store>>>,
    /// By the addresses of those that have registered.
    ids: Arc<Mutex<BTreeMap<String, u64>>>,
    /// The last heartbeat of each store, and how many came.
    heartbeats: Arc<Mutex<BTreeMap<u64, (StoreHeartbeatRequest, u64)>>>,
    /// How often it asks for them.
    interval_ms: Arc<AtomicU64>,
    step: Arc<Mutex<Option<RegionStep>>>,
    removed: Arc<Mutex<Vec<HeldPeer>>>,
    /// Holds callers to the rights, as a real one does.
    guard: Arc<Guard>,
    /// `None`: they are not enforced.
    rights: Arc<Mutex<Option<authpb::Rights>>>,
    rights_version: Arc<AtomicUsize>,
    knows_no_rights: Arc<AtomicBool>,
    keeps_rights: Arc<AtomicBool>,
    /// How often it was asked for rights.
    questions: Arc<AtomicUsize>,
    registers_nobody: Arc<AtomicBool>,
    is_away: Arc<AtomicBool>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            regions: Arc::default(),
            heartbeats_refused: Arc::default(),
            refusals: Arc::default(),
            stores: Arc::default(),
            ids: Arc::default(),
            heartbeats: Arc::default(),
            interval_ms: Arc::new(AtomicU64::new(INTERVAL_MS)),
            step: Arc::default(),
            removed: Arc::default(),
            guard: Arc::new(Guard::off()),
            rights: Arc::default(),
            rights_version: Arc::default(),
            knows_no_rights: Arc::default(),
            keeps_rights: Arc::default(),
            questions: Arc::default(),
            registers_nobody: Arc::default(),
            is_away: Arc::default(),
        }
    }
}

impl ScriptedPd {
    /// The region of its first store reaches from `start_key` to `end_key`.
    pub(crate) async fn start(start_key: &str, end_key: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let script = Script::default();
        let services = Services::default()
            .add_service(PdServer::new(script.clone()))
            .add_service(AuthServer::new(script.clone()));
        let drain = CancellationToken::new();
        let options = ServeOptions {
            guard: Some(Arc::clone(&script.guard)),
            ..ServeOptions::default()
        };
        let serving = serve(listener, services, options, drain.clone());
        tokio::spawn(async move { drop(serving.await) });
        let pd = Self {
            address,
            script,
            _drain: drain.drop_guard(),
        };
        pd.assign(start_key, end_key);
        pd
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// What it tells a store that registers from now on.
    pub(crate) fn assign(&self, start_key: &str, end_key: &str) {
        *lock(&self.script.regions) = vec![region(REGION_ID, start_key, end_key)];
    }

    /// The same of so many regions, which hold all keys. Their bounds are numbers of four digits.
    pub(crate) fn assign_many(&self, count: u64) {
        let bound = |number: u64| match number {
            number if number == 0 || number == count => String::new(),
            number => format!("{number:04}"),
        };
        let regions = (0..count).map(|number| {
            let (start_key, end_key) = (bound(number), bound(number + 1));
            region(REGION_ID + number, &start_key, &end_key)
        });
        *lock(&self.script.regions) = regions.collect();
    }

    /// Answers heartbeats with this from now on.
    pub(crate) fn refuse_heartbeats(&self, status: Status) {
        let refused = &self.script.heartbeats_refused;
        self.script.refusals.store(0, Ordering::SeqCst);
        *refused.lock().expect("no test panics in here") = Some(status);
    }

    /// Takes heartbeats again.
    pub(crate) fn take_heartbeats(&self) {
        let refused = &self.script.heartbeats_refused;
        *refused.lock().expect("no test panics in here") = None;
    }

    /// How many heartbeats it has refused.
    pub(crate) fn refusals(&self) -> usize {
        self.script.refusals.load(Ordering::SeqCst)
    }

    /// How often it asks stores for heartbeats from now on.
    pub(crate) fn set_interval_ms(&self, interval_ms: u64) {
        self.script.interval_ms.store(interval_ms, Ordering::SeqCst);
    }

    /// Says where a store is.
    pub(crate) fn name_store(&self, id: u64, address: &str) {
        let store = Store {
            id,
            address: address.to_owned(),
            ..Store::default()
        };
        *self.script.stores.lock().expect("no test panics in here") = vec![store];
    }

    /// What a store has said last, and how many heartbeats it has sent.
    pub(crate) fn heartbeat_of(&self, store_id: u64) -> Option<(StoreHeartbeatRequest, u64)> {
        lock(&self.script.heartbeats).get(&store_id).cloned()
    }

    /// Hands this step out in every answer to the store that leads its region.
    pub(crate) fn hand_out(&self, step: Option<RegionStep>) {
        *lock(&self.script.step) = step;
    }

    /// Enforces the rights of these users, in the order of their names, and of nobody else.
    pub(crate) fn enforce(&self, users: Vec<authpb::User>) {
        let version = self.script.rights_version.fetch_add(1, Ordering::SeqCst) as u64 + 1;
        let rights = authpb::Rights { version, users };
        let compiled = Rights::of(&rights).expect("the test gives valid ones");
        self.script.guard.set(Some(Arc::new(compiled)));
        *lock(&self.script.rights) = Some(rights);
    }

    /// Enforces no rights any more.
    pub(crate) fn enforce_nothing(&self) {
        self.script.guard.set(None);
        *lock(&self.script.rights) = None;
    }

    /// From now on it is of a release that knows no rights.
    pub(crate) fn forget_rights(&self) {
        self.enforce_nothing();
        self.script.knows_no_rights.store(true, Ordering::SeqCst);
    }

    /// Whether it does not say whether it enforces rights.
    pub(crate) fn keep_rights(&self, keeps_rights: bool) {
        self.script
            .keeps_rights
            .store(keeps_rights, Ordering::SeqCst);
    }

    /// Enforces rights, and hands out some that no store knows.
    pub(crate) fn enforce_unusable(&self) {
        let grant = authpb::Grant {
            role: 99,
            ..authpb::Grant::default()
        };
        let user = authpb::User {
            name: "ada".to_owned(),
            grants: vec![grant],
            ..authpb::User::default()
        };
        let (version, users) = (1, vec![user]);
        *lock(&self.script.rights) = Some(authpb::Rights { version, users });
    }

    /// Counts changes of rights anew, as it does with the data of a backup.
    pub(crate) fn forget_versions(&self) {
        self.script.rights_version.store(0, Ordering::SeqCst);
    }

    /// How often it was asked for rights.
    pub(crate) fn questions(&self) -> usize {
        self.script.questions.load(Ordering::SeqCst)
    }

    /// From now on it takes no registration.
    pub(crate) fn register_nobody(&self) {
        self.script.registers_nobody.store(true, Ordering::SeqCst);
    }

    /// Whether it answers nothing that stores ask.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.script.is_away.store(is_away, Ordering::SeqCst);
    }

    /// Names these replicas as removed in every answer to a store that holds one.
    pub(crate) fn name_removed(&self, removed: Vec<HeldPeer>) {
        *lock(&self.script.removed) = removed;
    }
}

fn lock<T>(locked: &Mutex<T>) -> MutexGuard<'_, T> {
    locked.lock().expect("no test panics in here")
}

/// A region that the first store holds alone.
fn region(id: u64, start_key: &str, end_key: &str) -> Region {
    Region {
        id,
        start_key: start_key.to_owned().into(),
        end_key: end_key.to_owned().into(),
        epoch: Some(RegionEpoch {
            conf_version: 1,
            version: 1,
        }),
        peers: vec![Peer {
            id,
            store_id: STORE_ID,
            learner: false,
        }],
    }
}

type Answer<T> = Result<Response<T>, Status>;

impl Script {
    fn check_here(&self) -> Result<(), Status> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Status::unavailable("the test has it away"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Auth for Script {
    async fn get_rights(&self, request: Request<GetRightsRequest>) -> Answer<GetRightsResponse> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        self.check_here()?;
        if self.keeps_rights.load(Ordering::SeqCst) {
            return Err(Status::unavailable("the test keeps them"));
        }
        if self.knows_no_rights.load(Ordering::SeqCst) {
            return Err(Status::unimplemented("an older release"));
        }
        let known = request.into_inner().known_version;
        let rights = lock(&self.rights).clone();
        Ok(Response::new(GetRightsResponse {
            enforced: rights.is_some(),
            rights: rights.filter(|rights| rights.version != known),
        }))
    }

    async fn enable(&self, _: Request<authpb::EnableRequest>) -> Answer<authpb::EnableResponse> {
        Err(for_clients())
    }

    async fn add_user(
        &self,
        _: Request<authpb::AddUserRequest>,
    ) -> Answer<authpb::AddUserResponse> {
        Err(for_clients())
    }

    async fn remove_user(
        &self,
        _: Request<authpb::RemoveUserRequest>,
    ) -> Answer<authpb::RemoveUserResponse> {
        Err(for_clients())
    }

    async fn change_token(
        &self,
        _: Request<authpb::ChangeTokenRequest>,
    ) -> Answer<authpb::ChangeTokenResponse> {
        Err(for_clients())
    }

    async fn get_users(
        &self,
        _: Request<authpb::GetUsersRequest>,
    ) -> Answer<authpb::GetUsersResponse> {
        Err(for_clients())
    }

    async fn grant(&self, _: Request<authpb::GrantRequest>) -> Answer<authpb::GrantResponse> {
        Err(for_clients())
    }

    async fn revoke(&self, _: Request<authpb::RevokeRequest>) -> Answer<authpb::RevokeResponse> {
        Err(for_clients())
    }

    async fn check(&self, _: Request<authpb::CheckRequest>) -> Answer<authpb::CheckResponse> {
        Err(for_clients())
    }
}

#[tonic::async_trait]
impl Pd for Script {
    async fn register_store(
        &self,
        request: Request<RegisterStoreRequest>,
    ) -> Answer<RegisterStoreResponse> {
        self.check_here()?;
        if self.registers_nobody.load(Ordering::SeqCst) {
            return Err(Status::unavailable("the test registers nobody here"));
        }
        let store_id = {
            let mut ids = lock(&self.ids);
            let next = STORE_ID + ids.len() as u64;
            *ids.entry(request.into_inner().address).or_insert(next)
        };
        let mut regions = lock(&self.regions).clone();
        regions.retain(|_| store_id == STORE_ID);
        Ok(Response::new(RegisterStoreResponse {
            cluster_id: CLUSTER_ID,
            store_id,
            regions,
        }))
    }

    async fn store_heartbeat(
        &self,
        request: Request<StoreHeartbeatRequest>,
    ) -> Answer<StoreHeartbeatResponse> {
        self.check_here()?;
        let request = request.into_inner();
        let step = (*lock(&self.step)).filter(|step| {
            let mut leads = request.leads.iter();
            leads.any(|led| led.region_id == step.region_id)
        });
        let mut removed = lock(&self.removed).clone();
        removed.retain(|removed| request.holds.contains(removed));
        let refused = self.heartbeats_refused.lock();
        match refused.expect("no test panics in here").clone() {
            Some(status) => {
                self.refusals.fetch_add(1, Ordering::SeqCst);
                Err(status)
            }
            None => {
                let mut heartbeats = lock(&self.heartbeats);
                let (last, count) = heartbeats.entry(request.store_id).or_default();
                (*last, *count) = (request, *count + 1);
                Ok(Response::new(StoreHeartbeatResponse {
                    interval_ms: self.interval_ms.load(Ordering::SeqCst),
                    regions: Vec::new(),
                    steps: step.into_iter().collect(),
                    removed,
                }))
            }
        }
    }

    async fn get_tso(&self, _: Request<GetTsoRequest>) -> Answer<GetTsoResponse> {
        Err(for_clients())
    }

    type TsoStream = BoxStream<'static, Result<GetTsoResponse, Status>>;

    async fn tso(&self, _: Request<Streaming<GetTsoRequest>>) -> Answer<Self::TsoStream> {
        Ok(Response::new(empty().boxed()))
    }

    async fn get_stores(&self, _: Request<GetStoresRequest>) -> Answer<GetStoresResponse> {
        self.check_here()?;
        let mut stores = lock(&self.stores).clone();
        if stores.is_empty() {
            let ids = lock(&self.ids).clone().into_iter();
            let registered = ids.map(|(address, id)| Store {
                id,
                address,
                ..Store::default()
            });
            stores.extend(registered);
        }
        Ok(Response::new(GetStoresResponse { stores }))
    }

    async fn get_region(&self, _: Request<GetRegionRequest>) -> Answer<GetRegionResponse> {
        Err(for_clients())
    }

    async fn scan_regions(&self, _: Request<ScanRegionsRequest>) -> Answer<ScanRegionsResponse> {
        Err(for_clients())
    }

    async fn remove_store(&self, _: Request<RemoveStoreRequest>) -> Answer<RemoveStoreResponse> {
        Err(for_clients())
    }

    async fn add_operator(&self, _: Request<AddOperatorRequest>) -> Answer<AddOperatorResponse> {
        Err(for_clients())
    }

    async fn get_operators(&self, _: Request<GetOperatorsRequest>) -> Answer<GetOperatorsResponse> {
        Err(for_clients())
    }

    async fn cancel_operator(
        &self,
        _: Request<CancelOperatorRequest>,
    ) -> Answer<CancelOperatorResponse> {
        Err(for_clients())
    }

    async fn get_cluster_info(
        &self,
        _: Request<GetClusterInfoRequest>,
    ) -> Answer<GetClusterInfoResponse> {
        Err(for_clients())
    }
}

fn for_clients() -> Status {
    Status::unimplemented("for clients")
}
