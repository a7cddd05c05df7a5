//! Requests of operators to the placement driver: which stores hold a region, and which stores leave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{
    self, AddOperatorRequest, CancelOperatorRequest, GetOperatorsRequest, RemoveStoreRequest,
    RemoveStoreResponse,
};
use tonic::{Response, Status};

use crate::connection::Channel;
use crate::{Cause, Client, Error, fate};

/// A change of a region's replicas that somebody has asked for, or that the placement driver makes by itself.
///
/// The placement driver keeps requests only in memory. After a restart it has forgotten them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operator {
    /// The region. It has one operator under way at most.
    pub region_id: u64,
    /// The store that should get a replica. If neither this nor `remove_store_id` is set, it is the placement driver's own change.
    pub add_store_id: Option<u64>,
    /// The store that should lose its replica.
    pub remove_store_id: Option<u64>,
    /// How far it is.
    pub state: OperatorState,
    /// What is being done, or what it waits for; after a timeout, why it was not done. In the answer to a call also what happens
    /// afterwards, or that it was already done. Otherwise empty.
    pub status: String,
    /// How long ago it was added. Zero for one of the placement driver.
    pub age: Duration,
    /// How long ago it has ended. `None`: it is under way.
    pub ended_age: Option<Duration>,
}

/// How far an operator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperatorState {
    /// Under way.
    Running,
    /// The region is as it asked.
    Done,
    /// Somebody has cancelled it. What was done of it stays.
    Cancelled,
    /// It was not done within 10 minutes, or its learner did not catch up. What else was done of it stays.
    TimedOut,
    /// The answer has no state, or one that this release does not know.
    Unknown,
}

/// The result of asking a store to leave, or to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removal {
    /// Whether it has left. Else it leaves once no region has a replica on it, or it stays.
    pub has_left: bool,
    /// How many regions have a replica on it.
    pub region_count: u64,
}

/// Changes of members. Each call names the wanted state, and changes nothing if that is the present one. So a call whose answer
/// gets lost is made again until its deadline. If no answer comes then, or a refusal, it ends in [`Error::Undetermined`]: the first
/// try may have been taken. A call that is made again does more than it would once only if the members have changed back meanwhile:
/// after [`remove_peer`](Client::remove_peer) the store may have got another replica, which is then removed, too.
///
/// Each can end in [`Error::NotFound`] or [`Error::Refused`], whose causes say what there is and what would help, or in one of the
/// errors of any call to the placement driver. One that has just started has to hear of the stores and the leaders first:
/// [`Error::Unavailable`] if that takes too long.
impl Client {
    /// Adds a replica of a region on a store. If the region then has more than the cluster keeps, it loses another one.
    ///
    /// # Errors
    ///
    /// When there is no such region or store, or the store can take none or is silent.
    pub async fn add_peer(&self, region_id: u64, store_id: u64) -> Result<Operator, Error> {
        self.operate(region_id, store_id, 0).await
    }

    /// Removes the replica of a region from a store. If there are then fewer than the cluster keeps, the region gets another
    /// one, on another store if there is one.
    ///
    /// # Errors
    ///
    /// When there is no such region or store, or the store has the only replica.
    pub async fn remove_peer(&self, region_id: u64, store_id: u64) -> Result<Operator, Error> {
        self.operate(region_id, 0, store_id).await
    }

    /// Moves the replica of a region from one store to another, which gets its replica first.
    ///
    /// # Errors
    ///
    /// As [`add_peer`](Self::add_peer) and [`remove_peer`](Self::remove_peer), and when both stores have one and no such move is under way:
    /// that could only remove the first one.
    pub async fn move_peer(
        &self,
        region_id: u64,
        from_store: u64,
        to_store: u64,
    ) -> Result<Operator, Error> {
        self.operate(region_id, to_store, from_store).await
    }

    /// The operators under way in the order of their regions, then what the placement driver changes by itself, or would if it
    /// could, then the operators that ended last, the last one first. There are at most 64 of each.
    ///
    /// # Errors
    ///
    /// When the placement driver does not answer in time.
    pub async fn operators(&self) -> Result<Vec<Operator>, Error> {
        let placement_driver = self.router().placement_driver();
        let asked = placement_driver.ask(self.deadline(), |mut client| async move {
            client.get_operators(GetOperatorsRequest {}).await
        });
        let operators = asked.await?.operators.into_iter();
        Ok(operators.map(Operator::from).collect())
    }

