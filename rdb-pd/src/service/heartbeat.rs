//! A heartbeat as it arrives, and what is wrong with it.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdb_proto::error::Fault;
use rdb_proto::metapb::{StoreLoad, StoreStats};
use rdb_proto::pdpb::{HeldPeer, RegionReport, StoreHeartbeatRequest};
use rdb_proto::transport::limits::HELD_PEERS_MAX;
use tonic::Status;

use super::checked_start;
use crate::cluster::{Heartbeat, PEERS_MAX, Report};

/// The shortest and the longest time that a load is taken of, in milliseconds. Stores tell 900 and more.
const WINDOW_MS_MIN: u64 = 100;
const WINDOW_MS_MAX: u64 = 60 * 60 * 1000;

/// More commands in a second, or slower ones, no store has.
const COMMANDS_PER_S_MAX: u64 = 1_000_000_000;
const LATENCY_MAX: Duration = Duration::from_secs(60 * 60);

/// Checks all that needs no knowledge of the cluster. The transport has counted the reports and bounded their bytes.
pub(super) fn checked_heartbeat(request: StoreHeartbeatRequest) -> Result<Heartbeat, Status> {
    let start = checked_start(
        request.address,
        request.store_id,
        request.cluster_id,
        request.incarnation,
    )?;
    let reports = request.leads.into_iter().map(checked_report);
    let reports = reports.collect::<Result<Vec<_>, _>>()?;
    let mut region_ids = BTreeSet::new();
    for report in &reports {
        if !region_ids.insert(report.region_id) {
            return Err(wrong(format!("region {} is named twice", report.region_id)));
        }
    }
    check_holds(&request.holds)?;
    let now = SystemTime::now();
    Ok(Heartbeat {
        start,
        stats: request.stats.map(|stats| by_this_clock(stats, now)),
        reports,
        region_count: request.region_count,
        holds: request.holds,
        takes_no_replicas: request.takes_no_replicas,
        load: request.load.filter(is_plausible),
    })
}

/// The figures with the start by the clock of this process: that of the store may be wrong.
fn by_this_clock(stats: StoreStats, now: SystemTime) -> StoreStats {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let began = |uptime_ms| (now.as_millis() as u64).saturating_sub(uptime_ms);
    StoreStats {
        start_time_ms: stats.uptime_ms.map_or(stats.start_time_ms, began),
        uptime_ms: None,
        ..stats
    }
}

/// Whether a store can have done that. Wrong figures of one store would hide those of all others, and a rate needs a time.
fn is_plausible(load: &StoreLoad) -> bool {
    let seconds = load.window_ms / 1000 + 1;
    let commands_max = seconds.saturating_mul(COMMANDS_PER_S_MAX);
    let us_max = LATENCY_MAX.as_micros() as u64;
    (WINDOW_MS_MIN..=WINDOW_MS_MAX).contains(&load.window_ms)
        && load.reads.max(load.writes) <= commands_max
        && load.read_p99_us.max(load.write_p99_us) <= Some(us_max)
}

fn checked_report(report: RegionReport) -> Result<Report, Status> {
    let RegionReport {
        region_id,
        peer_id,
        term,
        epoch,
        peers,
        live,
        bytes,
    } = report;
    if region_id == 0 || peer_id == 0 || term == 0 {
        let cause = format!("region {region_id}, peer {peer_id}, term {term}: none of them is 0");
        return Err(wrong(cause));
    }
    let Some(epoch) = epoch else {
        return Err(wrong(format!(
            "the report of region {region_id} has no epoch"
        )));
    };
    let count = peers.len();
    if !(1..=PEERS_MAX).contains(&count) {
        let cause = format!("region {region_id} has {count} peers; it has from 1 to {PEERS_MAX}");
        return Err(Fault::invalid_argument("leads", Some(PEERS_MAX as u64), cause).into());
    }
    let ids: BTreeSet<_> = peers.iter().map(|peer| peer.id).collect();
    let has_zero = peers.iter().any(|peer| peer.id == 0 || peer.store_id == 0);
    if has_zero || ids.len() < count {
        let cause = format!("two peers of region {region_id} have one id, or one has an id of 0");
        return Err(wrong(cause));
    }
    let live = live.map(|live| {
        let bits = peers.iter().enumerate();
        let live = bits.filter(|(position, _)| live >> position & 1 == 1);
        live.map(|(_, peer)| peer.id).collect()
    });
    Ok(Report {
        region_id,
        peer_id,
        term,
        epoch,
        peers,
        live,
        bytes,
    })
}

fn check_holds(holds: &[HeldPeer]) -> Result<(), Status> {
    let count = holds.len();
    let wrong = |limit, cause: String| Err(Fault::invalid_argument("holds", limit, cause).into());
    if count > HELD_PEERS_MAX {
        let cause = format!("{count} replicas are named; there are at most {HELD_PEERS_MAX}");
        return wrong(Some(HELD_PEERS_MAX as u64), cause);
    }
    if holds.iter().any(|held| held.region_id == 0) {
        return wrong(None, "a replica is of region 0".to_owned());
    }
    Ok(())
}

fn wrong(cause: String) -> Status {
    Fault::invalid_argument("leads", None, cause).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_started_when_the_clock_here_says_so_if_it_tells_its_uptime() {
        let stats = StoreStats {
            start_time_ms: 7,
            ..StoreStats::default()
        };
        let now = UNIX_EPOCH + Duration::from_millis(100_000);
        assert_eq!(by_this_clock(stats, now), stats);
        for (uptime_ms, start_time_ms) in [(24_000, 76_000), (u64::MAX, 0)] {
            let told = StoreStats {
                uptime_ms: Some(uptime_ms),
                ..stats
            };
            let noted = by_this_clock(told, now);
            assert_eq!(noted.start_time_ms, start_time_ms);
            assert_eq!(noted.uptime_ms, None);
        }
    }
}
