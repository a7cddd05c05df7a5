//! Settings of the placement driver. Each is a flag, an environment variable and a key of a file ([`rdb_proto::transport::settings`]);
//! a flag without a variable is for a single start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use rdb_proto::transport::process::EXIT_CODES;
use rdb_proto::transport::tls::TlsError;
use rdb_proto::transport::{OutOfRange, parse_listen_address};

use crate::cluster::{DISCONNECTED_AFTER, DOWN_AFTER, REPLICAS_MAX, Settings};
use crate::tso::ClockSettings;

const DEFAULT_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);
const DEFAULT_DATA_DIR: &str = "./data/pd";
const DEFAULT_CLOCK_JUMP_MAX_S: u64 = 24 * 3600;
const DEFAULT_INITIAL_REPLICAS: usize = 1;
const DEFAULT_REPLICAS: usize = 3;

rdb_proto::serve_flags!("RDB_PD", 64);

/// FlareDB's placement driver: hands out timestamps and store ids, and knows which store serves which key range.
///
/// SIGTERM, SIGINT and SIGHUP drain it: calls in flight are answered, exit 0. With TLS, SIGHUP only has the certificates read again.
#[derive(Debug, Clone, Parser)]
#[command(name = "rdb-pd", version, after_help = EXIT_CODES)]
pub struct Config {
    /// Where to listen, as IP:PORT. Port 0 takes any free one.
    #[arg(
        long,
        env = "RDB_PD_ADDR",
        value_name = "IP:PORT",
        value_parser = parse_listen_address,
        default_value_t = DEFAULT_ADDR
    )]
    pub addr: SocketAddr,

    /// The data directory; made where it is missing. One process at a time can use it.
    #[arg(
        long,
        env = "RDB_PD_DATA_DIR",
        value_name = "DIR",
        default_value = DEFAULT_DATA_DIR
    )]
    pub data_dir: PathBuf,

    /// Refuse to follow a wall clock that jumps ahead by more seconds than this, since a timestamp that was handed out
    /// can never be taken back. Timestamps go on without it, and an alarm is logged.
    #[arg(
        long,
        env = "RDB_PD_CLOCK_JUMP_MAX_S",
        value_name = "SECONDS",
        default_value_t = DEFAULT_CLOCK_JUMP_MAX_S
    )]
    pub clock_jump_max_s: u64,

    /// For one start: believe the wall clock however far it is ahead of the last timestamp. Needed after a pause of more
    /// than 400 days (or --clock-jump-max-s, if that is more); check the clock first.
    #[arg(long)]
    pub accept_clock_jump: bool,

    /// For one start, with a data directory that was restored from an older copy: move the lower bound of timestamps ahead
    /// by this many milliseconds, at least the age of the copy. Ids are moved ahead, too, and stores that were started since
    /// the copy are believed. Without it timestamps and ids could repeat, and such stores would be refused.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub tso_advance_ms: u64,

    /// How many stores a new cluster waits for, 1 to 7, before it makes its first region, with a replica on each of them. A
    /// cluster that has its first region ignores it.
    #[arg(
        long,
        env = "RDB_PD_INITIAL_REPLICAS",
        value_name = "COUNT",
        default_value_t = DEFAULT_INITIAL_REPLICAS
    )]
    pub initial_replicas: usize,

    /// How many replicas of each region are kept, 1 to 7, as far as there are stores: with too few, as many as the largest odd
    /// number of them. A later start with another number has replicas added or taken away. Without it 3, or what
    /// --initial-replicas says if that is not 1.
    #[arg(long, env = "RDB_PD_REPLICAS", value_name = "COUNT")]
    pub replicas: Option<usize>,

    /// After how many seconds without a heartbeat the replicas of a store are moved to other stores, 20 or more.
    #[arg(
        long,
        env = "RDB_PD_STORE_DOWN_AFTER_S",
        value_name = "SECONDS",
        default_value_t = DOWN_AFTER.as_secs()
    )]
    pub store_down_after_s: u64,

    /// Refuse callers that have no right to what they ask for: users have tokens or certificates, and roles over keys. Stores learn it
    /// from here and refuse, too. `rdbctl auth enable` makes the first user.
    #[arg(long, env = "RDB_PD_AUTH")]
    pub auth: bool,

    /// The flags that both servers have.
    #[command(flatten)]
    pub serve: ServeFlags,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addr: DEFAULT_ADDR,
            data_dir: DEFAULT_DATA_DIR.into(),
            clock_jump_max_s: DEFAULT_CLOCK_JUMP_MAX_S,
            accept_clock_jump: false,
            tso_advance_ms: 0,
            initial_replicas: DEFAULT_INITIAL_REPLICAS,
            replicas: None,
            store_down_after_s: DOWN_AFTER.as_secs(),
            auth: false,
            serve: ServeFlags::default(),
        }
    }
}

/// A setting has a value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number cannot work.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// TLS cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Ten years: more than any clock is wrong, and than any copy is old.
const TEN_YEARS_S: u64 = 10 * 365 * 86_400;

