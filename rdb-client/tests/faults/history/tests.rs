//! Histories that can be, and histories that cannot.

use super::*;

/// Calls of one client after the other on one key of each keyspace, unless the times say otherwise.
fn history(lines: &[&str]) -> History {
    let mut text = String::new();
    for (line, began) in lines.iter().zip((0..).step_by(10)) {
        match line.split_once('@') {
            Some((call, times)) => writeln!(text, "1 k {} {call}", times.replace("..", " ")),
            None => writeln!(text, "1 k {began} {} {line}", began + 5),
        }
        .expect("a string can be written");
    }
    History::parse(&text).expect("well-formed lines")
}

fn can_be(lines: &[&str]) -> bool {
    let findings = history(lines).check();
    match findings.verdict() {
        None => true,
        Some(verdict) => {
            assert_eq!(verdict, "VIOLATION");
            let problems = findings.violations;
            assert!(problems.contains("k is not linearizable"), "{problems}");
            false
        }
    }
}

#[test]
fn a_search_that_was_given_up_is_no_violation() {
    let mut findings = Findings {
        undecided: "k: given up\n".to_owned(),
        ..Findings::default()
    };
    assert_eq!(findings.verdict(), Some("UNDECIDED"));
    findings.violations.push_str("l is not linearizable\n");
    assert_eq!(findings.verdict(), Some("VIOLATION"));
}

#[test]
fn a_written_history_reads_the_same() {
    let lines = [
        "put 7 done",
        "put 8 unknown",
        "delete done",
        "delete unknown",
        "get 7",
        "get none",
        "swap 0 7 done 1",
        "swap 1 8 conflict 2 9",
        "swap 1 8 conflict 2 -",
        "swap 1 8 unknown",
        "remove 2 done 0",
        "remove 2 conflict 0 -",
        "remove 2 unknown",
        "read none",
        "read 3 9",
    ];
    let written = history(&lines);
    assert_eq!((written.raw.len(), written.versioned.len()), (6, 9));
    let text = written.to_string();
    assert_eq!(History::parse(&text).expect("just written"), written);
    for line in lines {
        assert!(text.contains(line), "{line}");
    }
    assert!(History::parse("1 k 0 5 put").is_err());
    assert!(History::parse("1 k 0").is_err());
}

#[test]
fn raw_writes_take_effect_once_and_stay() {
    assert!(can_be(&[
        "get none",
        "put 1 done",
        "get 1",
        "delete done",
        "get none"
    ]));
    assert!(!can_be(&["put 1 done", "get none"]), "lost");
    assert!(!can_be(&["put 1 done", "put 2 done", "get 1"]), "stale");
    assert!(
        !can_be(&[
            "put 1 done @0..50",
            "get 1 @1..2",
            "put 2 done @3..4",
            "get 2 @5..6",
            "get 1 @7..8"
        ]),
        "twice"
    );
    assert!(!can_be(&["get 1"]), "never put");
}

#[test]
fn raw_writes_of_unknown_fate_take_effect_at_most_once_and_maybe_late() {
    assert!(can_be(&[
        "put 1 unknown",
        "get none",
        "put 2 done",
        "get 2",
        "get 1"
    ]));
    assert!(can_be(&[
        "put 1 done",
        "delete unknown",
        "get 1",
        "get none"
    ]));
    assert!(can_be(&["put 1 unknown", "get none"]));
    assert!(!can_be(&["put 1 unknown", "get 1", "put 2 done", "get 1"]));
}

#[test]
fn versions_grow_by_one_and_never_come_again() {
    assert!(can_be(&[
        "swap 0 7 done 1",
        "swap 1 8 done 2",
        "remove 2 done 0",
        "swap 0 9 done 5",
        "read 5 9"
    ]));
    assert!(!can_be(&["swap 0 7 done 1", "swap 1 8 done 3"]));
    assert!(
        !can_be(&["swap 0 7 done 1", "remove 1 done 0", "swap 0 8 done 1"]),
        "a version that was shown before"
    );
    assert!(
        !can_be(&["swap 0 7 done 1", "swap 0 8 done 2"]),
        "it existed"
    );
    assert!(!can_be(&["swap 1 7 done 2"]), "it did not exist");
}

#[test]
fn conflicts_tell_what_is_there() {
    assert!(can_be(&[
        "swap 0 7 done 1",
        "swap 0 8 conflict 1 7",
        "remove 9 conflict 1 -",
        "read 1 7"
    ]));
    assert!(can_be(&["swap 3 8 conflict 0 -"]));
    assert!(!can_be(&["swap 0 7 done 1", "swap 1 8 conflict 1 7"]));
    assert!(!can_be(&["swap 0 7 done 1", "swap 0 8 conflict 1 9"]));
    assert!(
        !can_be(&["swap 0 7 conflict 1 7"]),
        "a swap that was applied and told of as a conflict"
    );
}

#[test]
fn swaps_of_unknown_fate_take_effect_only_at_the_version_that_they_expect() {
    assert!(can_be(&["swap 0 7 unknown", "read none", "read 4 7"]));
    assert!(can_be(&[
        "swap 0 7 done 1",
        "swap 1 8 unknown",
        "swap 1 9 done 2",
        "read 2 9"
    ]));
    assert!(can_be(&[
        "swap 0 7 done 1",
        "remove 1 unknown",
        "read 1 7",
        "read none"
    ]));
    assert!(!can_be(&[
        "swap 0 7 done 1",
        "swap 1 8 unknown",
        "swap 1 9 done 2",
        "read 3 8"
    ]));
    assert!(!can_be(&[
        "swap 0 7 done 1",
        "remove 1 unknown",
        "swap 1 8 done 2",
        "read none"
    ]));
    assert!(!can_be(&["swap 0 7 unknown", "read 4 7", "read none"]));
}

#[test]
fn the_longest_wait_is_that_between_two_answers() {
    let history = history(&[
        "get none @0..10",
        "put 1 done @0..15",
        "put 2 unknown @15..40",
        "read none @2..30",
        "swap 0 7 conflict 1 - @15..60",
    ]);
    let waits = history.longest_waits();
    let wanted = (Duration::from_nanos(20), Duration::from_nanos(45));
    assert_eq!(waits, wanted);
}

#[test]
fn a_problem_of_other_keys_is_found_again_in_a_written_history() {
    let mut noted = history(&["put 7 done"]);
    assert_eq!(noted.check().verdict(), None);
    noted.problems = "the counter is at 3\nand the bank is empty\n".to_owned();
    let read = History::parse(&noted.to_string()).expect("well-formed lines");
    assert_eq!(read, noted);
    assert_eq!(read.check().violations, noted.problems);
}
