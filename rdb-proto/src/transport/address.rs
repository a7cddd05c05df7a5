//! Addresses as users write them: `host:port`.

/// Longest address in bytes: a host name has at most 253, a port 5.
const ADDRESS_BYTES_MAX: usize = 255;

/// An address is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is not an address: {problem}; expected host:port, e.g. 127.0.0.1:2379")]
pub struct AddressError {
    address: String,
    problem: &'static str,
}

/// Checks that `address` is a `host:port` that a client can connect to: a host and a port other than 0.
///
/// # Errors
///
/// [`AddressError`] names what is wrong with it.
pub fn check_address(address: &str) -> Result<(), AddressError> {
    let problem = match address.rsplit_once(':') {
        _ if address.len() > ADDRESS_BYTES_MAX => "it is longer than 255 bytes",
        None => "the port is missing",
        Some(("", _)) => "the host is missing",
        Some((host, _)) if host.contains(|c: char| c.is_whitespace() || "/?#@".contains(c)) => {
            "the host has a character that no host has"
        }
        Some((host, _))
            if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) =>
        {
            "an IPv6 host needs brackets"
        }
        Some((_, port)) => match port.parse::<u16>() {
            Ok(0) => "port 0 cannot be connected to",
            Ok(_) => return Ok(()),
            Err(_) => "the port is not a number from 1 to 65535",
        },
    };
    Err(AddressError::new(address, problem))
}

impl AddressError {
    fn new(address: &str, problem: &'static str) -> Self {
        Self {
            address: address.chars().take(ADDRESS_BYTES_MAX).collect(),
            problem,
        }
    }

    /// For what only the URI parser finds.
    pub(super) fn unusable(address: &str) -> Self {
        Self::new(address, "the host has a character that no host has")
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
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
        assert!(check_address(&format!("{}:1", "h".repeat(254))).is_err());
    }
}
