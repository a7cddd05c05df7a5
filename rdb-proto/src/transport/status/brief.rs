//! What the page shows, cut to what an update has room for.
//!
//! An update stays under 10 KiB, however large a cluster is and whatever its stores call themselves. So each list has a limit in bytes,
//! each text one in characters.

use serde_json::{Value, json};

use crate::findings::{Finding, Severity};

/// Most bytes of alarms and notices of one update.
const FINDINGS_BYTES_MAX: usize = 2000;

/// Most characters of what is wrong, and of what to do about it.
const FINDING_CHARACTERS_MAX: usize = 600;

/// What is wrong, the alarms first, as the page takes it: as much of it as there is room for, and how much there is.
pub fn brief_findings(mut findings: Vec<Finding>) -> Value {
    findings.sort_by_key(|finding| finding.severity);
    let alarms = findings.iter();
    let alarms = alarms.filter(|finding| finding.severity == Severity::Alarm);
    let alarms = alarms.count();
    let shown = findings.iter().map(|finding| {
        json!({
            "is_alarm": finding.severity == Severity::Alarm,
            "what": brief_text(&finding.what, FINDING_CHARACTERS_MAX),
            "to_do": brief_text(&finding.to_do, FINDING_CHARACTERS_MAX),
        })
    });
    let shown = brief_list(shown, FINDINGS_BYTES_MAX);
    json!({
        "alarms": alarms,
        "notices": findings.len() - alarms,
        "left_out": findings.len() - shown.len(),
        "shown": shown,
    })
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

/// The beginning of a text that is long. Control characters are not shown.
pub fn brief_text(text: &str, characters_max: usize) -> String {
    let visible = |character: char| {
        if character.is_control() {
            '\u{fffd}'
        } else {
            character
        }
    };
    let mut shown: String = text.chars().map(visible).take(characters_max).collect();
    if text.chars().nth(characters_max).is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_control_characters_are_not_shown() {
        assert_eq!(brief_text("a\n\u{7}b", 9), "a\u{fffd}\u{fffd}b");
        assert_eq!(brief_text("日本語", 3), "日本語");
        assert_eq!(brief_text("日本語です", 3), "日本…");
    }

    #[test]
    fn alarms_come_first_and_what_finds_no_room_is_counted() {
        let notice = Finding::notice("n", "-");
        let alarms = (0..50).map(|number| Finding::alarm(format!("{number}"), "x".repeat(900)));
        let shown = brief_findings([notice].into_iter().chain(alarms).collect());
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
        let long = brief_findings(vec![Finding::alarm("w".repeat(5000), "t".repeat(5000))]);
        assert_eq!(long["left_out"], 0);
        assert!(long.to_string().len() < 1500, "{long}");
    }
}
