//! Settings of the store process. Each is a flag, an environment variable and a key of a file ([`rdb_proto::transport::settings`]);
//! a flag without a variable is for a single start.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use rdb_proto::auth::{TokenFile, TokenFileError};
use rdb_proto::transport::limits::PROCESS_BYTES_IN_FLIGHT_MAX;
use rdb_proto::transport::process::EXIT_CODES;
use rdb_proto::transport::tls::{ClientTls, TlsError, client_tls};
use rdb_proto::transport::{
    AddressError, OutOfRange, ServeOptions, check_address, check_advertised_address,
    parse_listen_address,
};
use rdb_raft::group::LOG_BYTES_MAX;
use rdb_raft::{Timing, TimingError};
use rdb_storage::{Durability, Role, StorageOptions};

const DEFAULT_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 20160);
const DEFAULT_PD: &str = "127.0.0.1:2379";
const DEFAULT_DATA_DIR: &str = "./data/server";
const DEFAULT_BLOCK_CACHE_MIB: usize = 256;
const DEFAULT_WRITE_QUEUE_MIB: usize = 64;
const DEFAULT_AUTH_STALE_MAX_S: u64 = 3600;

/// The age of the copy of the rights counts from the question that was answered, so a healthy store may have one that is some seconds old.
/// It must not refuse calls then, nor when a placement driver is restarted meanwhile.
pub(crate) const AUTH_STALE_MIN_S: u64 = 15;

/// A year. If more than a day is needed, ask why the placement driver is away.
const AUTH_STALE_MAX_S: u64 = 365 * 24 * 3600;

rdb_proto::serve_flags!("RDB_SERVER", PROCESS_BYTES_IN_FLIGHT_MAX >> 20);

