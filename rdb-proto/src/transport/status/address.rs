//! Where the status pages are.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::net::TcpListener;

use super::super::address::{AddressError, parse_listen_address};

/// How far from the port of a process its pages are.
const PORTS_FURTHER: u16 = 1000;

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
    /// sees them, 1000 ports further. The next port is where people start the next store of a machine.
    pub fn beside(addr: SocketAddr) -> Self {
        let loopback = match addr.ip().to_canonical() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let port = match addr.port() {
            0 => 0,
            // Behind the last port any free one has to do.
            port => port.checked_add(PORTS_FURTHER).unwrap_or(0),
        };
        Self::At(SocketAddr::new(loopback, port))
    }

    /// Listens where `asked` says, or else beside `addr`. `None`: no pages are wanted. Nobody has asked for those beside `addr`, so if
    /// somebody else listens there, the process does without.
    ///
    /// # Errors
    ///
    /// When the address that was asked for cannot be listened on.
    pub async fn listen_for(
        asked: Option<Self>,
        addr: SocketAddr,
    ) -> Result<Option<TcpListener>, StatusListenError> {
        if let Some(asked) = asked {
            return asked.listen().await;
        }
        Ok(Self::beside(addr).listen().await.unwrap_or_else(|error| {
            tracing::warn!(cause = %error.source, "{error}; there are no status pages");
            None
        }))
    }

    /// Listens there. `None`: no pages are wanted.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on, e.g. since another process does.
    async fn listen(self) -> Result<Option<TcpListener>, StatusListenError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_are_on_loopback_and_their_port_is_no_neighbours() {
        for (addr, beside) in [
            ("127.0.0.1:20160", "127.0.0.1:21160"),
            ("0.0.0.0:2379", "127.0.0.1:3379"),
            ("192.0.2.1:1", "127.0.0.1:1001"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:65535", "127.0.0.1:0"),
            ("[::1]:1", "[::1]:1001"),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1001"),
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
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let asked = Some(StatusAddress::At(any));
        let listener = StatusAddress::listen_for(asked, any).await;
        let listener = listener.expect("a free port").expect("it listens");
        let taken = listener.local_addr().expect("bound");
        let asked = Some(StatusAddress::At(taken));
        let refused = StatusAddress::listen_for(asked, any).await;
        let told = refused.expect_err("it is in use").to_string();
        assert!(told.contains("--status-addr none"), "{told}");
        assert!(told.contains(&taken.to_string()), "{told}");
        let nowhere = StatusAddress::listen_for(Some(StatusAddress::Nowhere), any).await;
        assert!(nowhere.expect("nothing to do").is_none());

        let mut addr = taken;
        addr.set_port(taken.port() - PORTS_FURTHER);
        let by_itself = StatusAddress::listen_for(None, addr).await;
        assert!(by_itself.expect("nobody has asked").is_none());
    }
}
