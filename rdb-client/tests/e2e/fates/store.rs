//! A store that keeps its data in memory, checks contexts as a real one does, and deviates on demand.

mod services;
mod streams;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rdb_proto::error::Fault;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::errorpb::{
    EpochNotMatch, Fate, KeyNotInRegion, RegionError, RegionNotFound, StoreMismatch,
};
use rdb_proto::kvrpc::{Conflict, Versioned};
use rdb_proto::metapb::{Context, Region};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::harness::guarded;

/// Entries of one page of a scan: few, so that tests see many pages.
pub(crate) const PAGE_ENTRIES: usize = 3;

/// Deleted entries that a page skips at most.
pub(crate) const PAGE_SKIPPED_MAX: usize = 2;

/// What happens to a request instead of being served.
#[derive(Debug)]
pub(crate) enum Step {
    /// A routing answer; `None` is one of a kind that nobody knows.
    Refuse(Option<Kind>),
    /// A fault; nothing is applied.
    Fail(Status),
    /// It is applied, and the answer is a fault all the same.
    ApplyAndFail(Status),
    /// It is never answered.
    Hang,
    /// It is served once this says so.
    Hold(watch::Receiver<bool>),
}

#[derive(Default)]
pub(crate) struct Data {
    /// `None`: deleted.
    raw: BTreeMap<Bytes, Option<Bytes>>,
    versioned: BTreeMap<Bytes, Versioned>,
    /// How many writes of each key were applied.
    applied: HashMap<Bytes, u64>,
}

#[derive(Default)]
struct State {
    data: Data,
    regions: Vec<Region>,
    /// What comes next, per region.
    script: HashMap<u64, VecDeque<Step>>,
    /// What every request gets while the script is empty.
    always: Option<Kind>,
    /// Requests for other keys than this are denied, whoever leads.
    allowed: Option<&'static str>,
    requests: usize,
    /// How many requests for each key arrived.
    asked: HashMap<Bytes, usize>,
    /// Commands of the largest message of a stream.
    message_commands: usize,
}

/// A scripted store. Tests hold one handle, the services another.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) id: u64,
    state: Arc<Mutex<State>>,
    /// Number of applied writes.
    applied: watch::Sender<u64>,
    /// Number of requests that arrived.
    arrived: watch::Sender<usize>,
}

impl Store {
    pub(crate) fn new(id: u64, regions: Vec<Region>) -> Self {
        let state = State {
            regions,
            ..State::default()
        };
        Self {
            id,
            state: Arc::new(Mutex::new(state)),
            applied: watch::Sender::new(0),
            arrived: watch::Sender::new(0),
        }
    }

    pub(crate) fn script(&self, region_id: u64, steps: impl IntoIterator<Item = Step>) {
        self.state()
            .script
            .entry(region_id)
            .or_default()
            .extend(steps);
    }

    pub(crate) fn refuse_always(&self, kind: Kind) {
        self.state().always = Some(kind);
    }

    /// Denies all requests for single keys but those for this one, before it looks at anything else.
    pub(crate) fn allow_only(&self, key: &'static str) {
        self.state().allowed = Some(key);
    }

    /// Serves what comes after the script, as at first.
    pub(crate) fn serve_always(&self) {
        self.state().always = None;
    }

    pub(crate) fn set_regions(&self, regions: Vec<Region>) {
        self.state().regions = regions;
    }

    /// How many requests arrived.
    pub(crate) fn requests(&self) -> usize {
        self.state().requests
    }

    /// How many requests for `key` arrived.
    pub(crate) fn asked(&self, key: &str) -> usize {
        self.state().asked.get(key.as_bytes()).copied().unwrap_or(0)
    }

    /// Commands of the largest message of a stream; 0: no stream has brought any.
    pub(crate) fn message_commands(&self) -> usize {
        self.state().message_commands
    }

    /// How many writes of `key` were applied.
    pub(crate) fn applied(&self, key: &str) -> u64 {
        self.state()
            .data
            .applied
            .get(key.as_bytes())
            .copied()
            .unwrap_or(0)
    }

    pub(crate) fn raw(&self, key: &str) -> Option<Bytes> {
        self.state().data.raw.get(key.as_bytes()).cloned().flatten()
    }

    /// Swaps at once, as another client would have.
    pub(crate) fn swap(&self, key: &'static str, expected_version: u64, value: &'static str) {
        let key = Bytes::from(key);
        let swapped = self.state().data.swap(&key, expected_version, value.into());
        swapped.expect("the version is the present one");
    }

    /// Waits until so many writes have been applied in all.
    pub(crate) async fn wait_applied(&self, count: u64) {
        let mut applied = self.applied.subscribe();
        let enough = applied.wait_for(|applied| *applied >= count);
        guarded("enough has been applied", enough).await.unwrap();
    }

