//! What is wrong with a cluster, and what to do about it. Findings about stores and regions are in `rdb_proto::findings`, since the
//! placement driver's page shows them, too; those made of each process's answer are here. The placement driver reports itself what
//! only it knows.
//!
//! Alarms are told from the whole to its parts: placement drivers, stores, regions. An alarm that another one explains is
//! still shown; it goes away once the cause is mended.

use std::collections::BTreeSet;

use rdb_proto::findings::{
    self, About, Answer, Finding, Lead, RegionTrouble, Severity, StoreView, no_stores, of_regions,
    of_warning, placement_driver_advice, tls_advice,
};
use serde::Serialize;

use super::survey::Survey;
use crate::encoding::escape;
use crate::failure::Failure;
use crate::health::SERVING;
use crate::{health, region, store};

/// What the status of a process can be beside serving, as `rdbctl health` has it.
const NOT_SERVING: &str = "not_serving";
const WRONG_PROCESS: &str = "wrong_process";

/// A finding as it is printed for programs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    severity: &'static str,
    /// The store that it is about, if it is one.
    store_id: Option<u64>,
    /// The regions that it is about.
    region_ids: Vec<u64>,
    what: String,
    to_do: String,
}

impl From<&Finding> for Line {
    fn from(finding: &Finding) -> Self {
        let Finding {
            severity,
            store_id,
            region_ids,
            what,
            to_do,
        } = finding.clone();
        Self {
            severity: match severity {
                Severity::Alarm => "alarm",
                Severity::Notice => "notice",
            },
            store_id,
            region_ids,
            what,
            to_do,
        }
    }
}

