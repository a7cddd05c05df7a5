//! Whether connections are encrypted, and how.

use std::io;

use rdb_proto::transport::Secured;
#[cfg(feature = "tls")]
use rdb_proto::transport::tls::ClientTls;
use tokio::net::TcpStream;

use crate::{Config, Error};

/// How the connections of a client are secured. Clones share what was read of files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Security {
    /// `None`: they are plain text.
    #[cfg(feature = "tls")]
    tls: Option<ClientTls>,
}

impl Security {
    /// That of a client with these settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a CA, a certificate or a key cannot be used.
    #[cfg(feature = "tls")]
    pub(crate) fn of(config: &Config) -> Result<Self, Error> {
        let tls = config.tls.clone().map(ClientTls::new).transpose();
        let tls = tls.map_err(|error| Error::invalid_argument("tls", None, error.to_string()))?;
        Ok(Self { tls })
    }

    /// Plain text.
    #[cfg(not(feature = "tls"))]
    pub(crate) fn of(_: &Config) -> Result<Self, Error> {
        Ok(Self {})
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
