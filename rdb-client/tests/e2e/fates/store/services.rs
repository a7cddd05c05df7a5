//! The data services over the store's memory.

use bytes::Bytes;
use rdb_proto::kvrpc::batch_answer::Response as PointAnswer;
use rdb_proto::kvrpc::batch_command::Request as Command;
use rdb_proto::kvrpc::kv_cas_server::KvCas;
use rdb_proto::kvrpc::kv_raw_server::KvRaw;
use rdb_proto::kvrpc::*;
use rdb_proto::metapb::Context;
use tonic::{Request, Response, Status};

use super::{Data, PAGE_ENTRIES, PAGE_SKIPPED_MAX, Store, Touched};

/// One page, and where to go on. Deleted entries count, as in a real store.
fn page<T>(
    entries: impl DoubleEndedIterator<Item = (Bytes, Option<T>)>,
    request: &RawScanRequest,
) -> (Vec<(Bytes, T)>, Option<Bytes>) {
    let inside = |key: &Bytes| {
        *key >= request.start_key && (request.end_key.is_empty() || *key < request.end_key)
    };
    let inside = entries.filter(|(key, _)| inside(key));
    let ordered: Vec<_> = match request.reverse {
        false => inside.collect(),
        true => inside.rev().collect(),
    };
    let limit = request
        .limit
        .map_or(PAGE_ENTRIES, |limit| PAGE_ENTRIES.min(limit as usize));
    let (mut page, mut skipped) = (Vec::new(), 0);
    let mut last = None;
    for (key, entry) in ordered {
        if page.len() == limit || skipped == PAGE_SKIPPED_MAX {
            let resume_key = last.map(|last: Bytes| match request.reverse {
                true => last,
                false => [&last, &b"\0"[..]].concat().into(),
            });
            return (page, resume_key);
        }
        last = Some(key.clone());
        match entry {
            Some(entry) => page.push((key, entry)),
            None => skipped += 1,
        }
    }
    (page, None)
}

type Answer<T> = Result<Response<T>, Status>;

/// An answer from either its fields or a routing answer.
macro_rules! answer {
    ($response:ident, $served:expr, |$value:pat_param| { $($field:ident: $content:expr),* $(,)? }) => {
        Ok(Response::new(match $served {
            Ok($value) => $response { $($field: $content,)* region_error: None },
            Err(region_error) => {
                let mut response = $response::default();
                response.region_error = Some(Box::new(region_error));
                response
            }
        }))
    };
}

impl Store {
    async fn call<T, R>(&self, request: Request<T>) -> Answer<R>
    where
        T: Into<Command>,
        R: TryFrom<PointAnswer, Error = Status>,
    {
        let request = request.into_inner().into();
        let context = request.context().copied();
        let answer = self.point(context, request).await?;
        R::try_from(answer).map(Response::new)
    }

    /// A point command, of a call or of a stream.
    pub(super) async fn point(
        &self,
        context: Option<Context>,
        request: Command,
    ) -> Result<PointAnswer, Status> {
        let keys = [request.key().clone()];
        let served = self.serve(context, Touched::Keys(&keys), |data| data.point(request));
        let served = served.await?;
        Ok(served.unwrap_or_else(|error| PointAnswer::RegionError(Box::new(error))))
    }
}

impl Data {
    fn point(&mut self, request: Command) -> Result<PointAnswer, Status> {
        let region_error = None;
        #[allow(
            unreachable_patterns,
            reason = "a new command comes here when a test of fates wants it"
        )]
        Ok(match request {
            Command::RawPut(put) => {
                self.put(&put.key, put.value);
                PointAnswer::RawPut(RawPutResponse { region_error })
            }
            Command::RawGet(get) => PointAnswer::RawGet(RawGetResponse {
                value: self.raw.get(&get.key).cloned().flatten(),
                region_error,
            }),
            Command::RawDelete(delete) => {
                self.delete(&delete.key);
                PointAnswer::RawDelete(RawDeleteResponse { region_error })
            }
            Command::CompareAndSwap(request) => {
                use compare_and_swap_response::Result as Outcome;
                let swapped = self.swap(&request.key, request.expected_version, request.value);
                let outcome = match swapped {
                    Ok(version) => Outcome::Swapped(Swapped { version }),
                    Err(conflict) => Outcome::Conflict(conflict),
                };
                PointAnswer::CompareAndSwap(CompareAndSwapResponse {
                    result: Some(outcome),
                    region_error,
                })
            }
            Command::Get(get) => PointAnswer::Get(GetResponse {
                entry: self.versioned.get(&get.key).cloned(),
                region_error,
            }),
            Command::CompareAndDelete(request) => {
                use compare_and_delete_response::Result as Outcome;
                let outcome = match self.delete_version(&request.key, request.expected_version) {
                    Ok(()) => Outcome::Deleted(Deleted {}),
                    Err(conflict) => Outcome::Conflict(conflict),
                };
                PointAnswer::CompareAndDelete(CompareAndDeleteResponse {
                    result: Some(outcome),
                    region_error,
                })
            }
            _ => return Err(Status::unimplemented("not needed here")),
        })
    }
}

#[tonic::async_trait]
impl KvRaw for Store {
    rdb_proto::point_methods!(KvRaw, |store, request| store.call(request));

    async fn raw_batch_delete(
        &self,
        request: Request<RawBatchDeleteRequest>,
    ) -> Answer<RawBatchDeleteResponse> {
        let RawBatchDeleteRequest { context, keys } = request.into_inner();
        let served = self.serve(context, Touched::Keys(&keys), |data| {
            keys.iter().for_each(|key| data.delete(key));
            Ok(())
        });
        answer!(RawBatchDeleteResponse, served.await?, |()| {})
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
                let value = data.raw.get(key)?.clone()?;
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
            for (key, value) in &mut data.raw {
                if *key >= start_key && (end_key.is_empty() || *key < end_key) {
                    *value = None;
                }
            }
            Ok(())
        });
        answer!(RawDeleteRangeResponse, served.await?, |()| {})
    }
}

#[tonic::async_trait]
impl KvCas for Store {
    rdb_proto::point_methods!(KvCas, |store, request| store.call(request));

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
                .map(|(key, entry)| (key.clone(), Some(entry.clone())));
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