impl Config {
    /// Checks every setting that its type does not check.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the flag and what would be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let advance = 0..=TEN_YEARS_S * 1000;
        let replicas = 1..=REPLICAS_MAX as u64;
        let down_after = DISCONNECTED_AFTER.as_secs()..=TEN_YEARS_S;
        OutOfRange::check("--clock-jump-max-s", self.clock_jump_max_s, 1..=TEN_YEARS_S)?;
        OutOfRange::check("--tso-advance-ms", self.tso_advance_ms, advance)?;
        OutOfRange::check(
            "--initial-replicas",
            self.initial_replicas,
            replicas.clone(),
        )?;
        OutOfRange::check("--replicas", self.replicas_kept(), replicas)?;
        OutOfRange::check("--store-down-after-s", self.store_down_after_s, down_after)?;
        self.serve.options()?;
        self.serve.tls()?;
        Ok(())
    }

    pub(crate) fn cluster_settings(&self) -> Settings {
        Settings {
            initial_replicas: self.initial_replicas,
            replicas: self.replicas_kept(),
            store_down_after: Duration::from_secs(self.store_down_after_s),
        }
    }

    fn replicas_kept(&self) -> usize {
        let unset = match self.initial_replicas {
            1 => DEFAULT_REPLICAS,
            initial_replicas => initial_replicas,
        };
        self.replicas.unwrap_or(unset)
    }

    /// What is wrong with the settings though they work.
    pub(crate) fn advice(&self) -> Vec<String> {
        let replicas = self.replicas_kept();
        let even = replicas.is_multiple_of(2).then(|| {
            format!(
                "--replicas is {replicas}: an even number of replicas survives the loss of no more stores than {}, and needs \
                 one store more; choose an odd number",
                replicas - 1
            )
        });
        let is_on_network = !self.addr.ip().to_canonical().is_loopback();
        let is_readable = self.auth && is_on_network && self.serve.tls_cert.is_none();
        let plain = is_readable.then(|| {
            "--auth without TLS: tokens travel over the network in plain text, and whoever reads one can use it; give --tls-cert \
             and --tls-key"
                .to_owned()
        });
        even.into_iter().chain(plain).collect()
    }

    pub(crate) fn clock_settings(&self) -> ClockSettings {
        ClockSettings {
            jump_max: Duration::from_secs(self.clock_jump_max_s),
            accept_jump_at_start: self.accept_clock_jump,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn what_a_cluster_began_with_is_kept_unless_another_number_is_asked_for() {
        for (line, kept) in [
            ("rdb-pd", 3),
            ("rdb-pd --initial-replicas 1", 3),
            ("rdb-pd --initial-replicas 2", 2),
            ("rdb-pd --initial-replicas 5", 5),
            ("rdb-pd --initial-replicas 5 --replicas 3", 3),
            ("rdb-pd --replicas 1", 1),
        ] {
            let config = Config::parse_from(line.split(' '));
            assert_eq!(config.replicas_kept(), kept, "{line}");
        }
    }

    #[test]
    fn an_even_number_of_replicas_is_warned_about() {
        for (line, advice) in [
            ("rdb-pd", None),
            ("rdb-pd --replicas 5", None),
            ("rdb-pd --replicas 4", Some("no more stores than 3")),
            ("rdb-pd --initial-replicas 2", Some("no more stores than 1")),
        ] {
            let told = Config::parse_from(line.split(' ')).advice();
            assert_eq!(told.len(), advice.iter().len(), "{line}");
            assert!(told.concat().contains(advice.unwrap_or_default()));
        }
    }

    #[test]
    fn tokens_in_plain_text_on_a_network_are_warned_about() {
        for (line, is_warned) in [
            ("rdb-pd --auth", false),
            ("rdb-pd --auth --addr [::1]:1", false),
            ("rdb-pd --auth --addr [::ffff:127.0.0.1]:1", false),
            ("rdb-pd --auth --addr 0.0.0.0:1", true),
            ("rdb-pd --auth --addr 10.0.0.1:1", true),
            ("rdb-pd --addr 10.0.0.1:1", false),
            (
                "rdb-pd --auth --addr 10.0.0.1:1 --tls-cert c --tls-key k",
                false,
            ),
        ] {
            let told = Config::parse_from(line.split(' ')).advice();
            assert_eq!(told.concat().contains("plain text"), is_warned, "{line}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (flag, value) in [
            ("--clock-jump-max-s", "0"),
            ("--tso-advance-ms", "999999999999999"),
            ("--initial-replicas", "0"),
            ("--initial-replicas", "8"),
            ("--replicas", "0"),
            ("--replicas", "8"),
            ("--store-down-after-s", "19"),
            ("--store-down-after-s", "999999999999"),
            ("--connections-max", "0"),
            ("--connections-per-address-max", "0"),
            ("--bytes-in-flight-mib", "15"),
            ("--audit-log-max-mib", "0"),
        ] {
            let config = Config::parse_from(["rdb-pd", flag, value]);
            let error = config.validate().expect_err(flag).to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
}
