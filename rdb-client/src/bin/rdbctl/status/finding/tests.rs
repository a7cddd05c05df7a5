//! Each finding, made from what the cluster answers.

use rdb_client::StoreState;

use super::super::screen::Screen;
use super::super::survey::Catalogue;
use super::*;
use crate::region::{Leader, Peer};
use crate::store::{Load, Stats};

const UNREACHABLE: &str = "unreachable";

fn process(store_id: Option<u64>, status: &'static str) -> health::Line {
    let address = format!("host{}:1", store_id.unwrap_or_default());
    health::Line {
        role: if store_id.is_some() { "store" } else { "pd" },
        store_id,
        status,
        cause: (status != SERVING).then(|| "connection\nrefused".to_owned()),
        warnings: Vec::new(),
        address,
    }
}

fn store(id: u64, state: StoreState, age_ms: u64) -> store::Line {
    store::Line {
        id,
        address: format!("host{id}:1"),
        state,
        last_heartbeat_age_ms: Some(age_ms),
        region_count: 1,
        leads_count: 0,
        load: None,
        stats: Some(Stats {
            capacity_bytes: 1000,
            available_bytes: 500,
            key_count: 1,
            data_bytes: 1,
            start_time_ms: 1,
        }),
    }
}

/// Three stores with one replica each, and their answers. The first one leads.
fn survey(statuses: [&'static str; 3]) -> Survey {
    let ids = 1..=3u64;
    let peer = |id| Peer {
        id: id + 10,
        store_id: id,
        is_learner: false,
        is_absent: false,
        address: None,
    };
    let leader = Leader {
        store_id: 1,
        address: "host1:1".to_owned(),
    };
    let peers = ids.clone().map(peer).collect();
    let stores = ids.clone().zip(statuses);
    let stores = stores.map(|(id, status)| process(Some(id), status));
    Survey {
        processes: std::iter::once(process(None, SERVING))
            .chain(stores)
            .collect(),
        catalogue: Ok(Catalogue {
            stores: ids.map(|id| store(id, StoreState::Up, 1000)).collect(),
            regions: vec![region::Line::of_everything(peers, Some(leader))],
            operators: Some(Vec::new()),
            findings: Vec::new(),
        }),
    }
}

fn catalogue(survey: &mut Survey) -> &mut Catalogue {
    survey.catalogue.as_mut().expect("it is known")
}

fn told(survey: &Survey) -> Vec<(Severity, String, String)> {
    let findings = findings(survey).into_iter();
    findings
        .map(|finding| (finding.severity, finding.what, finding.to_do))
        .collect()
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(findings(&survey([SERVING; 3])), []);
}

#[test]
fn a_dead_store_is_named_with_what_to_do_about_it() {
    let findings = findings(&survey([SERVING, SERVING, UNREACHABLE]));
    let [dead, missing] = &findings[..] else {
        panic!("{findings:?}");
    };
    assert_eq!((dead.severity, dead.store_id), (Severity::Alarm, Some(3)));
    assert_eq!(
        dead.what,
        r"store 3 does not answer: host3:1: connection\nrefused; its last heartbeat came 1s ago"
    );
    for part in ["rdb-server at host3:1", "rdbctl store remove 3"] {
        assert!(dead.to_do.contains(part), "{}", dead.to_do);
    }
    assert_eq!(missing.region_ids, [1]);
    assert_eq!(
        missing.what,
        "region 1: reads and writes go on, but not all replicas answer"
    );
}

#[test]
fn where_a_majority_is_lost_no_store_is_to_be_removed_and_the_region_says_which_are_missed() {
    let told = told(&survey([SERVING, UNREACHABLE, UNREACHABLE]));
    let [second, third, region] = &told[..] else {
        panic!("{told:?}");
    };
    for (_, what, to_do) in [second, third] {
        assert!(what.contains("does not answer"), "{what}");
        assert!(!to_do.contains("store remove"), "{to_do}");
    }
    let (_, what, to_do) = region;
    assert!(what.ends_with("none on stores 2, 3 does"), "{what}");
    assert!(to_do.contains("gone for good"), "{to_do}");
}

#[test]
fn what_is_the_matter_with_a_region_is_told_the_worst_first() {
    for (statuses, expected) in [
        ([SERVING, SERVING, SERVING], None),
        ([SERVING, NOT_SERVING, SERVING], None),
        (
            [SERVING, SERVING, WRONG_PROCESS],
            Some(RegionTrouble::Missing),
        ),
        (
            [UNREACHABLE, SERVING, SERVING],
            Some(RegionTrouble::NoLeader),
        ),
        (
            [SERVING, UNREACHABLE, UNREACHABLE],
            Some(RegionTrouble::NoMajority),
        ),
    ] {
        let survey = survey(statuses);
        let catalogue = survey.catalogue.as_ref().expect("it is known");
        let found = trouble(&catalogue.regions[0], &survey);
        assert_eq!(found, expected, "{statuses:?}");
    }
    let mut absent = survey([SERVING; 3]);
    catalogue(&mut absent).regions[0].peers[1].is_absent = true;
    let catalogue = absent.catalogue.as_ref().expect("it is known");
    let found = trouble(&catalogue.regions[0], &absent);
    assert_eq!(found, Some(RegionTrouble::Missing));
}

#[test]
fn one_replica_and_a_disk_that_fills_are_notices_behind_the_alarms() {
    let mut survey = survey([SERVING, SERVING, UNREACHABLE]);
    let known = catalogue(&mut survey);
    known.regions[0].peers.truncate(1);
    known.stores[0]
        .stats
        .as_mut()
        .expect("figures")
        .available_bytes = 99;
    let told = told(&survey);
    let severities: Vec<_> = told.iter().map(|(severity, ..)| *severity).collect();
    assert_eq!(
        severities,
        [Severity::Alarm, Severity::Notice, Severity::Notice]
    );
    assert_eq!(told[1].1, "the disk of store 1 has 99 B left of 1000 B");
    assert!(told[2].1.starts_with("region 1: there is one replica only"));
}

#[test]
fn a_store_that_leaves_and_one_that_is_cut_off_from_the_placement_driver_are_told_apart() {
    let mut survey = survey([SERVING, SERVING, UNREACHABLE]);
    let known = catalogue(&mut survey);
    known.stores[0] = store(1, StoreState::Disconnected, 25_000);
    known.stores[1] = store(2, StoreState::Leaving, 1000);
    known.stores[2] = store(3, StoreState::Leaving, 25_000);
    let told = told(&survey);
    assert!(told[0].1.contains("came 25s ago"), "{told:?}");
    assert!(told[0].1.starts_with("store 1 answers, but"), "{told:?}");
    assert!(told[1].2.contains("it is leaving already"), "{told:?}");
    let (severity, what, to_do) = told.last().expect("a notice");
    assert_eq!(*severity, Severity::Notice);
    assert_eq!(what, "store 2 is leaving; regions with a replica on it: 1");
    assert!(to_do.contains("rdbctl store remove 2 --cancel"), "{to_do}");
}

#[test]
fn without_a_placement_driver_there_is_one_alarm_which_says_so() {
    let survey = Survey {
        processes: vec![process(None, UNREACHABLE)],
        catalogue: Err(Failure::failed("unavailable")),
    };
    let told = told(&survey);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        told[0].1,
        r"no placement driver serves, so the stores and regions are not known: host0:1: connection\nrefused"
    );
    assert!(told[0].2.contains("--pd or RDBCTL_PD"), "{told:?}");
    let findings = findings(&survey);
    let screen = Screen::new(survey, findings).to_string();
    assert!(screen.starts_with("1 alarm\n"), "{screen}");
}

