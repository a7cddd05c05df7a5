//! Wires the process: storage, router, services, placement, health, status pages. Nothing else does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdb_proto::adminpb::region_admin_server::RegionAdminServer;
use rdb_proto::audit::{self, AuditWriter};
use rdb_proto::batch::KvBatchServer;
use rdb_proto::kvrpc::kv_cas_server::KvCasServer;
use rdb_proto::kvrpc::kv_raw_server::KvRawServer;
use rdb_proto::slow_log::SlowLog;
use rdb_proto::spans::{self, Origin, SpanExporter};
use rdb_proto::transport::limits::{MESSAGE_BYTES_MAX, STORE_CONNECTIONS_MAX};
use rdb_proto::transport::process::{self, ServerProcess, drains_when_it_ends};
use rdb_proto::transport::status::{StatusAddress, StatusServer, TransportMetrics};
use rdb_proto::transport::tls::{self, ClientTls, TlsKeeper};
use rdb_proto::transport::{
    HealthHandle, ServeOptions, Services, UnservedCalls, WarningAbout, health,
    raise_open_files_limit, serve,
};
use rdb_raft::group::GroupState;
use rdb_raft::transport::Dialing;
use rdb_storage::{Durability, Repair, Storage, UnfinishedInstall, WriteHealth};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, ConfigError};
use crate::error::ServerError;
use crate::leaderless::Leaderless;
use crate::metrics::{Figures, LoadMeter, StoreSource};
use crate::placement::Placement;
use crate::placement_drivers::PlacementDrivers;
use crate::regions::{Damage, Regions};
use crate::rights::{Mark, RightsCopy, RightsKeeper};
use crate::router::Router;
use crate::service::{BatchService, CasService, RawService, RegionAdminService};
use crate::starts::note_outdated;

const SERVICES: &[&str] = &["kvrpc.KvRaw", "kvrpc.KvCas", "kvrpc.KvBatch"];

/// How often the health looks whether somebody leads the regions.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// A running store. Dropping it starts the drain; [`wait`](Self::wait) sees it through.
pub struct Server {
    local_addr: SocketAddr,
    regions: Arc<Regions>,
    serving: JoinHandle<Result<(), ServerError>>,
    placement: JoinHandle<Result<(), ServerError>>,
    /// Ends after what it shows has.
    status: Option<StatusServer>,
    /// Ends after what it sends has been noted.
    span_exporter: Option<SpanExporter>,
    /// Ends after what it writes has been noted.
    audit_writer: Option<AuditWriter>,
    health: HealthHandle,
    drain: CancellationToken,
    _drain_on_drop: DropGuard,
}

