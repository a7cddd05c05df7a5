//! What the placement driver counts of its service, and what it shows of itself over HTTP.
//!
//! No label has a value from a store or a client. Counting stores briefly takes the lock of the cluster's state, as the list of stores
//! does; timestamps do not need it.

mod calls;
// The same as those of a store.
#[path = "../../rdb-server/src/metrics/database.rs"]
mod database;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rdb_proto::figures::Counter;
use rdb_proto::slow_log::SlowLog;
use rdb_proto::spans::Spans;
use rdb_proto::transport::HealthHandle;
use rdb_proto::transport::status::{
    Exposition, Labels, Reading, Readings, Source, Subject, TransportMetrics, View,
};
use rdb_storage::Storage;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) use self::calls::CallKind;

use self::calls::CallDurations;
use crate::auth::{Authority, Present};
use crate::cluster::{Cluster, ClusterCounts, ClusterError, ClusterLoad};
use crate::page::{OfProcess, present};
use crate::service::SystemAllocator;
use crate::tso::{TsoFigures, TsoPosition};

/// What stores and clients have asked for, since the start.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) registrations: Answers,
    pub(crate) heartbeats: Answers,
    pub(crate) durations: CallDurations,
    /// Calls, and requests for timestamps on streams.
    pub(crate) slow: SlowLog,
    pub(crate) spans: Spans,
}

impl Figures {
    /// Figures whose slow calls are counted by `slow`, and told of. Those of sampled traces go to `spans`.
    pub(crate) fn told_by(slow: SlowLog, spans: Spans) -> Self {
        Self {
            slow,
            spans,
            ..Self::default()
        }
    }
}

/// Requests by how they were answered.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    accepted: Counter,
    refused: Counter,
    failed: Counter,
}

impl Answers {
    /// Counts an answer, and passes it on.
    pub(crate) fn note<T>(&self, answer: Result<T, ClusterError>) -> Result<T, ClusterError> {
        let counter = match &answer {
            Ok(_) => &self.accepted,
            Err(ClusterError::Refused(_) | ClusterError::Impossible(_)) => &self.refused,
            Err(ClusterError::Storage(_) | ClusterError::Busy | ClusterError::Stopping) => {
                &self.failed
            }
        };
        counter.increment();
        answer
    }

    fn write_to(&self, name: &str, help: &str, exposition: &mut Exposition<'_>) -> fmt::Result {
        exposition.counters(
            name,
            help,
            [
                (&[("outcome", "ok")] as Labels<'_>, self.accepted.get()),
                (&[("outcome", "refused")], self.refused.get()),
                (&[("outcome", "failed")], self.failed.get()),
            ],
        )
    }
}

/// The names of the charts on the page. The script knows them.
pub(crate) const SERIES: [&str; 8] = [
    "reads",
    "writes",
    "read_p99",
    "write_p99",
    "write_queue_bytes",
    "timestamps",
    "tso_waits",
    "to_bound",
];

/// The placement driver as its status pages show it.
pub(crate) struct PdSource {
    pub(crate) health: HealthHandle,
    pub(crate) drain: CancellationToken,
    pub(crate) storage: Storage,
    pub(crate) cluster: Cluster,
    pub(crate) allocator: Arc<SystemAllocator>,
    pub(crate) authority: Authority,
    pub(crate) figures: Arc<Figures>,
    pub(crate) transport: TransportMetrics,
    pub(crate) addr: SocketAddr,
}

impl Source for PdSource {
    fn health(&self) -> Result<(), String> {
        self.health.present()
    }

    fn warning(&self) -> Option<String> {
        self.health.warning()
    }

    /// It takes calls from its start until it drains.
    fn readiness(&self) -> Result<(), String> {
        if self.drain.is_cancelled() {
            return Err("it is stopping".to_owned());
        }
        Ok(())
    }

    fn describe(&self) -> Vec<(&'static str, Value)> {
        let counts = self.cluster.counts();
        let stores = counts.stores_by_state().into_iter();
        let stores: Map<_, _> = stores
            .map(|(state, count)| (state.to_owned(), json!(count)))
            .collect();
        let data = self.storage.figures().data;
        vec![
            ("cluster_id", json!(self.cluster.id())),
            ("addr", json!(self.addr.to_string())),
            (
                "data_dir",
                json!(self.storage.directory().display().to_string()),
            ),
            ("stores", Value::Object(stores)),
            (
                "regions",
                json!({
                    "known": counts.regions,
                    "under_replicated": counts.under_replicated,
                }),
            ),
            (
                "space",
                json!({
                    "capacity_bytes": data.capacity_bytes,
                    "available_bytes": data.available_bytes,
                    "data_bytes": data.table_bytes,
                }),
            ),
            ("auth", self.describe_auth()),
            ("audit", self.transport.describe_audit()),
        ]
    }

    fn subject(&self) -> Subject {
        Subject::Cluster
    }

    /// What stores do is what their heartbeats have told.
    fn readings(&self) -> Readings {
        let (tso, position) = (self.allocator.figures(), self.allocator.position());
        chart_readings(self.cluster.load(), tso, position)
    }

    fn present(&self, view: View) -> Vec<(&'static str, Value)> {
        let health = self.health.present().err();
        let process = OfProcess::new(health.as_deref(), &self.cluster, &self.allocator);
        let mut members = present(&self.cluster.overview(), &process, view.stores_from);
        // In a script a number has 53 bits.
        members.push(("cluster_id", json!(self.cluster.id().to_string())));
        members.push(("addr", json!(self.addr.to_string())));
        members
    }

