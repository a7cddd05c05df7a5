//! Bytes as people type and read them.
//!
//! Keys are arbitrary bytes; terminals and shells are not made for them. One option, [`KeyEncoding`], says how keys are
//! typed and printed. In every encoding a printed key stays on its line and cannot steer a terminal.

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::OsStringExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::failure::Failure;

/// How keys are typed and printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KeyEncoding {
    /// Byte for byte; printed like `escaped`
    Text,
    /// With \xHH, \n, \r, \t and \\
    Escaped,
    /// Two hexadecimal digits per byte
    Hex,
    /// Standard alphabet, padded
    Base64,
}

/// A key, or a bound or prefix of keys, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyArgument(OsString);

impl From<OsString> for KeyArgument {
    fn from(argument: OsString) -> Self {
        Self(argument)
    }
}

impl KeyEncoding {
    /// # Errors
    ///
    /// [`Failure::Usage`] when the argument is not in this encoding.
    pub(crate) fn decode(self, argument: KeyArgument) -> Result<Vec<u8>, Failure> {
        let typed = argument.0.into_vec();
        match self {
            Self::Text => Ok(typed),
            Self::Escaped => unescape(&typed),
            Self::Hex => decode_hex(&typed),
            Self::Base64 => STANDARD
                .decode(&typed)
                .map_err(|error| Failure::usage(format!("the key is not base64: {error}"))),
        }
    }

    pub(crate) fn encode(self, key: &[u8]) -> String {
        match self {
            Self::Text | Self::Escaped => escape(key),
            Self::Hex => key.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            }),
            Self::Base64 => STANDARD.encode(key),
        }
    }

    /// The option with which what [`encode`](Self::encode) makes of `key` is typed. `None`: it is typed as it is.
    pub(crate) fn option(self, key: &[u8]) -> Option<&'static str> {
        match self {
            Self::Text if escape(key).as_bytes() == key => None,
            Self::Text | Self::Escaped => Some("--key-encoding escaped"),
            Self::Hex => Some("--key-encoding hex"),
            Self::Base64 => Some("--key-encoding base64"),
        }
    }
}

/// Base64 as JSON output has it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Printable text stays; backslashes, control characters, characters that turn or break lines, and what is not UTF-8 are
/// escaped.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                _ if is_safe_to_show(character) => text.push(character),
                _ => escape_bytes(character.encode_utf8(&mut [0; 4]).as_bytes(), &mut text),
            }
        }
        escape_bytes(chunk.invalid(), &mut text);
    }
    text
}

fn escape_bytes(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        let _ = write!(text, "\\x{byte:02x}");
    }
}

/// Neither a control character nor one that changes direction, breaks a line, or is a byte order mark.
fn is_safe_to_show(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

fn unescape(typed: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut key = Vec::with_capacity(typed.len());
    let mut rest = typed.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            key.push(byte);
            continue;
        }
        let escaped = match rest.next() {
            Some(b'\\') => Some(b'\\'),
            Some(b'n') => Some(b'\n'),
            Some(b'r') => Some(b'\r'),
            Some(b't') => Some(b'\t'),
            Some(b'x') => rest.next().zip(rest.next()).and_then(hex_byte),
            _ => None,
        };
        let expected = r"the key has a wrong escape; the escapes are \xHH, \n, \r, \t and \\";
        key.push(escaped.ok_or_else(|| Failure::usage(expected))?);
    }
    Ok(key)
}

fn decode_hex(typed: &[u8]) -> Result<Vec<u8>, Failure> {
    let (pairs, odd) = typed.as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|&[high, low]| hex_byte((high, low)))
        .collect();
    match bytes {
        Some(bytes) if odd.is_empty() => Ok(bytes),
        _ => Err(Failure::usage(
            "the key is not hexadecimal; expected two digits (0-9, a-f) per byte",
        )),
    }
}

fn hex_byte((high, low): (u8, u8)) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use proptest::prelude::*;

    use super::*;

    fn argument(bytes: impl Into<Vec<u8>>) -> KeyArgument {
        OsString::from_vec(bytes.into()).into()
    }

    proptest! {
        #[test]
        fn what_is_printed_can_be_typed_again(key: Vec<u8>) {
            for encoding in [KeyEncoding::Escaped, KeyEncoding::Hex, KeyEncoding::Base64] {
                let printed = encoding.encode(&key);
                let typed = encoding.decode(argument(printed.clone())).expect("readable");
                prop_assert_eq!(&typed, &key, "{:?}: {}", encoding, printed);
            }
        }

        #[test]
        fn what_is_printed_with_its_option_can_be_typed_in_any_shell(key: Vec<u8>) {
            for encoding in KeyEncoding::value_variants() {
                let option = encoding.option(&key).unwrap_or("--key-encoding text");
                let (_, name) = option.split_once(' ').expect("an option and its value");
                let typed_in = KeyEncoding::from_str(name, false).expect(name);
                let typed = typed_in.decode(argument(encoding.encode(&key)));
                prop_assert_eq!(&typed.expect("readable"), &key, "{:?}", encoding);
            }
        }

        #[test]
        fn a_printed_key_stays_in_its_column(key: Vec<u8>) {
            for encoding in [KeyEncoding::Text, KeyEncoding::Escaped, KeyEncoding::Hex, KeyEncoding::Base64] {
                prop_assert!(!encoding.encode(&key).contains(char::is_control));
            }
        }

        #[test]
        fn text_is_taken_as_it_is(key: Vec<u8>) {
            prop_assert_eq!(KeyEncoding::Text.decode(argument(key.clone())).expect("anything"), key);
        }
    }

    #[test]
    fn readable_text_stays_readable_and_the_rest_is_escaped() {
        assert_eq!(escape("user/Zoë 日本".as_bytes()), "user/Zoë 日本");
        assert_eq!(
            escape(b"a\\b\n\t\r\x00\x1b[31m\xff"),
            r"a\\b\n\t\r\x00\x1b[31m\xff"
        );
        assert_eq!(escape("\u{202e}".as_bytes()), r"\xe2\x80\xae");
    }

    #[test]
    fn an_argument_in_another_encoding_is_a_usage_error() {
        let wrong = [
            (KeyEncoding::Escaped, r"a\"),
            (KeyEncoding::Escaped, r"\q"),
            (KeyEncoding::Escaped, r"\x4"),
            (KeyEncoding::Escaped, r"\xgg"),
            (KeyEncoding::Hex, "abc"),
            (KeyEncoding::Hex, "zz"),
            (KeyEncoding::Base64, "a"),
        ];
        for (encoding, typed) in wrong {
            let failure = encoding.decode(argument(typed)).expect_err(typed);
            assert!(matches!(failure, Failure::Usage(_)), "{typed}: {failure:?}");
        }
    }
}
