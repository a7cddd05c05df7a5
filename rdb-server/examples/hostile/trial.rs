//! One peer's visit: a fresh cluster, and what the visit costs it.
//!
//! A peer prepares, calls [`Trial::begin`], does its worst, stays for [`Trial::stay`], lets go of its connections and calls
//! [`Trial::gone`]; or it calls [`Trial::store_ends`], and then ends the store.

use std::time::Duration;

use anyhow::Context;
use rdb_client::Client;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::bystander::Bystander;
use crate::harness::Cluster;
use crate::kernel;
use crate::verdict::{Costs, Limits, Verdict};

/// How long a peer that holds on to things stays. Longer than a stalled answer may stay, which is 10 s.
const STAY: Duration = Duration::from_secs(15);

/// How long after a peer has gone its memory has to be back.
const RETURN_TIME: Duration = Duration::from_secs(10);

/// A cluster with default settings, and the costs noted so far.
pub(crate) struct Trial {
    pub(crate) cluster: Cluster,
    limits: Limits,
    costs: Costs,
    bystander: Option<Bystander>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Preparing,
    Visited,
    Gone,
}

impl Trial {
    pub(crate) async fn start(limits: Limits) -> Self {
        Self {
            cluster: Cluster::start().await,
            limits,
            costs: Costs::default(),
            bystander: None,
            phase: Phase::Preparing,
        }
    }

    /// Where the store listens.
    pub(crate) fn address(&self) -> String {
        self.cluster.store.address()
    }

    /// A client for what has to be there before the peer comes.
    pub(crate) async fn client(&self) -> Client {
        self.cluster.client().await
    }

    /// Begins to count.
    pub(crate) async fn begin(&mut self) -> anyhow::Result<()> {
        if self.limits.others.is_some() {
            self.bystander = Some(Bystander::start(self.address()).await?);
        }
        let store = self.cluster.store.process_id();
        self.costs.idle_bytes = kernel::resident(store)?;
        kernel::forget_peak(store)?;
        self.phase = Phase::Visited;
        Ok(())
    }

    /// Lets the peer hold what it has for longer than it may.
    pub(crate) async fn stay(&self) {
        sleep(STAY).await;
    }

    /// The peer has let go, or what it holds was taken from it: its memory has to come back.
    pub(crate) async fn gone(&mut self) -> anyhow::Result<()> {
        if let Some(bystander) = self.bystander.take() {
            let experience = spawn_blocking(|| bystander.experience()).await??;
            self.costs.experience = Some(experience);
        }
        sleep(RETURN_TIME).await;
        let store = self.cluster.store.process_id();
        self.costs.after_bytes = kernel::resident(store).context("after the peer has gone")?;
        self.costs.peak_bytes = kernel::peak(store)?;
        self.phase = Phase::Gone;
        Ok(())
    }

    /// The store is about to end, and its memory with it: what counts is the peak until here.
    pub(crate) fn store_ends(&mut self) -> anyhow::Result<()> {
        self.costs.peak_bytes = kernel::peak(self.cluster.store.process_id())?;
        self.phase = Phase::Gone;
        Ok(())
    }

    /// Tells the reader of the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.costs.notes.push(note.into());
    }

    /// Notes a promise that was not kept, unless it was.
    pub(crate) fn expect(&mut self, is_kept: bool, miss: impl Into<String>) {
        if !is_kept {
            self.costs.misses.push(miss.into());
        }
    }

    /// Ends the cluster. A peer that failed halfway has let go of its connections by now.
    pub(crate) async fn end(mut self) -> anyhow::Result<Verdict> {
        if self.phase == Phase::Visited {
            self.gone().await?;
        }
        Ok(Verdict::of(self.limits, self.costs))
    }
}
