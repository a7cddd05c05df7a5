//! Why a handshake failed, in words for the operator who has to fix it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use tokio_rustls::TlsStream;

use super::super::wrong_port::PORT_SPEAKS_PLAIN_TEXT;
use super::certificate::shown;

/// What webpki calls the certificate of a CA where that of an end of a connection is due. rustls has no name for it.
const CA_USED_AS_END_ENTITY: &str = "CaUsedAsEndEntity";

/// Which end of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Side {
    Client,
    Server,
}

impl Side {
    fn peer(self) -> &'static str {
        match self {
            Self::Client => "the server",
            Self::Server => "the client",
        }
    }

    /// This end, in the words of the peer.
    fn own(self) -> &'static str {
        match self {
            Self::Client => "this client",
            Self::Server => "this server",
        }
    }
}

pub(in crate::transport) fn side<IO>(stream: &TlsStream<IO>) -> Side {
    match stream {
        TlsStream::Client(_) => Side::Client,
        TlsStream::Server(_) => Side::Server,
    }
}

/// The same error, in words if it is one of TLS.
pub(in crate::transport) fn explained(error: io::Error, side: Side) -> io::Error {
    let of_tls = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<Error>());
    match of_tls {
        Some(of_tls) => io::Error::new(error.kind(), explain(of_tls, side)),
        None => error,
    }
}

fn explain(error: &Error, side: Side) -> String {
    let peer = side.peer();
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) if side == Side::Client => {
            PORT_SPEAKS_PLAIN_TEXT.to_owned()
        }
        Error::NoCertificatesPresented => {
            format!("{peer} has presented no certificate, and one is required here")
        }
        Error::InvalidCertificate(error) => {
            format!("the certificate of {peer} is refused: {}", refused(error))
        }
        Error::AlertReceived(alert) => told(*alert, side),
        Error::PeerIncompatible(_) => {
            format!("{peer} offers no TLS that is spoken here (1.2 and 1.3): {error}")
        }
        Error::NoApplicationProtocol => format!("{peer} does not speak HTTP/2"),
        error => format!("{peer} does not speak TLS as it should: {error}"),
    }
}

fn refused(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => "no CA that is trusted here has signed it".to_owned(),
        // The first when the CA has the same name.
        CertificateError::BadSignature => {
            "no CA that is trusted here has signed it, or who presents it does not have its key"
                .to_owned()
        }
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            let at = shown(std::time::Duration::from_secs(not_after.as_secs()));
            format!("it has expired at {at}")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet, or this machine's clock is wrong".to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            if presented.is_empty() {
                return format!("it is for no host, and not for {expected}");
            }
            let presented: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            format!("it is for {}, and not for {expected}", presented.join(", "))
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("it is not for this end of a connection: {error}")
        }
        CertificateError::Other(other) => match other.to_string().as_str() {
            CA_USED_AS_END_ENTITY => {
                "it is that of a CA, as `openssl req -x509` makes it; one that a CA has signed is needed"
                    .to_owned()
            }
            why => format!("it cannot be used: {why}"),
        },
        error => error.to_string(),
    }
}

/// The name in what rustls shows of one: `DnsName("…")` and `IpAddress(…)`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

/// What the peer has said.
fn told(alert: AlertDescription, side: Side) -> String {
    let (peer, own) = (side.peer(), side.own());
    let why = match alert {
        AlertDescription::CertificateRequired => {
            return format!("{peer} requires a certificate of {own}");
        }
        AlertDescription::UnknownCA => "no CA that it trusts has signed it",
        AlertDescription::DecryptError => {
            "no CA that it trusts has signed it, or the key here is not its key"
        }
        AlertDescription::CertificateExpired => "it has expired",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => "it is not fit",
        AlertDescription::ProtocolVersion => {
            return format!("{peer} speaks no TLS that is spoken here (1.2 and 1.3)");
        }
        alert => return format!("{peer} has ended the handshake: {alert:?}"),
    };
    format!("{peer} refuses the certificate of {own}: {why} ({alert:?})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::About;
    use crate::transport::PORT_SPEAKS_TLS;

    #[test]
    fn whoever_shows_a_failure_knows_that_it_is_one_of_tls() {
        let errors = [
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            Error::NoCertificatesPresented,
            Error::InvalidCertificate(CertificateError::Expired),
            Error::AlertReceived(AlertDescription::CertificateRequired),
            Error::AlertReceived(AlertDescription::UnknownCA),
            Error::AlertReceived(AlertDescription::ProtocolVersion),
            Error::AlertReceived(AlertDescription::HandshakeFailure),
            Error::NoApplicationProtocol,
            Error::General(String::new()),
        ];
        let told = errors.map(|error| explain(&error, Side::Client));
        for told in told.iter().map(String::as_str).chain([PORT_SPEAKS_TLS]) {
            assert_eq!(About::of(told), About::Tls, "{told}");
        }
    }
}