/// A FlareDB store: keeps data on disk and serves it over gRPC.
///
/// It registers with the placement driver at its first start and waits for it then; after that it serves whether the
/// placement driver answers or not. SIGTERM, SIGINT and SIGHUP drain it: what is in flight is answered, data is flushed,
/// exit 0. With TLS, SIGHUP only has the certificates read again.
#[derive(Debug, Clone, Parser)]
#[command(name = "rdb-server", version, after_help = EXIT_CODES)]
pub struct Config {
    /// Where to listen, as IP:PORT. Port 0 takes any free one.
    #[arg(
        long,
        env = "RDB_SERVER_ADDR",
        value_name = "IP:PORT",
        value_parser = parse_listen_address,
        default_value_t = DEFAULT_ADDR
    )]
    pub addr: SocketAddr,

    /// Where clients reach this store, as HOST:PORT [default: the address it listens on]
    #[arg(long, env = "RDB_SERVER_ADVERTISE_ADDR", value_name = "HOST:PORT")]
    pub advertise_addr: Option<String>,

    /// Placement drivers, as HOST:PORT, separated by commas.
    #[arg(
        long,
        env = "RDB_SERVER_PD",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = DEFAULT_PD
    )]
    pub pd: Vec<String>,

    /// The data directory; made where it is missing. One process at a time can use it.
    #[arg(
        long,
        env = "RDB_SERVER_DATA_DIR",
        value_name = "DIR",
        default_value = DEFAULT_DATA_DIR
    )]
    pub data_dir: PathBuf,

    /// Trust placement drivers and other stores whose certificates a CA in this file has signed, as PEM. They are shown this store's
    /// own certificate [default: the file of --tls-client-ca]
    #[arg(long, env = "RDB_SERVER_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// The token of this store, a line `flaredb_…`: shown to placement drivers and to other stores, which let in none without one when
    /// rights are enforced. Its user has the role `store`. The file is read again when it changes. With a token a store serves
    /// nobody after its start until a placement driver has said whether rights are enforced. A store whose certificate is that of such a
    /// user needs none.
    #[arg(long, env = "RDB_SERVER_AUTH_TOKEN_FILE", value_name = "FILE")]
    pub auth_token_file: Option<PathBuf>,

    /// Where rights are enforced: for how many seconds this store goes on with the copy that it has, when no placement driver renews it.
    /// Then it refuses all calls for keys, and calls of other stores, until one does. 15 or more.
    #[arg(
        long,
        env = "RDB_SERVER_AUTH_STALE_MAX_S",
        value_name = "SECONDS",
        default_value_t = DEFAULT_AUTH_STALE_MAX_S
    )]
    pub auth_stale_max_s: u64,

    /// When a write is acknowledged: `sync` after its bytes are synced to the disk; `os` after the operating system has
    /// them, which loses acknowledged writes in a power cut.
    #[arg(long, env = "RDB_SERVER_DURABILITY", value_name = "sync|os", default_value_t = Durability::Sync)]
    pub durability: Durability,

    /// Memory for cached blocks, in MiB.
    #[arg(
        long,
        env = "RDB_SERVER_BLOCK_CACHE_MIB",
        value_name = "MIB",
        default_value_t = DEFAULT_BLOCK_CACHE_MIB
    )]
    pub block_cache_mib: usize,

    /// Most MiB of writes that wait to be written; above, clients are told to back off. At least 16.
    #[arg(
        long,
        env = "RDB_SERVER_WRITE_QUEUE_MIB",
        value_name = "MIB",
        default_value_t = DEFAULT_WRITE_QUEUE_MIB
    )]
    pub write_queue_mib: usize,

    /// How often a leader says that it is there. The same on all stores, as the two that follow.
    #[arg(long, env = "RDB_SERVER_RAFT_HEARTBEAT_MS", value_name = "MS", hide = true, default_value_t = Timing::default().heartbeat_ms)]
    pub raft_heartbeat_ms: u64,

    /// Shortest time without a leader after which a store campaigns.
    #[arg(long, env = "RDB_SERVER_RAFT_ELECTION_TIMEOUT_MIN_MS", value_name = "MS", hide = true, default_value_t = Timing::default().election_timeout_min_ms)]
    pub raft_election_timeout_min_ms: u64,

    /// The longest such time. Stores with different ones do not accept each other. A store that starts with a shorter one first keeps out of
    /// elections for as long as it has promised by the longer one.
    #[arg(long, env = "RDB_SERVER_RAFT_ELECTION_TIMEOUT_MAX_MS", value_name = "MS", hide = true, default_value_t = Timing::default().election_timeout_max_ms)]
    pub raft_election_timeout_max_ms: u64,

    /// What a leader keeps of the log of a region for stores that are behind, in MiB. One that is further behind gets a snapshot.
    #[arg(long, env = "RDB_SERVER_RAFT_LOG_MIB_MAX", value_name = "MIB", hide = true, default_value_t = LOG_BYTES_MAX >> 20)]
    pub raft_log_mib_max: u64,

    /// The flags that both servers have.
    #[command(flatten)]
    pub serve: ServeFlags,

    /// Write each write to --audit-log, too, with the user, the command, the length and a hash of the key, and what became of it.
    #[arg(long, env = "RDB_SERVER_AUDIT_WRITES")]
    pub audit_writes: bool,

    /// Cut the write-ahead log of a data directory that is refused as damaged: keep what comes before the damage, DROP EVERY
    /// WRITE AFTER IT, acknowledged ones among them, say how much that is, and exit without serving. An undamaged log is left
    /// alone, and a directory with a region that other stores hold, too, is refused. Copy the directory first; for when there is
    /// no better copy.
    #[arg(long)]
    pub repair_wal: bool,
}

