//! Wires the process: storage, allocator, cluster, users, services, health, status pages. Nothing else does.

use std::net::SocketAddr;
use std::sync::Arc;

use rdb_proto::authpb::auth_server::AuthServer;
use rdb_proto::pdpb::pd_server::PdServer;
use rdb_proto::slow_log::SlowLog;
use rdb_proto::spans::Origin;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use rdb_proto::transport::process::{Ports, ServerProcess, Shell};
use rdb_proto::transport::status::TransportMetrics;
use rdb_proto::transport::tls::{self, TlsKeeper};
use rdb_proto::transport::{
    HealthHandle, ServeError, ServeOptions, Services, UnservedCalls, health,
    raise_open_files_limit, serve,
};
use rdb_storage::{Role, Storage, StorageOptions, WriteHealth};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::auth::{Authority, Keeper};
use crate::cluster::{Cluster, Registrar};
use crate::config::{Config, ConfigError};
use crate::error::PdError;
use crate::metrics::{Figures, PdSource};
use crate::service::{AuthService, PdService, SystemAllocator};
use crate::tso::{Allocator, PhysicalClock, StorageBound, SystemClock};

const SERVICES: &[&str] = &["pdpb.Pd", "authpb.Auth"];

/// The placement driver's data is small, so it needs far less memory than a store.
const BLOCK_CACHE_BYTES: usize = 8 << 20;
const WRITE_BUFFER_BYTES: usize = 4 << 20;
const WAL_BYTES_MAX: u64 = 16 << 20;

/// A running placement driver. Dropping it starts the drain; [`wait`](Self::wait) sees it through.
pub struct Pd {
    storage: Storage,
    serving: JoinHandle<Result<(), ServeError>>,
    keeping: JoinHandle<Option<()>>,
    shell: Shell,
}

impl Pd {
    /// Opens the data directory and serves it. When this returns, timestamps are ready.
    ///
    /// # Errors
    ///
    /// [`PdError`] when a setting is wrong, the directory cannot be opened, the wall clock cannot be believed, or the
    /// address cannot be listened on.
    pub async fn start(config: Config) -> Result<Self, PdError> {
        config.validate()?;
        for advice in config.advice() {
            tracing::warn!("{advice}");
        }
        let tls = config.serve.tls().map_err(ConfigError::from)?.map(Arc::new);
        // Before a directory and a cluster are made.
        config.serve.check_audit_log(&config.data_dir)?;
        raise_open_files_limit(config.serve.connections_max);
        let Opened {
            storage,
            cluster,
            registrar,
            authority,
            rights_keeper,
            persisted_ms,
        } = open(&config).await?;
        let allocator = allocator(&config, &storage, persisted_ms).await?;
        let ports = Ports::listen(config.addr, config.serve.status_addr).await?;
        let origin = origin_at(ports.local_addr);
        let telemetry = config.serve.telemetry(&config.data_dir, origin, false)?;
        let slow = SlowLog::of_threshold_ms(config.serve.slow_log_ms);
        let figures = Arc::new(Figures::told_by(slow, telemetry.spans.clone()));
        let unserved: Arc<dyn UnservedCalls> = Arc::<Figures>::clone(&figures);
        let serve_options = ServeOptions {
            unserved: Some(unserved),
            guard: Some(Arc::clone(authority.guard())),
            audit: telemetry.audit.clone(),
            tls: tls.clone(),
            ..config.serve.options().map_err(ConfigError::from)?
        };

        let drain = CancellationToken::new();
        let (health, health_service) = health(SERVICES, drain.clone());
        let tls_keeper = tls.map(|tls| TlsKeeper::new(tls, None, health.clone()));
        let source = Arc::new(PdSource {
            health: health.clone(),
            drain: drain.clone(),
            storage: storage.clone(),
            cluster: cluster.clone(),
            allocator: Arc::clone(&allocator),
            authority: authority.clone(),
            figures: Arc::clone(&figures),
            transport: TransportMetrics::of(&serve_options),
            addr: ports.local_addr,
        });
        let (shell, listener) =
            Shell::open(ports, telemetry, health.clone(), drain.clone(), source)?;
        let mut write_health = storage.write_health();
        // Set before the start is announced, so that the health is right from then on.
        rights_keeper.tell(&health);
        rights_keeper.log();
        tell_health(&health, &mut write_health);
        announce(&config, &shell, &storage, cluster.id());
        let keeping = keep(
            Arc::clone(&allocator),
            registrar,
            rights_keeper,
            health,
            write_health,
            tls_keeper,
        );
        let keeping = drain.clone().run_until_cancelled_owned(keeping);
        let services = services(allocator, cluster, authority, figures).add_service(health_service);
        let serving = serve(listener, services, serve_options, drain);
        Ok(Self {
            storage,
            serving: shell.spawn(serving),
            keeping: shell.spawn(keeping),
            shell,
        })
    }
}

impl ServerProcess for Pd {
    type Error = PdError;

