//! Turns PEM into what rustls takes.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, SupportedProtocolVersion, version};

use super::TlsError;
use super::certificate::Facts;

pub(super) const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A certificate with those between it and its CA, and its key.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// Certificates from PEM, at least one. `what` names the PEM in errors.
pub(super) fn certificates(
    pem: &[u8],
    what: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| not_pem(what, &error))?;
    if certificates.is_empty() {
        let problem =
            "there is no certificate in it; expected PEM with -----BEGIN CERTIFICATE-----";
        return Err(TlsError::new(what, problem));
    }
    Ok(certificates)
}

/// The first private key out of PEM.
pub(super) fn private_key(pem: &[u8], what: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(Error::NoItemsFound) => {
            let is_encrypted = pem.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED);
            let problem = if is_encrypted {
                "the private key in it is encrypted; decrypt it, and let only the process's user read the file"
            } else {
                "there is no private key in it; expected PEM with -----BEGIN PRIVATE KEY-----"
            };
            Err(TlsError::new(what, problem))
        }
        Err(error) => Err(not_pem(what, &error)),
    }
}

/// Trusts the certificates in PEM, and says what they are. Each has to be a CA's: webpki takes any certificate as an anchor, so the holder
/// of a server's key could sign others with it.
pub(super) fn authorities(pem: &[u8], what: &str) -> Result<(RootCertStore, Vec<Facts>), TlsError> {
    let mut roots = RootCertStore::empty();
    let mut all_facts = Vec::new();
    for certificate in certificates(pem, what)? {
        let facts = Facts::of(&certificate).map_err(|problem| TlsError::new(what, problem))?;
        if !facts.can_sign {
            let subject = &facts.subject;
            let problem = format!("the certificate of {subject} in it is no CA's");
            return Err(TlsError::new(what, problem));
        }
        roots.add(certificate).map_err(|error| {
            TlsError::new(what, format!("a certificate in it is no CA's: {error}"))
        })?;
        all_facts.push(facts);
    }
    Ok((roots, all_facts))
}

/// What is wrong with a certificate and a key that rustls refuses.
pub(super) fn unfit(error: &rustls::Error, certificate: String, key: &str) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::new(
            key,
            format!("it is not the key of {certificate}; both have to be replaced together"),
        ),
        error => TlsError::new(
            certificate,
            format!("it cannot be used with {key}: {error}"),
        ),
    }
}

/// In words of our own: those of `error` have lines of the file in them, which may be of a key.
fn not_pem(what: &str, error: &Error) -> TlsError {
    let cause = match error {
        Error::MissingSectionEnd { .. } => {
            "a -----BEGIN has no -----END; line ends were lost, or it is cut"
        }
        Error::IllegalSectionStart { .. } => {
            "a line begins with -----BEGIN and goes on in another way; line ends were lost"
        }
        Error::Base64Decode(_) => "what is between -----BEGIN and -----END is not base64",
        Error::SectionTooLarge => "what is between -----BEGIN and -----END is too large",
        _ => "it cannot be parsed",
    };
    TlsError::new(what, format!("it is not PEM: {cause}"))
}
