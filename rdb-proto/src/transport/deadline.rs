//! How long a call may take until its answer begins: what its client says, up to what the server allows.

use std::time::Duration;

use hyper::HeaderMap;

/// Most digits of a timeout, as gRPC over HTTP/2 has it.
const DIGITS_MAX: usize = 8;

/// The timeout of a call with these headers, `timeout_max` at most. One that cannot be read counts as none.
pub(super) fn timeout(headers: &HeaderMap, timeout_max: Duration) -> Duration {
    let asked = headers
        .get("grpc-timeout")
        .and_then(|value| parse(value.to_str().ok()?));
    asked.map_or(timeout_max, |asked| asked.min(timeout_max))
}

/// Reads e.g. `250m`: up to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        let ms = |count| Some(Duration::from_millis(count));
        for (text, expected) in [
            ("250m", ms(250)),
            ("1S", ms(1000)),
            ("2M", ms(120_000)),
            ("1H", ms(3_600_000)),
            ("3000u", ms(3)),
            ("4000000n", ms(4)),
            ("99999999H", ms(99_999_999 * 3_600_000)),
            ("", None),
            ("m", None),
            ("+1S", None),
            ("123456789m", None),
            ("5s", None),
            ("5\u{b5}", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn nobody_gets_more_than_the_servers_own_timeout() {
        const MAX: Duration = Duration::from_secs(30);
        let mut headers = HeaderMap::new();
        assert_eq!(timeout(&headers, MAX), MAX);
        for (text, expected) in [("9H", MAX), ("1m", Duration::from_millis(1)), ("soon", MAX)] {
            headers.insert("grpc-timeout", text.parse().expect("a value"));
            assert_eq!(timeout(&headers, MAX), expected, "{text}");
        }
    }
}
