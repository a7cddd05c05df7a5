//! What operators ask of single regions, and what became of it. Kept in memory only.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rdb_proto::pdpb::{Operator, OperatorState};

use super::impossible::{Impossible, listed};
use super::membership::Surroundings;
use super::state::State;
use super::steps::{Next, Wish};

/// Most operators under way, and most that are remembered afterwards.
pub(super) const OPERATORS_MAX: usize = 64;

/// How long an operator may take.
const OPERATOR_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// What is under way, and what has ended.
#[derive(Debug, Default)]
pub(super) struct Operators {
    /// One for each region at most.
    running: BTreeMap<u64, Running>,
    /// The last one first.
    ended: VecDeque<Ended>,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    wish: Wish,
    since: Instant,
}

impl Running {
    fn is_overdue(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= OPERATOR_TIMEOUT
    }

    fn to_wire(self, region_id: u64, status: String, now: Instant) -> Operator {
        Operator {
            region_id,
            add_store_id: self.wish.add.unwrap_or_default(),
            remove_store_id: self.wish.remove.unwrap_or_default(),
            state: OperatorState::Running.into(),
            status,
            age_ms: milliseconds_since(self.since, now),
            ended_age_ms: None,
        }
    }
}

#[derive(Debug)]
struct Ended {
    region_id: u64,
    running: Running,
    at: Instant,
    state: OperatorState,
    /// What it waited for in the end.
    status: String,
}

impl Ended {
    fn to_wire(&self, now: Instant) -> Operator {
        Operator {
            state: self.state.into(),
            ended_age_ms: Some(milliseconds_since(self.at, now)),
            ..self
                .running
                .to_wire(self.region_id, self.status.clone(), now)
        }
    }
}

impl Operators {
    /// What is asked of a region.
    pub(super) fn wish(&self, region_id: u64) -> Option<Wish> {
        self.running.get(&region_id).map(|running| running.wish)
    }

    /// The store that an operator has taken a replica of a region from last.
    pub(super) fn avoided(&self, region_id: u64) -> Option<u64> {
        let done = self
            .ended
            .iter()
            .filter(|ended| ended.region_id == region_id && ended.state == OperatorState::Done);
        done.filter_map(|ended| ended.running.wish.remove).next()
    }

    /// Ends the operator of a region, if there is one, since the region is as it asks.
    pub(super) fn end_done(&mut self, region_id: u64, now: Instant) {
        self.end(region_id, OperatorState::Done, String::new(), now);
    }

    fn end(
        &mut self,
        region_id: u64,
        state: OperatorState,
        status: String,
        now: Instant,
    ) -> Option<&Ended> {
        let running = self.running.remove(&region_id)?;
        let Wish { add, remove } = running.wish;
        tracing::info!(
            region_id,
            add,
            remove,
            outcome = state.as_str_name(),
            "an operator has ended"
        );
        self.ended.push_front(Ended {
            region_id,
            running,
            at: now,
            state,
            status,
        });
        self.ended.truncate(OPERATORS_MAX);
        self.ended.front()
    }
}

impl State {
    /// Adds an operator for a region, unless it is under way.
    pub(super) fn add_operator(
        &mut self,
        region_id: u64,
        wish: Wish,
        now: Instant,
    ) -> Result<Operator, Impossible> {
        self.end_overdue_operators(now);
        let present = self.operators.running.get(&region_id).copied();
        let running = match present {
            Some(running) if running.wish == wish => running,
            Some(_) => return Err(Impossible::HasOperator { region_id }),
            None => {
                self.check_wish(region_id, wish)?;
                if self.operators.running.len() >= OPERATORS_MAX {
                    return Err(Impossible::TooManyOperators);
                }
                let Wish { add, remove } = wish;
                tracing::info!(region_id, add, remove, "an operator was added");
                Running { wish, since: now }
            }
        };
        self.operators.running.insert(region_id, running);
        let status = self.status_of(region_id, &self.surroundings(now));
        Ok(running.to_wire(region_id, status, now))
    }

