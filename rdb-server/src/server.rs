//! Wires the process: storage, router, services, placement, health, status pages. Nothing else does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdb_proto::adminpb::region_admin_server::RegionAdminServer;
use rdb_proto::audit::AuditError;
use rdb_proto::batch::KvBatchServer;
use rdb_proto::kvrpc::kv_cas_server::KvCasServer;
use rdb_proto::kvrpc::kv_raw_server::KvRawServer;
use rdb_proto::slow_log::SlowLog;
use rdb_proto::spans::Origin;
use rdb_proto::transport::limits::{MESSAGE_BYTES_MAX, STORE_CONNECTIONS_MAX};
use rdb_proto::transport::process::{Ports, ServerProcess, Shell, Telemetry};
use rdb_proto::transport::status::TransportMetrics;
use rdb_proto::transport::tls::{self, ClientTls, TlsKeeper};
use rdb_proto::transport::{
    HealthHandle, ServeError, ServeOptions, Services, UnservedCalls, WarningAbout, health,
    raise_open_files_limit, serve,
};
use rdb_raft::group::GroupState;
use rdb_raft::transport::Dialing;
use rdb_storage::{Durability, Repair, Storage, UnfinishedInstall, WriteHealth, is_damage};
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

/// Why nothing is written while the log stands still, and what can be done.
const STANDSTILL: &str = "a write of the Raft log has neither ended nor failed for longer than --raft-election-timeout-max-ms: check the disk \
                          and what else uses it; if it does not go on, replace it";

/// A running store. Dropping it starts the drain; [`wait`](Self::wait) sees it through.
pub struct Server {
    regions: Arc<Regions>,
    serving: JoinHandle<Result<(), ServeError>>,
    keeping: JoinHandle<Result<(), ServerError>>,
    shell: Shell,
}

