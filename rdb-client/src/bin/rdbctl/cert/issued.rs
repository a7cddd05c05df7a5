//! Certificates of a CA for development.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::der::asn1::Any;
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::{self, Decode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// How the names of these CAs begin. What follows is of their keys.
const CA_NAME: &str = "FlareDB development CA";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long certificates are valid.
const CA_VALIDITY: Duration = DAY.saturating_mul(3650);
const VALIDITY: Duration = DAY.saturating_mul(365);

/// How much the clocks of machines that connect to each other may differ.
const CLOCK_DIFFERENCE: Duration = DAY;

/// A CA.
pub(super) struct Authority {
    /// As PEM.
    pub(super) certificate: String,
    /// As PEM.
    pub(super) key: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Result<Self, String> {
        let key = KeyPair::generate().map_err(told)?;
        let params = ca_params(&key);
        let certificate = params.self_signed(&key).map_err(told)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The one with this key, which was made by [`new`](Self::new). Whether `certificate` is its own shows when it has issued another.
    pub(super) fn of_key(key: &str, certificate: String) -> Result<Self, String> {
        // Not with the error's words, which may have lines of the key in them.
        let pair = KeyPair::from_pem(key).map_err(|_| "it is no private key as PEM".to_owned())?;
        Ok(Self {
            certificate,
            key: key.to_owned(),
            issuer: Issuer::new(ca_params(&pair), pair),
        })
    }

    /// A certificate for servers that clients connect to by these names and IP addresses. Servers connect to each other with it, too.
    pub(super) fn server(&self, hosts: &[String]) -> Result<Issued, String> {
        let usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.issue("FlareDB server", hosts, usages)
    }

    /// A certificate for a client.
    pub(super) fn client(&self, name: &str) -> Result<Issued, String> {
        self.issue(name, &[], vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn issue(
        &self,
        name: &str,
        hosts: &[String],
        usages: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<Issued, String> {
        let key = KeyPair::generate().map_err(told)?;
        let params = CertificateParams::new(hosts).map_err(|error| {
            let hosts = hosts.join(", ");
            format!("a certificate cannot be for {hosts}: {error}")
        })?;
        let mut params = valid(params, VALIDITY);
        params.distinguished_name = named(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(told)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The names and IP addresses that the first certificate in a PEM is for, as [`Authority::server`] takes them.
pub(super) fn hosts_of(pem: &str) -> Result<Vec<String>, String> {
    let certificate = first_of(pem)?;
    let names = certificate.tbs_certificate.get::<SubjectAltName>();
    let names = names.map_err(unreadable)?;
    let names = names.map_or_else(Vec::new, |(_, SubjectAltName(names))| names);
    let host = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(address) => Some(ip_address(address.as_bytes())?.to_string()),
        // Nobody connects by another kind.
        _ => None,
    };
    let hosts: Vec<_> = names.iter().filter_map(host).collect();
    if hosts.is_empty() {
        return Err("the certificate names no host".to_owned());
    }
    Ok(hosts)
}

/// Whose the first certificate in a PEM is, as [`Authority::client`] takes it.
pub(super) fn client_of(pem: &str) -> Result<String, String> {
    let subject = first_of(pem)?.tbs_certificate.subject;
    let mut attributes = subject.0.iter().flat_map(|part| part.0.iter());
    let name = match (attributes.next(), attributes.next()) {
        (Some(only), None) if only.oid == COMMON_NAME => text_of(&only.value),
        _ => None,
    };
    let name = name.map(str::to_owned);
    name.ok_or_else(|| {
        format!("the subject of the certificate, {subject}, is not just a common name")
    })
}

/// Other kinds of text have other bytes than their characters.
fn text_of(value: &Any) -> Option<&str> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            str::from_utf8(value.value()).ok()
        }
        _ => None,
    }
}

fn first_of(pem: &str) -> Result<Certificate, String> {
    let first = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "it is no certificate as PEM".to_owned())?;
    Certificate::from_der(&first).map_err(unreadable)
}

fn unreadable(error: der::Error) -> String {
    format!("the certificate cannot be read: {error}")
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

fn ca_params(key: &KeyPair) -> CertificateParams {
    let mut params = valid(CertificateParams::default(), CA_VALIDITY);
    let digest = params.key_identifier(key);
    let digest = digest.iter().take(4).map(|byte| format!("{byte:02x}"));
    params.distinguished_name = named(&format!("{CA_NAME} {}", digest.collect::<String>()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// Valid from now on.
fn valid(mut params: CertificateParams, validity: Duration) -> CertificateParams {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = date_time_ymd(1970, 1, 1) + now.unwrap_or_default();
    params.not_before = now - CLOCK_DIFFERENCE;
    params.not_after = now + validity;
    params
}

fn told(error: rcgen::Error) -> String {
    format!("no certificate can be made: {error}")
}

#[cfg(test)]
mod tests {
    use rcgen::DnValue;
    use rcgen::string::{BmpString, PrintableString};

    use super::*;

    #[test]
    fn a_common_name_is_taken_only_where_its_bytes_are_its_text() {
        let taken = |name: DnValue| {
            let key = KeyPair::generate().expect("a key can be made");
            let mut params = ca_params(&key);
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = params.self_signed(&key).expect("it can be made");
            client_of(&certificate.pem())
        };
        let narrow = PrintableString::try_from("ada").expect("few characters");
        for name in [DnValue::PrintableString(narrow), DnValue::from("ada")] {
            assert_eq!(taken(name), Ok("ada".to_owned()));
        }
        let wide = BmpString::try_from("ada").expect("text");
        let refused = taken(DnValue::BmpString(wide));
        assert!(refused.is_err(), "{refused:?}");
    }
}
