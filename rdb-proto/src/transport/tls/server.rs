//! The server's end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::super::secured::Secured;
use super::super::wrong_port::{answer_and_close, is_handshake, is_plain_text, to_plain_text};
use super::certificate::{Facts, warnings_of_authorities, warnings_of_chain};
use super::failure::{Side, explained};
use super::material::{
    Identity, VERSIONS, authorities, certificates, private_key, provider, unfit,
};
use super::{ALPN, PeerIdentity, Pem, RECORD_BYTES, TlsError};
use crate::regular_file;

/// What a server serves TLS with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsOptions {
    /// The certificate, and those between it and the CA.
    pub certificate: Pem,
    /// Its key.
    pub key: Pem,
    /// Clients have to present a certificate that one of these has signed. `None`: they need none.
    pub client_ca: Option<Pem>,
}

/// How errors name what is read.
const CERTIFICATE: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--tls-client-ca";

/// A server's end of TLS. What it reads can be read again.
#[derive(Debug)]
pub struct ServerTls {
    options: ServerTlsOptions,
    loaded: Mutex<Loaded>,
}

/// What was read, and what was made of it.
#[derive(Debug)]
struct Loaded {
    read: Read,
    config: Arc<ServerConfig>,
    facts: Facts,
    /// Facts about all certificates that are presented, its own first.
    chain: Vec<Facts>,
    /// Facts about the CAs of clients.
    authorities: Vec<Facts>,
    /// Whether every user of the machine can read the key, when that was looked at last.
    key_is_open: bool,
    /// Why clients with certificates of the client CA refuse this server when it connects to them, if they do.
    unfit_as_client: Option<String>,
}

#[derive(PartialEq, Eq)]
struct Read {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for Read {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Read").finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads what it serves with.
    ///
    /// # Errors
    ///
    /// [`TlsError`] says what cannot be used.
    pub fn new(options: ServerTlsOptions) -> Result<Self, TlsError> {
        let read = Read::of(&options)?;
        let loaded = Mutex::new(Loaded::of(read, &options)?);
        Ok(Self { options, loaded })
    }

    /// Reads it again. Returns whether it has changed.
    ///
    /// # Errors
    ///
    /// [`TlsError`]: what was read before stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let read = Read::of(&self.options)?;
        let key_is_open = is_readable_by_all(&self.options.key);
        let mut present = self.loaded();
        present.key_is_open = key_is_open;
        if read == present.read {
            return Ok(false);
        }
        drop(present);
        let loaded = Loaded::of(read, &self.options)?;
        *self.loaded() = loaded;
        Ok(true)
    }

    /// What is wrong though it can be used. It reads nothing.
    pub fn warnings(&self) -> Vec<String> {
        let options = &self.options;
        let loaded = self.loaded();
        let mut warnings =
            warnings_of_chain(&loaded.chain, &options.certificate.named(CERTIFICATE));
        if let Some(client_ca) = &options.client_ca {
            let client_ca = client_ca.named(CLIENT_CA);
            warnings.extend(warnings_of_authorities(&loaded.authorities, &client_ca));
        }
        if loaded.key_is_open {
            let key = options.key.named(KEY);
            warnings.push(format!(
                "{key}: every user of this machine can read the private key; chmod 600 it"
            ));
        }
        warnings
    }

    /// Why servers with the same client CA refuse this one when it connects to them, if they do.
    pub fn unfit_as_client(&self) -> Option<String> {
        self.loaded().unfit_as_client.clone()
    }

    /// Seconds since 1970 after which the certificate in use is not valid any more.
    pub fn certificate_not_after_s(&self) -> u64 {
        self.loaded().facts.not_after_s()
    }

    /// Whose certificate is in use.
    pub fn subject(&self) -> String {
        self.loaded().facts.subject.clone()
    }

    /// Whether clients have to present a certificate.
    pub fn requires_client_certificates(&self) -> bool {
        self.options.client_ca.is_some()
    }

