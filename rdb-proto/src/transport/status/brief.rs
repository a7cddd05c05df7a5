//! What the page shows, cut to the size of an update.
//!
//! An update stays under 10 KiB for any size of the cluster and any names of its stores. So each list and each text has a limit, in
//! bytes of JSON.

use serde_json::{Value, json};

use crate::findings::{Finding, Severity};

/// Most bytes of alarms and notices of one update.
const FINDINGS_BYTES_MAX: usize = 1800;

/// Most bytes of what is wrong, and of what to do about it. One finding always has room.
const FINDING_BYTES_MAX: usize = 600;

/// Stands at the end of a text that is cut.
const CUT: char = '…';

/// The findings in the form of the page, alarms first: as many as there is room for, and how many there are. The others are not
/// kept, since a large cluster may have thousands of findings.
pub fn brief_findings(findings: impl IntoIterator<Item = Finding>) -> Value {
    let (mut alarms, mut notices) = (Brief::default(), Brief::default());
    for finding in findings {
        match finding.severity {
            Severity::Alarm => alarms.take(&finding),
            Severity::Notice => notices.take(&finding),
        }
    }
    let shown = alarms.first.into_iter().chain(notices.first);
    let shown = brief_list(shown, FINDINGS_BYTES_MAX);
    json!({
        "alarms": alarms.count,
        "notices": notices.count,
        "left_out": alarms.count + notices.count - shown.len(),
        "shown": shown,
    })
}

/// Findings that matter equally.
#[derive(Default)]
struct Brief {
    count: usize,
    /// Those for which there may be room, with their bytes.
    first: Vec<Value>,
    bytes: usize,
}

impl Brief {
    fn take(&mut self, finding: &Finding) {
        self.count += 1;
        if self.bytes <= FINDINGS_BYTES_MAX {
            let shown = json!({
                "is_alarm": finding.severity == Severity::Alarm,
                "what": brief_text(&finding.what, FINDING_BYTES_MAX),
                "to_do": brief_text(&finding.to_do, FINDING_BYTES_MAX),
            });
            self.bytes += shown.to_string().len();
            self.first.push(shown);
        }
    }
}

/// The first of `values` that take no more than `bytes_max` together, and one in any case.
pub fn brief_list(values: impl Iterator<Item = Value>, bytes_max: usize) -> Vec<Value> {
    let mut bytes = 0;
    let mut list = Vec::new();
    for value in values {
        bytes += value.to_string().len() + 1;
        if bytes > bytes_max && !list.is_empty() {
            break;
        }
        list.push(value);
    }
    list
}

/// The beginning of a text that takes more than `bytes_max` in JSON. Control characters are not shown.
pub fn brief_text(text: &str, bytes_max: usize) -> String {
    let mut shown = String::new();
    let mut bytes = 0;
    // How long it may be if it is cut.
    let mut cut_at = 0;
    for character in text.chars() {
        let character = if character.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            character
        };
        let escape_bytes = usize::from(matches!(character, '"' | '\\'));
        bytes += character.len_utf8() + escape_bytes;
        if bytes > bytes_max {
            shown.truncate(cut_at);
            shown.push(CUT);
            return shown;
        }
        shown.push(character);
        if bytes + CUT.len_utf8() <= bytes_max {
            cut_at = shown.len();
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_control_characters_are_not_shown() {
        assert_eq!(brief_text("a\n\u{7}b", 8), "a\u{fffd}\u{fffd}b");
        assert_eq!(brief_text("日本語", 9), "日本語");
        assert_eq!(brief_text("日本語です", 9), "日本…");
        for character in ["\"", "\\", "日", "<", "\u{1}"] {
            let shown = Value::from(brief_text(&character.repeat(900), 100));
            assert!(shown.to_string().len() <= 100 + "\"\"".len(), "{shown}");
        }
    }

    #[test]
    fn alarms_come_first_and_what_finds_no_room_is_counted() {
        let notice = Finding::notice("n", "-");
        let alarms = (0..50).map(|number| Finding::alarm(format!("{number}"), "x".repeat(900)));
        let shown = brief_findings([notice].into_iter().chain(alarms));
        assert_eq!(
            (&shown["alarms"], &shown["notices"]),
            (&json!(50), &json!(1))
        );
        assert_eq!(shown["shown"][0]["what"], "0");
        let count = shown["shown"].as_array().map_or(0, Vec::len);
        assert_eq!(shown["left_out"], 51 - count);
        assert!(
            shown.to_string().len() < FINDINGS_BYTES_MAX + 100,
            "{shown}"
        );
        for character in ["w", "\"", "日"] {
            let long = character.repeat(5000);
            let long = brief_findings([Finding::alarm(long.clone(), long)]);
            assert_eq!(long["left_out"], 0);
            assert!(long.to_string().len() < 1400, "{long}");
        }
    }
}