#[test]
fn a_sole_placement_driver_that_is_damaged_is_not_to_be_started_again() {
    let mut damaged = process(None, NOT_SERVING);
    damaged.cause = Some("writes have stopped: Corruption: block checksum mismatch".to_owned());
    let survey = Survey {
        processes: vec![damaged],
        catalogue: Err(Failure::failed("unavailable")),
    };
    let told = told(&survey);
    assert_eq!(told.len(), 1, "{told:?}");
    let to_do = &told[0].2;
    assert!(to_do.contains("once with --tso-advance-ms"), "{to_do}");
}

#[test]
fn what_the_placement_driver_says_comes_before_what_is_said_of_stores() {
    let mut survey = survey([SERVING, SERVING, UNREACHABLE]);
    let says = Finding::alarm("the first region waits", "start stores");
    catalogue(&mut survey).findings = vec![says.clone()];
    assert_eq!(findings(&survey)[0], says);
    let known = catalogue(&mut survey);
    known.stores.clear();
    known.regions.clear();
    assert_eq!(findings(&survey), [says]);
    // A placement driver of an earlier release says nothing.
    catalogue(&mut survey).findings.clear();
    assert_eq!(findings(&survey), [no_stores()]);
}

#[test]
fn a_screen_has_all_of_it() {
    let mut survey = survey([SERVING, SERVING, UNREACHABLE]);
    for store in &mut catalogue(&mut survey).stores[..2] {
        store.load = Some(Load {
            window_ms: 2000,
            reads_per_s: 6.0,
            writes_per_s: 0.5,
            read_p99_us: Some(300),
            write_p99_us: None,
            write_queue_bytes: 0,
            write_queue_bytes_max: 1,
        });
    }
    catalogue(&mut survey).stores[0].stats = Some(Stats {
        capacity_bytes: 8 << 30,
        available_bytes: 3 << 30,
        key_count: 70,
        data_bytes: 5 << 20,
        start_time_ms: 1,
    });
    let findings = findings(&survey);
    let screen = Screen::new(survey, findings);
    let text = screen.to_string();
    for part in [
        "2 alarms\n",
        "host0:1           serving\n",
        "3      host3:1  up     unreachable",
        "  ~KEYS  DATA",
        "Commands: 12 reads/s, 1.0 writes/s\n",
        "Regions: 1; 0 without a leader, 1 with replicas missing\n",
        "Operators under way: none\n",
        "ALARM: store 3 does not answer",
        "\n  to do: start rdb-server at host3:1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Columns are two spaces apart, or more.
    let cells = |begin: &str| -> Vec<&str> {
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with(begin));
        let cells = line.expect(begin).split("  ").map(str::trim);
        cells.filter(|cell| !cell.is_empty()).collect()
    };
    let (headings, first) = (cells("STORE "), cells("1 "));
    assert_eq!(headings.len(), first.len(), "{text}");
    let shown: Vec<_> = headings.into_iter().zip(first).collect();
    let (uptime, others) = shown.split_last().expect("there are columns");
    assert_eq!(uptime.0, "UPTIME");
    assert_eq!(
        others,
        [
            ("STORE", "1"),
            ("ADDRESS", "host1:1"),
            ("STATE", "up"),
            ("HEALTH", "serving"),
            ("HEARTBEAT", "1s ago"),
            ("PEERS", "1"),
            ("LEADS", "0"),
            ("READS/S", "6.0"),
            ("WRITES/S", "0.5"),
            ("P99", "300us"),
            ("FREE", "3.0 GiB"),
            ("OF", "8.0 GiB"),
            ("~KEYS", "70"),
            ("DATA", "5.0 MiB"),
        ]
    );
    let object = serde_json::to_value(&screen).expect("an object");
    assert_eq!(object["alarms"], 2);
    assert_eq!(object["findings"][0]["store_id"], 3);
    assert_eq!(object["findings"][0]["severity"], "alarm");
    assert_eq!(object["stores"][2]["health"], "unreachable");
    assert_eq!(object["regions"]["with_replicas_missing"][0], 1);
    assert_eq!(object["load"]["reads_per_s"], 12.0);
    assert_eq!(object["stores"][0]["load"]["read_p99_us"], 300);
    assert_eq!(object["stores"][2]["load"], serde_json::Value::Null);
}

