//! What a scrape contains, and that it blocks nothing.

use std::sync::mpsc;
use std::thread;

use rdb_proto::auth::Caller;
use rdb_proto::kvrpc::kv_raw_server::KvRaw;
use rdb_proto::kvrpc::{RawGetRequest, RawPutRequest};
use rdb_proto::transport::Call;
use tokio::time::timeout;
use tonic::Request;

use super::*;
use crate::service::RawService;

/// Far above what a busy machine needs.
const HANG_GUARD: Duration = Duration::from_secs(300);

/// [`Regions::counts`] takes two locks, for as long as it looks at each region. No read and no write takes them. What a scrape shows
/// of the rights is read without a lock, as the tests of [`Guard`](rdb_proto::auth::Guard) hold. That a whole scrape waits for no lock of a
/// write that is being synced is tested from outside, in `tests/server/scrape.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_and_writes_go_on_while_the_locks_of_a_scrape_are_held() {
    let Fixture {
        regions,
        router,
        _directory,
    } = fixture(Durability::Sync).await;
    let adopted = regions.adopt(vec![region(&[(1, STORE)])]).await;
    adopted.expect("it is begun");
    // What publishes the state of a group waits for the locks; it is not to have anything left to tell.
    let mut states = regions.states();
    let leads = |states: &BTreeMap<_, _>| !regions.replicas().leads(states).is_empty();
    drop(states.wait_for(leads).await.expect("it leads alone"));
    let regions = Arc::new(regions);
    let ((held, is_held), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    let holder = thread::spawn({
        let regions = Arc::clone(&regions);
        move || {
            let states = regions.node.states();
            let _locks = (regions.replicas(), states.borrow());
            held.send(()).expect("the test waits");
            // Until the test is done, also if it fails.
            let _ = released.recv();
        }
    });
    is_held.recv().expect("they are held");

    let service = RawService::new(router);
    let served = async move {
        let put = RawPutRequest {
            key: "k".into(),
            value: "v".into(),
            ..RawPutRequest::default()
        };
        let put = service.raw_put(request(put)).await;
        assert_eq!(put.expect("put").into_inner().region_error, None);
        let get = RawGetRequest {
            key: "k".into(),
            ..RawGetRequest::default()
        };
        let read = service.raw_get(request(get)).await;
        read.expect("read").into_inner().value
    };
    let read = timeout(HANG_GUARD, tokio::spawn(served)).await;
    let read = read.expect("they wait for nothing").expect("no panic");
    assert_eq!(read.as_deref(), Some(&b"v"[..]));
    drop(release);
    holder.join().expect("no panic");
    assert_eq!(regions.counts().led, 1);
}

/// A request of somebody who may do everything.
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let call = Call::unserved(Caller::anyone());
    request.extensions_mut().insert(call);
    request
}
