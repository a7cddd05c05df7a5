//! What is reported of the regions, to the placement driver, the health, and the metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use rdb_proto::pdpb::{HeldPeer, RegionReport};
use rdb_raft::group::GroupState;
use rdb_raft::transport::Transport;
use rdb_raft::{LogFigures, NodeFigures};
use rdb_storage::{DatabaseFigures, Durability};

use super::Regions;
use super::replicas::Replica;

/// The report of the regions to the placement driver.
pub(crate) struct Report {
    /// Those that this store leads.
    pub(crate) leads: Vec<RegionReport>,
    /// A few of those that it does not.
    pub(crate) holds: Vec<HeldPeer>,
    /// All, also those that wait, are ending, or are left out.
    pub(crate) count: u64,
    /// See [`Durability::Os`].
    pub(crate) takes_no_replicas: bool,
}

/// How many regions there are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RegionCounts {
    /// All that this store holds.
    pub(crate) held: usize,
    /// Those that it leads.
    pub(crate) led: usize,
    /// Those that nobody leads as far as it can tell, without those that wait for their first state.
    pub(crate) without_leader: usize,
}

impl Regions {
    /// What the placement driver is told.
    pub(crate) fn report(&self) -> Report {
        let states = self.node.states();
        let (mut replicas, states) = (self.replicas(), states.borrow());
        let mut leads = replicas.leads(&states);
        for report in &mut leads {
            report.bytes = self.sizes.of(report.region_id);
        }
        Report {
            leads,
            holds: replicas.held(&states),
            count: self.count(&replicas) as u64,
            takes_no_replicas: self.durability == Durability::Os,
        }
    }

    /// Estimates the sizes of the regions that this store leads, for the next reports, unless that was done a while ago. Blocks.
    pub(crate) fn learn_sizes(&self) {
        let led = {
            let states = self.node.states();
            let (replicas, states) = (self.replicas(), states.borrow());
            replicas.led(&states)
        };
        let estimate = |region_id| match self.storage.region_bytes(region_id) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(region_id, %error, "the size of a region cannot be estimated");
                None
            }
        };
        self.sizes.learn(&led, estimate);
    }

    /// How many regions there are.
    pub(crate) fn counts(&self) -> RegionCounts {
        let states = self.node.states();
        let (replicas, states) = (self.replicas(), states.borrow());
        let mut counts = RegionCounts {
            held: self.count(&replicas),
            ..RegionCounts::default()
        };
        // What waits for its first state has no leader to know.
        let have_state = |(_, replica): &(&u64, &Replica)| replica.handle.is_some();
        for (region_id, replica) in replicas.open.iter().filter(have_state) {
            let leadership = replica.proposer.leadership();
            let leads = leadership.term_led(states.get(region_id)).is_some();
            counts.led += usize::from(leads);
            counts.without_leader += usize::from(!replica.group.is_led());
        }
        counts
    }

    /// The region that this store has, if it has one only, and whether other stores hold it, too.
    pub(crate) fn only_region(&self) -> Option<(u64, bool)> {
        let replicas = self.replicas();
        let (&region_id, replica) = replicas.open.first_key_value()?;
        let has_others = replica.proposer.leadership().has_others();
        (self.count(&replicas) == 1).then_some((region_id, has_others))
    }

    /// The regions that requests can reach and whose groups have not ended, each with whether somebody leads it, as far as this store can
    /// tell. Nobody does until the state of its group is known: requests find no leader before that.
    pub(crate) fn led_by_anybody(&self) -> BTreeMap<u64, bool> {
        let states = self.node.states();
        let (replicas, states) = (self.replicas(), states.borrow());
        let open = replicas.open.iter().filter(|(region_id, replica)| {
            let has_ended = matches!(states.get(region_id), Some(GroupState::Ended(_)));
            !has_ended && replica.handle.is_some()
        });
        open.map(|(&region_id, replica)| {
            let is_led = states.contains_key(&region_id) && replica.group.is_led();
            (region_id, is_led)
        })
        .collect()
    }

    /// How long a region may be without a leader before that is no ordinary election.
    pub(crate) fn leaderless_after(&self) -> Duration {
        self.node.timing().leaderless_after()
    }

    /// What the groups count.
    pub(crate) fn node_figures(&self) -> &NodeFigures {
        self.node.figures()
    }

    /// What the writer of their logs counts.
    pub(crate) fn log_figures(&self) -> &LogFigures {
        self.node.log_figures()
    }

    /// What the database of their logs counts.
    pub(crate) fn log_database_figures(&self) -> DatabaseFigures {
        self.log.figures()
    }

    /// How many snapshots were sent to other stores.
    pub(crate) fn snapshots_sent(&self) -> u64 {
        let transport = self.transport.get();
        transport.map_or(0, Transport::snapshots_sent)
    }
}