#[test]
fn a_store_that_is_late_here_and_sends_heartbeats_is_not_told_as_dead() {
    let mut survey = survey([SERVING, SERVING, UNREACHABLE]);
    survey.processes[3].cause = Some("host3:1 gave no answer in time".to_owned());
    let slow = &told(&survey)[0];
    assert!(slow.1.contains("cannot be reached from here"), "{slow:?}");
    assert!(!slow.2.contains("store remove"), "{slow:?}");
    catalogue(&mut survey).stores[2] = store(3, StoreState::Disconnected, 25_000);
    let dead = &told(&survey)[0];
    assert!(dead.2.contains("store remove 3"), "{dead:?}");
    assert!(dead.2.contains("where another store can"), "{dead:?}");
}

#[test]
fn a_store_of_which_nothing_was_heard_is_a_notice_until_it_is_down() {
    for (state, severity) in [
        (StoreState::Disconnected, Severity::Notice),
        (StoreState::Down, Severity::Alarm),
    ] {
        let mut survey = survey([SERVING; 3]);
        catalogue(&mut survey).stores[1] = store::Line {
            last_heartbeat_age_ms: None,
            ..store(2, state, 0)
        };
        let told = told(&survey);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, severity);
        assert!(told[0].1.starts_with("store 2 answers, but"), "{told:?}");
    }
}

