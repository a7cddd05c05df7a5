//! What a certificate says: whose it is, and when it is valid.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::Any;
use x509_cert::der::{DateTime, Decode, Tag, Tagged};
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::name::{Name, RelativeDistinguishedName};

/// Most digits of a number in an object identifier that is parsed: x509-cert computes with more of them unchecked.
const NUMBER_DIGITS_MAX: usize = 9;

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

    /// How [`subject`](Self::subject) writes the subject that is written like this. `None`: it cannot be read.
    ///
    /// Two subjects that a certificate can have cannot be read: one with a backslash before a comma or a plus sign, and one with a
    /// number of more than `NUMBER_DIGITS_MAX` digits in an object identifier.
    pub fn canonical_subject(written: &str) -> Option<String> {
        if has_long_number(written) {
            return None;
        }
        let name = Name::from_str(written).ok()?;
        let canonical = name.to_string();
        // The text does not say which kind a value is. The parser has taken the usual kind.
        let is_as_text = || Some(as_text(&name)?.to_string() == written);
        if canonical != written && is_as_text() == Some(true) {
            return Some(written.to_owned());
        }
        Some(canonical)
    }
}

/// Whether a key of the subject may be an object identifier with a number that is too long. Keys begin as the parser finds them.
fn has_long_number(written: &str) -> bool {
    let mut before = "";
    written.split([',', '+']).any(|part| {
        let is_key = !before.ends_with('\\') || before.ends_with(r"\\");
        before = part;
        let numbers =
            part.split(|character: char| !(character.is_ascii_digit() || character == '.'));
        let mut identifier = numbers.take(1).flat_map(|numbers| numbers.split('.'));
        is_key && identifier.any(|number| number.len() > NUMBER_DIGITS_MAX)
    })
}

/// The same name, with values of the kind for any text instead of the kind for few characters.
fn as_text(name: &Name) -> Option<Name> {
    let value_as_text = |attribute: &AttributeTypeAndValue| {
        let is_narrow = matches!(attribute.value.tag(), Tag::PrintableString | Tag::Ia5String);
        let value = if is_narrow {
            Any::new(Tag::Utf8String, attribute.value.value()).ok()?
        } else {
            attribute.value.clone()
        };
        Some(AttributeTypeAndValue {
            oid: attribute.oid,
            value,
        })
    };
    let parts = name.0.iter().map(|part| {
        let attributes: Option<Vec<_>> = part.0.iter().map(value_as_text).collect();
        RelativeDistinguishedName::try_from(attributes?).ok()
    });
    Some(Name::from(parts.collect::<Option<Vec<_>>>()?))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    /// What the identity of a certificate with this subject says.
    fn subject_of(attributes: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let identity = PeerIdentity::of(certificate.der()).expect("it can be read");
        identity.subject().to_owned()
    }

    #[test]
    fn subjects_of_certificates_are_canonical() {
        let serial_number = DnType::CustomDnType(vec![2, 5, 4, 5]);
        let mail = DnType::CustomDnType(vec![1, 2, 840, 113549, 1, 9, 1]);
        let unknown = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99999, 1]);
        let (name, country) = (DnType::CommonName, DnType::CountryName);
        let organization = DnType::OrganizationName;
        for attributes in [
            &[(name.clone(), "ada")][..],
            &[
                (country.clone(), "AT"),
                (organization, "Example, Inc."),
                (name.clone(), "ada"),
            ],
            &[(name.clone(), " #a+b;<c>\"d\\e=f ")],
            &[(name.clone(), "#ada")],
            &[(name.clone(), "Žofia 😀")],
            &[(name.clone(), "a\nb\u{7f}")],
            &[(name.clone(), "")],
            &[(name.clone(), "12345678901234567890,12345678901234567890")],
            // Go writes it so when it has characters that are not those of a PrintableString.
            &[(serial_number, "a_1")],
            &[(country, "Ö")],
            &[(mail, "ada@example.net")],
            &[(unknown, "ada"), (name, "ada")],
        ] {
            let subject = subject_of(attributes);
            let canonical = PeerIdentity::canonical_subject(&subject);
            assert_eq!(canonical.as_deref(), Some(&*subject));
        }
    }

    #[test]
    fn what_is_written_otherwise_is_shown_as_it_should_be_or_not_read() {
        for (written, canonical) in [
            ("cn=ada", Some("CN=ada")),
            ("2.5.4.3=ada", Some("CN=ada")),
            (
                "emailAddress=ada@example.net",
                Some("EMAIL=ada@example.net"),
            ),
            ("CN=ada ", Some(r"CN=ada\ ")),
            (r"CN=\C3\B6", Some("CN=ö")),
            // As `openssl x509 -subject` writes it.
            ("CN = ada, O = Example", None),
            ("CN=ada, O=Example", None),
            ("subject=CN=ada", None),
            ("/CN=ada", None),
            ("ada", None),
            ("", None),
            ("CN=ada,", None),
            ("99999999999999999999.1=ada", None),
            (r"CN=ada\\,99999999999999999999.1=ada", None),
        ] {
            let read = PeerIdentity::canonical_subject(written);
            assert_eq!(read.as_deref(), canonical, "{written}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_without_a_panic(
            written in r#"([0-9]{1,12}|[a-zA-Z]{1,3}|[\\,+=#. ]|\PC){0,24}"#,
        ) {
            if let Some(canonical) = PeerIdentity::canonical_subject(&written) {
                let again = PeerIdentity::canonical_subject(&canonical);
                prop_assert!(again.is_none_or(|again| again == canonical));
            }
        }
    }
}
