//! Settings of the store process. Each is a flag and an environment variable; the flag wins.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use rdb_proto::transport::limits::{
    CONNECTIONS_MAX, IDLE_TIMEOUT, MESSAGE_BYTES_MAX, PROCESS_BYTES_IN_FLIGHT_MAX,
};
use rdb_proto::transport::{AddressError, ByteBudget, ServeOptions, check_address};
use rdb_storage::{Durability, Role, StorageOptions, WalRecovery};

const DEFAULT_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 20160);
const DEFAULT_PD: &str = "127.0.0.1:2379";
const DEFAULT_DATA_DIR: &str = "./data/server";
const DEFAULT_BLOCK_CACHE_MIB: usize = 256;
const DEFAULT_WRITE_QUEUE_MIB: usize = 64;
const DEFAULT_BYTES_IN_FLIGHT_MIB: usize = PROCESS_BYTES_IN_FLIGHT_MAX >> 20;
const DEFAULT_LOG_LEVEL: &str = "info";

/// A FlareDB store: keeps data on disk and serves it over gRPC.
///
/// It registers with the placement driver at its first start and waits for it then; after that it serves whether the
/// placement driver answers or not. SIGTERM and SIGINT drain it: what is in flight is answered, data is flushed, exit 0.
#[derive(Debug, Clone, Parser)]
#[command(name = "rdb-server", version)]
pub struct Config {
    /// Where to listen, as IP:PORT. Port 0 takes any free one.
    #[arg(
        long,
        env = "RDB_SERVER_ADDR",
        value_name = "IP:PORT",
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

    /// Most MiB of requests from their first byte on, and of answers until they are sent. What does not fit waits for a
    /// second, then its client is told to back off. Every connection gets 256 KiB in any case. At least 16.
    #[arg(
        long,
        env = "RDB_SERVER_BYTES_IN_FLIGHT_MIB",
        value_name = "MIB",
        default_value_t = DEFAULT_BYTES_IN_FLIGHT_MIB
    )]
    pub bytes_in_flight_mib: usize,

    /// Most connections at a time. For one more, the one that has been idle longest is closed; if all are in use, the new
    /// one is.
    #[arg(long, env = "RDB_SERVER_CONNECTIONS_MAX", value_name = "COUNT", default_value_t = CONNECTIONS_MAX)]
    pub connections_max: usize,

    /// Most connections from one IP address [default: no limit]
    #[arg(
        long,
        env = "RDB_SERVER_CONNECTIONS_PER_ADDRESS_MAX",
        value_name = "COUNT"
    )]
    pub connections_per_address_max: Option<usize>,

    /// Close a connection when no call on it has sent or received anything for this many seconds; 0: never. Clients connect
    /// again when they need to.
    #[arg(
        long,
        env = "RDB_SERVER_IDLE_TIMEOUT_S",
        value_name = "SECONDS",
        default_value_t = IDLE_TIMEOUT.as_secs()
    )]
    pub idle_timeout_s: u64,

    /// What to log to stderr: error, warn, info, debug, trace, or filters such as `info,rocksdb=debug`.
    #[arg(
        long,
        env = "RDB_SERVER_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = DEFAULT_LOG_LEVEL
    )]
    pub log_level: String,

    /// Open a data directory whose write-ahead log is damaged: keep what comes before the damage, DROP EVERY WRITE AFTER
    /// IT, acknowledged ones among them, and exit without serving. For when there is no other copy.
    #[arg(long)]
    pub repair_wal: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addr: DEFAULT_ADDR,
            advertise_addr: None,
            pd: vec![DEFAULT_PD.to_owned()],
            data_dir: DEFAULT_DATA_DIR.into(),
            durability: Durability::Sync,
            block_cache_mib: DEFAULT_BLOCK_CACHE_MIB,
            write_queue_mib: DEFAULT_WRITE_QUEUE_MIB,
            bytes_in_flight_mib: DEFAULT_BYTES_IN_FLIGHT_MIB,
            connections_max: CONNECTIONS_MAX,
            connections_per_address_max: None,
            idle_timeout_s: IDLE_TIMEOUT.as_secs(),
            log_level: DEFAULT_LOG_LEVEL.to_owned(),
            repair_wal: false,
        }
    }
}

