//! `rdbctl store …`: the processes that hold data, as the placement driver knows them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use rdb_client::{RegionRoute, Store, StoreState, StoreStats};
use serde::Serialize;

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
which it holds a replica, LEADS those whose reads and writes it takes. `-`: no
heartbeat since the placement driver started.";

/// A store without a heartbeat for this long is disconnected.
const SILENT_AFTER_MS: u64 = 20_000;

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
pub(crate) fn state_name(state: StoreState) -> &'static str {
    match state {
        StoreState::Up => "up",
        StoreState::Disconnected => "disconnected",
        StoreState::Down => "down",
        StoreState::Leaving => "leaving",
        _ => "unknown",
    }
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
    pub(crate) state: &'static str,
    pub(crate) last_heartbeat_age_ms: Option<u64>,
    pub(crate) region_count: usize,
    pub(crate) leads_count: usize,
    pub(crate) stats: Option<Stats>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    pub(crate) capacity_bytes: u64,
    pub(crate) available_bytes: u64,
    pub(crate) key_count: u64,
    pub(crate) data_bytes: u64,
    pub(crate) start_time_ms: u64,
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
            state: state_name(store.state),
            last_heartbeat_age_ms: store.last_heartbeat_age.map(milliseconds),
            stats: store.stats.map(Stats::from),
        }
    }
}

impl Line {
    /// A store that leaves may be dead, too. That is told here in words, and in JSON by the age of its heartbeat.
    pub(crate) fn shown_state(&self) -> String {
        if self.is_silent() && self.state == state_name(StoreState::Leaving) {
            return format!("{} (silent)", self.state);
        }
        self.state.to_owned()
    }

    /// Whether its last heartbeat is younger than what makes a store disconnected.
    pub(crate) fn was_heard(&self) -> bool {
        self.last_heartbeat_age_ms.is_some() && !self.is_silent()
    }

    /// Whether there was a heartbeat, and none since for as long as makes a store disconnected.
    pub(crate) fn is_silent(&self) -> bool {
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

impl Row for Line {
    const HEADINGS: &[&str] = &[
        "ID",
        "ADDRESS",
        "STATE",
        "HEARTBEAT",
        "REGIONS",
        "LEADS",
        "AVAILABLE",
        "CAPACITY",
        "KEYS",
        "DATA",
        "UPTIME",
    ];
}

impl Record for Line {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        let figure = |text: fn(&Stats) -> String| cell(self.stats.as_ref().map(text));
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

pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, milliseconds)
}

/// A time in its two largest units.
pub(crate) fn time(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        0 => format!("{milliseconds}ms"),
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        seconds @ ..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        seconds => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A size in the largest unit that leaves at least 1, with one decimal.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut amount = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        // A size that would be shown as 1024.0 is shown in the next unit.
        if amount < 1023.95 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{amount:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, printed};

    #[test]
    fn sizes_and_times_are_shown_in_fitting_units() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, shown) in sizes {
            assert_eq!(size(bytes), shown);
        }
        let times = [
            (999, "999ms"),
            (59_999, "59s"),
            (61_000, "1m1s"),
            (7_260_000, "2h1m"),
            (90_000_000, "1d1h"),
        ];
        for (milliseconds, shown) in times {
            assert_eq!(time(milliseconds), shown);
        }
    }

    fn line(state: StoreState, last_heartbeat_age_ms: Option<u64>) -> Line {
        Line {
            id: 1,
            address: "127.0.0.1:20160".to_owned(),
            state: state_name(state),
            last_heartbeat_age_ms,
            region_count: 0,
            leads_count: 0,
            stats: None,
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
             \"last_heartbeat_age_ms\":null,\"region_count\":0,\"leads_count\":0,\"stats\":null}\n"
        );
    }
}
