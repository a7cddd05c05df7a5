//! What a certificate says: whose it is, and when it is valid.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::{DateTime, Decode};

/// Whose certificate a peer has presented, once that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    subject: String,
}

impl PeerIdentity {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let Facts { subject, .. } = Facts::of(certificate)?;
        Ok(Self { subject })
    }

    /// The distinguished name of the certificate's subject, as RFC 4514 writes it, e.g. `CN=ada,O=Example`.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

/// What a certificate says of itself.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) subject: String,
    not_before: Duration,
    not_after: Duration,
}

impl Facts {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let certificate = Certificate::from_der(certificate)
            .map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let certificate = certificate.tbs_certificate;
        Ok(Self {
            subject: certificate.subject.to_string(),
            not_before: certificate.validity.not_before.to_unix_duration(),
            not_after: certificate.validity.not_after.to_unix_duration(),
        })
    }

    /// Seconds since 1970 after which it is not valid any more.
    pub(super) fn not_after_s(&self) -> u64 {
        self.not_after.as_secs()
    }

    /// Why it is not valid now, if it is not.
    pub(super) fn invalid(&self) -> Option<String> {
        let now = SystemTime::now();
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if now > self.not_after {
            let at = shown(self.not_after);
            return Some(format!(
                "the certificate has expired at {at}: peers refuse it"
            ));
        }
        if now < self.not_before {
            let at = shown(self.not_before);
            return Some(format!(
                "the certificate is valid only from {at} on: peers refuse it until then"
            ));
        }
        None
    }
}

/// A time since 1970 as people write it.
pub(super) fn shown(since_epoch: Duration) -> String {
    let time = DateTime::from_unix_duration(Duration::from_secs(since_epoch.as_secs()));
    time.map_or_else(
        |_| format!("{} s after 1970", since_epoch.as_secs()),
        |time| time.to_string(),
    )
}