    fn shell(&self) -> &Shell {
        &self.shell
    }

    async fn wait(self) -> Result<(), PdError> {
        let served = self.serving.await;
        let kept = self.keeping.await;
        self.shell.end(move || self.storage.close()).await?;
        kept?;
        Ok(served??)
    }
}

/// This process, in lines and spans.
fn origin_at(address: SocketAddr) -> Origin {
    Origin {
        program: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        instance: instance_at(address),
    }
}

/// What tells it from others: its address, with the name of the machine if the address does not name one.
fn instance_at(address: SocketAddr) -> String {
    if !address.ip().is_unspecified() {
        return address.to_string();
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => address.to_string(),
        name => format!("{name}:{}", address.port()),
    }
}

/// The storage, and the state that it holds.
struct Opened {
    storage: Storage,
    cluster: Cluster,
    registrar: Registrar,
    authority: Authority,
    rights_keeper: Keeper,
    /// The bound of earlier processes: they handed out no timestamp at or above it. `None`: there was no earlier process.
    persisted_ms: Option<u64>,
}

async fn open(config: &Config) -> Result<Opened, PdError> {
    let directory = config.data_dir.clone();
    let advance_ms = config.tso_advance_ms;
    let is_enforced = config.auth;
    let settings = config.cluster_settings();
    let options = StorageOptions {
        block_cache_bytes: BLOCK_CACHE_BYTES,
        write_buffer_bytes: WRITE_BUFFER_BYTES,
        wal_bytes_max: WAL_BYTES_MAX,
        ..StorageOptions::new(Role::Pd)
    };
    let opened = spawn_blocking(move || {
        let storage = Storage::open(directory, options)?;
        let persisted_ms = StorageBound::new(storage.clone()).load()?;
        let is_restored = advance_ms > 0;
        // Before anything is written.
        Authority::check(&storage)?;
        let (cluster, registrar) = Cluster::open(storage.clone(), is_restored, settings)?;
        let (authority, rights_keeper) =
            Authority::open(storage.clone(), is_restored, is_enforced)?;
        authority.guard().tell(cluster.refused_call());
        if persisted_ms.is_none() {
            tracing::info!(
                cluster_id = cluster.id(),
                "the data directory is new, and so is the cluster; stores of another one are refused"
            );
        } else if is_restored {
            tracing::warn!(
                advance_ms,
                "--tso-advance-ms: timestamps and ids were moved ahead, and the next start of each store is believed; start \
                 without it from now on"
            );
        }
        Ok(Opened {
            storage,
            cluster,
            registrar,
            authority,
            rights_keeper,
            persisted_ms: persisted_ms.map(|bound_ms| bound_ms.saturating_add(advance_ms)),
        })
    });
    opened.await?
}

/// When this returns, timestamps are ready.
async fn allocator(
    config: &Config,
    storage: &Storage,
    persisted_ms: Option<u64>,
) -> Result<Arc<SystemAllocator>, PdError> {
    let settings = config.clock_settings();
    let clock = PhysicalClock::start(SystemClock::default(), persisted_ms, settings)?;
    let bound = StorageBound::new(storage.clone());
    Ok(Allocator::start(clock, bound, persisted_ms).await?)
}

fn services(
    allocator: Arc<SystemAllocator>,
    cluster: Cluster,
    authority: Authority,
    figures: Arc<Figures>,
) -> Services {
    let auth = AuthServer::new(AuthService::new(authority, Arc::clone(&figures)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let pd = PdServer::new(PdService::new(allocator, cluster, figures))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Services::default().add_service(pd).add_service(auth)
}

/// Moves the bound of timestamps ahead, answers registrations, changes rights, reloads certificates, and keeps the health status:
/// healthy means that the storage takes writes.
async fn keep(
    allocator: Arc<SystemAllocator>,
    registrar: Registrar,
    rights_keeper: Keeper,
    health: HealthHandle,
    mut write_health: watch::Receiver<WriteHealth>,
    tls_keeper: Option<TlsKeeper>,
) {
    let keep_health = async {
        loop {
            tell_health(&health, &mut write_health);
            if write_health.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::join!(
        allocator.keep_bound(),
        registrar.run(),
        rights_keeper.run(health.clone()),
        keep_health,
        tls::keep(tls_keeper)
    );
}

fn tell_health(health: &HealthHandle, write_health: &mut watch::Receiver<WriteHealth>) {
    let cause = write_health.borrow_and_update().cause();
    health.set(cause.map_or(Ok(()), Err));
}

fn announce(config: &Config, shell: &Shell, storage: &Storage, cluster_id: u64) {
    tracing::info!(
        addr = %shell.local_addr,
        data_dir = %storage.directory().display(),
        cluster_id,
        status_addr = shell.status_addr().map(tracing::field::display),
        tls = config.serve.tls_cert.is_some(),
        auth = config.auth,
        version = env!("CARGO_PKG_VERSION"),
        "serving Pd"
    );
}
