//! Where a collector is.

use std::fmt;
use std::str::FromStr;

use tonic::transport::Endpoint;

use crate::transport::{AddressError, check_address};

const SCHEME: &str = "http://";

/// The value of `--otlp-endpoint`: a collector that takes OTLP over gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint {
    address: String,
}

/// An endpoint is not `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOtlpEndpoint {
    /// It begins with something else, or does not fit into a URL.
    #[error(
        "{0:?} is no endpoint: expected http://HOST:PORT, e.g. http://127.0.0.1:4317; there is no TLS to a collector"
    )]
    Form(String),
    /// What follows is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl FromStr for OtlpEndpoint {
    type Err = InvalidOtlpEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidOtlpEndpoint> {
        let malformed = || InvalidOtlpEndpoint::Form(text.to_owned());
        let address = text.strip_prefix(SCHEME).ok_or_else(malformed)?;
        let address = address.strip_suffix('/').unwrap_or(address);
        check_address(address)?;
        let checked = Self {
            address: address.to_owned(),
        };
        Endpoint::from_shared(checked.to_string()).map_err(|_| malformed())?;
        Ok(checked)
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{SCHEME}{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port_behind_http() {
        for (text, told) in [
            ("http://127.0.0.1:4317", "http://127.0.0.1:4317"),
            ("http://[::1]:4317/", "http://[::1]:4317"),
            ("http://collector:1", "http://collector:1"),
        ] {
            let endpoint: OtlpEndpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), told);
        }
        for text in [
            "",
            "127.0.0.1:4317",
            "https://127.0.0.1:4317",
            "HTTP://127.0.0.1:4317",
            "http://127.0.0.1",
            "http://127.0.0.1:0",
            "http://127.0.0.1:4317/v1/traces",
            "http://user@127.0.0.1:4317",
        ] {
            assert!(text.parse::<OtlpEndpoint>().is_err(), "{text}");
        }
    }
}
