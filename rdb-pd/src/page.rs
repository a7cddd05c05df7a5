//! What the page of the placement driver shows beside the charts: alarms, stores, regions, timestamps.
//!
//! An update stays under 10 KiB, its part of the charts included, for any number of stores and regions and any addresses of stores.
//! So it has only a part of the stores, and regions beyond [`CELLS_MAX`] are merged with their neighbours.
//!
//! No key is shown: regions are listed in key order, with their ids.

use std::net::IpAddr;

use rdb_proto::findings::{
    Answer, Finding, RegionTrouble, StoreView, of_regions, of_space, of_store,
    placement_driver_advice,
};
use rdb_proto::metapb::StoreState;
use rdb_proto::shown::time;
use rdb_proto::transport::status::{STORE_COLUMNS, brief_findings, brief_list, brief_text};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Overview, ShownRegion, ShownStore, per_s};
use crate::service::SystemAllocator;
use crate::tso::TsoPosition;

/// Most stores of one update, and most bytes of them.
const STORES_MAX: usize = 24;
const STORES_BYTES_MAX: usize = 2600;

/// Most cells that the key line has.
const CELLS_MAX: usize = 40;

/// Most bytes of an address that are shown.
const ADDRESS_BYTES_MAX: usize = 64;

/// Further behind the wall clock than this, timestamps do not follow it, in milliseconds.
const CLOCK_BEHIND_MAX_MS: i64 = 5000;

/// Further ahead of the wall clock than this, timestamps are so for another cause than a restart, in milliseconds.
const CLOCK_AHEAD_MAX_MS: i64 = 60_000;

/// The process itself, as far as the page and `rdbctl status` tell of it.
pub(crate) struct OfProcess<'a> {
    /// Why it does not serve.
    pub(crate) not_serving: Option<&'a str>,
    pub(crate) position: TsoPosition,
    /// Bytes of its disk that are free, and all of them.
    pub(crate) space: (u64, u64),
    /// Where the last call as a store came from that was refused lately, and why it was.
    pub(crate) refused_store: Option<(IpAddr, String)>,
}

impl<'a> OfProcess<'a> {
    /// What is to be told now.
    pub(crate) fn new(
        not_serving: Option<&'a str>,
        cluster: &Cluster,
        allocator: &SystemAllocator,
    ) -> Self {
        Self {
            not_serving,
            position: allocator.position(),
            space: cluster.space(),
            refused_store: cluster.refused_store(),
        }
    }
}

/// The members of the page's JSON that tell of the cluster.
pub(crate) fn present(
    overview: &Overview,
    process: &OfProcess<'_>,
    stores_from: usize,
) -> Vec<(&'static str, Value)> {
    let findings = of_process(process).into_iter();
    let findings = findings.chain(of_cluster(overview));
    vec![
        ("findings", brief_findings(findings)),
        ("stores", stores(&overview.stores, stores_from)),
        ("regions", key_line(&overview.regions)),
        (
            "timestamps",
            json!({
                "to_bound_ms": process.position.to_bound_ms,
                "ahead_of_clock_ms": process.position.ahead_of_clock_ms,
            }),
        ),
    ]
}

/// What is wrong with the placement driver itself.
pub(crate) fn of_process(process: &OfProcess<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(cause) = process.not_serving {
        findings.push(Finding::alarm(
            format!("this placement driver does not serve: {cause}"),
            placement_driver_advice("this placement driver", cause),
        ));
    }
    if process.position.to_bound_ms == 0 {
        findings.push(Finding::alarm(
            "no timestamps are handed out at the moment: they have come up to their durable bound",
            "look again in ten seconds. If it stays so, the bound cannot be made durable: see the log of the placement driver and \
             its disk, and start it again when the disk works",
        ));
    }
    let behind_ms = process.position.ahead_of_clock_ms.saturating_neg();
    if behind_ms > CLOCK_BEHIND_MAX_MS {
        findings.push(Finding::alarm(
            format!(
                "the placement driver's wall clock is {} s ahead of timestamps, and they do not follow it",
                behind_ms / 1000
            ),
            "set the clock of the placement driver's machine right. If it is right already: see --accept-clock-jump in `rdb-pd --help`",
        ));
    }
    if process.position.ahead_of_clock_ms > CLOCK_AHEAD_MAX_MS {
        let ahead = time(process.position.ahead_of_clock_ms.unsigned_abs());
        findings.push(Finding::notice(
            format!("timestamps are {ahead} ahead of the placement driver's wall clock, and go on at half speed until it has caught up"),
            "compare the clock of the placement driver's machine with `date` elsewhere, and set it right. If it is right, it was ahead \
             before, or --tso-advance-ms has moved timestamps ahead: then there is nothing to do",
        ));
    }
    let (available, capacity) = process.space;
    let space = of_space("the placement driver", available, capacity);
    findings.extend(space.map(|finding| Finding {
        to_do: "free space: on a full disk no timestamps are handed out after a while, and no store registers".to_owned(),
        ..finding
    }));
    if let Some((address, cause)) = &process.refused_store {
        findings.push(Finding::notice(
            format!("calls as a store are refused, the last one from {address}: {cause}"),
            "if a store of this cluster runs there: put the token of a user with the role store into the file that its --auth-token-file \
             names, which is read again by itself, or give that role to the user of its certificate",
        ));
    }
    findings
}

