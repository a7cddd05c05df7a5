//! The time of a line.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use x509_cert::der::DateTime;

/// Writes a time in the form of RFC 3339, in UTC and with milliseconds. One before 1970 is written as the beginning of 1970, and one after
/// 9999 as the end of that year.
pub(super) fn write(at: SystemTime, line: &mut Vec<u8>) {
    let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let whole = DateTime::from_unix_duration(since_epoch).unwrap_or(DateTime::INFINITY);
    let (year, month, day) = (whole.year(), whole.month(), whole.day());
    let (hour, minute, second) = (whole.hour(), whole.minutes(), whole.seconds());
    let ms = since_epoch.subsec_millis();
    let written = write!(
        line,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"
    );
    written.expect("memory takes it");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_rfc_3339() {
        let written = |at: SystemTime| {
            let mut line = Vec::new();
            write(at, &mut line);
            String::from_utf8(line).expect("text")
        };
        let after_epoch = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        for (ms, told) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_007, "2000-02-29T00:00:00.007Z"),
            (1_795_801_495_120, "2026-11-27T17:44:55.120Z"),
        ] {
            assert_eq!(written(after_epoch(ms)), told);
        }
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(written(before), "1970-01-01T00:00:00.000Z");
        let far = after_epoch(300_000_000_000_000);
        assert!(written(far).starts_with("9999-12-31T23:59:59."));
    }
}
