//! What a certificate says: whose it is, and when it is valid.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::{DateTime, Decode};
use x509_cert::ext::pkix::BasicConstraints;

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
    /// Whether it is a CA's. Those of version 1 cannot say so.
    pub(super) can_sign: bool,
    not_before: Duration,
    not_after: Duration,
}

impl Facts {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let unreadable =
            |error: x509_cert::der::Error| format!("the certificate cannot be read: {error}");
        let certificate = Certificate::from_der(certificate).map_err(unreadable)?;
        let certificate = certificate.tbs_certificate;
        let constraints = certificate.get::<BasicConstraints>().map_err(unreadable)?;
        let can_sign = match constraints {
            Some((_, constraints)) => constraints.ca,
            None => certificate.version != Version::V3,
        };
        Ok(Self {
            subject: certificate.subject.to_string(),
            can_sign,
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
            return Some(format!("has expired at {}", shown(self.not_after)));
        }
        if now < self.not_before {
            return Some(format!("is valid only from {} on", shown(self.not_before)));
        }
        None
    }
}

/// What is wrong with a certificate in `what`, and those between it and its CA, though they can be used.
pub(super) fn warnings_of_chain(chain: &[Facts], what: &str) -> Vec<String> {
    let invalid = |facts: &Facts| {
        let (subject, cause) = (&facts.subject, facts.invalid()?);
        Some(format!(
            "{what}: the certificate of {subject} {cause}: peers refuse it"
        ))
    };
    chain.iter().filter_map(invalid).collect()
}

/// What is wrong with the CAs in `what`. Verification does not look at their validity (RFC 5280, section 6.1).
pub(super) fn warnings_of_authorities(authorities: &[Facts], what: &str) -> Vec<String> {
    let invalid = |facts: &Facts| {
        let (subject, cause) = (&facts.subject, facts.invalid()?);
        Some(format!(
            "{what}: the CA {subject} {cause}, and what it has signed is accepted all the same: replace it"
        ))
    };
    authorities.iter().filter_map(invalid).collect()
}

/// A time since 1970 as people write it.
pub(super) fn shown(since_epoch: Duration) -> String {
    let time = DateTime::from_unix_duration(Duration::from_secs(since_epoch.as_secs()));
    time.map_or_else(
        |_| format!("{} s after 1970", since_epoch.as_secs()),
        |time| time.to_string(),
    )
}
