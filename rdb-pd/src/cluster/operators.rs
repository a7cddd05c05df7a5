//! What operators ask of single regions, and the results. Kept only in memory.
//!
//! An operator ends when the region is as requested, when somebody cancels it, when it has taken too long, or when its learner
//! was given up. A learner that it leaves behind on a silent store is given up, too: it would hold up the region's own needs.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rdb_proto::metapb::Region;
use rdb_proto::pdpb::{Operator, OperatorState};

use super::HEARTBEAT_INTERVAL;
use super::impossible::{Impossible, listed};
use super::membership::Surroundings;
use super::state::{KnownRegion, State};
use super::steps::{Liveness, Next, Obstacle, Wish};

/// Most operators under way, and most that are remembered afterwards.
pub(super) const OPERATORS_MAX: usize = 64;

/// How long an operator may take.
const OPERATOR_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How long a leader may say that it hears of no majority only because nobody has answered it since it was elected: until its second report.
const LED_NEWLY_FOR: Duration = Duration::from_secs(2 * HEARTBEAT_INTERVAL.as_secs());

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
    /// Why it was not done.
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
    /// Adds an operator for a region, unless it is under way or the region is as it asks.
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
                if self.check_wish(region_id, wish, now)? {
                    return Ok(done_before(region_id, wish));
                }
                if self.operators.running.len() >= OPERATORS_MAX {
                    return Err(Impossible::TooManyOperators);
                }
                let Wish { add, remove } = wish;
                tracing::info!(region_id, add, remove, "an operator was added");
                if let (Some(store_id), Some(known)) = (add, self.region_mut(region_id)) {
                    known.lagging.forgive(store_id, &known.region.peers);
                }
                Running { wish, since: now }
            }
        };
        self.operators.running.insert(region_id, running);
        let status = self.status_of(region_id, &self.surroundings(now));
        let surplus = self.surplus_of(region_id, wish).unwrap_or_default();
        Ok(running.to_wire(region_id, status + &surplus, now))
    }

    /// Ends the operator of a region, unless that was done before.
    pub(super) fn cancel_operator(
        &mut self,
        region_id: u64,
        now: Instant,
    ) -> Result<Operator, Impossible> {
        self.end_overdue_operators(now);
        let present = listed("operators of regions", self.operators.running.keys());
        let is_running = self.operators.running.contains_key(&region_id);
        if is_running {
            self.end_operator(region_id, OperatorState::Cancelled, String::new(), now);
        }
        let mut ended = self.operators.ended.iter();
        let last = ended.find(|ended| ended.region_id == region_id);
        match last {
            Some(ended) if ended.state == OperatorState::Cancelled => {
                let mut cancelled = ended.to_wire(now);
                if !is_running {
                    cancelled.status = "it was cancelled before".to_owned();
                }
                Ok(cancelled)
            }
            _ => Err(Impossible::NoOperator { region_id, present }),
        }
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
        without.filter_map(|known| {
            let is_change = match self.next_step(known, surroundings)? {
                Next::Done => false,
                Next::Waits(Obstacle::LeaderCutOff) => {
                    !known.is_led_newly(surroundings.now)
                        && self.case(known, surroundings).tend() != Next::Done
                }
                Next::Step(_) | Next::Waits(_) => true,
            };
            is_change.then(|| Operator {
                region_id: known.region.id,
                state: OperatorState::Running.into(),
                status: self.status_of(known.region.id, surroundings),
                ..Operator::default()
            })
        })
    }

    /// Ends the operators that have taken too long, and those whose learners were given up.
    pub(super) fn end_overdue_operators(&mut self, now: Instant) {
        let running = self.operators.running.iter();
        let over = running.filter_map(|(&region_id, running)| {
            let known = self.region_by_id(region_id)?;
            let mut given_up = known.lagging.given_up(now);
            let given_up = given_up.find(|&store_id| running.wish.add == Some(store_id));
            (given_up.is_some() || running.is_overdue(now)).then_some((region_id, given_up))
        });
        for (region_id, given_up) in over.collect::<Vec<_>>() {
            let status = match given_up {
                Some(store_id) => {
                    format!("the learner on store {store_id} has not caught up, and is given up")
                }
                None => format!(
                    "not done in time: {}",
                    self.status_of(region_id, &self.surroundings(now))
                ),
            };
            self.end_operator(region_id, OperatorState::TimedOut, status, now);
        }
    }

    /// Ends the operator of a region that is not done.
    fn end_operator(&mut self, region_id: u64, state: OperatorState, status: String, now: Instant) {
        let ended = self.operators.end(region_id, state, status, now);
        let Some(store_id) = ended.and_then(|ended| ended.running.wish.add) else {
            return;
        };
        let store = self.stores.get(&store_id);
        let is_up = store.is_some_and(|store| self.liveness(store, now) == Liveness::Up);
        let Some(known) = self.region_mut(region_id) else {
            return;
        };
        let mut peers = known.region.peers.iter();
        if !is_up && peers.any(|peer| peer.learner && peer.store_id == store_id) {
            known.lagging.give_up(store_id, now);
        }
    }

    /// What is being done for the operator of a region, or what it waits for.
    fn status_of(&self, region_id: u64, surroundings: &Surroundings) -> String {
        let known = self.region_by_id(region_id);
        let leads_on = known.and_then(|known| known.leader());
        let leads_on = leads_on.map(|(peer, _)| peer.store_id);
        let leads_on = leads_on.and_then(|id| Some((id, surroundings.places.get(&id)?)));
        match (
            leads_on,
            known.and_then(|known| self.next_step(known, surroundings)),
        ) {
            (Some((store_id, place)), Some(_))
                if matches!(place.liveness, Liveness::Silent | Liveness::Down) =>
            {
                format!("waits: store {store_id} has led the region, and is silent")
            }
            (_, Some(next)) => next.to_string(),
            (_, None) => "waits: the region has no leader, or it has not reported yet".to_owned(),
        }
    }

    /// What happens to one replica more than are kept.
    fn surplus_of(&self, region_id: u64, wish: Wish) -> Option<String> {
        if wish.add.is_none() || wish.remove.is_some() {
            return None;
        }
        let peers = &self.region_by_id(region_id)?.region.peers;
        let voters = peers.iter().filter(|peer| !peer.learner).count();
        let kept = self.settings.replicas;
        (voters >= kept).then(|| {
            format!("; then the region has more replicas than the {kept} of rdb-pd --replicas, and loses an older one")
        })
    }

    /// Whether the region is as the wish asks. That is unknown before its leader has reported to this process: the stored region
    /// may be older, above all in a copy.
    fn check_wish(&self, region_id: u64, wish: Wish, now: Instant) -> Result<bool, Impossible> {
        let Some(known) = self.region_by_id(region_id) else {
            let regions = self.regions.values().map(|known| &known.region.id);
            let present = listed("regions", regions);
            return Err(Impossible::NoRegion { region_id, present });
        };
        if known.leadership.is_none() {
            return Err(Impossible::Unconfirmed { region_id });
        }
        let peers = &known.region.peers;
        let peer_on = |store_id| peers.iter().find(|peer| peer.store_id == store_id);
        for store_id in wish.add.into_iter().chain(wish.remove) {
            if peer_on(store_id).is_none() {
                self.store_to_change(store_id)?;
            }
        }
        if is_as_asked(&known.region, wish) {
            return Ok(true);
        }
        let is_voter = |store_id| peer_on(store_id).is_some_and(|peer| !peer.learner);
        if let Some(store_id) = wish.add.filter(|&store_id| !is_voter(store_id)) {
            let store = self.store_to_change(store_id)?;
            if store.record.is_leaving {
                return Err(Impossible::Leaves { store_id });
            }
            if !store.may_take_replicas() {
                return Err(Impossible::TakesNoReplicas { store_id });
            }
            if let Liveness::Silent | Liveness::Down = self.liveness(store, now) {
                return Err(Impossible::Silent { store_id });
            }
            let needed = self.bytes_needed(known);
            let available = store.stats.map(|stats| stats.available_bytes);
            if peer_on(store_id).is_none() && available.is_some_and(|bytes| bytes < needed) {
                return Err(Impossible::NoRoom { store_id, needed });
            }
        }
        let Some(store_id) = wish.remove else {
            return Ok(false);
        };
        let Some(peer) = peer_on(store_id) else {
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
        // The store may have got its voter for the same wish, which was forgotten since. But then a surplus voter may be gone
        // meanwhile, and this one would be missed. An operator who sees how many there are may finish it.
        if let Some(to) = wish.add.filter(|&store_id| is_voter(store_id)) {
            return Err(Impossible::NoMove {
                region_id,
                from: store_id,
                to,
                voters: peers.iter().filter(|peer| !peer.learner).count(),
                kept: self.case(known, &self.surroundings(now)).voters_kept(),
            });
        }
        let mut others = peers.iter().filter(|other| other.id != peer.id);
        if wish.add.is_none() && others.all(|other| other.learner) {
            return Err(Impossible::SoleReplica {
                region_id,
                store_id,
            });
        }
        Ok(false)
    }
}

