//! Four stores for three replicas. Operators change the members while stores die, stand still and are cut off, and a store that is lost
//! for good is replaced by the one that was spare.

use std::fs;
use std::time::{Duration, Instant};

use rdb_client::{Client, Error, Operator, OperatorState};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::harness::{found, guarded};
use crate::members::{client, is_whole, region, store_at, voters_of_whole};
use crate::run::Run;
use crate::stores::{LinkKind, Setup};

/// How long a change goes on before a store is hit: that of members takes some steps once it was seen to begin, a hand-over an election.
const MEMBERS_CHANGE_MS_MAX: u64 = 1000;
const HAND_OVER_MS_MAX: u64 = 100;

/// Changes of one kind that may be over before a store is hit.
const TRIES_MAX: u64 = 10;

/// The shortest time after which the placement driver takes a store for lost.
const DOWN_AFTER_S: u64 = 20;

/// What an operator asks for, by the numbers of stores.
#[derive(Debug, Clone, Copy)]
enum Change {
    Add { to: usize },
    Remove { from: usize },
    Move { from: usize, to: usize },
    TransferLeader { to: usize },
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Add,
    Remove,
    Move,
    TransferLeader,
}

const KINDS: [Kind; 4] = [Kind::Add, Kind::Remove, Kind::Move, Kind::TransferLeader];

#[derive(Debug, Clone, Copy)]
enum Fault {
    Dies,
    StandsStill,
    IsCutOff,
}

const FAULTS: [Fault; 3] = [Fault::Dies, Fault::StandsStill, Fault::IsCutOff];

/// Where the replicas are, by the numbers of stores.
struct Places {
    /// The id of each store.
    ids: Vec<u64>,
    leader: usize,
    followers: Vec<usize>,
    spare: usize,
}

impl Places {
    /// Waits until the region has all its replicas and nothing else.
    async fn find(run: &Run, client: &Client) -> Self {
        found("a region of three voters is led", async || {
            let voters = is_whole(client).await;
            let mut ids = Vec::new();
            for number in 0..run.stores.nodes.len() {
                ids.push(store_at(client, run.stores.address(number)).await?.id);
            }
            let leader = run.stores.leader().await.store;
            let (with, without): (Vec<_>, Vec<_>) =
                (0..ids.len()).partition(|&number| voters.contains(&ids[number]));
            let followers = with.iter().copied().filter(|&number| number != leader);
            let followers: Vec<_> = followers.collect();
            let [spare] = without[..] else { return None };
            let is_led = with.contains(&leader);
            is_led.then_some(Self {
                ids,
                leader,
                followers,
                spare,
            })
        })
        .await
    }

    /// A change of a kind, of any replica that can be changed so.
    fn change(&self, run: &mut Run, kind: Kind) -> Change {
        let follower = self.followers[run.random.usize(0..self.followers.len())];
        let any = [self.leader, follower][run.random.usize(0..2)];
        match kind {
            Kind::Add => Change::Add { to: self.spare },
            Kind::Remove => Change::Remove { from: any },
            Kind::Move => Change::Move {
                from: any,
                to: self.spare,
            },
            Kind::TransferLeader => Change::TransferLeader { to: follower },
        }
    }
}

/// A change that was asked for.
enum UnderWay {
    Operator { added: Operator },
    HandOver(JoinHandle<Result<u64, Error>>),
}

impl UnderWay {
    async fn begin(client: &Client, change: Change, places: &Places) -> Self {
        let route = region(client).await;
        let region_id = route.region.id;
        let id = |number: usize| places.ids[number];
        if let Change::TransferLeader { to } = change {
            let (client, to) = (client.clone(), id(to));
            let asked = async move { client.transfer_leader(&route, to).await };
            return Self::HandOver(tokio::spawn(asked));
        }
        // What was changed before may not have been told of yet, and stores may have been silent.
        let added = async || {
            let added = match change {
                Change::Add { to } => client.add_peer(region_id, id(to)).await,
                Change::Remove { from } => client.remove_peer(region_id, id(from)).await,
                Change::Move { from, to } => client.move_peer(region_id, id(from), id(to)).await,
                Change::TransferLeader { .. } => return None,
            };
            added.ok()
        };
        let added = found("the placement driver takes the operator", added).await;
        Self::Operator { added }
    }