/// What is wrong, the alarms first.
pub(super) fn findings(survey: &Survey) -> Vec<Finding> {
    let mut findings = of_placement_drivers(survey);
    if let Ok(catalogue) = &survey.catalogue {
        findings.extend(catalogue.findings.iter().cloned());
        // A placement driver of an earlier release tells nothing by itself.
        if catalogue.stores.is_empty() && catalogue.findings.is_empty() {
            findings.push(no_stores());
        }
        let regions = catalogue.regions.iter();
        let lacks_majority = |region: &&region::Line| {
            let trouble = trouble(region, survey);
            trouble == Some(RegionTrouble::NoMajority)
        };
        let missed = regions.clone().filter(lacks_majority);
        let missed: BTreeSet<u64> = missed.flat_map(|region| dead(region, survey)).collect();
        let stores = catalogue.stores.iter();
        findings.extend(stores.filter_map(|store| of_store(store, survey, &missed)));
        let in_trouble = regions.filter_map(|region| Some((region.id, trouble(region, survey)?)));
        findings.extend(of_regions(in_trouble, &missed));
        findings.extend(survey.processes.iter().flat_map(warnings_of));
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn of_placement_drivers(survey: &Survey) -> Vec<Finding> {
    let (serving, failing): (Vec<_>, Vec<_>) = survey
        .placement_drivers()
        .partition(|process| process.status == SERVING);
    let causes = failing.iter().map(|process| told(process));
    let is_of_tls_alone = failing.iter().all(|process| is_of_tls(process));
    match (&survey.catalogue, serving.is_empty()) {
        (Err(_), true) => {
            let causes: Vec<String> = causes.collect();
            let (is, to_do) = if is_of_tls_alone {
                ("can be asked", tls_advice("the placement driver"))
            } else {
                let first = match failing.iter().find(|process| process.status == NOT_SERVING) {
                    Some(process) => {
                        let whose = format!("the placement driver at {}", process.address);
                        placement_driver_advice(&whose, &told(process))
                    }
                    None => {
                        "start rdb-pd again with its --data-dir, or name the right address with --pd or RDBCTL_PD"
                            .to_owned()
                    }
                };
                let until = "Until then nobody gets timestamps, and only clients that know the stores already reach them";
                ("serves", format!("{first}. {until}"))
            };
            vec![Finding::alarm(
                format!(
                    "no placement driver {is}, so the stores and regions are not known: {}",
                    causes.join("; ")
                ),
                to_do,
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
        (Err(Failure::Unauthenticated(cause)), false) => vec![Finding::alarm(
            format!(
                "the stores and regions are not known: {}",
                escape(cause.as_bytes())
            ),
            "give the token of a user with --token-file or RDBCTL_TOKEN_FILE".to_owned(),
        )],
        (Err(Failure::PermissionDenied(cause)), false) => vec![Finding::alarm(
            format!(
                "the stores and regions are not told: {}",
                escape(cause.as_bytes())
            ),
            "give the token of a user with a right, or have an administrator grant this one something: rdbctl auth grant USER reader"
                .to_owned(),
        )],
        (Err(cause), false) => vec![Finding::alarm(
            format!(
                "the stores and regions are not known: {}",
                escape(cause.to_string().as_bytes())
            ),
            "look again, with more patience: rdbctl status --wait 10s".to_owned(),
        )],
        (Ok(_), _) => failing.iter().map(|process| of_failing(process)).collect(),
    }
}

/// A placement driver that does not serve, beside one that does.
fn of_failing(process: &health::Line) -> Finding {
    let cause = told(process);
    let whose = format!("the placement driver at {}", process.address);
    if is_of_tls(process) {
        let what = format!("a placement driver cannot be asked: {cause}");
        return Finding::alarm(what, tls_advice(&whose));
    }
    let to_do = if process.status == NOT_SERVING {
        placement_driver_advice(&whose, &cause)
    } else {
        "start rdb-pd there again with its --data-dir, or leave the address out of --pd".to_owned()
    };
    Finding::alarm(format!("a placement driver does not serve: {cause}"), to_do)
}

/// Whether a process is not reached, and it is TLS that does not fit together.
fn is_of_tls(process: &health::Line) -> bool {
    let cause = process.cause.as_deref().unwrap_or_default();
    !matches!(process.status, SERVING | NOT_SERVING | WRONG_PROCESS)
        && About::of(cause) == About::Tls
}

/// What a process says that has to be looked at, though it serves.
fn warnings_of(process: &health::Line) -> impl Iterator<Item = Finding> {
    let whose = match process.store_id {
        Some(id) => format!("store {id}"),
        None => format!("the placement driver at {}", process.address),
    };
    process.warnings.iter().map(move |warning| Finding {
        store_id: process.store_id,
        ..of_warning(&whose, &escape(warning.as_bytes()))
    })
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

fn of_store(store: &store::Line, survey: &Survey, missed: &BTreeSet<u64>) -> Option<Finding> {
    // A store that registered between two questions.
    let process = survey.store(store.id)?;
    let cause = told(process);
    findings::of_store(&StoreView {
        id: store.id,
        address: &store.address,
        state: store.wire_state(),
        heartbeat_age_ms: store.last_heartbeat_age_ms,
        space: store
            .stats
            .as_ref()
            .map(|stats| (stats.available_bytes, stats.capacity_bytes)),
        region_count: store.region_count,
        is_missed: missed.contains(&store.id),
        answer: match process.status {
            SERVING => Answer::Serving(process.cause.as_deref()),
            NOT_SERVING => Answer::NotServing(&cause),
            WRONG_PROCESS => Answer::WrongProcess(&cause),
            _ => Answer::Nothing(&cause),
        },
    })
}

/// What is the matter with a region, if anything is.
pub(super) fn trouble(region: &region::Line, survey: &Survey) -> Option<RegionTrouble> {
    let all = region.peers.iter().filter(|peer| !peer.is_learner).count();
    let alive = all - dead(region, survey).count();
    let lead = match &region.leader {
        None => Lead::Unknown,
        Some(leader) if answers(leader.store_id, survey) => Lead::Answers,
        Some(_) => Lead::Silent,
    };
    RegionTrouble::of(all, alive, lead)
}

/// The stores of the voters of a region that do not answer.
fn dead(region: &region::Line, survey: &Survey) -> impl Iterator<Item = u64> {
    let voters = region.peers.iter().filter(|peer| !peer.is_learner);
    let dead = voters.filter(|peer| peer.is_absent || !answers(peer.store_id, survey));
    dead.map(|peer| peer.store_id)
}

/// What was not asked may be alive.
fn answers(store_id: u64, survey: &Survey) -> bool {
    let process = survey.store(store_id);
    process.is_none_or(|process| matches!(process.status, SERVING | NOT_SERVING))
}

#[cfg(test)]
mod tests;