    /// Ends the operator of a region.
    pub(super) fn cancel_operator(
        &mut self,
        region_id: u64,
        now: Instant,
    ) -> Result<Operator, Impossible> {
        self.end_overdue_operators(now);
        let present = listed("operators of regions", self.operators.running.keys());
        let operators = &mut self.operators;
        let cancelled = operators.end(region_id, OperatorState::Cancelled, String::new(), now);
        let cancelled = cancelled.map(|ended| ended.to_wire(now));
        cancelled.ok_or(Impossible::NoOperator { region_id, present })
    }

    /// Those under way, what is changed without one, and those that have ended.
    pub(super) fn operators(&mut self, now: Instant) -> Vec<Operator> {
        self.end_overdue_operators(now);
        let surroundings = self.surroundings(now);
        let running = self.operators.running.iter().map(|(&region_id, running)| {
            running.to_wire(region_id, self.status_of(region_id, &surroundings), now)
        });
        let ended = self.operators.ended.iter();
        let ended = ended.map(|ended| ended.to_wire(now));
        let own = self.own_changes(&surroundings).take(OPERATORS_MAX);
        running.chain(own).chain(ended).collect()
    }

    /// The regions whose members are not as they should be, and that nobody has asked to change.
    fn own_changes(&self, surroundings: &Surroundings) -> impl Iterator<Item = Operator> {
        let without = self.regions.values().filter(|known| {
            let region_id = known.region.id;
            self.operators.wish(region_id).is_none()
        });
        without.filter_map(|known| match self.next_step(known, surroundings)? {
            Next::Done => None,
            next => Some(Operator {
                region_id: known.region.id,
                state: OperatorState::Running.into(),
                status: next.to_string(),
                ..Operator::default()
            }),
        })
    }

    /// Ends the operators that have taken too long.
    pub(super) fn end_overdue_operators(&mut self, now: Instant) {
        let running = self.operators.running.iter();
        let overdue = running.filter(|(_, running)| running.is_overdue(now));
        let overdue: Vec<_> = overdue.map(|(&region_id, _)| region_id).collect();
        for region_id in overdue {
            let status = self.status_of(region_id, &self.surroundings(now));
            let operators = &mut self.operators;
            operators.end(region_id, OperatorState::TimedOut, status, now);
        }
    }

    /// What is being done for the operator of a region, or what it waits for.
    fn status_of(&self, region_id: u64, surroundings: &Surroundings) -> String {
        let known = self.region_by_id(region_id);
        match known.and_then(|known| self.next_step(known, surroundings)) {
            Some(next) => next.to_string(),
            None => "waits: the region has no leader, or it has not reported yet".to_owned(),
        }
    }

    fn check_wish(&self, region_id: u64, wish: Wish) -> Result<(), Impossible> {
        let Some(known) = self.region_by_id(region_id) else {
            let regions = self.regions.values().map(|known| &known.region.id);
            let present = listed("regions", regions);
            return Err(Impossible::NoRegion { region_id, present });
        };
        let peers = &known.region.peers;
        let peer_on = |store_id| peers.iter().find(|peer| peer.store_id == store_id);
        if let Some(store_id) = wish.add {
            let store = self.store_to_change(store_id)?;
            if peer_on(store_id).is_some_and(|peer| !peer.learner) {
                return Err(Impossible::HasReplica {
                    region_id,
                    store_id,
                });
            }
            if store.record.is_leaving {
                return Err(Impossible::Leaves { store_id });
            }
            if !store.may_take_replicas() {
                return Err(Impossible::TakesNoReplicas { store_id });
            }
        }
        let Some(store_id) = wish.remove else {
            return Ok(());
        };
        let Some(peer) = peer_on(store_id) else {
            self.store_to_change(store_id)?;
            let present = listed(
                "replicas on stores",
                peers.iter().map(|peer| &peer.store_id),
            );
            return Err(Impossible::NoReplica {
                region_id,
                store_id,
                present,
            });
        };
        let mut others = peers.iter().filter(|other| other.id != peer.id);
        if wish.add.is_none() && others.all(|other| other.learner) {
            return Err(Impossible::SoleReplica {
                region_id,
                store_id,
            });
        }
        Ok(())
    }
}

fn milliseconds_since(at: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(at).as_millis() as u64
}

#[cfg(test)]
mod tests;
