//! Rights that are taken away while calls are going on: over streams that were opened before, to every store.
//!
//! How long that takes is printed. It is asserted only where somebody has asked for it, since it depends on the machine.

mod load;

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use rdb_client::{Client, Config};
use rdb_proto::adminpb::BeginCheckRequest;
use rdb_proto::authpb::{Grant, Keyspace, Role, TokenChange};
use rdb_proto::kvrpc::RawPutRequest;
use rdb_proto::metapb::Context;
use tonic::Code;

use crate::administrator::{over, over_all};
use crate::bare::{Bare, Ended};
use crate::cluster::{
    Enforcing, REPLICAS_MAX, Setup, certificate, get, health, is_misrouted, store_user, write_token,
};
use crate::harness::{HANG_GUARD, Node, found};
use crate::wire::{CommandStream, bearer, call};
use load::{Calls, Load, Timestamps, put, read};

/// How long a revocation may take to count everywhere.
const COUNTS_WITHIN: Duration = Duration::from_secs(10);

/// A cluster and the users whose rights are taken away.
struct Users {
    cluster: Enforcing,
    /// Of those who lose their grant, are removed, and whose token is dropped.
    tokens: [String; 3],
    /// The one that stays good for the last of them.
    second: String,
}

fn writer() -> Grant {
    over(Role::Writer, Keyspace::Raw, "in/")
}

impl Users {
    async fn make() -> Self {
        let cluster = Enforcing::start().await;
        let admin = &cluster.admin;
        let mut tokens = Vec::new();
        for user in ["revoked", "removed", "rotated"] {
            tokens.push(admin.add(user).await);
            admin.grant(user, &writer()).await;
        }
        let second = admin.change_token("rotated", TokenChange::Add).await;
        cluster.settle().await;
        Self {
            tokens: tokens.try_into().expect("three"),
            second,
            cluster,
        }
    }

