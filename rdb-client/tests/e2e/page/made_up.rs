//! The page of a cluster that is made up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rdb_proto::findings::Finding;
use rdb_proto::transport::status::{
    Exposition, Reading, Readings, STORE_COLUMNS, Source, StatusServer, Subject, View,
    brief_findings,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// How many stores an update has.
const STORES_SHOWN: u64 = 20;

/// How many cells the key line has.
const CELLS: u64 = 40;

/// A process in the test itself that shows it.
pub(super) struct MadeUp {
    url: String,
    source: Arc<Shown>,
    _server: StatusServer,
}

impl MadeUp {
    /// Shows so many stores and regions. Everything that has a name has this one.
    pub(super) async fn start(stores: u64, regions: u64, name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let source = Arc::new(Shown {
            stores,
            regions,
            name,
            writes_per_s: AtomicU64::new(2000),
        });
        let server = StatusServer::start(
            listener.expect("a free port"),
            "rdb-pd",
            env!("CARGO_PKG_VERSION"),
            source.clone(),
        );
        let server = server.expect("it listens");
        Self {
            url: format!("http://{}/", server.local_addr()),
            source,
            _server: server,
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// From now on each store writes so much.
    pub(super) fn set_writes_per_s(&self, writes_per_s: u64) {
        self.source.writes_per_s.store(writes_per_s, Relaxed);
    }
}

struct Shown {
    stores: u64,
    regions: u64,
    name: &'static str,
    /// What each store does. Relaxed: it is a figure by itself.
    writes_per_s: AtomicU64,
}

impl Shown {
    fn store(&self, id: u64) -> Value {
        let state = if id == 4 { "disconnected" } else { "up" };
        json!([
            id,
            self.name,
            state,
            1200,
            self.regions,
            id,
            6012.5,
            self.writes_per_s.load(Relaxed),
            210,
            4100,
            120_034,
            430_u64 << 30,
            512_u64 << 30,
            31_u64 << 30,
            120_345_678,
            1_700_000_000_000_u64,
        ])
    }
}

impl Source for Shown {
    fn health(&self) -> Result<(), String> {
        Ok(())
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
        let level = |name, value| (name, Reading::Level(Some(value)));
        vec![
            level("reads", 18_012.0),
            level("writes", 6_004.0),
            level("read_p99", 0.000_21),
            level("write_p99", 0.0041),
            level("write_queue_bytes", 120_034.0),
            level("timestamps", 901.0),
            level("tso_waits", 0.0),
            level("to_bound", 2.6),
        ]
    }

    fn present(&self, view: View) -> Vec<(&'static str, Value)> {
        let from = view.stores_from as u64;
        let stores = from + 1..=self.stores.min(from + STORES_SHOWN);
        let cells = self.regions.min(CELLS);
        let each = self.regions / cells;
        let cell = |cell: u64| {
            json!([
                1 + cell * each,
                each,
                1 + cell % self.stores,
                null,
                0,
                92 << 20
            ])
        };
        let what = format!("something is wrong with {}", self.name);
        let to_do = format!("`{}`", self.name);
        vec![
            ("cluster_id", json!(self.name)),
            ("addr", json!(self.name)),
            (
                "findings",
                brief_findings(vec![Finding::alarm(what, to_do)]),
            ),
            (
                "stores",
                json!({
                    "count": self.stores,
                    "up": self.stores - 1,
                    "from": from,
                    "columns": STORE_COLUMNS,
                    "rows": stores.map(|id| self.store(id)).collect::<Vec<_>>(),
                }),
            ),
            (
                "regions",
                json!({
                    "count": self.regions,
                    "without_leader": 0,
                    "with_replicas_missing": 0,
                    "troubles": [],
                    "cells": (0..cells).map(cell).collect::<Vec<_>>(),
                }),
            ),
            (
                "timestamps",
                json!({ "to_bound_ms": 2600, "ahead_of_clock_ms": -1200 }),
            ),
        ]
    }

    fn write_metrics(&self, _: &mut Exposition<'_>) -> fmt::Result {
        Ok(())
    }
}