    /// Waits until the members have begun to change. The leader is told of it with its next heartbeat.
    async fn has_begun(&self, client: &Client) {
        if let Self::Operator { added } = self
            && added.state == OperatorState::Running
        {
            let changes = async || (!has_only_voters(client).await).then_some(());
            found("the members change", changes).await;
        }
    }

    /// Whether it goes on, as far as is known. Members change from the first step on until there are three voters again.
    async fn goes_on(&self, client: &Client) -> bool {
        match self {
            Self::Operator { .. } => !has_only_voters(client).await,
            Self::HandOver(asked) => !asked.is_finished(),
        }
    }

    /// Waits until it is done. No store is hit any more.
    async fn done(self, client: &Client) {
        match self {
            Self::Operator { added } => {
                let state = found("the operator ends", async || {
                    let operators = client.operators().await.expect("it answers");
                    // One under way comes first, then those that have ended, the last one first.
                    let mut same = operators.iter().filter(|other| is_same(&added, other));
                    let same = same.next();
                    // What was done before it was asked for is not listed.
                    let state = same.map_or(added.state, |same| same.state);
                    (state != OperatorState::Running).then_some(state)
                })
                .await;
                assert_eq!(state, OperatorState::Done, "of {added:?}");
            }
            Self::HandOver(asked) => {
                let handed_over = guarded("the hand-over ends", asked).await;
                match handed_over.expect("it does not panic") {
                    // Who was not heard of for a while may not take over.
                    Ok(_) | Err(Error::Refused { .. }) => {}
                    Err(error) => panic!("another store is to lead: {error}"),
                }
            }
        }
    }
}

/// Whether there are three voters, and no other member.
async fn has_only_voters(client: &Client) -> bool {
    voters_of_whole(&region(client).await).is_some()
}

