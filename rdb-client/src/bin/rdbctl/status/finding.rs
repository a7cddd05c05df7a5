//! What is wrong with a cluster, and what to do about it.
//!
//! Alarms are told from the whole to its parts: placement drivers, stores, regions. An alarm that another one explains still
//! stands: whoever mends the cause sees the rest go.

use rdb_client::StoreState;
use serde::Serialize;

use super::survey::{Catalogue, Survey};
use crate::encoding::escape;
use crate::health::SERVING;
use crate::store::{size, state_name, time};
use crate::{health, region, store};

/// A store with less than this part of its disk free is told of.
const FREE_MIN: f64 = 0.1;

/// The most regions that a finding names.
const NAMED_REGIONS_MAX: usize = 5;

/// What the status of a process can be beside serving, as `rdbctl health` has it.
const NOT_SERVING: &str = "not_serving";
const WRONG_PROCESS: &str = "wrong_process";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Something has to be done.
    Alarm,
    /// Something to know.
    Notice,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    /// The store that it is about, if it is one.
    pub(super) store_id: Option<u64>,
    /// The regions that it is about.
    pub(super) region_ids: Vec<u64>,
    pub(super) what: String,
    pub(super) to_do: String,
}

impl Finding {
    fn alarm(what: String, to_do: String) -> Self {
        Self {
            severity: Severity::Alarm,
            store_id: None,
            region_ids: Vec::new(),
            what,
            to_do,
        }
    }

    fn notice(what: String, to_do: String) -> Self {
        Self {
            severity: Severity::Notice,
            ..Self::alarm(what, to_do)
        }
    }

    fn of_store(self, id: u64) -> Self {
        Self {
            store_id: Some(id),
            ..self
        }
    }

    fn of_regions(self, region_ids: Vec<u64>) -> Self {
        Self { region_ids, ..self }
    }
}

/// What is wrong, the alarms first.
pub(super) fn findings(survey: &Survey) -> Vec<Finding> {
    let mut findings = of_placement_drivers(survey);
    if let Ok(catalogue) = &survey.catalogue {
        if catalogue.stores.is_empty() {
            findings.push(Finding::alarm(
                "no store has registered with the placement driver yet".to_owned(),
                "start one: rdb-server --pd ADDR --data-dir DIR".to_owned(),
            ));
        }
        let stores = catalogue.stores.iter();
        findings.extend(stores.filter_map(|store| of_store(store, survey)));
        findings.extend(of_regions(survey, catalogue));
    }
    findings.sort_by_key(|finding| finding.severity != Severity::Alarm);
    findings
}

fn of_placement_drivers(survey: &Survey) -> Vec<Finding> {
    let (serving, failing): (Vec<_>, Vec<_>) = survey
        .placement_drivers()
        .partition(|process| process.status == SERVING);
    let causes = failing.iter().map(|process| told(process));
    match (&survey.catalogue, serving.is_empty()) {
        (Err(_), true) => {
            let causes: Vec<String> = causes.collect();
            vec![Finding::alarm(
                format!(
                    "no placement driver serves, so the stores and regions are not known: {}",
                    causes.join("; ")
                ),
                "start rdb-pd again with its --data-dir, or name the right address with --pd or RDBCTL_PD. Until \
                 then nobody gets timestamps, and only clients that know the stores already reach them"
                    .to_owned(),
            )]
        }
        (Err(_), false)
            if failing
                .iter()
                .any(|process| process.status == WRONG_PROCESS) =>
        {
            let causes: Vec<String> = causes.collect();
            vec![Finding::alarm(
                format!(
                    "not all of --pd are placement drivers of one cluster, so none is asked for stores and regions: {}",
                    causes.join("; ")
                ),
                "name the placement drivers of one cluster with --pd or RDBCTL_PD".to_owned(),
            )]
        }
        (Err(cause), false) => vec![Finding::alarm(
            format!(
                "the stores and regions are not known: {}",
                escape(cause.as_bytes())
            ),
            "look again, with more patience: rdbctl status --wait 10s".to_owned(),
        )],
        (Ok(_), _) => causes
            .map(|cause| {
                Finding::alarm(
                    format!("a placement driver does not serve: {cause}"),
                    "start rdb-pd there again with its --data-dir, or leave the address out of --pd"
                        .to_owned(),
                )
            })
            .collect(),
    }
}

