//! Where the status pages are.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::net::TcpListener;

use super::super::address::{AddressError, parse_listen_address};

/// What turns the pages off.
const NONE: &str = "none";

/// The value of `--status-addr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusAddress {
    /// There are no pages.
    Nowhere,
    /// They are here. Port 0 takes any free one.
    At(SocketAddr),
}

/// The pages cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for the status pages (/metrics, /health); name another address with --status-addr, or turn them off \
     with `--status-addr none`"
)]
pub struct StatusListenError {
    address: SocketAddr,
    source: io::Error,
}

impl StatusAddress {
    /// Where the pages of a process are that listens on `addr`, unless its operator says otherwise: on loopback, so that nobody else
    /// sees them, at the next port.
    pub fn beside(addr: SocketAddr) -> Self {
        let loopback = match addr.ip().to_canonical() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let port = match addr.port() {
            0 => 0,
            // Behind the last port any free one has to do.
            port => port.checked_add(1).unwrap_or(0),
        };
        Self::At(SocketAddr::new(loopback, port))
    }

    /// Listens there. `None`: there are to be no pages.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on, e.g. since another process does.
    pub async fn listen(self) -> Result<Option<TcpListener>, StatusListenError> {
        match self {
            Self::Nowhere => Ok(None),
            Self::At(address) => {
                let listener = TcpListener::bind(address).await;
                listener
                    .map(Some)
                    .map_err(|source| StatusListenError { address, source })
            }
        }
    }
}

impl FromStr for StatusAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text {
            NONE => Ok(Self::Nowhere),
            address => parse_listen_address(address).map(Self::At),
        }
    }
}

impl fmt::Display for StatusAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => formatter.write_str(NONE),
            Self::At(address) => address.fmt(formatter),
        }
    }
}

/// What to say of an address that could not be listened on, since it may be the one where a neighbour has its pages.
pub fn listen_hint(error: &io::Error) -> &'static str {
    if error.kind() == ErrorKind::AddrInUse {
        " (a server on the port before has its status pages there, unless --status-addr moves them)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_are_on_loopback_at_the_next_port() {
        for (addr, beside) in [
            ("127.0.0.1:20160", "127.0.0.1:20161"),
            ("0.0.0.0:2379", "127.0.0.1:2380"),
            ("192.0.2.1:1", "127.0.0.1:2"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:65535", "127.0.0.1:0"),
            ("[::1]:1", "[::1]:2"),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:2"),
        ] {
            let addr = addr.parse().expect("an address");
            assert_eq!(StatusAddress::beside(addr).to_string(), beside);
        }
    }

    #[test]
    fn an_address_to_listen_on_or_none_is_understood() {
        for good in ["none", "127.0.0.1:1", "[::1]:0", "0.0.0.0:20161"] {
            let parsed: StatusAddress = good.parse().expect(good);
            assert_eq!(parsed.to_string(), good);
        }
        for bad in [
            "",
            "off",
            "None",
            "20161",
            "localhost:1",
            "http://127.0.0.1:1",
        ] {
            assert!(bad.parse::<StatusAddress>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_refused_with_the_flag_that_helps() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = StatusAddress::At(any).listen().await.expect("a free port");
        let taken = listener.expect("it listens").local_addr();
        let taken = taken.expect("bound");
        let holder = TcpListener::bind(taken).await.expect("free again");
        let refused = StatusAddress::At(taken).listen().await;
        let told = refused.expect_err("it is in use").to_string();
        assert!(told.contains("--status-addr none"), "{told}");
        assert!(told.contains(&taken.to_string()), "{told}");
        drop(holder);
        let nowhere = StatusAddress::Nowhere.listen().await;
        assert!(nowhere.expect("nothing to do").is_none());
    }
}
