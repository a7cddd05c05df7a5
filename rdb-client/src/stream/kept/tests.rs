//! When a stream is given up, and when its task ends.

use std::convert::Infallible;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, poll, stream};
use http::{HeaderValue, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use rdb_proto::batch::{self, BatchCodec};
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::body::Body;
use tonic::codec::Codec;

use super::super::{Gate, Requests, Taken};
use super::*;

const SILENCE_MAX: Duration = Duration::from_millis(20);

/// How often the task looks before an answer is owed.
const LOOKS_WHILE_IDLE: usize = 3;

/// Its streams open at once and bring nothing.
#[derive(Default)]
struct Silent {
    gate: Mutex<Gate>,
    token: Mutex<Option<HeaderValue>>,
    looks: AtomicUsize,
    /// When an answer was owed first.
    owed_since: OnceLock<Instant>,
    was_silent: AtomicUsize,
    stopped: Notify,
    abandoned: Notify,
}

impl Traffic for Silent {
    const YIELDS_WITHIN_TURN: bool = false;

    type Request = batch::Request;
    type Response = batch::Response;
    type Peer = ();
    type Loss = ();

    async fn open(self: &Arc<Self>) -> Result<(Streaming<batch::Response>, ()), ()> {
        let nothing = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let body = Body::new(StreamBody::new(nothing));
        let mut codec = BatchCodec::<batch::Request, batch::Response>::default();
        let answers = Streaming::new_response(codec.decoder(), body, StatusCode::OK, None, None);
        Ok((answers, ()))
    }

    fn take(&self, _: u64, _: bool, _: &Waker) -> Taken<batch::Request> {
        Taken::Nothing
    }

    fn changing_token(&self) -> Option<HeaderValue> {
        self.token.lock().expect("no panic").clone()
    }

    fn receive(&self, (): &(), _: batch::Response) -> Result<(), ()> {
        Ok(())
    }

    fn owed_since(&self) -> Option<Instant> {
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        (looks >= LOOKS_WHILE_IDLE).then(|| *self.owed_since.get_or_init(Instant::now))
    }

    fn silence_max(&self) -> Duration {
        SILENCE_MAX
    }

    fn end(&self, (): &(), end: End) {
        assert!(matches!(end, End::Silent), "{end:?}");
        self.was_silent.fetch_add(1, Ordering::Relaxed);
    }

    fn lose(&self, (): (), was_useful: bool) {
        assert!(!was_useful);
    }

    fn stop_when_idle(&self) -> bool {
        self.gate(Gate::stop);
        self.stopped.notify_one();
        true
    }

    fn abandon(&self) {
        self.abandoned.notify_one();
    }

    fn gate<R>(&self, change: impl FnOnce(&mut Gate) -> R) -> R {
        change(&mut self.gate.lock().expect("no panic"))
    }
}

async fn soon(notify: &Notify) {
    let notified = timeout(Duration::from_secs(60), notify.notified()).await;
    notified.expect("in time");
}

#[tokio::test]
async fn a_stream_is_given_up_when_an_answer_is_owed_for_too_long_and_not_while_it_is_idle() {
    let kept = Kept::new(Silent::default());
    assert!(kept.traffic().gate(Gate::start));
    kept.start();
    soon(&kept.traffic().stopped).await;
    assert_eq!(kept.traffic().was_silent.load(Ordering::Relaxed), 1);
    assert!(kept.traffic().looks.load(Ordering::Relaxed) > LOOKS_WHILE_IDLE);
    assert!(kept.traffic().gate(Gate::start), "the task has ended");
}

#[tokio::test]
async fn a_task_that_is_dropped_abandons_its_calls() {
    let kept = Kept::new(Silent::default());
    let traffic = Arc::clone(&kept.traffic);
    kept.start();
    drop(kept);
    soon(&traffic.abandoned).await;
}

#[tokio::test]
async fn a_stream_ends_when_its_token_was_replaced_and_the_next_one_has_the_new_token() {
    let traffic = Arc::new(Silent::default());
    let replace = |token| {
        *traffic.token.lock().expect("no panic") = Some(HeaderValue::from_static(token));
    };
    replace("old");
    let mut requests = Requests::new(&traffic);
    assert!(poll!(requests.next()).is_pending());
    replace("new");
    assert!(requests.next().await.is_none());
    let mut requests = Requests::new(&traffic);
    assert!(poll!(requests.next()).is_pending());
}