    fn write_metrics(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        let (figures, position) = (self.allocator.figures(), self.allocator.position());
        write_timestamps(figures, position, exposition)?;
        write_cluster(&self.figures, self.cluster.counts(), exposition)?;
        self.write_auth(exposition)?;
        self.transport.write(exposition)?;
        database::write_to(&self.storage.figures().data, None, exposition)
    }
}

/// The figures that have charts.
fn chart_readings(load: Option<ClusterLoad>, tso: &TsoFigures, position: TsoPosition) -> Readings {
    let waits = tso.waits_for_bound.get() + tso.waits_for_clock.get();
    let level = |of: fn(ClusterLoad) -> f64| Reading::Level(load.map(of));
    let seconds = |of: fn(ClusterLoad) -> Option<Duration>| {
        let duration = load.and_then(of);
        Reading::Level(duration.map(|duration| duration.as_secs_f64()))
    };
    let readings = [
        level(|load| load.reads_per_s),
        level(|load| load.writes_per_s),
        seconds(|load| load.read_p99),
        seconds(|load| load.write_p99),
        level(|load| load.write_queue_bytes as f64),
        Reading::Count(tso.timestamps.get()),
        Reading::Count(waits),
        Reading::Level(Some(position.to_bound_ms as f64 / 1e3)),
    ];
    SERIES.into_iter().zip(readings).collect()
}

impl PdSource {
    fn describe_auth(&self) -> Value {
        let Present { users, .. } = self.authority.present();
        let refusals = self.authority.guard().refusals();
        json!({
            "enforced": self.authority.is_enforced(),
            "version": users.version(),
            "users": users.count(),
            "has_admin": users.has_admin(),
            "refused": {
                "unauthenticated": refusals.unauthenticated(),
                "denied": refusals.denied(),
                "unavailable": refusals.unavailable(),
            },
        })
    }

    fn write_auth(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        let Present { users, .. } = self.authority.present();
        exposition.gauge(
            "flaredb_auth_enforced",
            "Whether rights are enforced.",
            f64::from(u8::from(self.authority.is_enforced())),
        )?;
        exposition.gauge(
            "flaredb_auth_rights_version",
            "The version of the rights. It counts their changes.",
            users.version() as f64,
        )?;
        exposition.gauge(
            "flaredb_auth_users",
            "Users that there are.",
            users.count() as f64,
        )?;
        let refusals = self.authority.guard().refusals();
        exposition.counters(
            "flaredb_auth_refusals_total",
            "Calls, and messages of streams, that were refused for who their caller is.",
            [
                (
                    &[("reason", "unauthenticated")] as Labels<'_>,
                    refusals.unauthenticated(),
                ),
                (&[("reason", "denied")], refusals.denied()),
                (&[("reason", "unavailable")], refusals.unavailable()),
            ],
        )
    }
}

fn write_timestamps(
    figures: &TsoFigures,
    position: TsoPosition,
    exposition: &mut Exposition<'_>,
) -> fmt::Result {
    exposition.counter(
        "flaredb_tso_timestamps_total",
        "Timestamps that were handed out.",
        figures.timestamps.get(),
    )?;
    exposition.counters(
        "flaredb_tso_waits_total",
        "Requests for timestamps that had to wait, by what for.",
        [
            (
                &[("reason", "bound")] as Labels<'_>,
                figures.waits_for_bound.get(),
            ),
            (&[("reason", "clock")], figures.waits_for_clock.get()),
        ],
    )?;
    exposition.counter(
        "flaredb_tso_failures_total",
        "Requests for timestamps that got none in time.",
        figures.failures.get(),
    )?;
    exposition.histogram(
        "flaredb_tso_bound_move_duration_seconds",
        "How long each move of the bound of timestamps took until it was durable.",
        &figures.bound_moves.snapshot(),
    )?;
    let TsoPosition {
        to_bound_ms,
        ahead_of_clock_ms,
    } = position;
    exposition.gauge(
        "flaredb_tso_bound_distance_seconds",
        "How far the durable bound is ahead of the last timestamp. At 0 none is handed out.",
        to_bound_ms as f64 / 1e3,
    )?;
    exposition.gauge(
        "flaredb_tso_clock_distance_seconds",
        "How far timestamps are ahead of the wall clock. Negative: the clock jumped ahead and is not followed.",
        ahead_of_clock_ms as f64 / 1e3,
    )
}

fn write_cluster(
    figures: &Figures,
    counts: ClusterCounts,
    exposition: &mut Exposition<'_>,
) -> fmt::Result {
    exposition.counter(
        "flaredb_slow_calls_total",
        "Calls, and requests for timestamps, that took --slow-log-ms or longer. The log tells of one a second.",
        figures.slow.count(),
    )?;
    figures.durations.write_to(exposition)?;
    figures.spans.write_to(exposition)?;
    figures.registrations.write_to(
        "flaredb_registrations_total",
        "Registrations of stores, by how they were answered. Each start of a store registers twice.",
        exposition,
    )?;
    figures.heartbeats.write_to(
        "flaredb_heartbeats_total",
        "Heartbeats of stores, by how they were answered.",
        exposition,
    )?;
    let stores = counts.stores_by_state();
    let stores = stores.map(|(state, count)| ([("state", state)], count as f64));
    exposition.gauges(
        "flaredb_stores",
        "Stores of the cluster, by state.",
        stores.iter().map(|(labels, count)| (&labels[..], *count)),
    )?;
    exposition.gauge(
        "flaredb_cluster_regions",
        "Regions of the cluster.",
        counts.regions as f64,
    )?;
    exposition.gauge(
        "flaredb_cluster_replicas",
        "Replicas that a region is to have if there are stores for them.",
        counts.replicas as f64,
    )?;
    exposition.gauge(
        "flaredb_cluster_regions_under_replicated",
        "Regions of which fewer voters live than they are to have on the stores that there are.",
        counts.under_replicated as f64,
    )
}

#[cfg(test)]
mod tests;
