//! What is shown of made-up clusters, and its size on the wire.

use std::fmt;
use std::sync::Arc;

use rdb_proto::findings::{Heartbeats, Severity};
use rdb_proto::metapb::{Store, StoreLoad, StoreStats};
use rdb_proto::transport::status::{
    Exposition, NEW_ROWS_BYTES_MAX, Reading, Readings, Source, StatusServer, Subject, View,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const POSITION: TsoPosition = TsoPosition {
    to_bound_ms: 3000,
    ahead_of_clock_ms: 0,
};

const WELL: OfProcess<'_> = OfProcess {
    not_serving: None,
    position: POSITION,
    space: (500, 1000),
    refused_store: None,
};

fn store(id: u64, state: StoreState) -> ShownStore {
    let is_up = state == StoreState::Up;
    ShownStore {
        store: Store {
            id,
            address: format!("host{id}:1"),
            state: state.into(),
            last_heartbeat_age_ms: Some(if is_up { 1000 } else { 25_000 }),
            stats: Some(StoreStats {
                capacity_bytes: 1000,
                available_bytes: 500,
                ..StoreStats::default()
            }),
            load: is_up.then_some(StoreLoad {
                window_ms: 2000,
                reads: 3,
                writes: 5,
                read_p99_us: Some(700),
                ..StoreLoad::default()
            }),
        },
        heartbeats: if is_up {
            Heartbeats::Arrive
        } else {
            Heartbeats::Silent
        },
        region_count: 1,
        leads_count: 0,
    }
}

fn region(id: u64, leader: Option<u64>, trouble: Option<RegionTrouble>) -> ShownRegion {
    ShownRegion {
        id,
        leader,
        trouble,
        bytes: Some(id),
    }
}

/// A cluster that is larger than any, in which all that can be wrong is wrong, and each number and name is as long as it can be.
fn worst() -> Overview {
    let stores = (0..10_000_u64).map(|number| {
        let mut shown = store(u64::MAX - number, StoreState::Disconnected);
        shown.store = Store {
            // Control characters take the most room, and are not let through.
            address: format!(
                "{}:1",
                ["\u{1}", "<", "\"", "\\", "日"][number as usize % 5].repeat(80)
            ),
            last_heartbeat_age_ms: Some(u64::MAX),
            stats: Some(StoreStats {
                capacity_bytes: u64::MAX,
                available_bytes: u64::MAX,
                key_count: u64::MAX,
                data_bytes: u64::MAX,
                start_time_ms: u64::MAX,
                uptime_ms: None,
            }),
            load: Some(StoreLoad {
                window_ms: 1001,
                reads: u64::MAX,
                writes: u64::MAX,
                read_p99_us: Some(u64::MAX),
                write_p99_us: Some(u64::MAX),
                write_queue_bytes: u64::MAX,
                write_queue_bytes_max: u64::MAX,
            }),
            ..shown.store
        };
        shown
    });
    let troubles = [
        RegionTrouble::UnknownLeader,
        RegionTrouble::NoLeader,
        RegionTrouble::Missing,
        RegionTrouble::NoMajority,
        RegionTrouble::Single,
    ];
    let regions = (0..100_000_u64).map(|number| ShownRegion {
        bytes: Some(u64::MAX / 2),
        ..region(
            u64::MAX - number,
            Some(u64::MAX),
            Some(troubles[number as usize % 5]),
        )
    });
    Overview {
        stores: stores.collect(),
        regions: regions.collect(),
        missed: (1..=10_000).map(|number| u64::MAX - number).collect(),
        findings: vec![Finding::alarm("w".repeat(2000), "t".repeat(2000)); 4],
    }
}

fn member(overview: &Overview, process: &OfProcess<'_>, name: &str) -> Value {
    let mut members = present(overview, process, 0).into_iter();
    members.find(|(of, _)| *of == name).expect(name).1
}

#[test]
fn a_store_that_is_disconnected_is_told_of_in_words_with_what_to_do() {
    let overview = Overview {
        stores: vec![store(1, StoreState::Up), store(2, StoreState::Disconnected)],
        regions: vec![region(7, Some(1), Some(RegionTrouble::Missing))],
        ..Overview::default()
    };
    let findings = member(&overview, &WELL, "findings");
    assert_eq!(
        (&findings["alarms"], &findings["notices"]),
        (&json!(2), &json!(0))
    );
    let first = &findings["shown"][0];
    assert_eq!(
        first["what"],
        "store 2 is disconnected: its last heartbeat came 25s ago"
    );
    let to_do = first["to_do"].as_str().unwrap();
    assert!(to_do.contains("rdbctl store remove 2"), "{to_do}");
    let stores = member(&overview, &WELL, "stores");
    assert_eq!((&stores["count"], &stores["up"]), (&json!(2), &json!(1)));
    assert_eq!(stores["rows"][1][2], "disconnected");
    assert_eq!(stores["rows"][1][6], Value::Null, "its load is not known");
}

#[test]
fn each_column_of_a_store_has_its_own_figure() {
    let mut shown = store(1, StoreState::Up);
    shown.store.last_heartbeat_age_ms = Some(2);
    (shown.region_count, shown.leads_count) = (4, 3);
    shown.store.load = Some(StoreLoad {
        window_ms: 2000,
        reads: 11,
        writes: 13,
        read_p99_us: Some(7),
        write_p99_us: Some(8),
        write_queue_bytes: 9,
        write_queue_bytes_max: 10,
    });
    shown.store.stats = Some(StoreStats {
        available_bytes: 11,
        capacity_bytes: 12,
        data_bytes: 13,
        key_count: 14,
        start_time_ms: 15,
        uptime_ms: Some(16),
    });
    let expected = [
        ("id", json!(1)),
        ("address", json!("host1:1")),
        ("state", json!("up")),
        ("heard_ms", json!(2)),
        ("regions", json!(4)),
        ("leads", json!(3)),
        ("reads", json!(5.5)),
        ("writes", json!(6.5)),
        ("read_p99_us", json!(7)),
        ("write_p99_us", json!(8)),
        ("queue_bytes", json!(9)),
        ("available_bytes", json!(11)),
        ("capacity_bytes", json!(12)),
        ("data_bytes", json!(13)),
        ("keys", json!(14)),
        ("started_ms", json!(15)),
    ];
    let (columns, row): (Vec<_>, Vec<_>) = expected.into_iter().unzip();
    assert_eq!(columns, STORE_COLUMNS);
    assert_eq!(store_row(&shown), Value::Array(row));
}