#[test]
fn a_leader_of_which_nothing_was_heard_and_two_replicas_are_notices() {
    let mut unknown = survey([SERVING; 3]);
    catalogue(&mut unknown).regions[0].leader = None;
    let mut pair = survey([SERVING; 3]);
    catalogue(&mut pair).regions[0].peers.truncate(2);
    for (survey, what) in [
        (unknown, "which replica leads"),
        (pair, "two replicas only"),
    ] {
        let told = told(&survey);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, Severity::Notice);
        assert!(told[0].1.contains(what), "{told:?}");
    }
}

#[test]
fn a_store_that_was_not_asked_does_not_count_as_dead() {
    let mut survey = survey([SERVING; 3]);
    survey.processes.truncate(2);
    assert_eq!(findings(&survey), []);
}

#[test]
fn placement_drivers_of_two_clusters_are_told_as_such() {
    let mut other = process(None, WRONG_PROCESS);
    other.cause = Some("host9:1 is of cluster 7".to_owned());
    let survey = Survey {
        processes: vec![process(None, SERVING), other],
        catalogue: Err(Failure::failed("host9:1 is of cluster 7")),
    };
    let told = told(&survey);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].1.contains("of one cluster"), "{told:?}");
    assert!(told[0].2.contains("--pd"), "{told:?}");
}

#[test]
fn what_a_serving_process_warns_of_is_a_notice() {
    let mut warned = survey([SERVING; 3]);
    let warnings = [
        (
            0,
            "the placement driver at host0:1",
            "rights are not enforced",
        ),
        (
            2,
            "store 2",
            "the audit log a.log cannot be written: no\nspace",
        ),
        (2, "store 2", "its certificate has expired"),
    ];
    for (process, _, warning) in warnings {
        let warnings = &mut warned.processes[process].warnings;
        warnings.push(warning.to_owned());
    }
    let findings = findings(&warned);
    for ((_, whose, warning), finding) in warnings.iter().zip(&findings) {
        let warning = escape(warning.as_bytes());
        assert_eq!(finding.severity, Severity::Notice);
        assert_eq!(finding.what, format!("{whose} serves, and says: {warning}"));
        assert!(finding.to_do.contains(whose), "{finding:?}");
    }
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert!(findings[1].to_do.contains("audit log"), "{findings:?}");
    assert!(findings[2].to_do.contains("certificates"), "{findings:?}");
    assert_eq!(findings[1].store_id, Some(2));
    let screen = Screen::new(warned, findings).to_string();
    assert!(!screen.contains("all is well"), "{screen}");
}

#[test]
fn tls_that_does_not_fit_together_has_nobody_start_a_process_again() {
    const CAUSE: &str =
        "the certificate of the server is refused: no CA that is trusted here has signed it";
    let alone = Survey {
        processes: vec![process(None, UNREACHABLE)],
        catalogue: Err(Failure::failed("unavailable")),
    };
    let mut beside = survey([SERVING, SERVING, UNREACHABLE]);
    beside.processes.push(process(None, UNREACHABLE));
    for mut survey in [alone, beside] {
        let unreached = survey.processes.iter_mut();
        for process in unreached.filter(|process| process.status == UNREACHABLE) {
            process.cause = Some(CAUSE.to_owned());
        }
        for (_, what, to_do) in told(&survey) {
            if what.contains(CAUSE) {
                assert!(what.contains("can be asked") || what.contains("cannot be asked"));
                assert!(to_do.contains("--ca names the CA"), "{to_do}");
            }
            assert!(!to_do.contains("start rdb-"), "{to_do}");
        }
    }
}

#[test]
fn a_user_without_any_right_is_told_what_to_do() {
    let survey = Survey {
        processes: vec![process(None, SERVING)],
        catalogue: Err(Failure::PermissionDenied(
            "user ada lacks the right: any role".to_owned(),
        )),
    };
    let told = told(&survey);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].2.contains("rdbctl auth grant"), "{told:?}");
}
