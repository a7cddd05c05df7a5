//! Settings.

use std::path::PathBuf;
use std::time::Duration;

use rdb_proto::auth::Token;

#[cfg(feature = "tls")]
use crate::Tls;
use crate::connection::Security;
use crate::{Error, TokenSource};

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
    /// Says who the client is, to a cluster where users have rights. Default: `None`; then it is the user that its certificate names,
    /// if it has one.
    pub token: Option<TokenSource>,
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
            token: None,
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

    /// These settings with a token, which every call carries. Without TLS anybody on the network path can read it.
    ///
    /// Prefer a file for long-running programs: its token can be replaced.
    pub fn with_token(self, token: Token) -> Self {
        Self {
            token: Some(TokenSource::Given(token)),
            ..self
        }
    }

    /// These settings with the token in a file, which holds nothing else. While calls are made, the file is checked again at most every
    /// five seconds, and a new token then takes effect, also for open streams. If a new token cannot be used, the old one stays in use,
    /// and the log says so.
    ///
    /// ```no_run
    /// # use rdb_client::Config;
    /// let config = Config::default().with_token_file("/run/secrets/flaredb-token");
    /// ```
    pub fn with_token_file(self, path: impl Into<PathBuf>) -> Self {
        Self {
            token: Some(TokenSource::File(path.into())),
            ..self
        }
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

    /// Checks every setting, and that what TLS needs and the file of the token can be read.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] names the setting that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        self.security().map(drop)
    }

    /// Checks every setting, as [`validate`](Self::validate) does, and keeps what was read for it.
    pub(crate) fn security(&self) -> Result<Security, Error> {
        for (field, value) in [
            ("timeout", self.timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if value.is_zero() {
                let cause = format!("{field} is 0, so no call could succeed; it must be longer");
                return Err(Error::invalid_argument(field, None, cause));
            }
        }
        Security::of(self)
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

    #[test]
    fn a_file_without_a_token_is_refused_by_name() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let (missing, wrong) = (
            directory.path().join("none"),
            directory.path().join("wrong"),
        );
        std::fs::write(&wrong, "hunter2").expect("written");
        for path in [missing, wrong] {
            let config = Config::default().with_token_file(&path);
            let Err(Error::InvalidArgument { field, cause, .. }) = config.validate() else {
                panic!("{}", path.display());
            };
            assert_eq!(field, "token");
            assert!(!cause.contains("hunter2"), "{cause}");
        }
    }

    #[test]
    fn settings_never_show_a_token_and_are_compared_by_it() {
        let token = |digit: &str| -> Token {
            let text = format!("flaredb_{}", digit.repeat(64));
            text.parse().expect("it is one")
        };
        let config = Config::default().with_token(token("a"));
        let shown = format!("{config:?}");
        assert!(!shown.contains("aaaa"), "{shown}");
        assert!(config.validate().is_ok());
        assert_eq!(config, Config::default().with_token(token("a")));
        assert_ne!(config, Config::default().with_token(token("b")));
        let file = || Config::default().with_token_file("a");
        assert_eq!(file(), file());
        assert_ne!(file(), config);
    }
}