impl Default for Config {
    fn default() -> Self {
        let timing = Timing::default();
        Self {
            addr: DEFAULT_ADDR,
            advertise_addr: None,
            pd: vec![DEFAULT_PD.to_owned()],
            data_dir: DEFAULT_DATA_DIR.into(),
            tls_ca: None,
            auth_token_file: None,
            auth_stale_max_s: DEFAULT_AUTH_STALE_MAX_S,
            durability: Durability::Sync,
            block_cache_mib: DEFAULT_BLOCK_CACHE_MIB,
            write_queue_mib: DEFAULT_WRITE_QUEUE_MIB,
            raft_heartbeat_ms: timing.heartbeat_ms,
            raft_election_timeout_min_ms: timing.election_timeout_min_ms,
            raft_election_timeout_max_ms: timing.election_timeout_max_ms,
            raft_log_mib_max: LOG_BYTES_MAX >> 20,
            serve: ServeFlags::default(),
            audit_writes: false,
            repair_wal: false,
        }
    }
}

/// A setting has a value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An address is not `host:port`, or one that nobody can connect to.
    #[error("{flag}: {problem}")]
    Address {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        problem: AddressError,
    },
    /// Clients cannot connect to the address that the store listens on.
    #[error(
        "--addr {0} listens on every interface, so --advertise-addr has to say where clients reach this store"
    )]
    AdvertiseMissing(SocketAddr),
    /// Clients would be told to find this store where a placement driver is.
    #[error(
        "{0} is a placement driver (--pd), so it cannot be this store's --addr or --advertise-addr"
    )]
    AdvertisedPd(String),
    /// No placement driver is named.
    #[error("--pd names no placement driver")]
    PdMissing,
    /// A number cannot work.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// TLS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token of the store cannot be used.
    #[error("--auth-token-file: {0}")]
    Token(String),
    /// There is nowhere to write them to.
    #[error("--audit-writes needs --audit-log FILE, where writes are noted")]
    AuditLogMissing,
    /// An interval cannot work.
    #[error("--raft-…: {0}")]
    Timing(#[from] TimingError),
}

/// 1 TiB: more than any machine has, and far from overflow.
const SIZE_MIB_MAX: u64 = 1 << 20;

impl Config {
    /// Checks every setting that its type does not check.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the flag and what would be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let at = |flag| move |problem| ConfigError::Address { flag, problem };
        let advertised = match &self.advertise_addr {
            Some(address) => address.clone(),
            None if self.addr.ip().is_unspecified() => {
                return Err(ConfigError::AdvertiseMissing(self.addr));
            }
            None => self.addr.to_string(),
        };
        if self.advertise_addr.is_some() {
            check_advertised_address(&advertised).map_err(at("--advertise-addr"))?;
        }
        if self.pd.is_empty() {
            return Err(ConfigError::PdMissing);
        }
        for address in &self.pd {
            check_address(address).map_err(at("--pd"))?;
        }
        if self.pd.contains(&advertised) {
            return Err(ConfigError::AdvertisedPd(advertised));
        }
        let queue = ServeOptions::MESSAGE_MIB_MIN..=SIZE_MIB_MAX;
        OutOfRange::check("--block-cache-mib", self.block_cache_mib, 1..=SIZE_MIB_MAX)?;
        OutOfRange::check("--write-queue-mib", self.write_queue_mib, queue)?;
        OutOfRange::check(
            "--raft-log-mib-max",
            self.raft_log_mib_max,
            1..=SIZE_MIB_MAX,
        )?;
        OutOfRange::check(
            "--auth-stale-max-s",
            self.auth_stale_max_s,
            AUTH_STALE_MIN_S..=AUTH_STALE_MAX_S,
        )?;
        self.timing().validate()?;
        if self.audit_writes && self.serve.audit_log.is_none() {
            return Err(ConfigError::AuditLogMissing);
        }
        self.serve.options()?;
        self.serve.tls()?;
        self.client_tls()?;
        self.auth_token()?;
        Ok(())
    }

    /// The address that tells this store from others, before it is known where it listens.
    pub(crate) fn instance(&self) -> String {
        let advertised = self.advertise_addr.clone();
        advertised.unwrap_or_else(|| self.addr.to_string())
    }

    /// What it connects to placement drivers and other stores with. `None`: over plain text.
    pub(crate) fn client_tls(&self) -> Result<Option<ClientTls>, TlsError> {
        client_tls(
            self.tls_ca.as_deref(),
            self.serve.tls_cert.as_deref(),
            self.serve.tls_key.as_deref(),
            self.serve.tls_client_ca.as_deref(),
        )
    }

    /// What it shows placement drivers and other stores: a token is tried before the one from before is given up. `None`: nothing but its
    /// certificate, if it has one.
    pub(crate) fn auth_token(&self) -> Result<Option<TokenFile>, ConfigError> {
        let file = self.auth_token_file.as_ref();
        let token = file.map(TokenFile::open).transpose();
        let token = token.map_err(|error| ConfigError::Token(with_source(&error)))?;
        Ok(token.map(TokenFile::trying_first))
    }

    /// What is wrong with the settings though they work.
    pub(crate) fn advice(&self) -> Option<String> {
        let file = self.auth_token_file.as_ref()?;
        TokenFile::is_readable_by_all(file).then(|| {
            let file = file.display();
            format!(
                "--auth-token-file {file}: every user of this machine can read the token; chmod 600 it"
            )
        })
    }

    /// How old the copy of the rights may be.
    pub(crate) fn auth_stale_max(&self) -> Duration {
        Duration::from_secs(self.auth_stale_max_s)
    }

    pub(crate) fn timing(&self) -> Timing {
        Timing {
            heartbeat_ms: self.raft_heartbeat_ms,
            election_timeout_min_ms: self.raft_election_timeout_min_ms,
            election_timeout_max_ms: self.raft_election_timeout_max_ms,
        }
    }

    pub(crate) fn storage_options(&self) -> StorageOptions {
        StorageOptions {
            durability: self.durability,
            block_cache_bytes: self.block_cache_mib << 20,
            write_queue_bytes_max: self.write_queue_mib << 20,
            replicated: true,
            ..StorageOptions::new(Role::Server)
        }
    }
}