impl Server {
    /// Opens the data directory and serves it. A store that is new refuses calls until it has registered.
    ///
    /// # Errors
    ///
    /// [`ServerError`] when a setting is wrong, the directory cannot be opened, or the address cannot be listened on.
    pub async fn start(config: Config) -> Result<Self, ServerError> {
        config.validate()?;
        let handed_over = CancellationToken::new();
        let drain = CancellationToken::new();
        let slow = SlowLog::of_threshold_ms(config.serve.slow_log_ms);
        let origin = Origin {
            program: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            instance: config.instance(),
        };
        let (data_dir, notes_writes) = (&config.data_dir, config.audit_writes);
        let audit = config.serve.audit(data_dir, origin.clone(), notes_writes)?;
        let (audit, audit_writer) = audit.unzip();
        let (spans, span_exporter) = spans::start(config.serve.otlp_endpoint.as_ref(), origin);
        let figures = Figures::told_by(slow, spans).audited_by(audit.clone());
        let router = Router::new(drain.clone()).noting_in(figures);
        let unserved: Arc<dyn UnservedCalls> = Arc::<Figures>::clone(router.figures());
        let server_tls = config.serve.tls().map_err(ConfigError::from)?.map(Arc::new);
        let client_tls = config.client_tls().map_err(ConfigError::from)?;
        let dialing = Dialing {
            connector: client_tls.as_ref().map(ClientTls::connector),
            token: config.auth_token()?,
        };
        let (connector, token) = (dialing.connector.clone(), dialing.token.clone());
        let placement_drivers = PlacementDrivers::new(&config.pd, connector, token)?;
        let (directory, options) = (config.data_dir.clone(), config.storage_options());
        let open = move || {
            let storage = Storage::open(directory, options)?;
            let mark = Mark::open(&storage.directory());
            Ok::<_, ServerError>((storage, mark))
        };
        raise_open_files_limit(config.serve.connections_max);
        let (storage, mark) = spawn_blocking(open).await??;
        let serve_options = ServeOptions {
            unserved: Some(unserved),
            audit: audit.clone(),
            tls: server_tls.clone(),
            store_connections_max: STORE_CONNECTIONS_MAX,
            handed_over: Some(handed_over.clone()),
            ..config.serve.options().map_err(ConfigError::from)?
        };
        let regions = Arc::new(
            Regions::open(
                storage.clone(),
                router.clone(),
                config.durability,
                config.timing(),
                config.raft_log_mib_max << 20,
                dialing,
            )
            .await?,
        );
        let has_regions = regions.restore().await?;
        let (registered, registration) = watch::channel(has_regions);
        let is_marked = mark.may_be_there();
        let rights = RightsCopy::new(is_marked, !has_regions, config.auth_stale_max());
        let rights = Arc::new(rights);
        let serve_options = ServeOptions {
            guard: Some(Arc::clone(rights.guard())),
            ..serve_options
        };
        let listen_error = |source| ServerError::Listen {
            address: config.addr,
            source,
        };
        let listener = TcpListener::bind(config.addr).await.map_err(listen_error)?;
        let local_addr = listener.local_addr().map_err(listen_error)?;
        let status_listener =
            StatusAddress::listen_for(config.serve.status_addr, config.addr).await?;
        let advertised = config
            .advertise_addr
            .clone()
            .unwrap_or_else(|| local_addr.to_string());

        let rights_keeper = RightsKeeper::new(placement_drivers.clone(), Arc::clone(&rights), mark);
        let placement = Placement::new(
            placement_drivers,
            advertised.clone(),
            storage.clone(),
            Arc::clone(&regions),
            Arc::clone(&rights),
            LoadMeter::new(Arc::clone(router.figures()), storage.clone()),
            registered,
        )?;

        let (health_handle, health_service) = health(SERVICES, drain.clone());
        let shown_health = health_handle.clone();
        if let Some(audit) = &audit {
            audit.tell(health_handle.clone());
        }
        let tls_keeper =
            server_tls.map(|tls| TlsKeeper::new(tls, client_tls, health_handle.clone()));
        let source = StoreSource {
            health: health_handle.clone(),
            registration: registration.clone(),
            drain: drain.clone(),
            storage: storage.clone(),
            durability: config.durability,
            regions: Arc::clone(&regions),
            rights: Arc::clone(&rights),
            figures: Arc::clone(router.figures()),
            transport: TransportMetrics::of(&serve_options),
            addr: local_addr,
            advertised: advertised.clone(),
        };
        let health_keeper = keep_health(
            health_handle,
            registration,
            storage.clone(),
            Arc::clone(&regions),
            Arc::clone(&rights),
        );
        let raw = KvRawServer::new(RawService::new(router.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let cas = KvCasServer::new(CasService::new(router.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let admin = RegionAdminService::new(router.clone(), Arc::clone(regions.checks()));
        let batch = KvBatchServer::new(BatchService::new(router));
        let services = Services::default()
            .add_service(raw)
            .add_service(cas)
            .add_service(batch)
            .add_service(RegionAdminServer::new(admin))
            .add_service(regions.peer_service())
            .add_service(health_service);
        let (until_drained, of_drain) = (drain.clone(), Arc::clone(&regions));
        let data_directory = storage.directory();
        // Until this ends, other stores are served: they may need this one's vote to follow it.
        let handed_over = handed_over.drop_guard();
        let placement = async move {
            let _handed_over = handed_over;
            let ended = tokio::select! {
                refused = placement.run() => refused,
                () = health_keeper => Ok(()),
                () = rights_keeper.run() => Ok(()),
                () = tls::keep(tls_keeper) => Ok(()),
                () = of_drain.keep(&rights) => Ok(()),
                () = of_drain.follow() => Ok(()),
                by_store = of_drain.starts().outdated() => Err(ServerError::Outdated { by_store }),
                () = until_drained.cancelled() => Ok(()),
            };
            until_drained.cancel();
            match ended {
                Ok(()) => of_drain.hand_over().await,
                Err(_) => of_drain.leave().await,
            }
            if let Err(ServerError::Outdated { by_store }) = ended {
                note_outdated(data_directory, by_store).await;
            }
            ended
        };
        let serving = serve(listener, services, serve_options, drain.clone());
        let serving = async move { Ok(serving.await?) };
        let (program, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        let status = status_listener
            .map(|listener| StatusServer::start(listener, program, version, Arc::new(source)))
            .transpose()
            .map_err(listen_error)?;
        let status_addr = status.as_ref().map(StatusServer::local_addr);
        announce(&config, local_addr, &advertised, status_addr, &storage);
        Ok(Self {
            local_addr,
            regions,
            serving: tokio::spawn(drains_when_it_ends(serving, drain.clone())),
            placement: tokio::spawn(drains_when_it_ends(placement, drain.clone())),
            status,
            span_exporter,
            audit_writer,
            health: shown_health,
            drain: drain.clone(),
            _drain_on_drop: drain.drop_guard(),
        })
    }

    /// Drops the writes after the damage from a directory whose write-ahead log is damaged. Other directories keep all.
    ///
    /// # Errors
    ///
    /// [`ServerError`] when a setting is wrong, or the directory is not only damaged in its log.
    pub async fn repair_wal(config: Config) -> Result<(), ServerError> {
        config.validate()?;
        let (directory, options) = (config.data_dir.clone(), config.storage_options());
        let repair = spawn_blocking(move || Repair::of(directory, options)).await??;
        let data_dir = config.data_dir.display();
        match repair {
            Repair::NotNeeded => tracing::info!(
                %data_dir,
                "the write-ahead log is not damaged: nothing was cut. Start without --repair-wal"
            ),
            Repair::Cut(damage) => {
                let damage: Vec<_> = damage.iter().map(ToString::to_string).collect();
                tracing::warn!(
                    %data_dir,
                    damage = damage.join("; "),
                    "the write-ahead log was cut at its first damage; writes after it are lost. Start without --repair-wal now"
                );
            }
        }
        Ok(())
    }

    /// Where its status pages are, if there are any.
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status.as_ref().map(StatusServer::local_addr)
    }

    /// The address that the server listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl ServerProcess for Server {
    type Error = ServerError;

    fn drain_token(&self) -> CancellationToken {
        self.drain.clone()
    }

    fn health(&self) -> HealthHandle {
        self.health.clone()
    }

    async fn wait(self) -> Result<(), ServerError> {
        let placed = self.placement.await;
        let served = self.serving.await;
        if let Some(status) = self.status {
            status.end().await;
        }
        let (regions, runtime) = (self.regions, Handle::current());
        let closing_began = tokio::time::Instant::now();
        let closing = process::close(move || regions.close(&runtime));
        let (closed, ()) = tokio::join!(closing, spans::end(self.span_exporter));
        audit::end(self.audit_writer, closing_began).await;
        closed?;
        placed??;
        served?
    }
}

/// Keeps the health status. A store is healthy when it is registered, has rights that hold where they are enforced, takes the writes of
/// every region that it leads, and hears of who leads the others. It has started when it is registered and writes to its disk: a single
/// region does not hold that up.
async fn keep_health(
    health: HealthHandle,
    mut registration: watch::Receiver<bool>,
    storage: Storage,
    regions: Arc<Regions>,
    rights: Arc<RightsCopy>,
) {
    let (mut writes, mut log_writes) = (storage.write_health(), regions.log_health());
    let (mut groups, mut served) = (regions.states(), regions.served());
    let mut damaged = regions.damaged();
    let mut leaderless = Leaderless::new(regions.leaderless_after());
    let mut looks = interval(HEALTH_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_serving = false;
    loop {
        served.borrow_and_update();
        // It looks at the groups by itself, so none of them may be borrowed here.
        let leaderless = leaderless.note(&regions.led_by_anybody(), Instant::now());
        let registered = *registration.borrow_and_update();
        let write_health = writes.borrow_and_update().clone();
        let log_cause = log_writes.borrow_and_update().cause();
        let has_stopped =
            matches!(write_health, WriteHealth::Stopped { .. }) || log_cause.is_some();
        let causes = [
            (!registered).then(|| "it has not registered with the placement driver".to_owned()),
            rights.refusal(),
            damage(&damaged.borrow_and_update()),
            left_out(&storage.unfinished_installs()),
            write_health.cause(),
            log_cause,
            stopped(&groups.borrow_and_update()),
            leaderless,
        ];
        let serving = match causes.into_iter().flatten().next() {
            Some(cause) => Err(cause),
            None => Ok(()),
        };
        if serving.is_ok() && !was_serving {
            tracing::info!("serving KvRaw, KvCas and KvBatch");
        }
        was_serving = serving.is_ok();
        health.set(serving);
        health.warn(WarningAbout::Rights, rights.warning());
        if registered && !has_stopped {
            health.set_started();
        }
        let changed = tokio::select! {
            changed = registration.changed() => changed,
            changed = writes.changed() => changed,
            changed = log_writes.changed() => changed,
            changed = groups.changed() => changed,
            changed = served.changed() => changed,
            changed = damaged.changed() => changed,
            // That a leader is not heard of is no change, and neither is what becomes of rights.
            _ = looks.tick() => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Which region is damaged, if one is.
fn damage(damaged: &BTreeMap<u64, Damage>) -> Option<String> {
    let (&region_id, damage) = damaged.first_key_value()?;
    let told = damage.error(region_id).to_string();
    Some(told.replace('\n', "; "))
}

/// Which region is not open, since a snapshot could not be put in its place, if there is one.
fn left_out(unfinished: &BTreeMap<u64, UnfinishedInstall>) -> Option<String> {
    let (region_id, UnfinishedInstall { cause, .. }) = unfinished.first_key_value()?;
    Some(format!(
        "region {region_id} is left out, since the install of its snapshot cannot be finished: {cause}; restart to try again, or remove \
         its peer from this store"
    ))
}

/// Which region has stopped, if one has.
fn stopped(groups: &BTreeMap<u64, GroupState>) -> Option<String> {
    groups.iter().find_map(|(region_id, state)| match state {
        GroupState::Ended(ended) if ended.has_failed => Some(format!(
            "region {region_id} has stopped: {}; restart",
            ended.cause
        )),
        GroupState::Ended(_) | GroupState::Running(_) => None,
    })
}

fn announce(
    config: &Config,
    local_addr: SocketAddr,
    advertised: &str,
    status_addr: Option<SocketAddr>,
    storage: &Storage,
) {
    tracing::info!(
        addr = %local_addr,
        advertised,
        status_addr = status_addr.map(tracing::field::display),
        data_dir = %storage.directory().display(),
        durability = %config.durability,
        tls = config.serve.tls_cert.is_some(),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    if config.durability == Durability::Os {
        tracing::warn!("--durability=os: a power cut or a kernel crash LOSES ACKNOWLEDGED WRITES");
    }
}
