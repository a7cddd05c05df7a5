//! Settings.

use std::time::Duration;

use crate::Error;
#[cfg(feature = "tls")]
use crate::Tls;
use crate::connection::Security;

/// Settings of a [`Client`](crate::Client).
///
/// ```
/// # use std::time::Duration;
/// # use rdb_client::Config;
/// let config = Config::default().with_timeout(Duration::from_secs(2));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How long one call may take, retries and waiting included. A scan has this time for each page. Must not be 0.
    /// Default: 10 s. [`Client::with_timeout`](crate::Client::with_timeout) changes it per call.
    pub timeout: Duration,
    /// How long one attempt to connect to one address may take, and how long a placement driver may take to answer before
    /// the next address is asked. Must not be 0. Default: 3 s.
    pub connect_timeout: Duration,
    /// Makes every call a unary gRPC call, instead of sending concurrent calls together over streams. Default: `false`.
    pub unary: bool,
    /// Encrypts connections. Needs the feature `tls`. Default: `None`, plain text.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            unary: false,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl Config {
    /// These settings with another [`timeout`](Self::timeout).
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// These settings with another [`connect_timeout`](Self::connect_timeout).
    pub fn with_connect_timeout(self, connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            ..self
        }
    }

    /// These settings with another choice of [`unary`](Self::unary).
    pub fn with_unary(self, unary: bool) -> Self {
        Self { unary, ..self }
    }

    /// These settings with encrypted connections.
    ///
    /// ```
    /// # use rdb_client::{Config, Tls};
    /// let tls = Tls::with_ca_file("tls/ca.pem").with_identity_files("tls/client.pem", "tls/client.key");
    /// let config = Config::default().with_tls(tls);
    /// ```
    #[cfg(feature = "tls")]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self {
            tls: Some(tls),
            ..self
        }
    }

    /// Checks every setting, and that what TLS needs can be read.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] names the setting that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        for (field, value) in [
            ("timeout", self.timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if value.is_zero() {
                let cause = format!("{field} is 0, so no call could succeed; it must be longer");
                return Err(Error::invalid_argument(field, None, cause));
            }
        }
        Security::of(self).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_a_zero_timeout_is_named() {
        assert!(Config::default().validate().is_ok());
        let config = Config::default().with_connect_timeout(Duration::ZERO);
        let error = config.validate().expect_err("refused");
        assert!(
            matches!(&error, Error::InvalidArgument { field, .. } if field == "connect_timeout"),
            "{error:?}"
        );
    }
}
