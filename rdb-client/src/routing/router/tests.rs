//! What happens to a connection when a unary call on it fails.

use std::iter::repeat_n;
use std::pin::pin;
use std::time::Duration;

use futures::future::join_all;
use futures::poll;
use rdb_proto::kvrpc::{RawGetRequest, RawPutRequest};
use rdb_proto::metapb::Region;

use super::super::region_cache::PeerStore;
use super::*;
use crate::connection::scripted_peer::{INTERNAL_ERROR, Reaction, ScriptedPeer};
use crate::connection::{CALLS_MAX, Security};

const PATIENCE: Duration = Duration::from_secs(60);

/// A router without streams, and a route to the peer. The placement driver is not there.
fn router(peer: &ScriptedPeer) -> (Router, Route) {
    let placement_driver = PlacementDriver::new(
        ["127.0.0.1:1".to_owned()].into_iter(),
        PATIENCE,
        Security::default(),
        Arc::default(),
    );
    let placement_driver = Arc::new(placement_driver.expect("an address"));
    let router = Router::new(7, placement_driver, None);
    let leader = PeerStore {
        store_id: 1,
        address: peer.address.clone(),
    };
    (router, Route::new(Region::default(), leader))
}

fn deadline() -> Deadline {
    Deadline::after(PATIENCE)
}

#[tokio::test]
async fn a_call_that_is_reset_leaves_the_connection_to_the_next() {
    use Reaction::{Answer, Ignore, Reset};
    let script = vec![Answer, Reset(INTERNAL_ERROR), Answer, Ignore];
    let peer = ScriptedPeer::start(vec![script]).await;
    let (router, route) = router(&peer);
    let read = || router.attempt(&route, b"", RawGetRequest::default(), deadline());
    let reset = read().await;
    assert!(matches!(reset, Err(Failure::Again { .. })), "{reset:?}");
    assert!(read().await.is_ok());
    assert_eq!(peer.connections(), 1);
}

/// A call that is still under way keeps the old connection open.
#[tokio::test]
async fn a_connection_whose_peer_goes_away_is_not_used_again() {
    use Reaction::{Answer, GoAwayBefore, Ignore};
    let first = vec![Answer, Ignore, GoAwayBefore, Ignore];
    let peer = ScriptedPeer::start(vec![first, vec![Answer, Answer, Ignore]]).await;
    let (router, route) = router(&peer);
    let read = || router.attempt(&route, b"", RawGetRequest::default(), deadline());
    let mut under_way = pin!(read());
    assert!(poll!(under_way.as_mut()).is_pending());
    let refused = tokio::select! {
        biased;
        ended = under_way.as_mut() => panic!("{ended:?}"),
        refused = read() => refused,
    };
    assert!(matches!(refused, Err(Failure::Again { .. })), "{refused:?}");
    let next = read().await;
    assert!(next.is_ok(), "{next:?}");
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn a_write_that_found_no_place_in_time_was_certainly_not_applied() {
    let calls = CALLS_MAX;
    let script = [Reaction::Answer].into_iter();
    let script = script.chain(repeat_n(Reaction::Ignore, calls + 1));
    let peer = ScriptedPeer::start(vec![script.collect()]).await;
    let (router, route) = router(&peer);
    let put = |deadline| router.attempt(&route, b"", RawPutRequest::default(), deadline);
    let hurried = put(Deadline::after(Duration::from_millis(50)));
    let others = join_all((0..calls).map(|_| put(deadline())));
    let ended = tokio::select! {
        biased;
        ended = others => panic!("{ended:?}"),
        ended = hurried => ended,
    };
    let expected = matches!(ended, Err(Failure::Final(Error::DeadlineExceeded { .. })));
    assert!(expected, "{ended:?}");
}
