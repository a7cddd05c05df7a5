//! `rdbctl store …`: the processes that hold data, as the placement driver knows them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use rdb_client::{RegionRoute, Store, StoreLoad, StoreState, StoreStats};
use rdb_proto::findings::SILENT_AFTER_MS;
use rdb_proto::metapb;
use rdb_proto::shown::{size, time};
use serde::{Serialize, Serializer};

use crate::arguments::whole;
use crate::encoding::KeyEncoding;
use crate::failure::Failure;
use crate::output::{Output, Record, Row, cell};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// List the stores with the figures of their last heartbeat
    #[command(after_help = AFTER_HELP)]
    List,
    /// Show one store
    #[command(after_help = AFTER_HELP)]
    Show {
        /// The store's id
        #[arg(value_name = "ID", value_parser = whole(1u64..))]
        id: u64,
    },
    /// Have a store leave the cluster: its replicas move to other stores, then its process ends
    #[command(after_help = REMOVE_AFTER_HELP)]
    Remove {
        /// The store's id
        #[arg(value_name = "ID", value_parser = whole(1u64..))]
        id: u64,
        /// Have it stay after all
        #[arg(long)]
        cancel: bool,
    },
}

const REMOVE_AFTER_HELP: &str = "\
It is refused while too few other stores are up for the replicas that each region is
to have, which may be more than it has at the moment: add a store first, or, if fewer
replicas are enough, start rdb-pd with a lower --replicas. A dead store can be
removed, too.

`store list` shows a store that is leaving, and not any more once it has left;
`operator list` shows what is being done, and the same command again how many regions
are left. Then its process ends with exit code 3, and neither it nor a copy of its
data directory is let in again. With an empty data directory it becomes a new store.

Examples:
  rdbctl store remove 3
  rdbctl store remove 3 --cancel";

const AFTER_HELP: &str = "\
A store is up, disconnected (no heartbeat for 20 seconds), down (30 minutes, or
what rdb-pd was started with) or leaving (see `store remove`); then it may be silent,
too, for 20 seconds or more. REGIONS are those of
which it holds a replica, LEADS those whose reads and writes it takes. READS/S and
WRITES/S are commands that it answered in the seconds before its last heartbeat, P99
how long the slowest hundredth of them took. ~KEYS and DATA are estimates, of which
equal replicas may have others. `-`: no heartbeat since the placement driver started;
or of READS/S, WRITES/S and P99, the store is silent, has had none, or is of an older
release.";

pub(crate) async fn run(
    command: &StoreCommand,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    if let StoreCommand::Remove { id, cancel } = *command {
        let change = if cancel {
            client.keep_store(id).await?
        } else {
            client.remove_store(id).await?
        };
        return output.event(&Leaving {
            store_id: id,
            state: match (change.has_left, cancel) {
                (true, _) => LeavingState::Left,
                (false, true) => LeavingState::Stays,
                (false, false) => LeavingState::Leaving,
            },
            region_count: change.region_count,
        });
    }
    let (mut stores, regions) = (client.stores().await?, client.regions().await?);
    if let StoreCommand::Show { id } = command {
        stores.retain(|store| store.id == *id);
        if stores.is_empty() {
            return Err(Failure::not_found(format!(
                "not found: no store has id {id}; `store list` shows them"
            )));
        }
    }
    let stores = stores.into_iter();
    let lines: Vec<Line> = stores.map(|store| Line::new(store, &regions)).collect();
    output.table(&lines)
}

/// A store's state in one word.
fn state_name(state: StoreState) -> &'static str {
    match state {
        StoreState::Up => "up",
        StoreState::Disconnected => "disconnected",
        StoreState::Down => "down",
        StoreState::Leaving => "leaving",
        _ => "unknown",
    }
}

fn serialize_state<S: Serializer>(state: &StoreState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state_name(*state))
}