/// One is made after the other: of a large cluster there may be thousands.
fn of_cluster(overview: &Overview) -> impl Iterator<Item = Finding> {
    let Overview {
        stores,
        regions,
        findings,
        missed,
    } = overview;
    let of_stores = stores.iter().filter_map(|shown| {
        let store = &shown.store;
        let (address, stats) = (brief_text(&store.address, ADDRESS_BYTES_MAX), store.stats);
        of_store(&StoreView {
            id: store.id,
            address: &address,
            state: store.state(),
            heartbeat_age_ms: store.last_heartbeat_age_ms,
            space: stats.map(|stats| (stats.available_bytes, stats.capacity_bytes)),
            region_count: shown.region_count,
            is_missed: missed.contains(&store.id),
            answer: Answer::NotAsked(shown.heartbeats),
        })
    });
    let in_trouble = regions.iter();
    let in_trouble = in_trouble.filter_map(|region| Some((region.id, region.trouble?)));
    let findings = findings.iter().cloned();
    findings
        .chain(of_stores)
        .chain(of_regions(in_trouble, missed))
}

/// A part of the stores. Figures are in rows under column names, since repeated names would take more room than the figures.
fn stores(all: &[ShownStore], from: usize) -> Value {
    // Stores may have left since the page was turned.
    let from = if from < all.len() { from } else { 0 };
    let rows = all.iter().skip(from).take(STORES_MAX).map(store_row);
    let rows = brief_list(rows, STORES_BYTES_MAX);
    let up = all.iter();
    let up = up.filter(|shown| shown.store.state() == StoreState::Up);
    json!({
        "count": all.len(),
        "up": up.count(),
        "from": from,
        "columns": STORE_COLUMNS,
        "rows": rows,
    })
}

fn store_row(shown: &ShownStore) -> Value {
    let store = &shown.store;
    let (stats, load) = (store.stats, store.load);
    let state = match store.state() {
        StoreState::Up => "up",
        StoreState::Disconnected => "disconnected",
        StoreState::Down => "down",
        StoreState::Leaving => "leaving",
        StoreState::Unspecified => "unknown",
    };
    json!([
        store.id,
        brief_text(&store.address, ADDRESS_BYTES_MAX),
        state,
        store.last_heartbeat_age_ms,
        shown.region_count,
        shown.leads_count,
        load.map(|load| tenths(per_s(&load, load.reads))),
        load.map(|load| tenths(per_s(&load, load.writes))),
        load.and_then(|load| load.read_p99_us),
        load.and_then(|load| load.write_p99_us),
        load.map(|load| load.write_queue_bytes),
        stats.map(|stats| stats.available_bytes),
        stats.map(|stats| stats.capacity_bytes),
        stats.map(|stats| stats.data_bytes),
        stats.map(|stats| stats.key_count),
        stats.map(|stats| stats.start_time_ms),
    ])
}

/// All regions in the order of their keys, as at most [`CELLS_MAX`] cells. A cell has the id of its first region, how many it stands for,
/// the store that leads all of them (0: several do, `null`: nobody is known to), the worst trouble among them as an index into
/// `troubles`, how many regions are in trouble, and about how many bytes they take.
fn key_line(regions: &[ShownRegion]) -> Value {
    let count = regions.len();
    let cells = count.min(CELLS_MAX);
    let cells = (0..cells).map(|cell| &regions[cell * count / cells..(cell + 1) * count / cells]);
    json!({
        "count": count,
        "without_leader": with(regions, |region| {
            region.trouble.is_some_and(RegionTrouble::is_without_leader)
        }),
        "with_replicas_missing": with(regions, |region| {
            region.trouble.is_some_and(RegionTrouble::is_missing_replicas)
        }),
        "troubles": RegionTrouble::ALL.map(RegionTrouble::name),
        "cells": cells.map(cell).collect::<Vec<_>>(),
    })
}

fn cell(regions: &[ShownRegion]) -> Value {
    let first = regions.first();
    let leader = first.and_then(|region| region.leader);
    let is_led_alike = regions.iter().all(|region| region.leader == leader);
    let worst = regions.iter().filter_map(|region| region.trouble).min();
    let in_trouble = with(regions, |region| region.trouble.is_some());
    let bytes = regions.iter().filter_map(|region| region.bytes);
    json!([
        first.map(|region| region.id),
        regions.len(),
        if is_led_alike { leader } else { Some(0) },
        worst.map(|trouble| trouble as usize),
        in_trouble,
        bytes.reduce(u64::saturating_add),
    ])
}

fn with(regions: &[ShownRegion], has: impl Fn(&ShownRegion) -> bool) -> usize {
    regions.iter().filter(|region| has(region)).count()
}

/// A rate with one decimal.
fn tenths(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests;
