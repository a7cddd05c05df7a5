//! The words of a line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Splits a line as a POSIX shell does: at white space, with quotes, backslashes and comments. Nothing else has a special meaning.
/// The name of the program, with which a copied line may begin, is left out. `None`: a quote is not closed.
pub(super) fn split(line: &[u8]) -> Option<Vec<OsString>> {
    let words = shlex::bytes::split(line)?.into_iter();
    let mut words: Vec<OsString> = words.map(OsString::from_vec).collect();
    if words.first().is_some_and(|word| word == "rdbctl") {
        words.remove(0);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_posix_shell_byte_for_byte() {
        for (line, words) in [
            (
                &b"raw put k v"[..],
                Some(&[&b"raw"[..], b"put", b"k", b"v"][..]),
            ),
            (b"rdbctl raw get rdbctl", Some(&[b"raw", b"get", b"rdbctl"])),
            (
                b"a 'b c' \"d\\\"e\" f\\ g ''",
                Some(&[b"a", b"b c", b"d\"e", b"f g", b""]),
            ),
            (b"tso # a timestamp", Some(&[b"tso"])),
            (b"# nothing", Some(&[])),
            (b"$HOME > x", Some(&[b"$HOME", b">", b"x"])),
            (b"\xff", Some(&[b"\xff"])),
            (b"raw put k 'v", None),
        ] {
            let expected = words.map(|words| {
                let words = words.iter();
                words
                    .map(|word| OsString::from_vec(word.to_vec()))
                    .collect()
            });
            let shown = String::from_utf8_lossy(line);
            assert_eq!(split(line), expected, "{shown}");
        }
    }
}