/// The error, and what is behind it.
fn with_source(error: &TokenFileError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(flags: &[&str]) -> Config {
        Config::parse_from([&["rdb-server"], flags].concat())
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (flags, named) in [
            (&["--addr", "0.0.0.0:1"][..], "--advertise-addr"),
            (&["--advertise-addr", "nowhere"], "--advertise-addr"),
            (&["--advertise-addr", "0.0.0.0:1"], "--advertise-addr"),
            (&["--advertise-addr", "[::]:1"], "--advertise-addr"),
            (&["--advertise-addr", DEFAULT_PD], "--pd"),
            (&["--addr", DEFAULT_PD], "--pd"),
            (&["--pd", "a:1,b"], "--pd"),
            (&["--connections-max", "0"], "--connections-max"),
            (
                &["--connections-per-address-max", "0"],
                "--connections-per-address-max",
            ),
            (&["--raft-heartbeat-ms", "1"], "heartbeat_ms"),
            (&["--write-queue-mib", "15"], "--write-queue-mib"),
            (&["--bytes-in-flight-mib", "15"], "--bytes-in-flight-mib"),
            (&["--block-cache-mib", "99999999999"], "--block-cache-mib"),
            (&["--auth-stale-max-s", "14"], "--auth-stale-max-s"),
            (
                &["--auth-token-file", "/nonexistent/token"],
                "--auth-token-file",
            ),
            (&["--audit-log-max-mib", "0"], "--audit-log-max-mib"),
            (&["--audit-writes"], "--audit-log FILE"),
        ] {
            let error = parsed(flags).validate().expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_token_that_all_can_read_is_warned_about() {
        use std::fs::{self, Permissions};
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let file = directory.path().join("stores.token");
        fs::write(&file, "").expect("it can be written");
        let config = Config {
            auth_token_file: Some(file.clone()),
            ..Config::default()
        };
        for (mode, is_warned) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).expect("it is ours");
            let advice = config.advice();
            assert_eq!(advice.is_some(), is_warned, "{advice:?}");
        }
        assert_eq!(Config::default().advice(), None);
    }
}
