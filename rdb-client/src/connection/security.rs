//! Whether connections are encrypted, and who the client claims to be on them.

use std::error::Error as StdError;
use std::io;

use http::HeaderValue;
use rdb_proto::auth::TokenFile;
use rdb_proto::transport::Secured;
#[cfg(feature = "tls")]
use rdb_proto::transport::tls::ClientTls;
use tokio::net::TcpStream;

use crate::{Config, Error, TokenSource};

/// How the connections of a client are secured. Clones share what was read of files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Security {
    /// `None`: they are plain text.
    #[cfg(feature = "tls")]
    tls: Option<ClientTls>,
    /// `None`: calls carry no token.
    pub(super) bearer: Option<Bearer>,
}

/// The token that calls carry, as the value of a header.
#[derive(Debug, Clone)]
pub(super) enum Bearer {
    /// Marked as sensitive, so that it is not shown.
    Given(HeaderValue),
    File(TokenFile),
}

impl Security {
    /// The security of a client with these settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a CA, a certificate or a key cannot be used, or a file has no token.
    pub(crate) fn of(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            #[cfg(feature = "tls")]
            tls: tls_of(config)?,
            bearer: config.token.as_ref().map(Bearer::of).transpose()?,
        })
    }

    /// The token as it is now, if it can be another one later. A stream has the one that it was opened with.
    pub(crate) fn changing_token(&self) -> Option<HeaderValue> {
        match &self.bearer {
            Some(Bearer::File(file)) => Some(file.header_value()),
            Some(Bearer::Given(_)) | None => None,
        }
    }

    /// The connection to `address`, after its TLS handshake where there is one.
    pub(super) async fn secure(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> io::Result<Secured<TcpStream>> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.connect(address, stream).await;
        }
        let _ = address;
        Ok(Secured::Plain(stream))
    }
}

#[cfg(feature = "tls")]
fn tls_of(config: &Config) -> Result<Option<ClientTls>, Error> {
    let tls = config.tls.clone().map(ClientTls::new).transpose();
    tls.map_err(|error| Error::invalid_argument("tls", None, error.to_string()))
}

impl Bearer {
    fn of(source: &TokenSource) -> Result<Self, Error> {
        match source {
            TokenSource::Given(token) => Ok(Self::Given(token.header_value())),
            TokenSource::File(path) => TokenFile::open(path).map(Self::File).map_err(|error| {
                let source = error.source().map(|source| format!(": {source}"));
                let cause = format!("{error}{}", source.unwrap_or_default());
                Error::invalid_argument("token", None, cause)
            }),
        }
    }

    pub(super) fn header_value(&self) -> HeaderValue {
        match self {
            Self::Given(value) => value.clone(),
            Self::File(file) => file.header_value(),
        }
    }
}
