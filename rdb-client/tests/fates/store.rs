//! A store that keeps its data in memory, checks contexts as a real one does, and deviates on demand.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::errorpb::{
    EpochNotMatch, KeyNotInRegion, RegionError, RegionNotFound, StoreMismatch,
};
use rdb_proto::kvrpc::kv_cas_server::KvCas;
use rdb_proto::kvrpc::kv_raw_server::KvRaw;
use rdb_proto::kvrpc::*;
use rdb_proto::metapb::{Context, Region};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// Entries of one page of a scan: few, so that tests see many pages.
pub(crate) const PAGE_ENTRIES: usize = 3;

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
}

#[derive(Default)]
pub(crate) struct Data {
    raw: BTreeMap<Bytes, Bytes>,
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
    requests: usize,
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

    pub(crate) fn set_regions(&self, regions: Vec<Region>) {
        self.state().regions = regions;
    }

    /// How many requests arrived.
    pub(crate) fn requests(&self) -> usize {
        self.state().requests
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
        self.state().data.raw.get(key.as_bytes()).cloned()
    }

    /// Waits until so many writes have been applied in all.
    pub(crate) async fn wait_applied(&self, count: u64) {
        self.applied
            .subscribe()
            .wait_for(|applied| *applied >= count)
            .await
            .unwrap();
    }

    /// Waits until so many requests have arrived in all.
    pub(crate) async fn wait_arrived(&self, count: usize) {
        self.arrived
            .subscribe()
            .wait_for(|arrived| *arrived >= count)
            .await
            .unwrap();
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
            self.arrived.send_replace(state.requests);
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
        self.raw.insert(key.clone(), value);
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

/// One page, and where to go on.
fn page<T>(
    entries: impl DoubleEndedIterator<Item = (Bytes, T)>,
    request: &RawScanRequest,
) -> (Vec<(Bytes, T)>, Option<Bytes>) {
    let inside = |key: &Bytes| {
        *key >= request.start_key && (request.end_key.is_empty() || *key < request.end_key)
    };
    let inside = entries.filter(|(key, _)| inside(key));
    let mut ordered: Vec<_> = match request.reverse {
        false => inside.collect(),
        true => inside.rev().collect(),
    };
    let limit = request
        .limit
        .map_or(PAGE_ENTRIES, |limit| PAGE_ENTRIES.min(limit as usize));
    let rest = ordered.split_off(limit.min(ordered.len()));
    let resume_key = ordered
        .last()
        .filter(|_| !rest.is_empty())
        .map(|(last, _)| match request.reverse {
            true => last.clone(),
            false => [last, &b"\0"[..]].concat().into(),
        });
    (ordered, resume_key)
}

type Answer<T> = Result<Response<T>, Status>;

/// An answer from either its fields or a routing answer.
macro_rules! answer {
    ($response:ident, $served:expr, |$value:pat_param| { $($field:ident: $content:expr),* $(,)? }) => {
        Ok(Response::new(match $served {
            Ok($value) => $response { $($field: $content,)* region_error: None },
            Err(region_error) => {
                let mut response = $response::default();
                response.region_error = Some(region_error);
                response
            }
        }))
    };
}

#[tonic::async_trait]
impl KvRaw for Store {
    async fn raw_put(&self, request: Request<RawPutRequest>) -> Answer<RawPutResponse> {
        let RawPutRequest {
            context,
            key,
            value,
        } = request.into_inner();
        let keys = [key.clone()];
        let served = self.serve(context, Touched::Keys(&keys), |data| {
            data.put(&key, value);
            Ok(())
        });
        answer!(RawPutResponse, served.await?, |()| {})
    }

    async fn raw_get(&self, request: Request<RawGetRequest>) -> Answer<RawGetResponse> {
        let RawGetRequest { context, key } = request.into_inner();
        let keys = [key.clone()];
        let served = self.serve(context, Touched::Keys(&keys), |data| {
            Ok(data.raw.get(&key).cloned())
        });
        answer!(RawGetResponse, served.await?, |value| { value: value })
    }

    async fn raw_delete(&self, request: Request<RawDeleteRequest>) -> Answer<RawDeleteResponse> {
        let RawDeleteRequest { context, key } = request.into_inner();
        let keys = [key.clone()];
        let served = self.serve(context, Touched::Keys(&keys), |data| {
            *data.applied.entry(key.clone()).or_default() += 1;
            data.raw.remove(&key);
            Ok(())
        });
        answer!(RawDeleteResponse, served.await?, |()| {})
    }

    async fn raw_batch_put(
        &self,
        request: Request<RawBatchPutRequest>,
    ) -> Answer<RawBatchPutResponse> {
        let RawBatchPutRequest { context, entries } = request.into_inner();
        let keys: Vec<Bytes> = entries.iter().map(|entry| entry.key.clone()).collect();
        let served = self.serve(context, Touched::Keys(&keys), |data| {
            for entry in entries {
                data.put(&entry.key, entry.value);
            }
            Ok(())
        });
        answer!(RawBatchPutResponse, served.await?, |()| {})
    }

    async fn raw_batch_get(
        &self,
        request: Request<RawBatchGetRequest>,
    ) -> Answer<RawBatchGetResponse> {
        let RawBatchGetRequest { context, keys } = request.into_inner();
        let served = self.serve(context, Touched::Keys(&keys), |data| {
            let found = keys.iter().filter_map(|key| {
                let value = data.raw.get(key)?.clone();
                Some(KeyValue {
                    key: key.clone(),
                    value,
                })
            });
            Ok(found.collect())
        });
        answer!(RawBatchGetResponse, served.await?, |entries| { entries: entries })
    }

    async fn raw_scan(&self, request: Request<RawScanRequest>) -> Answer<RawScanResponse> {
        let request = request.into_inner();
        let range = Touched::Range(&request.start_key, &request.end_key);
        let served = self.serve(request.context, range, |data| {
            let entries = data
                .raw
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()));
            let (entries, resume_key) = page(entries, &request);
            let entries = entries.into_iter().map(|(key, value)| KeyValue {
                key,
                value: if request.keys_only {
                    Bytes::new()
                } else {
                    value
                },
            });
            Ok((entries.collect(), resume_key))
        });
        answer!(RawScanResponse, served.await?, |(entries, resume_key)| {
            entries: entries,
            resume_key: resume_key,
        })
    }