    /// Waits until so many requests have arrived in all.
    pub(crate) async fn wait_arrived(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        let enough = arrived.wait_for(|arrived| *arrived >= count);
        guarded("enough has arrived", enough).await.unwrap();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn serve<T>(
        &self,
        context: Option<Context>,
        touched: Touched<'_>,
        work: impl FnOnce(&mut Data) -> Result<T, Status>,
    ) -> Result<Result<T, RegionError>, Status> {
        let context = context.expect("the client always says where to");
        let step = {
            let mut state = self.state();
            state.requests += 1;
            if let Touched::Keys(keys) = touched {
                for key in keys {
                    *state.asked.entry(key.clone()).or_default() += 1;
                }
            }
            self.arrived.send_replace(state.requests);
            if let (Touched::Keys(keys), Some(allowed)) = (touched, state.allowed)
                && keys.iter().any(|key| *key != allowed.as_bytes())
            {
                let denied = Fault::new(Code::PermissionDenied, "not this key");
                return Err(denied.with_fate(Fate::NotApplied).into());
            }
            let scripted = state
                .script
                .get_mut(&context.region_id)
                .and_then(VecDeque::pop_front);
            scripted.or_else(|| state.always.clone().map(|kind| Step::Refuse(Some(kind))))
        };
        match step {
            None => {}
            Some(Step::Refuse(kind)) => return Ok(Err(RegionError { kind })),
            Some(Step::Fail(status)) => return Err(status),
            Some(Step::Hang) => pending().await,
            Some(Step::Hold(mut release)) => {
                release.wait_for(|released| *released).await.unwrap();
            }
            Some(Step::ApplyAndFail(status)) => {
                let mut state = self.state();
                assert_eq!(check(self.id, &state.regions, context, touched), Ok(()));
                work(&mut state.data)?;
                self.count_applied(&state);
                return Err(status);
            }
        }
        let mut state = self.state();
        if let Err(kind) = check(self.id, &state.regions, context, touched) {
            return Ok(Err(kind.into()));
        }
        let answer = work(&mut state.data)?;
        self.count_applied(&state);
        Ok(Ok(answer))
    }

    fn count_applied(&self, state: &State) {
        self.applied.send_replace(state.data.applied.values().sum());
    }
}

/// The keys of a request.
#[derive(Clone, Copy)]
enum Touched<'a> {
    Keys(&'a [Bytes]),
    Range(&'a Bytes, &'a Bytes),
}

fn check(
    store_id: u64,
    regions: &[Region],
    context: Context,
    touched: Touched<'_>,
) -> Result<(), Kind> {
    if context.store_id != store_id {
        return Err(Kind::StoreMismatch(StoreMismatch { store_id }));
    }
    let Some(region) = regions.iter().find(|region| region.id == context.region_id) else {
        return Err(Kind::RegionNotFound(RegionNotFound {
            region_id: context.region_id,
        }));
    };
    if context.region_epoch.unwrap().version != region.version() {
        return Err(Kind::EpochNotMatch(EpochNotMatch {
            current_regions: regions.to_vec(),
            ..EpochNotMatch::default()
        }));
    }
    let inside = match touched {
        Touched::Keys(keys) => keys.iter().all(|key| region.contains(key)),
        Touched::Range(start_key, end_key) => region.contains_range(start_key, end_key),
    };
    match inside {
        true => Ok(()),
        false => Err(Kind::KeyNotInRegion(KeyNotInRegion {
            region: Some(region.clone()),
        })),
    }
}

impl Data {
    fn put(&mut self, key: &Bytes, value: Bytes) {
        *self.applied.entry(key.clone()).or_default() += 1;
        self.raw.insert(key.clone(), Some(value));
    }

    fn delete(&mut self, key: &Bytes) {
        *self.applied.entry(key.clone()).or_default() += 1;
        self.raw.insert(key.clone(), None);
    }

    fn swap(&mut self, key: &Bytes, expected_version: u64, value: Bytes) -> Result<u64, Conflict> {
        if let Some(conflict) = self.conflict(key, expected_version) {
            return Err(conflict);
        }
        *self.applied.entry(key.clone()).or_default() += 1;
        let version = expected_version + 1;
        let entry = Versioned { version, value };
        self.versioned.insert(key.clone(), entry);
        Ok(version)
    }

    fn delete_version(&mut self, key: &Bytes, expected_version: u64) -> Result<(), Conflict> {
        if let Some(conflict) = self.conflict(key, expected_version) {
            return Err(conflict);
        }
        *self.applied.entry(key.clone()).or_default() += 1;
        self.versioned.remove(key);
        Ok(())
    }

    fn conflict(&self, key: &Bytes, expected_version: u64) -> Option<Conflict> {
        let current = self.versioned.get(key);
        let current_version = current.map_or(0, |current| current.version);
        (current_version != expected_version).then(|| Conflict {
            current_version,
            current_value: current.map(|current| current.value.clone()),
            value_omitted: false,
        })
    }
}