#[derive(Serialize)]
struct Leaving {
    store_id: u64,
    state: LeavingState,
    region_count: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum LeavingState {
    Leaving,
    Left,
    Stays,
}

impl fmt::Display for Leaving {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            store_id,
            state,
            region_count,
        } = self;
        match state {
            LeavingState::Left => write!(formatter, "store {store_id} has left"),
            LeavingState::Stays => write!(formatter, "store {store_id} stays"),
            LeavingState::Leaving => write!(
                formatter,
                "store {store_id} is leaving; {region_count} {} a replica on it",
                if *region_count == 1 {
                    "region has"
                } else {
                    "regions have"
                }
            ),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) id: u64,
    pub(crate) address: String,
    #[serde(serialize_with = "serialize_state")]
    pub(crate) state: StoreState,
    pub(crate) last_heartbeat_age_ms: Option<u64>,
    pub(crate) region_count: usize,
    pub(crate) leads_count: usize,
    pub(crate) stats: Option<Stats>,
    pub(crate) load: Option<Load>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    pub(crate) capacity_bytes: u64,
    pub(crate) available_bytes: u64,
    pub(crate) key_count: u64,
    pub(crate) data_bytes: u64,
    pub(crate) start_time_ms: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) window_ms: u64,
    pub(crate) reads_per_s: f64,
    pub(crate) writes_per_s: f64,
    pub(crate) read_p99_us: Option<u64>,
    pub(crate) write_p99_us: Option<u64>,
    pub(crate) write_queue_bytes: u64,
    pub(crate) write_queue_bytes_max: u64,
}

impl Line {
    pub(crate) fn new(store: Store, regions: &[RegionRoute]) -> Self {
        let is_peer = |route: &&RegionRoute| {
            let mut peers = route.region.peers.iter();
            peers.any(|peer| peer.store_id == store.id)
        };
        let leads = |route: &&RegionRoute| {
            let leader = route.leader.as_ref();
            leader.is_some_and(|leader| leader.id == store.id)
        };
        Self {
            region_count: regions.iter().filter(is_peer).count(),
            leads_count: regions.iter().filter(leads).count(),
            id: store.id,
            address: store.address,
            state: store.state,
            last_heartbeat_age_ms: store.last_heartbeat_age.map(milliseconds),
            stats: store.stats.map(Stats::from),
            load: store.load.map(Load::from),
        }
    }
}

impl Line {
    /// A store that leaves may be dead, too. That is told here in words, and in JSON by the age of its heartbeat.
    pub(crate) fn shown_state(&self) -> String {
        let name = state_name(self.state);
        if self.is_silent() && self.state == StoreState::Leaving {
            return format!("{name} (silent)");
        }
        name.to_owned()
    }

    /// Its state, as the placement driver has told it.
    pub(crate) fn wire_state(&self) -> metapb::StoreState {
        match self.state {
            StoreState::Up => metapb::StoreState::Up,
            StoreState::Disconnected => metapb::StoreState::Disconnected,
            StoreState::Down => metapb::StoreState::Down,
            StoreState::Leaving => metapb::StoreState::Leaving,
            _ => metapb::StoreState::Unspecified,
        }
    }

    /// Whether there was a heartbeat, and none since for as long as makes a store disconnected.
    fn is_silent(&self) -> bool {
        self.last_heartbeat_age_ms
            .is_some_and(|age| age >= SILENT_AFTER_MS)
    }
}

impl From<StoreStats> for Stats {
    fn from(stats: StoreStats) -> Self {
        Self {
            capacity_bytes: stats.capacity_bytes,
            available_bytes: stats.available_bytes,
            key_count: stats.key_count,
            data_bytes: stats.data_bytes,
            start_time_ms: stats.start_time_ms,
        }
    }
}

impl From<StoreLoad> for Load {
    fn from(load: StoreLoad) -> Self {
        Self {
            window_ms: milliseconds(load.window),
            reads_per_s: load.reads_per_s(),
            writes_per_s: load.writes_per_s(),
            read_p99_us: load.read_p99.map(microseconds),
            write_p99_us: load.write_p99.map(microseconds),
            write_queue_bytes: load.write_queue_bytes,
            write_queue_bytes_max: load.write_queue_bytes_max,
        }
    }
}

