//! The state of a cluster as one screen, or as one object.

use std::fmt::{self, Write};

use rdb_proto::findings::{Finding, RegionTrouble, Severity};
use rdb_proto::shown::{size, time};
use serde::{Serialize, Serializer};

use super::finding::{self, trouble};
use super::survey::Survey;
use crate::encoding::KeyEncoding;
use crate::output::{Record, Row, aligned, cell};
use crate::store::{latency, now_ms, rate};
use crate::{health, operator, region, store};

#[derive(Serialize)]
pub(super) struct Screen {
    /// When it was made, in milliseconds since the Unix epoch.
    time_ms: u64,
    pub(super) alarms: usize,
    notices: usize,
    placement_drivers: Vec<health::Line>,
    /// `None`, as the next two: not known.
    stores: Option<Vec<StoreLine>>,
    regions: Option<Regions>,
    /// The load of all stores whose rates are known.
    load: Option<Load>,
    operators: Option<Vec<operator::Line>>,
    #[serde(serialize_with = "serialize_findings")]
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct StoreLine {
    /// What it answers here.
    health: &'static str,
    #[serde(flatten)]
    known: store::Line,
}

#[derive(Serialize)]
struct Regions {
    count: usize,
    without_leader: Vec<u64>,
    with_replicas_missing: Vec<u64>,
}

impl Regions {
    fn new(regions: &[region::Line], survey: &Survey) -> Self {
        let in_trouble = |which: fn(RegionTrouble) -> bool| -> Vec<u64> {
            let regions = regions.iter();
            let regions = regions.filter(|region| trouble(region, survey).is_some_and(which));
            regions.map(|region| region.id).collect()
        };
        Self {
            count: regions.len(),
            without_leader: in_trouble(RegionTrouble::is_without_leader),
            with_replicas_missing: in_trouble(RegionTrouble::is_missing_replicas),
        }
    }
}

/// What all stores together do.
#[derive(Serialize)]
struct Load {
    reads_per_s: f64,
    writes_per_s: f64,
}

impl Load {
    /// `None`: it is not known of any store.
    fn of(stores: &[store::Line]) -> Option<Self> {
        let mut loads = stores.iter().filter_map(|store| store.load.as_ref());
        let first = loads.next()?;
        let first = Self {
            reads_per_s: first.reads_per_s,
            writes_per_s: first.writes_per_s,
        };
        Some(loads.fold(first, |sum, load| Self {
            reads_per_s: sum.reads_per_s + load.reads_per_s,
            writes_per_s: sum.writes_per_s + load.writes_per_s,
        }))
    }
}

impl Screen {
    pub(super) fn new(survey: Survey, findings: Vec<Finding>) -> Self {
        let regions = survey.catalogue.as_ref().ok();
        let regions = regions.map(|catalogue| Regions::new(&catalogue.regions, &survey));
        let Survey {
            processes,
            catalogue,
        } = survey;
        let (stores, placement_drivers): (Vec<_>, Vec<_>) = processes
            .into_iter()
            .partition(|process| process.store_id.is_some());
        let answer = |id| {
            let mut stores = stores.iter();
            let process = stores.find(|process| process.store_id == Some(id));
            process.map_or("unknown", |process| process.status)
        };
        let line = |known: store::Line| StoreLine {
            health: answer(known.id),
            known,
        };
        let load = catalogue.as_ref().ok();
        let load = load.and_then(|known| Load::of(&known.stores));
        let (stores, operators) = match catalogue {
            Ok(known) => {
                let stores = known.stores.into_iter().map(line).collect();
                (Some(stores), known.operators)
            }
            Err(_) => (None, None),
        };
        let alarms = findings.iter();
        let alarms = alarms.filter(|finding| finding.severity == Severity::Alarm);
        let alarms = alarms.count();
        Self {
            time_ms: now_ms(),
            alarms,
            notices: findings.len() - alarms,
            placement_drivers,
            stores,
            regions,
            load,
            operators,
            findings,
        }
    }

