//! The client's end.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::task::spawn_blocking;
use tokio_rustls::{TlsConnector, TlsStream};

use super::super::address::host;
use super::super::connect::{Connector, tcp};
use super::super::secured::Secured;
use super::certificate::{Facts, warnings_of_authorities};
use super::failure::{Side, explained};
use super::material::{VERSIONS, authorities, certificates, private_key, provider, unfit};
use super::{ALPN, Pem, RECORD_BYTES, TlsError};
use crate::rare_line::RareLine;

/// What a client connects over TLS with: whom it trusts, and who it is.
///
/// Certificates are checked against the host of the address that is connected to. Files are read again whenever a connection is
/// made, by one at a time: what connects meanwhile uses what was read before. What cannot be used is left alone, and the last that could be
/// used stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTlsOptions {
    ca: Pem,
    identity: Option<(Pem, Pem)>,
    server_name: Option<String>,
    names: Names,
    /// Whether files are read again when a connection is made. Those of a server have a keeper.
    rereads: bool,
}

/// How errors name what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Names {
    ca: &'static str,
    certificate: &'static str,
    key: &'static str,
}

const OF_A_CLIENT: Names = Names {
    ca: "the CA",
    certificate: "the certificate",
    key: "the key",
};

#[cfg(feature = "process")]
const OF_A_SERVER: Names = Names {
    ca: "--tls-ca",
    certificate: "--tls-cert",
    key: "--tls-key",
};

impl ClientTlsOptions {
    /// Trusts servers whose certificates one of these CAs has signed, as PEM.
    pub fn with_ca_pem(ca: impl Into<Vec<u8>>) -> Self {
        Self::with_ca(Pem::Text(ca.into()))
    }

    /// The same with the CAs of a file, as PEM.
    pub fn with_ca_file(ca: impl Into<PathBuf>) -> Self {
        Self::with_ca(Pem::File(ca.into()))
    }

    fn with_ca(ca: Pem) -> Self {
        Self {
            ca,
            identity: None,
            server_name: None,
            names: OF_A_CLIENT,
            rereads: true,
        }
    }

    /// Presents this certificate, with those between it and its CA, to servers that ask for one, as PEM.
    pub fn with_identity_pem(
        self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.with_identity(Pem::Text(certificate.into()), Pem::Text(key.into()))
    }

    /// The same with what is in these files, as PEM.
    pub fn with_identity_files(
        self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.with_identity(Pem::File(certificate.into()), Pem::File(key.into()))
    }

    pub(super) fn with_identity(self, certificate: Pem, key: Pem) -> Self {
        let identity = Some((certificate, key));
        Self { identity, ..self }
    }

    /// Checks certificates against this name, and not against the host of the address: where addresses are of a proxy, or are others
    /// than the certificates have.
    pub fn with_server_name(self, name: impl Into<String>) -> Self {
        let server_name = Some(name.into());
        Self {
            server_name,
            ..self
        }
    }

    /// The options of a server that connects to others.
    #[cfg(feature = "process")]
    pub(super) fn of_server(ca: Pem, ca_setting: &'static str) -> Self {
        let names = Names {
            ca: ca_setting,
            ..OF_A_SERVER
        };
        Self {
            names,
            rereads: false,
            ..Self::with_ca(ca)
        }
    }

    fn rereads_files(&self) -> bool {
        let identity = self.identity.as_ref();
        let has_files = self.ca.is_file()
            || identity.is_some_and(|(cert, key)| cert.is_file() || key.is_file());
        self.rereads && has_files
    }
}

/// A client's end of TLS. Clones share it.
#[derive(Clone)]
pub struct ClientTls(Arc<Shared>);

struct Shared {
    options: ClientTlsOptions,
    server_name: Option<ServerName<'static>>,
    loaded: Mutex<Loaded>,
    /// Held while files are read, so that the content that is read last is installed last. Taken before `loaded`.
    reading: Mutex<()>,
    log: Mutex<RareLine>,
}

/// What was read, and what was made of it.
struct Loaded {
    read: Read,
    config: Arc<ClientConfig>,
    /// Facts about the CAs.
    authorities: Vec<Facts>,
}

#[derive(PartialEq, Eq)]
struct Read {
    ca: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.0.options;
        formatter.debug_tuple("ClientTls").field(options).finish()
    }
}

impl ClientTls {
    /// Reads what it connects with.
    ///
    /// # Errors
    ///
    /// [`TlsError`] says what cannot be used.
    pub fn new(options: ClientTlsOptions) -> Result<Self, TlsError> {
        let server_name = options.server_name.as_deref().map(|name| {
            server_name(name).map_err(|error| TlsError::new("the name of the server", error))
        });
        let server_name = server_name.transpose()?;
        let loaded = Mutex::new(Loaded::of(Read::of(&options)?, &options)?);
        Ok(Self(Arc::new(Shared {
            options,
            server_name,
            loaded,
            reading: Mutex::default(),
            log: Mutex::default(),
        })))
    }