/// A process, and why it does not serve. A cause may name the address itself.
fn told(process: &health::Line) -> String {
    let cause = process.cause.as_deref().unwrap_or(process.status);
    let cause = escape(cause.as_bytes());
    if cause.contains(&process.address) {
        cause
    } else {
        format!("{}: {cause}", process.address)
    }
}

fn of_store(store: &store::Line, survey: &Survey) -> Option<Finding> {
    let (id, address) = (store.id, &store.address);
    let heard = match store.last_heartbeat_age_ms {
        Some(age) => format!("its last heartbeat came {} ago", time(age)),
        None => "the placement driver has not heard of it since it started".to_owned(),
    };
    // A store that registered between two questions.
    let process = survey.store(id)?;
    let cause = told(process);
    let is_leaving = store.state == state_name(StoreState::Leaving);
    let finding = match process.status {
        SERVING => return of_serving_store(store),
        NOT_SERVING => Finding::alarm(
            format!("store {id} does not serve: {cause}"),
            format!(
                "see the log of the store at {address}. After a full disk: free space, then start it again"
            ),
        ),
        WRONG_PROCESS => Finding::alarm(
            format!("store {id} is not at its address: {cause}"),
            format!(
                "start store {id} again with its --data-dir; an address that has changed is told by --advertise-addr. \
                 {}",
                if_gone(store, is_leaving)
            ),
        ),
        // Where nothing listens, it has died since.
        _ if store.was_heard() && !cause.contains("refused") => Finding::alarm(
            format!(
                "store {id} does not answer here, and is slow or cannot be reached from here: {cause}; {heard}"
            ),
            format!(
                "look again, with more patience: rdbctl status --wait 10s. See the load and the log of the store at {address}, \
                 and whether this machine reaches it"
            ),
        ),
        _ => Finding::alarm(
            format!("store {id} does not answer: {cause}; {heard}"),
            format!(
                "start rdb-server at {address} again with its --data-dir. {}",
                if_gone(store, is_leaving)
            ),
        ),
    };
    Some(finding.of_store(id))
}

/// What to do about a store that does not come back.
fn if_gone(store: &store::Line, is_leaving: bool) -> String {
    let id = store.id;
    if is_leaving {
        return "If it is gone for good: it is leaving already, and `rdbctl operator list` shows what is left to do"
            .to_owned();
    }
    let soon = if store.state == state_name(StoreState::Down) {
        "It is down for so long that its replicas are being replaced where another store can take them"
    } else {
        "Else its replicas are replaced where another store can take them, 30 minutes after its last heartbeat \
         (rdb-pd --store-down-after-s)"
    };
    format!(
        "If it is gone for good: start another store with an empty directory, then `rdbctl store remove {id}`. {soon}"
    )
}

fn of_serving_store(store: &store::Line) -> Option<Finding> {
    let (id, address) = (store.id, &store.address);
    if store.is_silent() {
        let age = time(store.last_heartbeat_age_ms.unwrap_or_default());
        return Some(Finding::alarm(
            format!("store {id} answers, but its last heartbeat to the placement driver came {age} ago"),
            format!(
                "see whether {address} reaches the placement driver that its --pd names, and the store's log"
            ),
        ).of_store(id));
    }
    if store.last_heartbeat_age_ms.is_none() && store.state != state_name(StoreState::Leaving) {
        let what = format!(
            "store {id} answers, but the placement driver has not heard of it since it started"
        );
        let to_do = format!(
            "look again in ten seconds. If it stays so, see whether {address} reaches the placement driver that its --pd \
             names, and the store's log"
        );
        let finding = if store.state == state_name(StoreState::Down) {
            Finding::alarm(what, to_do)
        } else {
            Finding::notice(what, to_do)
        };
        return Some(finding.of_store(id));
    }
    if store.state == state_name(StoreState::Leaving) {
        let count = store.region_count;
        return Some(Finding::notice(
            format!("store {id} is leaving; regions with a replica on it: {count}"),
            format!(
                "`rdbctl operator list` shows what is done; `rdbctl store remove {id} --cancel` takes it back"
            ),
        ).of_store(id));
    }
    let stats = store.stats.as_ref()?;
    let (available, capacity) = (stats.available_bytes, stats.capacity_bytes);
    if available as f64 >= FREE_MIN * capacity as f64 {
        return None;
    }
    Some(
        Finding::notice(
            format!(
                "the disk of store {id} has {} left of {}",
                size(available),
                size(capacity)
            ),
            "free space: a full disk stops the store's writes. A deleted range gives its space back when tables are \
             compacted"
                .to_owned(),
        )
        .of_store(id),
    )
}