    /// Takes all of it away, and returns the longest time until that counted everywhere.
    async fn lose(&mut self) -> Duration {
        let (cluster, [revoked, removed, rotated]) = (&self.cluster, &self.tokens);
        let mut loads = [
            Load::start(cluster, "revoked", revoked).await,
            Load::start(cluster, "removed", removed).await,
            Load::start(cluster, "rotated", rotated).await,
        ];
        for load in &mut loads {
            load.served().await;
        }
        let admin = &cluster.admin;
        admin.revoke("revoked", &writer()).await;
        let mut taken_at = vec![Instant::now()];
        admin.remove("removed").await;
        taken_at.push(Instant::now());
        admin.change_token("rotated", TokenChange::DropOld).await;
        taken_at.push(Instant::now());
        let codes = [
            Code::PermissionDenied,
            Code::Unauthenticated,
            Code::Unauthenticated,
        ];
        let mut longest = Duration::ZERO;
        for ((load, code), taken_at) in loads.into_iter().zip(codes).zip(taken_at) {
            longest = longest.max(load.refused(code, taken_at).await);
        }
        longest
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_away_is_refused_on_open_streams_of_every_process() {
    let mut users = Users::make().await;
    let longest = users.lose().await;
    println!("the last call was let in {longest:?} after the answer to what took the right away");
    let store = users.cluster.channel(&users.cluster.stores[0]).await;
    let second = get(&store, "in/1", Some(&bearer(&users.second))).await;
    assert_eq!(second.code, Code::Ok, "the other token stays good");
    users.cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, so it wants an idle machine"]
async fn what_is_taken_away_is_refused_within_ten_seconds() {
    let longest = Users::make().await.lose().await;
    println!("the last call was let in {longest:?} after the answer to what took the right away");
    assert!(longest <= COUNTS_WITHIN, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_with_the_rights_that_are_left_and_with_new_ones() {
    let mut cluster = Enforcing::of_one_store().await;
    let admin = &cluster.admin;
    let token = bearer(&admin.add("ada").await);
    admin.grant("ada", &writer()).await;
    let keep = over(Role::Reader, Keyspace::Raw, "keep/");
    admin.grant("ada", &keep).await;
    cluster.settle().await;
    let store = cluster.channel(&cluster.stores[0]).await;
    let stream = CommandStream::open(&store, Some(&token)).await;
    let mut stream = stream.unwrap_or_else(|refused| panic!("{refused:?}"));
    let codes = async |stream: &mut CommandStream| {
        let commands = vec![put("in/k"), read("keep/k")];
        let answers = stream.commands(commands).await;
        let answers = answers.unwrap_or_else(|end| panic!("the stream has ended: {end:?}"));
        [answers[0].code, answers[1].code]
    };
    assert_eq!(codes(&mut stream).await, [Code::Ok, Code::Ok]);
    admin.revoke("ada", &writer()).await;
    found("the write is refused", async || {
        let [write, read] = codes(&mut stream).await;
        assert_eq!(read, Code::Ok, "the other grant stays");
        (write == Code::PermissionDenied).then_some(())
    })
    .await;
    admin.grant("ada", &writer()).await;
    found("the write is let in again", async || {
        (codes(&mut stream).await == [Code::Ok, Code::Ok]).then_some(())
    })
    .await;
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_by_a_certificate_who_is_removed_is_refused_on_open_connections() {
    let mut cluster = Enforcing::start_as(Setup {
        stores: 1,
        is_encrypted: true,
        ..Setup::default()
    })
    .await;
    cluster.admin.add_certificate("ada", "CN=ada").await;
    cluster.admin.grant("ada", &writer()).await;
    cluster.settle().await;
    let adas = certificate(cluster.ca(), "ada");
    let store = cluster.channel_of(&cluster.stores[0], &adas).await;
    let pd = cluster.channel_of(&cluster.pd, &adas).await;
    let stream = CommandStream::open(&store, None).await;
    let stream = stream.unwrap_or_else(|refused| panic!("{refused:?}"));
    let timestamps = Timestamps::open(&pd, None).await;
    let mut all = [Calls::Commands(stream), Calls::Timestamps(timestamps)];
    for calls in &mut all {
        assert_eq!(calls.next().await.code, Code::Ok);
    }
    cluster.admin.remove("ada").await;
    for calls in &mut all {
        let refused = found("she is refused", async || {
            let answer = calls.next().await;
            answer.is_refusal().then_some(answer)
        })
        .await;
        assert_eq!(refused.code, Code::Unauthenticated);
        refused.assert_not_applied();
    }
    let refused = get(&store, "in/k", None).await;
    assert_eq!(refused.code, Code::Unauthenticated, "{refused:?}");
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_begun_before_is_refused_when_the_rest_of_it_comes() {
    let mut cluster = Enforcing::of_one_store().await;
    let eve = bearer(&cluster.admin.add("eve").await);
    cluster.admin.grant("eve", &over_all(Role::Admin)).await;
    cluster.settle().await;
    let (pd, store) = (cluster.pd.address(), cluster.stores[0].address());
    let check = BeginCheckRequest {
        context: Some(Context {
            region_id: u64::MAX,
            ..Context::default()
        }),
    };
    let put = RawPutRequest {
        context: None,
        key: "k".into(),
        value: "v".into(),
    };
    let authorization = (b"authorization".to_vec(), eve.clone().into_bytes());
    let fields = std::slice::from_ref(&authorization);
    let mut begun = Vec::new();
    for (address, path, message) in [
        (&pd, "/authpb.Auth/GetUsers", Vec::new()),
        (&pd, "/pdpb.Pd/GetStores", Vec::new()),
        (
            &store,
            "/adminpb.RegionAdmin/BeginCheck",
            check.encode_to_vec(),
        ),
        (&store, "/kvrpc.KvRaw/RawPut", put.encode_to_vec()),
    ] {
        let mut connection = Bare::connect(address).await.expect("it listens");
        let served = connection.call(path, fields, &message).await;
        assert_eq!(served, Ended::Served, "{path}");
        let id = connection.begin(path, fields).await.expect("it is open");
        begun.push((path, connection, id, message));
    }
    cluster.admin.remove("eve").await;
    let again = cluster.channel(&cluster.stores[0]).await;
    found("she is no user any more", async || {
        let answer = get(&again, "k", Some(&eve)).await;
        (answer.code == Code::Unauthenticated).then_some(())
    })
    .await;
    for (path, mut connection, id, message) in begun {
        let ended = connection.finish(id, &message).await;
        assert_eq!(ended, Ended::Refused, "{path}");
    }
    cluster.assert_sound();
}

/// Waits until the health of a store does.
async fn says_that_it_lacks_its_right(store: &Node) {
    found("it says so", async || {
        let health = health(store).await;
        let is_told = health.body.contains("lacks the right: store");
        is_told.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_loses_its_right_is_refused_by_all_and_says_so_until_it_has_it_again() {
    let mut cluster = Enforcing::start().await;
    let stores = cluster.to_stores().await;
    let pd = cluster.to_pd().await;
    let token = bearer(&cluster.store_tokens[1]);
    let calls = async || {
        let of_raft = ["Bulk", "Urgent", "Snapshot"];
        let mut codes = Vec::new();
        for method in of_raft {
            let path = format!("/raftpb.RaftPeer/{method}");
            codes.push(call(&stores[0], &path, Some(&token), Vec::new()).await.code);
        }
        for path in [
            "/pdpb.Pd/RegisterStore",
            "/pdpb.Pd/StoreHeartbeat",
            "/authpb.Auth/GetRights",
        ] {
            let answer = call(&pd, path, Some(&token), vec![Bytes::new()]).await;
            codes.push(answer.code);
        }
        codes
    };
    let is_denied = |code: &Code| *code == Code::PermissionDenied;
    assert!(!calls().await.iter().any(is_denied));

    let admin = &cluster.admin;
    admin.revoke(&store_user(1), &over_all(Role::Store)).await;
    found("it is refused everywhere", async || {
        calls().await.iter().all(is_denied).then_some(())
    })
    .await;
    says_that_it_lacks_its_right(&cluster.stores[1]).await;
    // The other one leads: nobody takes entries or votes from this one any more.
    let authorization = cluster.admin.authorization();
    found("a write is replicated", async || {
        let message = RawPutRequest {
            context: None,
            key: "k".into(),
            value: "v".into(),
        };
        let path = "/kvrpc.KvRaw/RawPut";
        let body = vec![Bytes::from(message.encode_to_vec())];
        let answer = call(&stores[0], path, Some(&authorization), body).await;
        let is_written = answer.code == Code::Ok && !is_misrouted(&answer);
        is_written.then_some(())
    })
    .await;

    admin.grant(&store_user(1), &over_all(Role::Store)).await;
    found("it is let in everywhere", async || {
        (!calls().await.iter().any(is_denied)).then_some(())
    })
    .await;
    found("it is well", async || {
        let body = health(&cluster.stores[1]).await.body;
        (body == "serving\n").then_some(())
    })
    .await;
    cluster.assert_sound();
}

/// Until it is removed, it is sent what is written, and counts for majorities: a right is asked of who calls, not of who is called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_locked_out_loses_its_replicas_once_it_is_removed() {
    let mut cluster = Enforcing::start_as(Setup {
        stores: REPLICAS_MAX + 1,
        ..Setup::default()
    })
    .await;
    let config = Config::default().with_timeout(HANG_GUARD);
    let config = config.with_token(cluster.admin.token.parse().expect("a token"));
    let client = Client::connect_with([cluster.pd.address()], config).await;
    let client = client.expect("an admin");
    let region = async || {
        let route = client.region("k").await.expect("it answers");
        route.expect("there is one")
    };
    let holders = region().await.peers;
    let id_of = |address: String| {
        let holder = holders.iter().find(|holder| holder.address == address)?;
        Some(holder.id)
    };
    let mut stores = cluster.stores.iter().enumerate();
    let locked_out = stores.find_map(|(index, store)| Some((index, id_of(store.address())?)));
    let (index, id) = locked_out.expect("some have a replica");

    let user = store_user(index);
    cluster.admin.revoke(&user, &over_all(Role::Store)).await;
    says_that_it_lacks_its_right(&cluster.stores[index]).await;
    found("it may leave", async || client.remove_store(id).await.ok()).await;
    found("another store has its replica", async || {
        let peers = region().await.region.peers;
        let has_one = peers.iter().any(|peer| peer.store_id == id);
        (!has_one && peers.len() == REPLICAS_MAX).then_some(())
    })
    .await;
    found("it has left", async || {
        let stores = client.stores().await.expect("it answers");
        let is_there = stores.iter().any(|store| store.id == id);
        (!is_there).then_some(())
    })
    .await;
    says_that_it_lacks_its_right(&cluster.stores[index]).await;
    client.raw_put("k", "v").await.expect("the others serve it");
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_token_is_replaced_goes_on_with_the_next_one() {
    let mut cluster = Enforcing::of_one_store().await;
    let user = store_user(0);
    let next = cluster.admin.change_token(&user, TokenChange::Add).await;
    write_token(&cluster.token_file(0), &next);
    let pd = cluster.to_pd().await;
    let old = bearer(&cluster.store_tokens[0]);
    cluster
        .admin
        .change_token(&user, TokenChange::DropOld)
        .await;
    let refused = call(
        &pd,
        "/authpb.Auth/GetRights",
        Some(&old),
        vec![Bytes::new()],
    )
    .await;
    assert_eq!(refused.code, Code::Unauthenticated);
    // It may be refused until it looks into the file. Then it learns of changes again.
    cluster.settle().await;
    found("it is well", async || {
        let body = health(&cluster.stores[0]).await.body;
        (body == "serving\n").then_some(())
    })
    .await;
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_whose_token_is_replaced_stay_connected_when_the_old_one_is_dropped() {
    let mut cluster = Enforcing::start().await;
    let old = cluster.store_tokens.clone();
    for index in 0..2 {
        let user = store_user(index);
        let next = cluster.admin.change_token(&user, TokenChange::Add).await;
        cluster.settle().await;
        write_token(&cluster.token_file(index), &next);
    }
    // One that does not lead may have no connection, or get its first one later. One that is open when the next token comes into use is
    // replaced, unless it ends first.
    let opened = "connected to another store";
    let ends = ["a connection was closed", "another store cannot be reached"];
    let shown = "another store has taken the new token";
    for store in &cluster.stores {
        found("no connection has shown the old token", async || {
            let log = store.log();
            let in_use = "the token that is new in the file is in use now";
            let (before, after) = log.split_once(in_use)?;
            let ended = ends.iter().filter_map(|end| before.rfind(end)).max();
            let was_open = before.rfind(opened) > ended;
            let is_replaced = ends.iter().chain([&shown]).any(|line| after.contains(line));
            (!was_open || is_replaced).then_some(())
        })
        .await;
    }
    let refusals = |cluster: &Enforcing| {
        let logs = cluster.stores.iter().map(|store| store.log());
        let counts = logs.map(|log| log.matches("the token is no user's").count());
        counts.sum::<usize>()
    };
    // A store that starts may not be known to the other yet.
    let before = refusals(&cluster);
    for index in 0..2 {
        let (user, change) = (store_user(index), TokenChange::DropOld);
        cluster.admin.change_token(&user, change).await;
    }
    for store in cluster.to_stores().await {
        for token in &old {
            found("it refuses the old tokens", async || {
                let path = "/raftpb.RaftPeer/Bulk";
                let answer = call(&store, path, Some(&bearer(token)), Vec::new()).await;
                (answer.code == Code::Unauthenticated).then_some(())
            })
            .await;
        }
    }
    cluster.settle().await;
    assert_eq!(refusals(&cluster), before);
    cluster.assert_sound();
}