impl KnownRegion {
    /// Whether its leader may have been elected just now.
    fn is_led_newly(&self, now: Instant) -> bool {
        self.led_since
            .is_some_and(|since| now.saturating_duration_since(since) < LED_NEWLY_FOR)
    }
}

/// Whether the one store has a voter, and the other one no peer.
fn is_as_asked(region: &Region, wish: Wish) -> bool {
    let mut peers = region.peers.iter();
    let lacks = |store_id| peers.clone().all(|peer| peer.store_id != store_id);
    let is_removed = wish.remove.is_none_or(lacks);
    let is_added = wish
        .add
        .is_none_or(|store_id| peers.any(|peer| !peer.learner && peer.store_id == store_id));
    is_removed && is_added
}

/// The answer to one that asks for what is so. It is not listed.
fn done_before(region_id: u64, wish: Wish) -> Operator {
    Operator {
        region_id,
        add_store_id: wish.add.unwrap_or_default(),
        remove_store_id: wish.remove.unwrap_or_default(),
        state: OperatorState::Done.into(),
        status: "nothing is to be done: the region is so".to_owned(),
        age_ms: 0,
        ended_age_ms: Some(0),
    }
}

fn milliseconds_since(at: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(at).as_millis() as u64
}

#[cfg(test)]
mod tests;