    /// Shakes hands with a client, for `patience` at most, and says whose certificate it has presented. Otherwise says why not; `None`:
    /// it went without a word.
    pub(in crate::transport) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        patience: Duration,
    ) -> Result<(Secured<S>, Option<PeerIdentity>), Option<String>> {
        let mut stream = BufReader::with_capacity(RECORD_BYTES, stream);
        let shaking_hands = async {
            let first_bytes = match stream.fill_buf().await {
                Ok(first_bytes) if !first_bytes.is_empty() => first_bytes,
                _ => return Err(Refused::Gone),
            };
            if is_plain_text(first_bytes) {
                let answer = to_plain_text(first_bytes);
                return Err(Refused::PlainText { stream, answer });
            }
            let speaks_tls = is_handshake(first_bytes) || first_bytes.len() == 1;
            let acceptor = TlsAcceptor::from(Arc::clone(&self.loaded().config));
            let accepted = acceptor.accept(stream).into_fallible().await;
            accepted.map_err(|(error, stream)| {
                let cause = if speaks_tls {
                    explained(error, Side::Server).to_string()
                } else {
                    "what the client sends is neither TLS nor HTTP".to_owned()
                };
                Refused::Handshake { stream, cause }
            })
        };
        let refused = match timeout(patience, shaking_hands).await {
            Ok(Ok(stream)) => return identified(stream),
            Ok(Err(refused)) => refused,
            Err(_) => {
                let patience_ms = patience.as_millis();
                return Err(Some(format!("no TLS handshake within {patience_ms} ms")));
            }
        };
        match refused {
            Refused::Gone => Err(None),
            Refused::PlainText { mut stream, answer } => {
                answer_and_close(&mut stream, &answer).await;
                Err(Some(
                    "the client speaks plain text, and this port speaks TLS".to_owned(),
                ))
            }
            // Its alert is sent. The client reads it if the connection is not reset.
            Refused::Handshake { mut stream, cause } => {
                answer_and_close(&mut stream, &[]).await;
                Err(Some(format!("the TLS handshake failed: {cause}")))
            }
        }
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        // It is replaced as a whole.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no TLS on a connection.
enum Refused<S> {
    /// The client went without a word.
    Gone,
    PlainText {
        stream: BufReader<S>,
        answer: Vec<u8>,
    },
    Handshake {
        stream: BufReader<S>,
        cause: String,
    },
}

/// The connection, with whose certificate its client has presented. A certificate that was verified and cannot be read is refused.
fn identified<S>(
    stream: tokio_rustls::server::TlsStream<BufReader<S>>,
) -> Result<(Secured<S>, Option<PeerIdentity>), Option<String>> {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let identity = certificate
        .map(PeerIdentity::of)
        .transpose()
        .map_err(Some)?;
    let stream = Secured::Tls(Box::new(TlsStream::Server(stream)));
    Ok((stream, identity))
}

impl Read {
    fn of(options: &ServerTlsOptions) -> Result<Self, TlsError> {
        let client_ca = options.client_ca.as_ref();
        Ok(Self {
            certificate: options.certificate.read(CERTIFICATE)?,
            key: options.key.read(KEY)?,
            client_ca: client_ca.map(|ca| ca.read(CLIENT_CA)).transpose()?,
        })
    }
}

impl Loaded {
    fn of(read: Read, options: &ServerTlsOptions) -> Result<Self, TlsError> {
        let certificate = options.certificate.named(CERTIFICATE);
        let key = options.key.named(KEY);
        let identity = Identity {
            chain: certificates(&read.certificate, &certificate)?,
            key: private_key(&read.key, &key)?,
        };
        let chain = identity.chain.iter().map(Facts::of);
        let chain: Result<Vec<_>, _> = chain.collect();
        let chain = chain.map_err(|problem| TlsError::new(&certificate, problem))?;
        let facts = chain.first().cloned();
        let facts =
            facts.ok_or_else(|| TlsError::new(&certificate, "there is no certificate in it"))?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| TlsError::new("TLS", error))?;
        let mut unfit_as_client = None;
        let mut of_clients = Vec::new();
        let builder = match (&read.client_ca, &options.client_ca) {
            (Some(pem), Some(named)) => {
                let what = named.named(CLIENT_CA);
                let (roots, facts) = authorities(pem, &what)?;
                of_clients = facts;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                let verifier = verifier
                    .build()
                    .map_err(|error| TlsError::new(&what, error))?;
                unfit_as_client = unfit_under(&*verifier, &identity, &certificate, &what);
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(identity.chain, identity.key)
            .map_err(|error| unfit(&error, certificate, &key))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            read,
            config: Arc::new(config),
            facts,
            chain,
            authorities: of_clients,
            key_is_open: is_readable_by_all(&options.key),
            unfit_as_client,
        })
    }
}

/// Why other servers with the same client CA refuse this one as a client, if they do. A certificate that is not valid now is
/// reported elsewhere.
fn unfit_under(
    verifier: &dyn ClientCertVerifier,
    identity: &Identity,
    certificate: &str,
    client_ca: &str,
) -> Option<String> {
    let (own, between) = identity.chain.split_first()?;
    let verified = verifier.verify_client_cert(own, between, UnixTime::now());
    let error = verified.err()?;
    if Facts::of(own).ok()?.invalid().is_some() {
        return None;
    }
    Some(format!(
        "{certificate}: servers that have the same {client_ca} refuse it when this server connects to them: {error}"
    ))
}

fn is_readable_by_all(key: &Pem) -> bool {
    match key {
        Pem::Text(_) => false,
        Pem::File(path) => regular_file::is_readable_by_all(path),
    }
}
