//! What a caller shows to prove which user it is.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use super::limits::TOKEN_BYTES;
use super::refusal;
use super::rights::Rights;
use super::token::Token;
use crate::error::Fault;
use crate::transport::tls::PeerIdentity;

/// What a caller has shown. Only the hash of a token is kept.
pub(crate) struct Credentials {
    token: Shown,
    certificate: Option<Arc<PeerIdentity>>,
}

enum Shown {
    Nothing,
    /// Something else than one token.
    Malformed,
    /// A token with this hash.
    Token([u8; TOKEN_BYTES]),
}

impl Credentials {
    /// The credentials of a call with these headers, on a connection whose peer has presented this certificate.
    pub(crate) fn of(headers: &HeaderMap, certificate: Option<Arc<PeerIdentity>>) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let token = match (values.next(), values.next()) {
            (None, _) => Shown::Nothing,
            (Some(value), None) => Token::of_header(value.as_bytes())
                .map_or(Shown::Malformed, |token| Shown::Token(token.hash())),
            (Some(_), Some(_)) => Shown::Malformed,
        };
        Self { token, certificate }
    }

    pub(super) fn of_token(token: &Token) -> Self {
        Self {
            token: Shown::Token(token.hash()),
            certificate: None,
        }
    }

    /// The position of the user in `rights` that the caller is. If there is a token, it alone decides, not the certificate.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED.
    pub(super) fn user_in(&self, rights: &Rights) -> Result<usize, Fault> {
        match (&self.token, &self.certificate) {
            (Shown::Token(hash), _) => {
                let user = rights.user_of_token(hash);
                user.ok_or_else(refusal::unknown_token)
            }
            (Shown::Malformed, _) => Err(refusal::malformed()),
            (Shown::Nothing, Some(certificate)) => {
                let user = rights.user_of_subject(certificate.subject());
                user.ok_or_else(refusal::unknown_subject)
            }
            (Shown::Nothing, None) => Err(refusal::nobody()),
        }
    }
}
