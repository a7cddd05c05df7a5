//! What an operator asks of regions. Checks: replicas that hold the same, one that does not, and those that do not answer.
//! Transfers of leadership.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdb_client::{Client, Error, RegionCheck, RegionRoute, ReplicaOutcome};
use rdb_proto::adminpb::get_checksum_response::State;
use rdb_proto::adminpb::region_admin_client::RegionAdminClient;
use rdb_proto::adminpb::{BeginCheckRequest, GetChecksumRequest, Position};
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::metapb::Context;
use rdb_storage::{
    ApplyOptions, Command, LogChange, LogEntry, Proposal, Role, Storage, StorageOptions,
};
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{HANG_GUARD, Node, connect, found, start_replicated};

const STORES: usize = 3;
const REGION: u64 = 1;
const WRITERS: usize = 32;

struct Stores {
    /// By their addresses.
    stores: BTreeMap<String, Node>,
    client: Client,
    _pd: Node,
    _directory: TempDir,
}

impl Stores {
    async fn start() -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let (pd, mut stores) = start_replicated(directory.path(), STORES, |store| store).await;
        for store in &mut stores {
            store.wait_for_health(ServingStatus::Serving).await;
        }
        let stores = stores.into_iter().map(|store| (store.address(), store));
        let client = Client::connect([pd.address()]).await;
        let client = client.expect("the placement driver serves");
        Self {
            stores: stores.collect(),
            client: client.with_timeout(HANG_GUARD),
            _pd: pd,
            _directory: directory,
        }
    }

    async fn route(&self) -> RegionRoute {
        found("a store leads", async || {
            let route = self.client.region("k").await.expect("it answers")?;
            route.leader.is_some().then_some(route)
        })
        .await
    }

    async fn check(&self) -> RegionCheck {
        let checked = self.client.check_region(&self.route().await).await;
        checked.expect("begun")
    }

    fn store(&mut self, address: &str) -> &mut Node {
        self.stores.get_mut(address).expect("one of them")
    }

    /// The addresses of the leader and of the others.
    async fn roles(&self) -> (String, Vec<String>) {
        let leader = self.route().await.leader.expect("there is one").address;
        let followers = self.stores.keys().filter(|address| **address != leader);
        let followers = followers.cloned().collect();
        (leader, followers)
    }
}

/// By the store's address.
fn digests(check: &RegionCheck) -> BTreeMap<String, String> {
    let replicas = check.replicas.iter();
    let digests = replicas.map(|replica| match &replica.outcome {
        ReplicaOutcome::Checksum { digest, .. } => {
            let address = replica.address.clone().expect("it is known");
            (address, format!("{digest:?}"))
        }
        other => panic!("{other:?}"),
    });
    digests.collect()
}