/// What is the matter with a region, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Too few replicas answer for reads and writes.
    NoMajority,
    /// Enough replicas answer, and the one that leads does not.
    NoLeader,
    /// Enough replicas answer, and the placement driver has not heard which one leads, as after a start of its own.
    UnknownLeader,
    /// Fewer replicas answer than there are.
    Missing,
    /// There are two replicas only.
    Pair,
    /// There is one replica only.
    Single,
}

impl Trouble {
    const ALL: [Self; 6] = [
        Self::NoMajority,
        Self::NoLeader,
        Self::UnknownLeader,
        Self::Missing,
        Self::Pair,
        Self::Single,
    ];

    pub(super) fn of(region: &region::Line, survey: &Survey) -> Option<Self> {
        let answers = |store_id| {
            let process = survey.store(store_id);
            // What was not asked may be alive.
            process.is_none_or(|process| matches!(process.status, SERVING | NOT_SERVING))
        };
        let voters = region.peers.iter().filter(|peer| !peer.is_learner);
        let all = voters.clone().count();
        let lives = |peer: &&region::Peer| !peer.is_absent && answers(peer.store_id);
        let alive = voters.filter(lives).count();
        let leader = region.leader.as_ref();
        if alive <= all / 2 {
            Some(Self::NoMajority)
        } else if leader.is_none() {
            Some(Self::UnknownLeader)
        } else if !leader.is_some_and(|leader| answers(leader.store_id)) {
            Some(Self::NoLeader)
        } else if alive < all {
            Some(Self::Missing)
        } else if all == 1 {
            Some(Self::Single)
        } else if all == 2 {
            Some(Self::Pair)
        } else {
            None
        }
    }

    fn finding(self, ids: Vec<u64>) -> Finding {
        let (what, to_do) = match self {
            Self::NoMajority => (
                "too few replicas answer from here for reads and writes",
                "start the stores that do not answer again with their --data-dir: a region needs more than half of its \
                 replicas, and `rdbctl region list` says where those are",
            ),
            Self::NoLeader => (
                "the replica that leads does not answer",
                "look again in ten seconds: more than half of the replicas answer, and elect a leader. If they do not, \
                 see the logs of their stores",
            ),
            Self::UnknownLeader => (
                "the placement driver has not heard which replica leads",
                "look again in ten seconds: leaders report after a start of the placement driver, or replicas elect one. If \
                 they do not, see the logs of their stores",
            ),
            Self::Missing => (
                "reads and writes go on, but not all replicas answer",
                "see to the stores above that do not answer, or to the replicas that `rdbctl region list` shows as \
                 (absent)",
            ),
            Self::Pair => (
                "there are two replicas only, and reads and writes stop with either store",
                "have at least three stores; rdb-pd --replicas says how many replicas there are to be",
            ),
            Self::Single => (
                "there is one replica only, and its data is lost with its store",
                "have at least three stores; rdb-pd --replicas says how many replicas there are to be",
            ),
        };
        let what = format!("{}: {what}", named(&ids));
        let finding = match self {
            Self::UnknownLeader | Self::Pair | Self::Single => {
                Finding::notice(what, to_do.to_owned())
            }
            Self::NoMajority | Self::NoLeader | Self::Missing => {
                Finding::alarm(what, to_do.to_owned())
            }
        };
        finding.of_regions(ids)
    }
}

fn of_regions(survey: &Survey, catalogue: &Catalogue) -> Vec<Finding> {
    let in_trouble = |trouble| -> Vec<u64> {
        let regions = catalogue.regions.iter();
        let regions = regions.filter(|region| Trouble::of(region, survey) == Some(trouble));
        regions.map(|region| region.id).collect()
    };
    let troubles = Trouble::ALL.into_iter();
    let regions = troubles.map(|trouble| (trouble, in_trouble(trouble)));
    let regions = regions.filter(|(_, ids)| !ids.is_empty());
    regions.map(|(trouble, ids)| trouble.finding(ids)).collect()
}

fn named(ids: &[u64]) -> String {
    let shown: Vec<String> = ids
        .iter()
        .take(NAMED_REGIONS_MAX)
        .map(u64::to_string)
        .collect();
    let noun = if ids.len() == 1 { "region" } else { "regions" };
    let rest = match ids.len() - shown.len() {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!("{noun} {}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests;