impl Row for Line {
    const HEADINGS: &[&str] = &[
        "ID",
        "ADDRESS",
        "STATE",
        "HEARTBEAT",
        "REGIONS",
        "LEADS",
        "READS/S",
        "WRITES/S",
        "READ P99",
        "WRITE P99",
        "AVAILABLE",
        "CAPACITY",
        "~KEYS",
        "DATA",
        "UPTIME",
    ];
}

impl Record for Line {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        let figure = |text: fn(&Stats) -> String| cell(self.stats.as_ref().map(text));
        let load = |text: fn(&Load) -> Option<String>| cell(self.load.as_ref().and_then(text));
        vec![
            self.id.to_string(),
            self.address.clone(),
            self.shown_state(),
            cell(
                self.last_heartbeat_age_ms
                    .map(|age| format!("{} ago", time(age))),
            ),
            self.region_count.to_string(),
            self.leads_count.to_string(),
            load(|load| Some(rate(load.reads_per_s))),
            load(|load| Some(rate(load.writes_per_s))),
            load(|load| load.read_p99_us.map(latency)),
            load(|load| load.write_p99_us.map(latency)),
            figure(|stats| size(stats.available_bytes)),
            figure(|stats| size(stats.capacity_bytes)),
            figure(|stats| stats.key_count.to_string()),
            figure(|stats| size(stats.data_bytes)),
            figure(|stats| time(now_ms().saturating_sub(stats.start_time_ms))),
        ]
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, milliseconds)
}

/// How often something happens in a second.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "0".to_owned(),
        few if few < 9.95 => format!("{few:.1}"),
        many => format!("{many:.0}"),
    }
}

/// How long commands take.
pub(crate) fn latency(microseconds: u64) -> String {
    match microseconds {
        few @ ..1000 => format!("{few}us"),
        more @ ..9_950 => format!("{:.1}ms", more as f64 / 1e3),
        // What would be shown as 1000ms is shown as a second.
        more @ ..999_500 => format!("{:.0}ms", more as f64 / 1e3),
        many => format!("{:.1}s", many as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, printed};

    #[test]
    fn rates_and_latencies_are_shown_with_two_digits_or_more() {
        for (per_second, shown) in [(0.0, "0"), (0.04, "0.0"), (9.94, "9.9"), (1234.5, "1234")] {
            assert_eq!(rate(per_second), shown);
        }
        for (microseconds, shown) in [
            (999, "999us"),
            (1500, "1.5ms"),
            (9_999, "10ms"),
            (99_600, "100ms"),
            (999_999, "1.0s"),
            (2_500_000, "2.5s"),
        ] {
            assert_eq!(latency(microseconds), shown);
        }
    }

    fn line(state: StoreState, last_heartbeat_age_ms: Option<u64>) -> Line {
        Line {
            id: 1,
            address: "127.0.0.1:20160".to_owned(),
            state,
            last_heartbeat_age_ms,
            region_count: 0,
            leads_count: 0,
            stats: None,
            load: None,
        }
    }

    #[test]
    fn a_store_that_leaves_and_is_silent_is_shown_as_both() {
        for (state, age_ms, shown) in [
            (
                StoreState::Leaving,
                Some(SILENT_AFTER_MS),
                "leaving (silent)",
            ),
            (StoreState::Leaving, Some(SILENT_AFTER_MS - 1), "leaving"),
            (StoreState::Leaving, None, "leaving"),
            (StoreState::Down, Some(SILENT_AFTER_MS), "down"),
        ] {
            assert_eq!(line(state, age_ms).cells(KeyEncoding::Text)[2], shown);
        }
    }

    #[test]
    fn a_store_that_was_not_heard_of_yet_has_no_figures() {
        let line = line(StoreState::Disconnected, None);
        assert_eq!(line.cells(KeyEncoding::Text).len(), Line::HEADINGS.len());
        assert_eq!(
            printed(Format::Json, |output| output
                .record(&line)
                .expect("printed")),
            "{\"id\":1,\"address\":\"127.0.0.1:20160\",\"state\":\"disconnected\",\
             \"last_heartbeat_age_ms\":null,\"region_count\":0,\"leads_count\":0,\"stats\":null,\"load\":null}\n"
        );
    }
}