    /// Reads it again. Returns whether it has changed.
    ///
    /// # Errors
    ///
    /// [`TlsError`]: what was read before stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let reading = self.0.reading.lock();
        let _reading = reading.unwrap_or_else(PoisonError::into_inner);
        self.read_again()
    }

    /// The same unless it is under way already: `None`.
    fn reload_alone(&self) -> Option<Result<bool, TlsError>> {
        let _reading = match self.0.reading.try_lock() {
            Ok(reading) => reading,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(self.read_again())
    }

    fn read_again(&self) -> Result<bool, TlsError> {
        let options = &self.0.options;
        let read = Read::of(options)?;
        if read == self.loaded().read {
            return Ok(false);
        }
        let loaded = Loaded::of(read, options)?;
        *self.loaded() = loaded;
        Ok(true)
    }

    /// What is wrong though it can be used. It reads nothing.
    pub fn warnings(&self) -> Vec<String> {
        let options = &self.0.options;
        let what = options.ca.named(options.names.ca);
        warnings_of_authorities(&self.loaded().authorities, &what)
    }

    /// Shakes hands over `stream` with the server at `address`, a `host:port`. Takes as long as the server does.
    ///
    /// # Errors
    ///
    /// When the handshake fails, in words that say why.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        address: &str,
        stream: S,
    ) -> io::Result<Secured<S>> {
        if self.0.options.rereads_files() {
            self.follow_files().await;
        }
        let name = match &self.0.server_name {
            Some(name) => name.clone(),
            None => server_name(host(address)).map_err(io::Error::other)?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.loaded().config));
        let stream = BufReader::with_capacity(RECORD_BYTES, stream);
        let connected = connector.connect(name, stream).await;
        let stream = connected.map_err(|error| explained(error, Side::Client))?;
        Ok(Secured::Tls(Box::new(TlsStream::Client(stream))))
    }

    /// Connects endpoints over TCP and TLS.
    pub fn connector(&self) -> Connector {
        let tls = self.clone();
        Connector::new(move |address| {
            let tls = tls.clone();
            async move {
                let stream = tcp(&address).await?;
                tls.connect(&address, stream).await
            }
        })
    }

    /// Reads files again, and says so if they cannot be used. A disk that does not answer holds up this connection and one thread.
    async fn follow_files(&self) {
        let again = self.clone();
        let reloaded = spawn_blocking(move || again.reload_alone()).await;
        if let Ok(Some(Err(error))) = reloaded
            && let Some(suppressed) = self.take_log_turn()
        {
            tracing::warn!(%error, suppressed, "what was read before is used on");
        }
    }

    fn take_log_turn(&self) -> Option<u64> {
        let mut log = self.0.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.take_turn(Instant::now())
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        // It is replaced as a whole.
        self.0.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    let name = name.to_owned();
    ServerName::try_from(name.clone())
        .map_err(|_| format!("{name:?} is neither a host name nor an IP address"))
}

impl Read {
    fn of(options: &ClientTlsOptions) -> Result<Self, TlsError> {
        let names = options.names;
        let identity = options.identity.as_ref().map(|(certificate, key)| {
            let certificate = certificate.read(names.certificate)?;
            Ok::<_, TlsError>((certificate, key.read(names.key)?))
        });
        Ok(Self {
            ca: options.ca.read(names.ca)?,
            identity: identity.transpose()?,
        })
    }
}

impl Loaded {
    fn of(read: Read, options: &ClientTlsOptions) -> Result<Self, TlsError> {
        let names = options.names;
        let (roots, authorities) = authorities(&read.ca, &options.ca.named(names.ca))?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| TlsError::new("TLS", error))?
            .with_root_certificates(roots);
        let mut config = match (&read.identity, &options.identity) {
            (Some((certificate_pem, key_pem)), Some((certificate, key))) => {
                let certificate = certificate.named(names.certificate);
                let key = key.named(names.key);
                let chain = certificates(certificate_pem, &certificate)?;
                let private_key = private_key(key_pem, &key)?;
                builder
                    .with_client_auth_cert(chain, private_key)
                    .map_err(|error| unfit(&error, certificate, &key))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self {
            read,
            config: Arc::new(config),
            authorities,
        })
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::certificates::{Ca, Files};
    use super::*;

    #[test]
    fn one_connection_at_a_time_reads_files() {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let ca = Ca::new();
        let files = Files::write(directory.path(), &ca.server(), &ca);
        let tls = ClientTls::new(ClientTlsOptions::with_ca_file(&files.ca));
        let tls = tls.expect("it can be used");
        std::fs::write(&files.ca, Ca::new().pem).expect("it can be written");
        let reading = tls.0.reading.lock().expect("no panic");
        assert_eq!(tls.reload_alone(), None, "it is under way");
        drop(reading);
        assert_eq!(tls.reload_alone(), Some(Ok(true)));
        assert_eq!(tls.reload_alone(), Some(Ok(false)));
    }
}