fn is_same(one: &Operator, other: &Operator) -> bool {
    let wish = |operator: &Operator| {
        (
            operator.region_id,
            operator.add_store_id,
            operator.remove_store_id,
        )
    };
    wish(one) == wish(other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_are_hit_while_operators_change_the_members() {
    let setup = Setup {
        links: Some(LinkKind::Any),
        spare: true,
        loses_majority: true,
        ..Setup::default()
    };
    let name = "stores_are_hit_while_operators_change_the_members";
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    let client = client(&run).await;
    for _ in 0..Run::rounds() {
        let mut kinds = KINDS;
        run.random.shuffle(&mut kinds);
        for kind in kinds {
            let mut tries = 0;
            while !is_hit_in_the_middle(&mut run, &client, kind).await {
                tries += 1;
                assert!(tries < TRIES_MAX, "{kind:?} was never hit in the middle");
            }
        }
    }
    is_whole(&client).await;
    run.end().await;
}

/// Has the members changed, and hits a store meanwhile. Returns whether the change had begun and was not done by then.
async fn is_hit_in_the_middle(run: &mut Run, client: &Client, kind: Kind) -> bool {
    run.dwell().await;
    let places = Places::find(run, client).await;
    let change = places.change(run, kind);
    let (concerned, lasts_ms) = match change {
        Change::Add { to } | Change::Move { to, .. } => (to, MEMBERS_CHANGE_MS_MAX),
        Change::Remove { from } => (from, MEMBERS_CHANGE_MS_MAX),
        Change::TransferLeader { to } => (to, HAND_OVER_MS_MAX),
    };
    let victims = [places.leader, concerned, places.followers[0]];
    let victim = victims[run.random.usize(0..victims.len())];
    let fault = FAULTS[run.random.usize(0..FAULTS.len())];
    let under_way = UnderWay::begin(client, change, &places).await;
    under_way.has_begun(client).await;
    sleep(Duration::from_millis(run.random.u64(0..lasts_ms))).await;
    let is_hit = under_way.goes_on(client).await;
    begin(run, victim, fault);
    println!(
        "{change:?}, led by {}: store {victim} {fault:?}, {}",
        places.leader,
        if is_hit { "in the middle" } else { "too late" }
    );
    // There may be two voters only, so nothing may go on before the fault is over.
    match fault {
        Fault::StandsStill | Fault::IsCutOff if victim == places.leader => {
            run.leader_is_missed().await;
        }
        _ => run.faults_last().await,
    }
    end(run, victim, fault);
    run.load.goes_on().await;
    run.stores.all_serve().await;
    under_way.done(client).await;
    is_whole(client).await;
    run.load.goes_on().await;
    is_hit
}

fn begin(run: &mut Run, store: usize, fault: Fault) {
    match fault {
        Fault::Dies => run.stores.nodes[store].kill(),
        Fault::StandsStill => run.stores.nodes[store].pause(),
        Fault::IsCutOff => {
            let others = (0..run.stores.nodes.len()).filter(|&other| other != store);
            for other in others {
                run.stores.links().cut_both(store, other);
            }
        }
    }
}

fn end(run: &mut Run, store: usize, fault: Fault) {
    match fault {
        Fault::Dies => run.stores.nodes[store].start(),
        Fault::StandsStill => run.stores.nodes[store].resume(),
        Fault::IsCutOff => run.stores.links().mend(),
    }
}

/// Nobody asks for it: the placement driver finds that the store is down. The one that takes its place is killed as soon as it has
/// something of the region.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_lost_is_replaced_by_the_spare_one() {
    let setup = Setup {
        spare: true,
        store_down_after_s: Some(DOWN_AFTER_S),
        ..Setup::default()
    };
    let name = "a_store_that_is_lost_is_replaced_by_the_spare_one";
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    let client = client(&run).await;
    for _ in 0..Run::rounds() {
        run.dwell().await;
        let places = Places::find(&run, &client).await;
        let lost = [places.leader, places.followers[0]][run.random.usize(0..2)];
        let (lost_id, spare_id) = (places.ids[lost], places.ids[places.spare]);
        println!("store {lost} is lost, led by {}", places.leader);
        run.stores.nodes[lost].kill();
        let killed_at = Instant::now();
        let data = run.stores.nodes[lost].data_dir();
        fs::remove_dir_all(data).expect("it is there");
        run.load.goes_on().await;

        let has_come = async || {
            let peers = region(&client).await.region.peers;
            let mut peers = peers.iter();
            peers.any(|peer| peer.store_id == spare_id).then_some(())
        };
        found("the spare store gets a replica", has_come).await;
        // What was heard of it last came before the kill.
        let waited = killed_at.elapsed();
        assert!(
            waited >= Duration::from_secs(DOWN_AFTER_S / 2),
            "{waited:?}"
        );
        run.stores.nodes[places.spare].kill();
        run.stores.nodes[places.spare].start();
        let is_replaced = async || {
            let voters = is_whole(&client).await;
            (!voters.contains(&lost_id)).then_some(())
        };
        found("the lost store is replaced", is_replaced).await;
        run.load.goes_on().await;

        comes_back_as_another(&mut run, &client, lost, lost_id).await;
    }
    run.end().await;
}

/// Starts a store again whose disk was lost. It is another one, and the spare one now.
async fn comes_back_as_another(run: &mut Run, client: &Client, lost: usize, lost_id: u64) {
    let address = run.stores.address(lost).to_owned();
    let node = &mut run.stores.nodes[lost];
    let is_another = async || {
        if node.has_ended() {
            node.start();
        }
        let known = store_at(client, &address).await?;
        (known.id > lost_id).then_some(())
    };
    found("the store registers as another", is_another).await;
    let removal = client.remove_store(lost_id).await;
    removal.expect("it may leave");
    run.stores.all_serve().await;
}
