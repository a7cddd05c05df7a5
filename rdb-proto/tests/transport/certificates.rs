//! Certificates for tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, date_time_ymd,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What clients connect to here.
pub(crate) const HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    Now,
    UntilYesterday,
}

/// A CA.
pub(crate) struct Ca {
    pub(crate) pem: String,
    /// Its own certificate, to be presented as if it were that of an end of a connection.
    #[allow(dead_code, reason = "one of those who include this file presents it")]
    pub(crate) own: Issued,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, as PEM.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
    /// The certificate as it is sent.
    #[allow(dead_code, reason = "unit tests send nothing")]
    pub(crate) der: Vec<u8>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        Self::valid(Validity::Now)
    }

    pub(crate) fn valid(validity: Validity) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(&[], "CA", validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            pem: certificate.pem(),
            own: Issued::of(&certificate, &key),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn issue(&self, hosts: &[&str], name: &str, validity: Validity) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(hosts, name, validity);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer);
        Issued::of(&certificate.expect("a certificate"), &key)
    }

    /// A certificate of a server here.
    pub(crate) fn server(&self) -> Issued {
        self.issue(&HOSTS, "server", Validity::Now)
    }
}

impl Issued {
    fn of(certificate: &Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    }
}

fn params(hosts: &[&str], name: &str, validity: Validity) -> CertificateParams {
    let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("hosts");
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = date_time_ymd(1970, 1, 1) + now.expect("after 1970");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - 3 * DAY;
    params.not_after = match validity {
        Validity::Now => now + 30 * DAY,
        Validity::UntilYesterday => now - DAY,
    };
    params
}

/// Files with a certificate and its key, and a CA.
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
}

impl Files {
    pub(crate) fn write(directory: &Path, issued: &Issued, ca: &Ca) -> Self {
        let files = Self {
            certificate: directory.join("tls.pem"),
            key: directory.join("tls.key"),
            ca: directory.join("ca.pem"),
        };
        files.replace(issued);
        fs::write(&files.ca, &ca.pem).expect("it can be written");
        files
    }

    /// Writes another certificate and its key in their place.
    pub(crate) fn replace(&self, issued: &Issued) {
        fs::write(&self.certificate, &issued.certificate).expect("it can be written");
        fs::write(&self.key, &issued.key).expect("it can be written");
    }
}