#[test]
fn what_is_wrong_with_the_process_itself_is_told_of() {
    let overview = Overview {
        stores: vec![store(1, StoreState::Up)],
        findings: vec![Finding::notice("of the cluster", "nothing")],
        ..Overview::default()
    };
    let ailing = OfProcess {
        not_serving: Some("the disk is full"),
        position: TsoPosition {
            to_bound_ms: 0,
            ahead_of_clock_ms: -90_000,
        },
        space: (5, 1000),
        refused_store: Some(([10, 0, 0, 1].into(), "no token".to_owned())),
    };
    let findings = member(&overview, &ailing, "findings");
    assert_eq!(
        (&findings["alarms"], &findings["notices"]),
        (&json!(3), &json!(3))
    );
    let told = findings.to_string();
    for part in [
        "does not serve: the disk is full",
        "no timestamps are handed out",
        "90 s ahead of timestamps",
        "the disk of the placement driver has 5 B left",
        "refused, the last one from 10.0.0.1: no token",
        "of the cluster",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn timestamps_far_ahead_of_the_clock_are_a_notice_and_those_after_a_restart_are_not() {
    let at = |ahead_of_clock_ms| OfProcess {
        position: TsoPosition {
            to_bound_ms: 3000,
            ahead_of_clock_ms,
        },
        ..WELL
    };
    assert_eq!(of_process(&at(10_000)), []);
    let findings = of_process(&at(7_200_000));
    assert_eq!(findings.len(), 1, "{findings:?}");
    let ahead = "timestamps are 2h0m ahead of the placement driver's wall clock";
    assert!(findings[0].what.starts_with(ahead), "{findings:?}");
    assert_eq!(findings[0].severity, Severity::Notice);
}

#[test]
fn few_regions_have_a_cell_each_and_many_share_some() {
    let few = [
        region(4, Some(1), None),
        region(2, None, Some(RegionTrouble::NoMajority)),
    ];
    assert_eq!(
        key_line(&few)["cells"],
        json!([[4, 1, 1, null, 0, 4], [2, 1, null, 0, 1, 2]])
    );
    let many: Vec<_> = (1..=1000)
        .map(|id| region(id, Some(1 + id / 500), None))
        .collect();
    let line = key_line(&many);
    let cells = line["cells"].as_array().unwrap();
    assert_eq!(cells.len(), CELLS_MAX);
    let counts = cells.iter().map(|cell| cell[1].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 1000);
    assert_eq!(cells[0][2], 1);
    assert!(cells.iter().any(|cell| cell[2] == 0), "one has two leaders");
    assert_eq!(key_line(&[])["cells"], json!([]));
}

#[test]
fn a_page_of_stores_begins_where_it_is_asked_to() {
    let all: Vec<_> = (1..=100).map(|id| store(id, StoreState::Up)).collect();
    let first = stores(&all, 0);
    let shown = first["rows"].as_array().unwrap().len();
    assert!((8..=STORES_MAX).contains(&shown), "{shown}");
    let second = stores(&all, shown);
    assert_eq!(second["rows"][0][0], shown as u64 + 1);
    assert_eq!(stores(&all, 100)["from"], 0);
}

/// The worst cluster, as a process shows it.
struct Shown(Overview);

impl Source for Shown {
    fn health(&self) -> Result<(), String> {
        Err("c".repeat(2000))
    }

    fn readiness(&self) -> Result<(), String> {
        Ok(())
    }

    fn describe(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    fn subject(&self) -> Subject {
        Subject::Cluster
    }

    fn readings(&self) -> Readings {
        crate::metrics::SERIES
            .map(|name| (name, Reading::Level(Some(0.001_234))))
            .to_vec()
    }

    fn present(&self, view: View) -> Vec<(&'static str, Value)> {
        let cause = self.health().err();
        let ailing = OfProcess {
            not_serving: cause.as_deref(),
            position: TsoPosition {
                to_bound_ms: 0,
                ahead_of_clock_ms: i64::MIN,
            },
            space: (5, 1000),
            refused_store: Some(([10, 0, 0, 1].into(), "x".repeat(600))),
        };
        present(&self.0, &ailing, view.stores_from)
    }

    fn write_metrics(&self, _: &mut Exposition<'_>) -> fmt::Result {
        Ok(())
    }
}

#[tokio::test]
async fn an_update_is_small_on_the_wire_however_large_the_cluster_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = Arc::new(Shown(worst()));
    let server = StatusServer::start(listener, "rdb-pd", "1.2.3", source).unwrap();
    for path in [
        "/page.json",
        "/page.json?since=0",
        "/page.json?since=0&stores_from=5000",
    ] {
        let mut asking = TcpStream::connect(server.local_addr()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        asking.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        asking.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        // It has no rows yet: those of the charts come every five seconds.
        let bytes = answer.len() + NEW_ROWS_BYTES_MAX;
        println!("{path}: {bytes} bytes with rows");
        assert!(bytes <= 10 << 10, "{path}: {bytes} bytes");
    }
    server.end().await;
}