    async fn raw_delete_range(
        &self,
        request: Request<RawDeleteRangeRequest>,
    ) -> Answer<RawDeleteRangeResponse> {
        let RawDeleteRangeRequest {
            context,
            start_key,
            end_key,
        } = request.into_inner();
        let served = self.serve(context, Touched::Range(&start_key, &end_key), |data| {
            *data.applied.entry(start_key.clone()).or_default() += 1;
            data.raw
                .retain(|key, _| *key < start_key || (!end_key.is_empty() && *key >= end_key));
            Ok(())
        });
        answer!(RawDeleteRangeResponse, served.await?, |()| {})
    }
}

#[tonic::async_trait]
impl KvCas for Store {
    async fn compare_and_swap(
        &self,
        request: Request<CompareAndSwapRequest>,
    ) -> Answer<CompareAndSwapResponse> {
        use compare_and_swap_response::Result as Outcome;
        let CompareAndSwapRequest {
            context,
            key,
            expected_version,
            value,
        } = request.into_inner();
        let keys = [key.clone()];
        let served = self.serve(context, Touched::Keys(&keys), |data| {
            if let Some(conflict) = data.conflict(&key, expected_version) {
                return Ok(Outcome::Conflict(conflict));
            }
            *data.applied.entry(key.clone()).or_default() += 1;
            let version = expected_version + 1;
            data.versioned
                .insert(key.clone(), Versioned { version, value });
            Ok(Outcome::Swapped(Swapped { version }))
        });
        answer!(CompareAndSwapResponse, served.await?, |outcome| { result: Some(outcome) })
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<GetResponse> {
        let GetRequest { context, key } = request.into_inner();
        let keys = [key.clone()];
        let served = self.serve(context, Touched::Keys(&keys), |data| {
            Ok(data.versioned.get(&key).cloned())
        });
        answer!(GetResponse, served.await?, |entry| { entry: entry })
    }

    async fn compare_and_delete(
        &self,
        request: Request<CompareAndDeleteRequest>,
    ) -> Answer<CompareAndDeleteResponse> {
        use compare_and_delete_response::Result as Outcome;
        let CompareAndDeleteRequest {
            context,
            key,
            expected_version,
        } = request.into_inner();
        let keys = [key.clone()];
        let served = self.serve(context, Touched::Keys(&keys), |data| {
            if let Some(conflict) = data.conflict(&key, expected_version) {
                return Ok(Outcome::Conflict(conflict));
            }
            *data.applied.entry(key.clone()).or_default() += 1;
            data.versioned.remove(&key);
            Ok(Outcome::Deleted(Deleted {}))
        });
        answer!(CompareAndDeleteResponse, served.await?, |outcome| { result: Some(outcome) })
    }

    async fn batch_get(&self, request: Request<BatchGetRequest>) -> Answer<BatchGetResponse> {
        let BatchGetRequest { context, keys } = request.into_inner();
        let served = self.serve(context, Touched::Keys(&keys), |data| {
            let found = keys.iter().filter_map(|key| {
                let Versioned { version, value } = data.versioned.get(key)?.clone();
                Some(VersionedKeyValue {
                    key: key.clone(),
                    version,
                    value,
                })
            });
            Ok(found.collect())
        });
        answer!(BatchGetResponse, served.await?, |entries| { entries: entries })
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Answer<ScanResponse> {
        let ScanRequest {
            context,
            start_key,
            end_key,
            limit,
            reverse,
            keys_only,
        } = request.into_inner();
        let request = RawScanRequest {
            context,
            start_key,
            end_key,
            limit,
            reverse,
            keys_only,
        };
        let range = Touched::Range(&request.start_key, &request.end_key);
        let served = self.serve(context, range, |data| {
            let entries = data
                .versioned
                .iter()
                .map(|(key, entry)| (key.clone(), entry.clone()));
            let (entries, resume_key) = page(entries, &request);
            let entries = entries
                .into_iter()
                .map(|(key, Versioned { version, value })| VersionedKeyValue {
                    key,
                    version,
                    value,
                });
            Ok((entries.collect(), resume_key))
        });
        answer!(ScanResponse, served.await?, |(entries, resume_key)| {
            entries: entries,
            resume_key: resume_key,
        })
    }
}