    fn placement_driver_table(&self) -> String {
        let lines = self.placement_drivers.iter();
        let lines = lines.map(|process| vec![process.address.clone(), process.status.to_owned()]);
        table(&["PLACEMENT DRIVER", "STATUS"], lines)
    }

    fn counts(&self) -> String {
        let counts = [(self.alarms, "alarm"), (self.notices, "notice")];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts
            .map(|(count, noun)| {
                let plural = if *count == 1 { "" } else { "s" };
                format!("{count} {noun}{plural}")
            })
            .collect();
        if counts.is_empty() {
            "all is well".to_owned()
        } else {
            counts.join(", ")
        }
    }
}

impl fmt::Display for Screen {
    /// Without the last line feed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}\n\n{}", self.counts(), self.placement_driver_table());
        if let Some(stores) = &self.stores {
            let stores = stores.iter().map(StoreLine::cells);
            write!(text, "\n{}\n", table(StoreLine::HEADINGS, stores))?;
        }
        if let Some(load) = &self.load {
            let (reads, writes) = (rate(load.reads_per_s), rate(load.writes_per_s));
            writeln!(text, "Commands: {reads} reads/s, {writes} writes/s")?;
        }
        if let Some(regions) = &self.regions {
            writeln!(
                text,
                "Regions: {}; {} without a leader, {} with replicas missing",
                regions.count,
                regions.without_leader.len(),
                regions.with_replicas_missing.len()
            )?;
        }
        match self.operators.as_deref() {
            None => {}
            Some([]) => writeln!(text, "Operators under way: none")?,
            Some(operators) => {
                let lines = operators.iter();
                let lines = lines.map(|operator| operator.cells(KeyEncoding::Text));
                let operators = table(operator::Line::HEADINGS, lines);
                write!(text, "Operators under way:\n{operators}")?;
            }
        }
        for finding in &self.findings {
            let severity = match finding.severity {
                Severity::Alarm => "ALARM",
                Severity::Notice => "notice",
            };
            writeln!(text, "\n{severity}: {}", finding.what)?;
            writeln!(text, "  to do: {}", finding.to_do)?;
        }
        formatter.write_str(text.trim_end())
    }
}

impl StoreLine {
    const HEADINGS: &[&str] = &[
        "STORE",
        "ADDRESS",
        "STATE",
        "HEALTH",
        "HEARTBEAT",
        "PEERS",
        "LEADS",
        "READS/S",
        "WRITES/S",
        "P99",
        "FREE",
        "OF",
        "~KEYS",
        "DATA",
        "UPTIME",
    ];

    fn cells(&self) -> Vec<String> {
        let known = &self.known;
        let figure = |text: fn(&store::Stats) -> String| cell(known.stats.as_ref().map(text));
        let load =
            |text: fn(&store::Load) -> Option<String>| cell(known.load.as_ref().and_then(text));
        let heard = known.last_heartbeat_age_ms;
        vec![
            known.id.to_string(),
            known.address.clone(),
            known.shown_state(),
            self.health.to_owned(),
            cell(heard.map(|age| format!("{} ago", time(age)))),
            known.region_count.to_string(),
            known.leads_count.to_string(),
            load(|load| Some(rate(load.reads_per_s))),
            load(|load| Some(rate(load.writes_per_s))),
            load(|load| load.read_p99_us.max(load.write_p99_us).map(latency)),
            figure(|stats| size(stats.available_bytes)),
            figure(|stats| size(stats.capacity_bytes)),
            figure(|stats| stats.key_count.to_string()),
            figure(|stats| size(stats.data_bytes)),
            figure(|stats| time(now_ms().saturating_sub(stats.start_time_ms))),
        ]
    }
}

fn serialize_findings<S: Serializer>(
    findings: &[Finding],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(findings.iter().map(finding::Line::from))
}

fn table(headings: &[&str], lines: impl Iterator<Item = Vec<String>>) -> String {
    let headings = headings.iter();
    let headings = headings.map(|&heading| heading.to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(headings).chain(lines).collect();
    aligned(&lines)
}
