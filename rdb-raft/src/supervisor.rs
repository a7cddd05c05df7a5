//! Tasks that run beside the groups of a store: they send heartbeats, report states, purge logs, and finish changes of members.

use std::collections::{BTreeMap, BTreeSet};
use std::future;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::select;
use futures::{StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::figures::NodeFigures;
use crate::group::{Beats, Group, GroupState, Leader, PurgeError};
use crate::node::{Groups, States, all};
use crate::timing::Timing;
use crate::types::LogId;

/// How often the groups are looked at for what has to be done.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Does so until `opened` is closed and the last group has ended.
pub(crate) async fn supervise(
    groups: Arc<Groups>,
    timing: Timing,
    log_bytes_max: u64,
    opened: mpsc::Receiver<(u64, Group)>,
    published: Arc<watch::Sender<States>>,
    figures: Arc<NodeFigures>,
) {
    // A separate task, so that nothing else delays heartbeats.
    let beating = beat_groups(Arc::clone(&groups), timing);
    let beating = AbortOnDropHandle::new(tokio::spawn(beating));
    let publishing = pin!(publish_states(&groups, opened, published, &figures));
    select(publishing, pin!(keep_groups(&groups, log_bytes_max))).await;
    beating.abort();
    let _ = beating.await;
}

pub(crate) async fn beat_groups(groups: Arc<Groups>, timing: Timing) {
    let beaten = Beaten(groups);
    let mut beats = Beats::start(&timing);
    loop {
        let turns = beats.next().await;
        beaten.each(|group_id, group| {
            if turns.include(group_id) {
                group.beat(&timing);
            }
        });
    }
}

/// The groups of a store. Without beats, and a timer, they would never send anything again.
struct Beaten(Arc<Groups>);

impl Beaten {
    fn each(&self, beat: impl Fn(u64, &Group)) {
        let groups = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (group_id, group) in &*groups {
            beat(*group_id, group);
        }
    }
}

impl Drop for Beaten {
    fn drop(&mut self) {
        self.each(|_, group| group.end_beats());
    }
}

async fn publish_states(
    groups: &Groups,
    opened: mpsc::Receiver<(u64, Group)>,
    published: Arc<watch::Sender<States>>,
    figures: &NodeFigures,
) {
    let opened = stream::unfold(opened, |mut opened| async move {
        let group = opened.recv().await?;
        Some((group, opened))
    });
    let states = opened.flat_map_unordered(None, |(group_id, group)| {
        let states = group.states();
        let states = states.map(move |state| (group_id, group.clone(), state));
        states.boxed()
    });
    let publish = states.for_each(|(group_id, group, state)| {
        if published.borrow().get(&group_id) != Some(&state) {
            log_state(group_id, &state);
            if let GroupState::Running(Leader {
                peer_id: Some(_), ..
            }) = state
            {
                figures.leader_changes.increment();
            }
        }
        published.send_modify(|states| {
            let groups = groups.read().unwrap_or_else(PoisonError::into_inner);
            // It may have been removed, and opened again.
            if groups.get(&group_id).is_some_and(|open| open.is(&group)) {
                states.insert(group_id, state);
            }
        });
        future::ready(())
    });
    publish.await;
}

fn log_state(group_id: u64, state: &GroupState) {
    match state {
        GroupState::Running(leader) => {
            if let Some(peer_id) = leader.peer_id {
                tracing::info!(
                    group_id,
                    peer_id,
                    term = leader.term,
                    "a group has a leader"
                );
            }
        }
        GroupState::Ended(ended) if ended.has_failed => {
            tracing::error!(group_id, cause = %ended.cause, "a group has failed");
        }
        GroupState::Ended(_) => tracing::info!(group_id, "a group was shut down"),
    }
}

/// Purges the logs, and finishes changes of members that lost leaders have left. A log that cannot be purged is reported once.
async fn keep_groups(groups: &Groups, log_bytes_max: u64) {
    let (mut failing, mut purged) = (BTreeSet::new(), BTreeMap::new());
    loop {
        sleep(KEEP_INTERVAL).await;
        for (group_id, group) in all(groups) {
            group.finish_change();
            if let Some(LogId { index, .. }) = group.purged()
                && let Some(before) = purged.insert(group_id, index)
                && before != index
            {
                tracing::debug!(group_id, index, "the log begins after this entry");
            }
            match group.purge(log_bytes_max).await {
                Ok(()) => drop(failing.remove(&group_id)),
                // Its end was logged.
                Err(PurgeError::Ended(_)) => {}
                Err(error) => {
                    if failing.insert(group_id) {
                        tracing::warn!(group_id, %error, "a log is not purged");
                    }
                }
            }
        }
    }
}