/// A setting has a value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An address is not `host:port`.
    #[error("{setting}: {source}")]
    Address {
        /// The flag.
        setting: &'static str,
        /// What is wrong.
        source: AddressError,
    },
    /// Clients cannot connect to the address that the store listens on.
    #[error(
        "--addr {0} listens on every interface, so --advertise-addr has to say where clients reach this store"
    )]
    AdvertiseMissing(SocketAddr),
    /// No placement driver is named.
    #[error("--pd names no placement driver")]
    PdMissing,
    /// A number of connections is 0, or more than any machine can hold.
    #[error("{setting} is {count}; it has to be from 1 to {CONNECTIONS_MAX_MAX}")]
    Connections {
        /// The flag.
        setting: &'static str,
        /// Its value.
        count: usize,
    },
    /// A size in MiB does not fit.
    #[error("{setting} is {mib} MiB; it has to be from {minimum} to {maximum}")]
    Size {
        /// The flag.
        setting: &'static str,
        /// Its value.
        mib: usize,
        /// The smallest that works.
        minimum: usize,
        /// The largest that works.
        maximum: usize,
    },
}

/// More connections than one machine can hold open.
const CONNECTIONS_MAX_MAX: usize = 1_000_000;

/// 1 TiB: more than any machine has, and far from overflow.
const SIZE_MIB_MAX: usize = 1 << 20;

/// Twice the largest message, so that one always fits with its overhead.
const MESSAGE_MIB_MIN: usize = MESSAGE_BYTES_MAX >> 19;

impl Config {
    /// Checks every setting that its type does not check.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the flag and what would be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(address) = &self.advertise_addr {
            check_address(address).map_err(|source| ConfigError::Address {
                setting: "--advertise-addr",
                source,
            })?;
        } else if self.addr.ip().is_unspecified() {
            return Err(ConfigError::AdvertiseMissing(self.addr));
        }
        if self.pd.is_empty() {
            return Err(ConfigError::PdMissing);
        }
        for address in &self.pd {
            check_address(address).map_err(|source| ConfigError::Address {
                setting: "--pd",
                source,
            })?;
        }
        check_connections("--connections-max", self.connections_max)?;
        let per_address_max = self.connections_per_address_max.unwrap_or(1);
        check_connections("--connections-per-address-max", per_address_max)?;
        check_size("--block-cache-mib", self.block_cache_mib, 1)?;
        check_size("--write-queue-mib", self.write_queue_mib, MESSAGE_MIB_MIN)?;
        check_size(
            "--bytes-in-flight-mib",
            self.bytes_in_flight_mib,
            MESSAGE_MIB_MIN,
        )
    }

    pub(crate) fn serve_options(&self) -> ServeOptions {
        let idle_timeout = Duration::from_secs(self.idle_timeout_s);
        ServeOptions {
            connections_max: self.connections_max,
            connections_per_address_max: self.connections_per_address_max,
            idle_timeout: (!idle_timeout.is_zero()).then_some(idle_timeout),
            bytes_in_flight: ByteBudget::new(self.bytes_in_flight_mib << 20),
            ..ServeOptions::default()
        }
    }

    pub(crate) fn storage_options(&self) -> StorageOptions {
        StorageOptions {
            durability: self.durability,
            wal_recovery: if self.repair_wal {
                WalRecovery::PointInTime
            } else {
                WalRecovery::Strict
            },
            block_cache_bytes: self.block_cache_mib << 20,
            write_queue_bytes_max: self.write_queue_mib << 20,
            ..StorageOptions::new(Role::Server)
        }
    }
}

fn check_connections(setting: &'static str, count: usize) -> Result<(), ConfigError> {
    if (1..=CONNECTIONS_MAX_MAX).contains(&count) {
        return Ok(());
    }
    Err(ConfigError::Connections { setting, count })
}

fn check_size(setting: &'static str, mib: usize, minimum: usize) -> Result<(), ConfigError> {
    if (minimum..=SIZE_MIB_MAX).contains(&mib) {
        return Ok(());
    }
    Err(ConfigError::Size {
        setting,
        mib,
        minimum,
        maximum: SIZE_MIB_MAX,
    })
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
            (&["--pd", "a:1,b"], "--pd"),
            (&["--connections-max", "0"], "--connections-max"),
            (
                &["--connections-per-address-max", "0"],
                "--connections-per-address-max",
            ),
            (&["--write-queue-mib", "15"], "--write-queue-mib"),
            (&["--bytes-in-flight-mib", "15"], "--bytes-in-flight-mib"),
            (&["--block-cache-mib", "99999999999"], "--block-cache-mib"),
        ] {
            let error = parsed(flags).validate().expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