impl Server {
    /// Opens the data directory and serves it. A store that is new refuses calls until it has registered.
    ///
    /// # Errors
    ///
    /// [`ServerError`] when a setting is wrong, the directory cannot be opened, or the address cannot be listened on.
    pub async fn start(config: Config) -> Result<Self, ServerError> {
        config.validate()?;
        // Before a directory is made.
        config.serve.check_audit_log(&config.data_dir)?;
        let drain = CancellationToken::new();
        let server_tls = config.serve.tls().map_err(ConfigError::from)?.map(Arc::new);
        let client_tls = config.client_tls().map_err(ConfigError::from)?;
        let Opened {
            telemetry,
            router,
            store,
            placement_drivers,
            mark,
            has_regions,
        } = Opened::of(&config, drain.clone(), client_tls.as_ref()).await?;
        let handed_over = CancellationToken::new();
        let serve_options = ServeOptions {
            tls: server_tls.clone(),
            audit: telemetry.audit.clone(),
            handed_over: Some(handed_over.clone()),
            ..serve_options(&config, &router, &store.rights)?
        };
        let ports = Ports::listen(config.addr, config.serve.status_addr).await?;
        let own_address = || ports.local_addr.to_string();
        let advertised = config.advertise_addr.clone().unwrap_or_else(own_address);

        let (registered, registration) = watch::channel(has_regions);
        let placement = Placement::new(
            placement_drivers.clone(),
            advertised.clone(),
            store.storage.clone(),
            Arc::clone(&store.regions),
            Arc::clone(&store.rights),
            LoadMeter::new(Arc::clone(router.figures()), store.storage.clone()),
            registered,
        )?;
        let rights = Arc::clone(&store.rights);
        let rights_keeper = RightsKeeper::new(placement_drivers.clone(), rights, mark);
        let (health, health_service) = health(SERVICES, drain.clone());
        let tls_keeper = server_tls.map(|tls| TlsKeeper::new(tls, client_tls, health.clone()));
        let source = Arc::new(StoreSource {
            health: health.clone(),
            registration: registration.clone(),
            placement_drivers: placement_drivers.clone(),
            drain: drain.clone(),
            storage: store.storage.clone(),
            durability: config.durability,
            regions: Arc::clone(&store.regions),
            rights: Arc::clone(&store.rights),
            figures: Arc::clone(router.figures()),
            transport: TransportMetrics::of(&serve_options),
            addr: ports.local_addr,
            advertised: advertised.clone(),
        });
        let (shell, listener) =
            Shell::open(ports, telemetry, health.clone(), drain.clone(), source)?;
        announce(&config, &shell, &advertised, &store.storage);
        let services = services(router, &store.regions).add_service(health_service);
        let serving = serve(listener, services, serve_options, drain.clone());
        let regions = Arc::clone(&store.regions);
        let keeping = keep(
            keep_health(health, registration, placement_drivers, store.clone()),
            store,
            placement,
            rights_keeper,
            tls_keeper,
            drain,
            handed_over.drop_guard(),
        );
        Ok(Self {
            regions,
            serving: shell.spawn(serving),
            keeping: shell.spawn(keeping),
            shell,
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
}

impl ServerProcess for Server {
    type Error = ServerError;

    fn shell(&self) -> &Shell {
        &self.shell
    }

    async fn wait(self) -> Result<(), ServerError> {
        let kept = self.keeping.await;
        let served = self.serving.await;
        let (regions, runtime) = (self.regions, Handle::current());
        self.shell.end(move || regions.close(&runtime)).await?;
        kept??;
        Ok(served??)
    }
}

fn telemetry(config: &Config) -> Result<Telemetry, AuditError> {
    let origin = Origin {
        program: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        instance: config.instance(),
    };
    let (data_dir, notes_writes) = (&config.data_dir, config.audit_writes);
    config.serve.telemetry(data_dir, origin, notes_writes)
}

fn figures(config: &Config, telemetry: &Telemetry) -> Figures {
    let slow = SlowLog::of_threshold_ms(config.serve.slow_log_ms);
    Figures::told_by(slow, telemetry.spans.clone()).audited_by(telemetry.audit.clone())
}

fn serve_options(
    config: &Config,
    router: &Router,
    rights: &RightsCopy,
) -> Result<ServeOptions, ConfigError> {
    let unserved: Arc<dyn UnservedCalls> = Arc::<Figures>::clone(router.figures());
    Ok(ServeOptions {
        unserved: Some(unserved),
        guard: Some(Arc::clone(rights.guard())),
        store_connections_max: STORE_CONNECTIONS_MAX,
        ..config.serve.options()?
    })
}

/// What a store has. Cheap to clone.
#[derive(Clone)]
struct Store {
    storage: Storage,
    regions: Arc<Regions>,
    rights: Arc<RightsCopy>,
}

/// The store as its data directory has it.
struct Opened {
    telemetry: Telemetry,
    /// Leads to what is in the directory.
    router: Router,
    store: Store,
    placement_drivers: PlacementDrivers,
    mark: Mark,
    /// Otherwise it is new.
    has_regions: bool,
}

impl Opened {
    /// Opens the directory, and then the audit log, which may be in a directory that is made with it.
    async fn of(
        config: &Config,
        drain: CancellationToken,
        client_tls: Option<&ClientTls>,
    ) -> Result<Self, ServerError> {
        let dialing = Dialing {
            connector: client_tls.map(ClientTls::connector).unwrap_or_default(),
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
        let telemetry = telemetry(config)?;
        let router = Router::new(drain).noting_in(figures(config, &telemetry));
        let regions = Regions::open(
            storage.clone(),
            router.clone(),
            config.durability,
            config.timing(),
            config.raft_log_mib_max << 20,
            dialing,
        );
        let regions = Arc::new(regions.await?);
        let has_regions = regions.restore().await?;
        let is_marked = mark.may_be_there();
        // A store with a token is of a cluster that may enforce rights by now.
        let asks_first = !has_regions || config.auth_token_file.is_some();
        let rights = RightsCopy::new(is_marked, asks_first, config.auth_stale_max());
        Ok(Self {
            telemetry,
            router,
            store: Store {
                storage,
                regions,
                rights: Arc::new(rights),
            },
            placement_drivers,
            mark,
            has_regions,
        })
    }
}

fn services(router: Router, regions: &Regions) -> Services {
    let raw = KvRawServer::new(RawService::new(router.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let cas = KvCasServer::new(CasService::new(router.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin = RegionAdminService::new(router.clone(), Arc::clone(regions.checks()));
    Services::default()
        .add_service(raw)
        .add_service(cas)
        .add_service(KvBatchServer::new(BatchService::new(router)))
        .add_service(RegionAdminServer::new(admin))
        .add_service(regions.peer_service())
}

/// Runs the background tasks of a store until the drain begins. If one of them ends, that starts the drain. Then leadership is handed
/// over to other stores. They are served until this has ended: they may need this store's vote to follow it.
async fn keep(
    health_keeper: impl Future<Output = ()>,
    store: Store,
    placement: Placement,
    rights_keeper: RightsKeeper,
    tls_keeper: Option<TlsKeeper>,
    drain: CancellationToken,
    _handed_over: DropGuard,
) -> Result<(), ServerError> {
    let Store {
        storage,
        regions,
        rights,
    } = &store;
    let ended = tokio::select! {
        refused = placement.run() => refused,
        () = health_keeper => Ok(()),
        () = rights_keeper.run() => Ok(()),
        () = tls::keep(tls_keeper) => Ok(()),
        () = regions.keep(rights) => Ok(()),
        () = regions.follow() => Ok(()),
        by_store = regions.starts().outdated() => Err(ServerError::Outdated { by_store }),
        () = drain.cancelled() => Ok(()),
    };
    drain.cancel();
    match ended {
        Ok(()) => regions.hand_over().await,
        Err(_) => regions.leave().await,
    }
    if let Err(ServerError::Outdated { by_store }) = ended {
        note_outdated(storage.directory(), by_store).await;
    }
    ended
}

/// Keeps the health status. A store is healthy when it is registered, has current rights if they are enforced, has no damaged region,
/// takes the writes of every region that it leads, and hears of a leader of each of the others. It has started when it is registered and
/// writes to its disk: a single region does not hold that up.
async fn keep_health(
    health: HealthHandle,
    mut registration: watch::Receiver<bool>,
    placement_drivers: PlacementDrivers,
    store: Store,
) {
    let Store {
        storage,
        regions,
        rights,
    } = store;
    let (mut writes, mut log_writes) = (storage.write_health(), regions.log_health());
    let (mut groups, mut served) = (regions.states(), regions.served());
    let mut damaged = regions.damaged();
    let mut leaderless = Leaderless::new(regions.leaderless_after());
    let mut looks = interval(HEALTH_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_serving = false;
    let mut stood_still = false;
    loop {
        served.borrow_and_update();
        // Once it is true, the regions of the registration are there.
        let registered = *registration.borrow_and_update();
        // It looks at the groups by itself, so none of them may be borrowed here.
        let leaderless = leaderless.note(&regions.led_by_anybody(), registered, Instant::now());
        let write_health = writes.borrow_and_update().clone();
        let write_cause = match &write_health {
            WriteHealth::Stopped { cause } => damage_of_all(cause, &regions),
            WriteHealth::Healthy | WriteHealth::RegionsStopped { .. } => None,
        };
        let log_cause = log_writes.borrow_and_update().cause();
        let stands_still = regions.log_stands_still();
        if stands_still && !stood_still {
            tracing::warn!("{STANDSTILL}");
        } else if stood_still && !stands_still {
            tracing::info!("writes of the Raft log end again");
        }
        stood_still = stands_still;
        let has_stopped =
            matches!(write_health, WriteHealth::Stopped { .. }) || log_cause.is_some();
        let causes = [
            (!registered).then(|| placement_drivers.not_registered()),
            rights.refusal(),
            damage(&damaged.borrow_and_update()),
            left_out(&storage.unfinished_installs()),
            write_cause.or_else(|| write_health.cause()),
            log_cause,
            stands_still.then(|| STANDSTILL.to_owned()),
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
        let trouble = placement_drivers.trouble().filter(|_| registered);
        let warning = trouble.map(|cause| {
            format!("it is not registered with the placement driver at the moment: {cause}")
        });
        health.warn(WarningAbout::PlacementDriver, warning);
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
            // None of the above reports a silent leader, a log that stands still, changed rights, or what a placement driver says.
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

/// Why nothing is written any more, if data is damaged and this store has one region only: then it is that one's.
fn damage_of_all(cause: &str, regions: &Regions) -> Option<String> {
    let (region_id, has_others) = regions.only_region().filter(|_| is_damage(cause))?;
    let error = ServerError::RegionDamaged {
        region_id,
        cause: format!("writes have stopped: {cause}"),
        has_others,
    };
    Some(error.to_string().replace('\n', "; "))
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

fn announce(config: &Config, shell: &Shell, advertised: &str, storage: &Storage) {
    tracing::info!(
        addr = %shell.local_addr,
        advertised,
        status_addr = shell.status_addr().map(tracing::field::display),
        data_dir = %storage.directory().display(),
        durability = %config.durability,
        tls = config.serve.tls_cert.is_some(),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    if let Some(advice) = config.advice() {
        tracing::warn!("{advice}");
    }
    if config.durability == Durability::Os {
        tracing::warn!("--durability=os: a power cut or a kernel crash LOSES ACKNOWLEDGED WRITES");
    }
}