    /// Ends the operator of a region. Its finished steps stay, but a learner that nothing needs is removed.
    ///
    /// # Errors
    ///
    /// When the region has none, and the last one was not cancelled.
    pub async fn cancel_operator(&self, region_id: u64) -> Result<Operator, Error> {
        let request = CancelOperatorRequest { region_id };
        let changed =
            self.change(|mut client| async move { client.cancel_operator(request).await });
        present(changed.await?.operator)
    }

    /// Asks a store to leave the cluster: it gets no replicas, and those that it has move to other stores. Then it has left
    /// for good, and its process ends.
    ///
    /// # Errors
    ///
    /// When there is no such store, or too few others could hold the replicas that regions should have.
    pub async fn remove_store(&self, store_id: u64) -> Result<Removal, Error> {
        self.change_leaving(store_id, false).await
    }

    /// Lets a leaving store stay.
    ///
    /// # Errors
    ///
    /// When there is no such store, or it has left.
    pub async fn keep_store(&self, store_id: u64) -> Result<Removal, Error> {
        self.change_leaving(store_id, true).await
    }

    async fn operate(
        &self,
        region_id: u64,
        add_store_id: u64,
        remove_store_id: u64,
    ) -> Result<Operator, Error> {
        let request = AddOperatorRequest {
            region_id,
            add_store_id,
            remove_store_id,
        };
        let changed = self.change(|mut client| async move { client.add_operator(request).await });
        present(changed.await?.operator)
    }

    async fn change_leaving(&self, store_id: u64, cancel: bool) -> Result<Removal, Error> {
        let request = RemoveStoreRequest { store_id, cancel };
        let changed = self.change(|mut client| async move { client.remove_store(request).await });
        let RemoveStoreResponse {
            has_left,
            region_count,
        } = changed.await?;
        Ok(Removal {
            has_left,
            region_count,
        })
    }

    /// Asks the placement driver for a change until it answers.
    async fn change<A, F>(&self, question: impl Fn(PdClient<Channel>) -> F) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let placement_driver = self.router().placement_driver();
        // Whether the answer to a try that may have been taken got lost. One question at a time is asked.
        let is_lost = &AtomicBool::new(false);
        let asked = placement_driver.ask(self.deadline(), |client| {
            let answer = question(client);
            async move {
                let was_lost = is_lost.swap(true, Ordering::Relaxed);
                let answer = answer.await;
                if answer.as_ref().is_err_and(fate::is_unprocessed) {
                    is_lost.store(was_lost, Ordering::Relaxed);
                }
                answer
            }
        });
        asked.await.map_err(|error| {
            if !is_lost.load(Ordering::Relaxed) {
                return error;
            }
            let reason = error.reason();
            let cause = format!("{reason}; a try may have been taken: look, and ask again if not");
            Error::undetermined(Cause::of(cause, error))
        })
    }
}

fn present(operator: Option<pdpb::Operator>) -> Result<Operator, Error> {
    let operator = operator.map(Operator::from);
    operator.ok_or_else(|| Error::internal("the placement driver named no operator"))
}

impl From<pdpb::Operator> for Operator {
    fn from(operator: pdpb::Operator) -> Self {
        let named = |store_id| Some(store_id).filter(|&store_id| store_id != 0);
        Self {
            region_id: operator.region_id,
            add_store_id: named(operator.add_store_id),
            remove_store_id: named(operator.remove_store_id),
            state: operator.state().into(),
            age: Duration::from_millis(operator.age_ms),
            ended_age: operator.ended_age_ms.map(Duration::from_millis),
            status: operator.status,
        }
    }
}

impl From<pdpb::OperatorState> for OperatorState {
    fn from(state: pdpb::OperatorState) -> Self {
        match state {
            pdpb::OperatorState::Running => Self::Running,
            pdpb::OperatorState::Done => Self::Done,
            pdpb::OperatorState::Cancelled => Self::Cancelled,
            pdpb::OperatorState::TimedOut => Self::TimedOut,
            pdpb::OperatorState::Unspecified => Self::Unknown,
        }
    }
}