/// Puts a key as if a log entry had done so, without moving the position.
fn tamper(data_dir: &Path) {
    let options = StorageOptions {
        replicated: true,
        ..StorageOptions::new(Role::Server)
    };
    let storage = Storage::open(data_dir, options).expect("the store has ended");
    let regions = storage.regions().expect("read");
    let position = storage.applied_position(REGION).expect("read");
    let put = Command::PutRaw {
        key: "tampered".into(),
        value: "value".into(),
    };
    let entry = LogEntry {
        position: position.expect("entries were applied"),
        change: LogChange::Proposal(Proposal {
            epoch_version: regions[0].version,
            commands: vec![put],
        }),
    };
    let applied = storage.apply(REGION, &[entry], ApplyOptions::default());
    applied.expect("applied");
    storage.close().expect("flushed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_hold_the_same_under_writes_and_one_that_does_not_is_found() {
    let mut stores = Stores::start().await;
    let written = Arc::new(AtomicU64::new(0));
    let writers = (0..WRITERS).map(|writer| {
        let (client, written) = (stores.client.clone(), Arc::clone(&written));
        tokio::spawn(async move {
            for number in 0.. {
                let key = format!("key-{writer}-{}", number % 100);
                client.raw_put(key, number.to_string()).await.expect("put");
                written.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut indexes = Vec::new();
    for _ in 0..5 {
        let before = written.load(Ordering::Relaxed);
        let goes_on = async || (written.load(Ordering::Relaxed) > before).then_some(());
        found("somebody writes", goes_on).await;
        let check = stores.check().await;
        indexes.push(check.index);
        let digests = digests(&check);
        assert_eq!(digests.len(), STORES);
        let first = &digests.values().next();
        assert!(digests.values().all(|digest| Some(digest) == *first));
    }
    assert!(indexes.is_sorted_by(|one, next| one < next), "{indexes:?}");
    writers.iter().for_each(|writer| writer.abort());

    let (leader, followers) = stores.roles().await;
    let follower = stores.store(&followers[0]);
    follower.terminate();
    assert!(follower.exited().await.success());
    let data_dir = follower.data_dir().to_owned();
    let tampered = spawn_blocking(move || tamper(&data_dir)).await;
    tampered.expect("no panic");
    follower.start_serving().await;
    let digests = digests(&stores.check().await);
    assert_eq!(digests[&leader], digests[&followers[1]]);
    assert_ne!(digests[&leader], digests[&followers[0]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_does_not_answer_is_told_of_and_applies_the_check_later() {
    let mut stores = Stores::start().await;
    stores.client.raw_put("k", "v").await.expect("put");
    let (_, followers) = stores.roles().await;
    stores.store(&followers[0]).kill();
    // The others have to answer within the time that is waited for it.
    let hasty = stores.client.with_timeout(Duration::from_secs(5));
    let answers = found("the other two answer", async || {
        let check = hasty.check_region(&stores.route().await).await.ok()?;
        let replicas = check.replicas.into_iter();
        let answers = replicas.map(|replica| {
            let has_answered = matches!(replica.outcome, ReplicaOutcome::Checksum { .. });
            (replica.address.expect("it is known"), has_answered)
        });
        let answers: BTreeMap<_, _> = answers.collect();
        let count = answers.values().filter(|has_answered| **has_answered);
        (count.count() == STORES - 1).then_some(answers)
    });
    assert!(!answers.await[&followers[0]]);
    // The check is in the log, and so is what comes behind it.
    stores.store(&followers[0]).start_serving().await;
    let digests = digests(&stores.check().await);
    assert_eq!(digests[&followers[0]], digests[&followers[1]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_to_the_store_that_is_named_and_to_none_that_is_silent() {
    let mut stores = Stores::start().await;
    let transfer =
        async |client: &Client, route: &RegionRoute, to| client.transfer_leader(route, to).await;
    let mut terms = Vec::new();
    for _ in 0..2 {
        let route = stores.route().await;
        for peer in &route.region.peers {
            // It is refused while the leader has not heard of that store for a while.
            let leads = async || transfer(&stores.client, &route, peer.store_id).await.ok();
            terms.push(found("it leads", leads).await);
            stores.client.raw_get("k").await.expect("read");
        }
    }
    assert!(terms.is_sorted(), "{terms:?}");
    let route = stores.route().await;
    let nowhere = transfer(&stores.client, &route, 99).await;
    let nowhere = nowhere.expect_err("no replica");
    assert!(matches!(nowhere, Error::InvalidArgument { field, .. } if field == "to_store"));

    let (_, followers) = stores.roles().await;
    let mut of_region = route.peers.iter();
    let silent = of_region.find(|store| store.address == followers[0]);
    let silent = silent.expect("it has a replica").id;
    stores.store(&followers[0]).kill();
    let hasty = stores.client.with_timeout(Duration::from_secs(5));
    let refused = transfer(&hasty, &stores.route().await, silent).await;
    let refused = refused.expect_err("it is gone");
    assert!(
        refused.is_retryable() || matches!(refused, Error::Refused { .. }),
        "{refused}"
    );
    stores.client.raw_get("k").await.expect("read");
}

async fn admin(address: &str) -> RegionAdminClient<Channel> {
    let channel = connect(address).await.expect("it listens");
    RegionAdminClient::new(channel)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_begins_a_check_and_a_position_that_is_not_reached_is_told() {
    let mut stores = Stores::start().await;
    let of = |region_id| {
        Some(Context {
            region_id,
            ..Context::default()
        })
    };
    let begin = async |address: &str, region_id| {
        let request = BeginCheckRequest {
            context: of(region_id),
        };
        let begun = admin(address).await.begin_check(request).await;
        Some(begun.ok()?.into_inner())
    };
    // Another store may come to lead in between.
    let (leader, begun) = found("the leader only begins one", async || {
        let (leader, followers) = stores.roles().await;
        let elsewhere = begin(&followers[0], REGION).await?.region_error?.kind;
        let begun = begin(&leader, REGION).await?.position?;
        matches!(elsewhere, Some(Kind::NotLeader(_))).then_some((leader, begun))
    })
    .await;
    let unknown = begin(&leader, 7).await.expect("an answer").region_error;
    let unknown = unknown.expect("refused").kind;
    assert!(matches!(unknown, Some(Kind::RegionNotFound(_))));

    let far = Position {
        index: begun.index + 1000,
        ..begun
    };
    let request = GetChecksumRequest {
        context: of(REGION),
        position: Some(far),
        wait_ms: 1,
    };
    let answer = admin(&leader).await.get_checksum(request).await;
    let state = answer.expect("an answer").into_inner().state;
    let Some(State::NotReached(applied)) = state else {
        panic!("{state:?}");
    };
    assert!(applied.index >= begun.index && applied.index < far.index);

    // What was applied is flushed when a store ends, and so not applied again.
    stores.store(&leader).terminate();
    assert!(stores.store(&leader).exited().await.success());
    stores.store(&leader).start_serving().await;
    let request = GetChecksumRequest {
        context: of(REGION),
        position: Some(begun),
        wait_ms: 1,
    };
    let answer = admin(&leader).await.get_checksum(request).await;
    let state = answer.expect("an answer").into_inner().state;
    let Some(State::Failure(cause)) = state else {
        panic!("{state:?}");
    };
    assert!(cause.contains("gone past"), "{cause}");

    let request = GetChecksumRequest {
        context: of(REGION),
        ..GetChecksumRequest::default()
    };
    let nowhere = admin(&leader).await.get_checksum(request).await;
    let status = nowhere.expect_err("no position");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}
