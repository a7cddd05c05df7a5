//! What befalls stores and the ways between them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use turmoil::Sim;

use crate::store::name;
use crate::world::{GROUPS, LATENCY_MAX, World};

/// How long a fault lasts, and how long it is from one to the next.
const LASTS_MS: (u64, u64) = (100, 5000);
const PAUSE_MS: (u64, u64) = (200, 2500);

/// How long a store is away that only starts again.
const RESTART_MS: (u64, u64) = (5, 100);

/// How slow a way can be.
const SLOW_MS: (u64, u64) = (50, 500);

/// Draws faults, and ends each after a while.
///
/// A way between two stores has one fault at a time, and so has a store.
pub(crate) struct Faults {
    world: Arc<World>,
    next_at: Duration,
    /// Ways and stores with a fault.
    ways: BTreeSet<(u64, u64)>,
    away: BTreeSet<u64>,
    ends: Vec<(Duration, End)>,
}

enum End {
    /// Of a cut or a slow way, or one that held messages.
    Way(u64, u64),
    Start(u64),
}

fn between((min, max): (u64, u64)) -> Duration {
    Duration::from_millis(fastrand::u64(min..=max))
}

impl Faults {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self {
            world,
            next_at: between(PAUSE_MS),
            ways: BTreeSet::new(),
            away: BTreeSet::new(),
            ends: Vec::new(),
        }
    }

    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let due: Vec<_> = self.ends.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, end) in due {
            self.end_of(sim, end);
        }
        if now >= self.next_at {
            self.begin(sim, now);
            self.next_at = now + between(PAUSE_MS);
        }
    }

    /// Ends all of them.
    pub(crate) fn end(&mut self, sim: &mut Sim<'_>) {
        for (_, end) in std::mem::take(&mut self.ends) {
            self.end_of(sim, end);
        }
    }

    fn begin(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let store_id = self.victim();
        let until = now + between(LASTS_MS);
        match fastrand::u8(..9) {
            0 => self.crash(sim, store_id, until),
            1 => {
                for store_id in self.world.store_ids() {
                    self.crash(sim, store_id, now + between(LASTS_MS));
                }
            }
            2 => self.cut_off(sim, store_id, until),
            3 => {
                // What the others have promised to the leader counts while it does not know better.
                let leader = self.leader().unwrap_or(store_id);
                self.cut_off(sim, leader, until);
                for other in self.others(leader) {
                    self.crash(sim, other, now + between(RESTART_MS));
                }
            }
            4 => {
                for other in self.others(store_id) {
                    self.cut_one_way(sim, store_id, other, until);
                }
            }
            5 => {
                for other in self.others(store_id) {
                    self.cut_one_way(sim, other, store_id, until);
                }
            }
            6 => {
                for other in self.others(store_id) {
                    self.hold(sim, store_id, other, until);
                }
            }
            7 => self.fail_disk(store_id, until),
            _ => {
                let slow = between(SLOW_MS);
                for other in self.others(store_id) {
                    self.slow_down(sim, store_id, other, slow, until);
                }
            }
        }
    }

    /// Every second time the leader of a group.
    fn victim(&self) -> u64 {
        let leader = self.leader().filter(|_| fastrand::bool());
        leader.unwrap_or_else(|| fastrand::u64(self.world.store_ids()))
    }

    /// The leader of one of the groups.
    fn leader(&self) -> Option<u64> {
        self.world.leader(GROUPS[fastrand::usize(..GROUPS.len())])
    }

    fn others(&self, store_id: u64) -> Vec<u64> {
        let others = self.world.store_ids().filter(|id| *id != store_id);
        others.collect()
    }

    fn crash(&mut self, sim: &mut Sim<'_>, store_id: u64, until: Duration) {
        if self.away.insert(store_id) {
            self.note(format_args!("{} crashes", name(store_id)));
            sim.crash(name(store_id));
            self.ends.push((until, End::Start(store_id)));
        }
    }

    /// It is away for its clients, too, until it starts again.
    fn fail_disk(&mut self, store_id: u64, until: Duration) {
        if self.away.insert(store_id) {
            self.note(format_args!("the disk of {} fails", name(store_id)));
            self.world.disk(store_id).fail();
            self.ends.push((until, End::Start(store_id)));
        }
    }

    fn cut_off(&mut self, sim: &mut Sim<'_>, store_id: u64, until: Duration) {
        for other in self.others(store_id) {
            if self.takes_way(store_id, other, until) {
                self.note(format_args!("no way between {store_id} and {other}"));
                sim.partition(name(store_id), name(other));
            }
        }
    }

    fn cut_one_way(&mut self, sim: &mut Sim<'_>, from: u64, to: u64, until: Duration) {
        if self.takes_way(from, to, until) {
            self.note(format_args!("no way from {from} to {to}"));
            sim.partition_oneway(name(from), name(to));
        }
    }

    fn hold(&mut self, sim: &mut Sim<'_>, store_id: u64, other: u64, until: Duration) {
        if self.takes_way(store_id, other, until) {
            self.note(format_args!("messages wait between {store_id} and {other}"));
            sim.hold(name(store_id), name(other));
        }
    }

    fn slow_down(
        &mut self,
        sim: &mut Sim<'_>,
        store_id: u64,
        other: u64,
        slow: Duration,
        until: Duration,
    ) {
        if self.takes_way(store_id, other, until) {
            self.note(format_args!(
                "up to {slow:?} between {store_id} and {other}"
            ));
            sim.set_link_max_message_latency(name(store_id), name(other), slow);
        }
    }

    /// Whether a way had no fault, and has one from now on.
    fn takes_way(&mut self, store_id: u64, other: u64, until: Duration) -> bool {
        let way = (store_id.min(other), store_id.max(other));
        let takes = self.ways.insert(way);
        if takes {
            self.ends.push((until, End::Way(way.0, way.1)));
        }
        takes
    }

    fn end_of(&mut self, sim: &mut Sim<'_>, end: End) {
        match end {
            End::Way(store_id, other) => {
                self.ways.remove(&(store_id, other));
                self.note(format_args!("all is well between {store_id} and {other}"));
                let (store, other) = (name(store_id), name(other));
                sim.set_link_max_message_latency(store.clone(), other.clone(), LATENCY_MAX);
                // It repairs a cut, too.
                sim.release(store, other);
            }
            End::Start(store_id) => {
                self.away.remove(&store_id);
                sim.bounce(name(store_id));
            }
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.note_of("world", what);
    }
}
