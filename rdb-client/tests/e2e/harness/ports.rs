//! Ports for processes that are killed and restarted.
//!
//! A port that the operating system picks lies in its ephemeral range. While the server behind it is down, any outgoing
//! connection on the machine may be given that very port (a client that reconnects to it can even end up talking to
//! itself), and the restarted server could not listen. So these lie below the range, and a lock file keeps other tests, in
//! this process or another, from taking the same one.

use std::fs::{self, File};
use std::net::TcpListener;

use rustix::fs::{FlockOperation, flock};
use rustix::process::getuid;

/// Below are well-known services.
const LOWEST: u16 = 10_000;

/// Where the ephemeral range starts on Linux unless configured otherwise.
const EPHEMERAL_LOWEST_DEFAULT: u16 = 32_768;

/// A port on the loopback address that nobody else takes while this lives.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let ephemeral = ephemeral_lowest();
        assert!(
            ephemeral > LOWEST,
            "no room below the ephemeral port range, which starts at {ephemeral}; see ip_local_port_range"
        );
        let first = fastrand::u16(LOWEST..ephemeral);
        (first..ephemeral)
            .chain(LOWEST..first)
            .find_map(Self::try_reserve)
            .expect("a free port below the ephemeral range")
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    fn try_reserve(number: u16) -> Option<Self> {
        // One for each user: nobody else may write to what one of them has made.
        let directory = format!("flaredb-test-ports.{}", getuid().as_raw());
        let directory = std::env::temp_dir().join(directory);
        fs::create_dir_all(&directory).expect("the temporary directory can be written");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(number.to_string()))
            .ok()?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Self {
            number,
            _lock: lock,
        })
    }
}

fn ephemeral_lowest() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(EPHEMERAL_LOWEST_DEFAULT)
}
