//! Tokens: what a caller shows to prove which user it is.

use std::fmt;
use std::str::FromStr;

use hyper::header::{AUTHORIZATION, HeaderValue};
use tonic::Request;

use super::limits::TOKEN_BYTES;
use crate::hex::{from_hex, write_hex};

/// Every token begins so. Tools that look for secrets in files find it by that.
const PREFIX: &str = "flaredb_";

/// A secret that is worth a user's rights: 256 random bits, written as `flaredb_` and 64 lower-case hexadecimal digits.
///
/// [`Display`](fmt::Display) shows the secret. [`Debug`] never does.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; TOKEN_BYTES]);

/// A text is no token. The error does not repeat it: it may be one but for a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no token: expected flaredb_ and 64 digits of 0-9 and a-f behind it")]
pub struct InvalidToken;

impl Token {
    /// A token that nobody else has.
    ///
    /// # Panics
    ///
    /// When the operating system gives no random bytes.
    #[cfg(feature = "process")]
    pub fn random() -> Self {
        use ring::rand::{SecureRandom, SystemRandom};

        let mut bytes = [0; TOKEN_BYTES];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.expect("the operating system gives random bytes");
        Self(bytes)
    }

    /// What the placement driver keeps of it: the SHA-256 of its bytes.
    #[cfg(feature = "process")]
    pub fn hash(&self) -> [u8; TOKEN_BYTES] {
        let hash = ring::digest::digest(&ring::digest::SHA256, &self.0);
        let hash = hash.as_ref().try_into();
        hash.expect("a SHA-256 has 32 bytes")
    }

    /// The value of the header [`AUTHORIZATION`](super::AUTHORIZATION) of its holder's calls. It is marked as sensitive.
    pub fn header_value(&self) -> HeaderValue {
        let value = HeaderValue::try_from(format!("Bearer {self}"));
        let mut value = value.expect("letters and digits can be in a header");
        value.set_sensitive(true);
        value
    }

    /// A request of its holder.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let headers = request.metadata_mut().as_mut();
        headers.insert(AUTHORIZATION, self.header_value());
        request
    }

    /// Reads the value of a header as [`header_value`](Self::header_value) makes it. The name of the scheme is compared as RFC 9110,
    /// section 11.1 says: without regard to case.
    #[cfg(feature = "process")]
    pub(super) fn of_header(value: &[u8]) -> Option<Self> {
        const SCHEME: &[u8] = b"bearer";
        let (scheme, rest) = value.split_at_checked(SCHEME.len())?;
        let token = rest.trim_ascii_start();
        let is_separated = token.len() < rest.len();
        if !is_separated || !scheme.eq_ignore_ascii_case(SCHEME) {
            return None;
        }
        Self::parse(token)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX.as_bytes())?;
        from_hex(digits).map(Self)
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        Self::parse(text.as_bytes()).ok_or(InvalidToken)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(PREFIX)?;
        write_hex(&self.0, formatter)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(digits: &str) -> String {
        format!("flaredb_{digits}")
    }

    fn is_token(text: &str) -> bool {
        text.parse::<Token>().is_ok()
    }

    #[test]
    fn only_64_lower_case_digits_behind_the_prefix_are_a_token() {
        assert!(is_token(&token(&"0a".repeat(32))));
        for text in [
            String::new(),
            "flaredb_".to_owned(),
            "0a".repeat(32),
            token(&"0a".repeat(31)),
            token(&"0a".repeat(33)),
            token(&"0A".repeat(32)),
            token(&"0g".repeat(32)),
            token(&"ä".repeat(32)),
            token(&format!("{} ", "0a".repeat(31))),
            format!(" {}", token(&"0a".repeat(32))),
            format!("{}\n", token(&"0a".repeat(32))),
            format!("FLAREDB_{}", "0a".repeat(32)),
        ] {
            assert_eq!(text.parse::<Token>(), Err(InvalidToken), "{text}");
        }
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_token() {
        let text = token(&"0a".repeat(32));
        let shown = format!("{:?}", text.parse::<Token>().expect("a token"));
        assert_eq!(shown, "Token(..)");
        let wrong = token(&"0b".repeat(31)).parse::<Token>();
        assert!(!wrong.expect_err("too short").to_string().contains("0b"));
        let value = text.parse::<Token>().expect("a token").header_value();
        assert!(!format!("{value:?}").contains("0a"));
    }

    #[cfg(feature = "process")]
    #[test]
    fn the_hash_is_the_sha_256_of_the_bytes() {
        // The SHA-256 of 32 zero bytes.
        let expected = "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925";
        let hash = Token([0; TOKEN_BYTES]).hash();
        assert_eq!(from_hex(expected.as_bytes()), Some(hash));
    }

    #[cfg(feature = "process")]
    #[test]
    fn no_two_tokens_are_the_same() {
        assert_ne!(Token::random(), Token::random());
    }

    #[cfg(feature = "process")]
    #[test]
    fn a_header_names_the_scheme_in_any_case_and_one_token_behind_it() {
        let token = Token::random();
        assert_eq!(
            Token::of_header(token.header_value().as_bytes()).as_ref(),
            Some(&token)
        );
        for value in [format!("bearer {token}"), format!("BEARER   {token}")] {
            assert_eq!(Token::of_header(value.as_bytes()).as_ref(), Some(&token));
        }
        for value in [
            String::new(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            token.to_string(),
            format!("Bearer{token}"),
            format!("Basic {token}"),
            format!("Bearer {token} "),
            format!("Bearer {token}, Bearer {token}"),
            format!("Bearer Bearer {token}"),
        ] {
            assert_eq!(Token::of_header(value.as_bytes()), None);
        }
    }

    proptest! {
        #[test]
        fn a_token_survives_being_written(bytes: [u8; TOKEN_BYTES]) {
            let token = Token(bytes);
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn whatever_is_read_is_a_token_or_an_error(text in ".{0,100}", digits in "(flaredb_)?[0-9a-fA-F]{60,68}") {
            for text in [text, digits] {
                let digits = text.strip_prefix("flaredb_");
                let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                let expected = digits.is_some_and(|digits| digits.len() == 64 && digits.bytes().all(is_digit));
                prop_assert_eq!(is_token(&text), expected);
            }
        }

        #[cfg(feature = "process")]
        #[test]
        fn a_header_of_any_bytes_is_read_without_a_panic(value: Vec<u8>) {
            prop_assert!(Token::of_header(&value).is_none());
            let value = [b"Bearer ", &value[..]].concat();
            prop_assert!(Token::of_header(&value).is_none());
        }
    }
}
