//! The store as its status pages show it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rdb_proto::transport::HealthHandle;
use rdb_proto::transport::status::{
    Exposition, Readings, Source, Subject, TransportMetrics, View, brief_findings,
};
use rdb_storage::{Durability, Storage};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Figures, database, page, replication, rights, storage};
use crate::placement_drivers::PlacementDrivers;
use crate::regions::{RegionCounts, Regions};
use crate::rights::RightsCopy;

/// What a store has to show.
pub(crate) struct StoreSource {
    pub(crate) health: HealthHandle,
    pub(crate) registration: watch::Receiver<bool>,
    pub(crate) placement_drivers: PlacementDrivers,
    pub(crate) drain: CancellationToken,
    pub(crate) storage: Storage,
    pub(crate) durability: Durability,
    pub(crate) regions: Arc<Regions>,
    pub(crate) rights: Arc<RightsCopy>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) transport: TransportMetrics,
    pub(crate) addr: SocketAddr,
    pub(crate) advertised: String,
}

impl Source for StoreSource {
    fn health(&self) -> Result<(), String> {
        self.health.present()
    }

    fn warning(&self) -> Option<String> {
        self.health.warning()
    }

    /// It takes calls once it is registered, also while it cannot serve one of its regions. Without rights that hold it takes none.
    fn readiness(&self) -> Result<(), String> {
        if self.drain.is_cancelled() {
            return Err("it is stopping".to_owned());
        }
        if !*self.registration.borrow() {
            return Err(self.placement_drivers.not_registered());
        }
        match self.rights.refusal() {
            Some(cause) => Err(cause),
            None => Ok(()),
        }
    }

    fn describe(&self) -> Vec<(&'static str, Value)> {
        let identity = self.storage.identity();
        let RegionCounts {
            held,
            led,
            without_leader,
        } = self.regions.counts();
        let data = self.storage.figures().data;
        let log = self.regions.log_database_figures();
        vec![
            ("cluster_id", json!(identity.cluster_id)),
            ("store_id", json!(identity.store_id)),
            ("addr", json!(self.addr.to_string())),
            ("advertised_addr", json!(self.advertised)),
            (
                "data_dir",
                json!(self.storage.directory().display().to_string()),
            ),
            ("durability", json!(self.durability.to_string())),
            (
                "regions",
                json!({ "held": held, "led": led, "without_leader": without_leader }),
            ),
            (
                "space",
                json!({
                    "capacity_bytes": data.capacity_bytes,
                    "available_bytes": data.available_bytes,
                    "data_bytes": data.table_bytes,
                    "raft_log_bytes": log.table_bytes,
                }),
            ),
            ("auth", rights::describe(self.rights.guard())),
            ("audit", self.transport.describe_audit()),
        ]
    }

    fn subject(&self) -> Subject {
        Subject::Store
    }

    fn readings(&self) -> Readings {
        let (figures, log) = (&self.figures, self.regions.log_figures());
        page::chart_readings(figures, &self.storage.figures(), log)
    }

    fn present(&self, _: View) -> Vec<(&'static str, Value)> {
        let identity = self.storage.identity();
        let counts = self.regions.counts();
        let (reads, writes) = self.figures.commands.durations();
        let storage = self.storage.figures();
        let log = self.regions.log_database_figures();
        // In a script a number has 53 bits.
        let id = |id: Option<u64>| id.map(|id| id.to_string());
        vec![
            ("cluster_id", json!(id(identity.cluster_id))),
            ("store_id", json!(id(identity.store_id))),
            ("addr", json!(self.addr.to_string())),
            ("advertised_addr", json!(self.advertised)),
            ("durability", json!(self.durability.to_string())),
            ("findings", brief_findings(self.findings(counts))),
            (
                "regions",
                json!({
                    "held": counts.held,
                    "led": counts.led,
                    "without_leader": counts.without_leader,
                }),
            ),
            (
                "since_start",
                json!({
                    "reads": reads.count(),
                    "writes": writes.count(),
                    "slow": self.figures.commands.slow().count(),
                }),
            ),
            (
                "write_queue",
                json!({
                    "bytes": storage.write_queue_bytes,
                    "bytes_max": storage.write_queue_bytes_max,
                }),
            ),
            (
                "space",
                json!({
                    "available_bytes": storage.data.available_bytes,
                    "capacity_bytes": storage.data.capacity_bytes,
                    "data_bytes": storage.data.table_bytes,
                    "raft_log_bytes": log.table_bytes,
                    "memtable_bytes": storage.data.memtable_bytes,
                    "block_cache_bytes": storage.data.block_cache_bytes,
                }),
            ),
        ]
    }

    fn write_metrics(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        self.figures.commands.write_to(exposition)?;
        self.figures.proposals.write_to(exposition)?;
        self.transport.write(exposition)?;
        rights::write_to(self.rights.guard(), exposition)?;
        let figures = self.storage.figures();
        let log = self.regions.log_database_figures();
        storage::write_to(&figures, exposition)?;
        database::write_to(&figures.data, Some(&log), exposition)?;
        replication::write_to(
            self.regions.counts(),
            self.regions.node_figures(),
            self.regions.snapshots_sent(),
            self.regions.log_figures(),
            exposition,
        )
    }
}
