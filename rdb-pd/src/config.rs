//! Settings of the placement driver. Each is a flag and an environment variable; the flag wins.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use rdb_proto::transport::limits::{CONNECTIONS_MAX, IDLE_TIMEOUT, MESSAGE_BYTES_MAX};
use rdb_proto::transport::{ByteBudget, ServeOptions};

use crate::tso::ClockSettings;

const DEFAULT_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);
const DEFAULT_DATA_DIR: &str = "./data/pd";
const DEFAULT_CLOCK_JUMP_MAX_S: u64 = 24 * 3600;
const DEFAULT_BYTES_IN_FLIGHT_MIB: usize = 64;
const DEFAULT_LOG_LEVEL: &str = "info";

/// FlareDB's placement driver: hands out timestamps and store ids, and knows which store serves which key range.
///
/// SIGTERM and SIGINT drain it: calls in flight are answered, exit 0.
#[derive(Debug, Clone, Parser)]
#[command(name = "rdb-pd", version)]
pub struct Config {
    /// Where to listen, as IP:PORT. Port 0 takes any free one.
    #[arg(
        long,
        env = "RDB_PD_ADDR",
        value_name = "IP:PORT",
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

    /// Most MiB of requests from their first byte on, and of answers until they are sent. What does not fit waits for a
    /// second, then its client is told to back off. Every connection gets 256 KiB in any case. At least 16.
    #[arg(
        long,
        env = "RDB_PD_BYTES_IN_FLIGHT_MIB",
        value_name = "MIB",
        default_value_t = DEFAULT_BYTES_IN_FLIGHT_MIB
    )]
    pub bytes_in_flight_mib: usize,

    /// Most connections at a time. For one more, the one that has been idle longest is closed; if all are in use, the new
    /// one is.
    #[arg(long, env = "RDB_PD_CONNECTIONS_MAX", value_name = "COUNT", default_value_t = CONNECTIONS_MAX)]
    pub connections_max: usize,

    /// Most connections from one IP address [default: no limit]
    #[arg(long, env = "RDB_PD_CONNECTIONS_PER_ADDRESS_MAX", value_name = "COUNT")]
    pub connections_per_address_max: Option<usize>,

    /// Close a connection when no call on it has sent or received anything for this many seconds; 0: never. Clients connect
    /// again when they need to.
    #[arg(
        long,
        env = "RDB_PD_IDLE_TIMEOUT_S",
        value_name = "SECONDS",
        default_value_t = IDLE_TIMEOUT.as_secs()
    )]
    pub idle_timeout_s: u64,

    /// What to log to stderr: error, warn, info, debug, trace, or filters such as `info,rocksdb=debug`.
    #[arg(
        long,
        env = "RDB_PD_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = DEFAULT_LOG_LEVEL
    )]
    pub log_level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addr: DEFAULT_ADDR,
            data_dir: DEFAULT_DATA_DIR.into(),
            clock_jump_max_s: DEFAULT_CLOCK_JUMP_MAX_S,
            accept_clock_jump: false,
            tso_advance_ms: 0,
            bytes_in_flight_mib: DEFAULT_BYTES_IN_FLIGHT_MIB,
            connections_max: CONNECTIONS_MAX,
            connections_per_address_max: None,
            idle_timeout_s: IDLE_TIMEOUT.as_secs(),
            log_level: DEFAULT_LOG_LEVEL.to_owned(),
        }
    }
}

/// A setting has a value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The tolerance is too small for an ordinary clock, or absurdly large.
    #[error("--clock-jump-max-s is {seconds}; it has to be from 1 to {maximum}")]
    ClockJump {
        /// The setting.
        seconds: u64,
        /// The largest that works.
        maximum: u64,
    },
    /// Timestamps would move ahead by more than any copy is old.
    #[error(
        "--tso-advance-ms is {advance_ms}; it has to be at most {maximum_ms}, and can never be taken back"
    )]
    Advance {
        /// The setting.
        advance_ms: u64,
        /// The largest that works.
        maximum_ms: u64,
    },
    /// A number is too small to work, or too large for any machine.
    #[error("{setting} is {value}; it has to be from {minimum} to {COUNT_MAX}")]
    Count {
        /// The flag.
        setting: &'static str,
        /// Its value.
        value: usize,
        /// The smallest that works.
        minimum: usize,
    },
}

/// More connections, and more MiB, than any machine has, and far from overflow.
const COUNT_MAX: usize = 1_000_000;

/// Twice the largest message, so that one always fits with its overhead.
const MESSAGE_MIB_MIN: usize = MESSAGE_BYTES_MAX >> 19;

/// Ten years.
const CLOCK_JUMP_MAX_S: u64 = 10 * 365 * 86_400;

impl Config {
    /// Checks every setting that its type does not check.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the flag and what would be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=CLOCK_JUMP_MAX_S).contains(&self.clock_jump_max_s) {
            return Err(ConfigError::ClockJump {
                seconds: self.clock_jump_max_s,
                maximum: CLOCK_JUMP_MAX_S,
            });
        }
        let maximum_ms = CLOCK_JUMP_MAX_S * 1000;
        if self.tso_advance_ms > maximum_ms {
            return Err(ConfigError::Advance {
                advance_ms: self.tso_advance_ms,
                maximum_ms,
            });
        }
        let per_address_max = self.connections_per_address_max.unwrap_or(1);
        for (setting, value, minimum) in [
            ("--connections-max", self.connections_max, 1),
            ("--connections-per-address-max", per_address_max, 1),
            (
                "--bytes-in-flight-mib",
                self.bytes_in_flight_mib,
                MESSAGE_MIB_MIN,
            ),
        ] {
            if !(minimum..=COUNT_MAX).contains(&value) {
                return Err(ConfigError::Count {
                    setting,
                    value,
                    minimum,
                });
            }
        }
        Ok(())
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
    fn what_cannot_work_is_refused_by_name() {
        for (flag, value) in [
            ("--clock-jump-max-s", "0"),
            ("--tso-advance-ms", "999999999999999"),
            ("--connections-max", "0"),
            ("--connections-per-address-max", "0"),
            ("--bytes-in-flight-mib", "15"),
        ] {
            let config = Config::parse_from(["rdb-pd", flag, value]);
            let error = config.validate().expect_err(flag).to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
}
