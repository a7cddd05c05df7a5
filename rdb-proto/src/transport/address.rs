//! Addresses as users write them: `host:port`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Longest address in bytes: a host name has at most 253, a port 5.
const ADDRESS_BYTES_MAX: usize = 255;

/// An address is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is not an address: {problem}; expected host:port, e.g. 127.0.0.1:2379")]
pub struct AddressError {
    address: String,
    problem: &'static str,
}

/// Checks that `address` is a `host:port` that a client can connect to: a name, an IPv4 address or an IPv6 address in
/// brackets, and a port other than 0.
///
/// # Errors
///
/// [`AddressError`] names what is wrong with it.
pub fn check_address(address: &str) -> Result<(), AddressError> {
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(AddressError::new(address, "it is longer than 255 bytes"));
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(AddressError::new(address, "the port is missing"));
    };
    match host_problem(host).or_else(|| port_problem(port)) {
        Some(problem) => Err(AddressError::new(address, problem)),
        None => Ok(()),
    }
}

/// Checks the same of an address that a process tells others to connect to: it is not the one that means "every interface".
///
/// # Errors
///
/// [`AddressError`] names what is wrong with it.
pub fn check_advertised_address(address: &str) -> Result<(), AddressError> {
    check_address(address)?;
    let ip: Result<IpAddr, _> = host(address).parse();
    if ip.is_ok_and(|ip| ip.to_canonical().is_unspecified()) {
        return Err(AddressError::new(
            address,
            "others cannot connect to it, it only means every interface of this machine",
        ));
    }
    Ok(())
}

/// The host of a `host:port`, without the brackets of an IPv6 address.
pub(super) fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

/// Reads an address to listen on: an IP address and a port, 0 for any free one.
///
/// # Errors
///
/// [`AddressError`] when it has another form, e.g. a name in place of the IP address.
pub fn parse_listen_address(address: &str) -> Result<SocketAddr, AddressError> {
    let problem = "to listen on, an IP address and a port are needed";
    address
        .parse()
        .map_err(|_| AddressError::new(address, problem))
}

fn host_problem(host: &str) -> Option<&'static str> {
    if host.is_empty() {
        return Some("the host is missing");
    }
    if host.contains(char::is_whitespace) {
        return Some("it has a space in it");
    }
    if let Some(bracketed) = host.strip_prefix('[') {
        let ipv6 = bracketed.strip_suffix(']').map(str::parse::<Ipv6Addr>);
        return match ipv6 {
            Some(Ok(_)) => None,
            _ => Some("what stands in brackets is not an IPv6 address"),
        };
    }
    if host.contains("://") {
        return Some("a scheme does not belong there");
    }
    if host.contains(':') {
        return Some("an IPv6 host needs brackets");
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (!host.chars().all(is_name)).then_some("the host has a character that no host has")
}

fn port_problem(port: &str) -> Option<&'static str> {
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(0) => Some("port 0 cannot be connected to"),
        // The parser takes a sign, which an address does not have.
        Ok(_) if is_number => None,
        _ => Some("the port is not a number from 1 to 65535"),
    }
}

impl AddressError {
    pub(super) fn new(address: &str, problem: &'static str) -> Self {
        Self {
            address: address.chars().take(ADDRESS_BYTES_MAX).collect(),
            problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in [
            "127.0.0.1:2379",
            "localhost:1",
            "[::1]:65535",
            "db-1.example:20160",
            "store_0.stores.:1",
        ] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "localhost",
            ":1",
            "h:",
            "h:0",
            "h:65536",
            "::1:80",
            "http://h:1",
            "a b:1",
            "h:+80",
            "h:-1",
            "[]:80",
            "[h]:80",
            "[::1:80",
            "h]:80",
            "h\u{e9}:80",
            "a\"b:80",
            "user@h:80",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
        assert!(check_address(&format!("{}:1", "h".repeat(254))).is_err());
        let url = check_address("http://h:1").expect_err("a URL");
        assert!(url.to_string().contains("scheme"), "{url}");
    }

    #[test]
    fn what_stands_for_every_interface_is_not_told_to_others() {
        for good in ["127.0.0.1:1", "[::1]:1", "0.example:1"] {
            assert_eq!(check_advertised_address(good), Ok(()), "{good}");
        }
        for bad in ["0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1", "h:0"] {
            assert!(check_advertised_address(bad).is_err(), "{bad}");
        }
    }
}
