//! Logs of two groups against a model, with restarts and power cuts.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures::TryStreamExt;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use proptest::collection::vec;
use proptest::prelude::*;
use rdb_raft::log::{LogStore, LogWriter, MemoryDevice};
use rdb_raft::{Entry, LogId, Vote};

use crate::entries::{Durable, append, entry, log_id};
use crate::medium::{Disk, End, Medium};

const GROUPS: usize = 2;

#[derive(Debug, Clone)]
enum Step {
    /// A count of entries, and the size of each.
    Append(u64, usize),
    /// How many are to go.
    Truncate(u64),
    /// How many are to go, which may be more than there are.
    Purge(u64),
    Vote,
    /// How many are applied by then.
    Apply(u64),
    /// Waits until all is durable.
    Flush,
    Read(Range<u64>),
    Restart(End),
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let payload_bytes = prop_oneof![3 => 0..100_usize, 1 => 100_000..400_000_usize];
    let step = prop_oneof![
        6 => (1..6_u64, payload_bytes).prop_map(|(count, bytes)| Step::Append(count, bytes)),
        2 => (0..8_u64).prop_map(Step::Truncate),
        2 => (0..8_u64).prop_map(Step::Purge),
        1 => Just(Step::Vote),
        3 => (0..20_u64).prop_map(Step::Apply),
        2 => Just(Step::Flush),
        4 => (0..20_u64, 0..20_u64).prop_map(|(start, count)| Step::Read(start..start + count)),
        1 => prop_oneof![Just(End::Closed), Just(End::Left)].prop_map(Step::Restart),
        1 => (0..6_usize).prop_map(|batches| Step::Restart(End::PowerCut(batches))),
    ];
    (0..GROUPS, step)
}

/// What a log should hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        let last = self.entries.last_key_value();
        last.map(|(_, entry)| entry.log_id).or(self.purged)
    }

    fn end(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn read(&self, range: Range<u64>) -> Vec<Entry> {
        let entries = self.entries.range(range);
        entries.map(|(_, entry)| entry.clone()).collect()
    }

    async fn of(store: &mut LogStore) -> Self {
        let mut reader = store.reader();
        let entries = reader.try_get_log_entries(..).await.unwrap();
        let entries = entries.into_iter().map(|entry| (entry.log_id.index, entry));
        let state = store.get_log_state().await.unwrap();
        let model = Self {
            vote: reader.read_vote().await.unwrap(),
            purged: state.last_purged_log_id,
            entries: entries.collect(),
        };
        assert_eq!(state.last_log_id, model.last());
        model
    }
}

struct Group {
    store: LogStore,
    model: Model,
    /// What a crash may leave: the last state that is durable, and those after it.
    since_durable: Vec<Model>,
    waiting: Vec<Durable>,
}

struct Process<M> {
    groups: Vec<Group>,
    writer: LogWriter,
    medium: M,
    /// Grows, so that no two entries are the same.
    term: u64,
}

impl<M: Medium> Process<M> {
    async fn start(medium: M, term: u64) -> Self {
        let writer = LogWriter::start(medium.device()).unwrap();
        let mut groups = Vec::new();
        for group_id in (1..).take(GROUPS) {
            let mut store = writer.open_group(group_id).unwrap();
            let model = Model::of(&mut store).await;
            groups.push(Group {
                store,
                since_durable: vec![model.clone()],
                model,
                waiting: Vec::new(),
            });
        }
        Self {
            groups,
            writer,
            medium,
            term,
        }
    }

    async fn step(mut self, group: usize, step: Step) -> Self {
        self.term += 1;
        let group = &mut self.groups[group];
        match step {
            Step::Append(count, bytes) => group.append(self.term, count, bytes).await,
            Step::Truncate(count) => group.truncate(count).await,
            Step::Purge(count) => group.purge(self.term, count).await,
            Step::Vote => group.vote(self.term).await,
            Step::Apply(count) => {
                let start = group.model.purged.map_or(0, |purged| purged.index);
                let index = (start + count).min(group.model.end());
                group.store.reader().set_applied(index);
            }
            Step::Flush => group.flush().await,
            Step::Read(range) => group.read(range).await,
            Step::Restart(end) => self = self.restart(end).await,
        }
        self
    }

    /// Begins again with what the end of a process leaves, which is one of the states that it may leave.
    async fn restart(self, end: End) -> Self {
        let groups = self.groups.into_iter();
        let old = groups.map(|group| (group.model, group.since_durable));
        let old: Vec<_> = old.collect();
        let next = Self::start(self.medium.restart(self.writer, end), self.term).await;
        for (group, (model, since_durable)) in next.groups.iter().zip(old) {
            if matches!(end, End::PowerCut(_)) {
                assert!(since_durable.contains(&group.model));
            } else {
                assert_eq!(group.model, model);
            }
        }
        next
    }
}

impl Group {
    async fn append(&mut self, term: u64, count: u64, bytes: usize) {
        let end = self.model.end();
        let entries = (end..end + count).map(|index| entry(term, index, vec![7; bytes]));
        let entries: Vec<_> = entries.collect();
        let durable = append(&mut self.store, entries.clone()).await;
        self.waiting.push(durable.unwrap());
        let entries = entries.into_iter().map(|entry| (entry.log_id.index, entry));
        self.model.entries.extend(entries);
        self.since_durable.push(self.model.clone());
    }

    async fn truncate(&mut self, count: u64) {
        for _ in 0..count {
            self.model.entries.pop_last();
        }
        self.store.truncate_after(self.model.last()).await.unwrap();
        self.since_durable.push(self.model.clone());
    }

    async fn purge(&mut self, term: u64, count: u64) {
        let first = self.model.purged.map_or(0, |purged| purged.index + 1);
        let upto = first + count;
        let entry = self.model.entries.get(&upto);
        let upto = entry.map_or(log_id(term, upto), |entry| entry.log_id);
        self.store.purge(upto).await.unwrap();
        self.model.entries = self.model.entries.split_off(&(upto.index + 1));
        self.model.purged = Some(upto);
        self.since_durable.push(self.model.clone());
    }

    async fn vote(&mut self, term: u64) {
        let vote = Vote::new(term, 1);
        self.store.save_vote(&vote).await.unwrap();
        self.model.vote = Some(vote);
        self.since_durable = vec![self.model.clone()];
    }

    /// Truncating and purging are durable with the next sync, which may never come.
    async fn flush(&mut self) {
        let term = self.model.vote.map_or(0, |vote| vote.leader_id.term);
        for durable in self.waiting.drain(..) {
            durable.await.unwrap().unwrap();
        }
        self.vote(term).await;
    }

    async fn read(&mut self, range: Range<u64>) {
        let mut reader = self.store.reader();
        let expected = self.model.read(range.clone());
        let read = reader.try_get_log_entries(range.clone()).await.unwrap();
        assert_eq!(read, expected);
        let stream = reader.entries_stream(range.clone()).await;
        assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap(), expected);
        let limited = reader.limited_get_log_entries(range.start, range.end);
        let limited = limited.await.unwrap();
        assert_eq!(limited, expected[..limited.len()]);
        assert_eq!(limited.is_empty(), expected.is_empty());
    }
}

fn run<M: Medium>(steps: Vec<(usize, Step)>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut process = Process::start(M::new(), 0).await;
        for (group, step) in steps {
            process = process.step(group, step).await;
        }
        for group in &mut process.groups {
            assert_eq!(Model::of(&mut group.store).await, group.model);
        }
    });
}

#[test]
fn what_was_found_once_is_not_found_again() {
    let purge_before_the_first = vec![(0, Step::Purge(0))];
    let vote = || (0, Step::Vote);
    let votes = vec![vote(), vote(), (0, Step::Restart(End::PowerCut(0)))];
    for steps in [purge_before_the_first, votes] {
        run::<Arc<MemoryDevice>>(steps.clone());
        run::<Disk>(steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_log_in_memory_holds_what_was_appended_and_neither_truncated_nor_purged(
        steps in vec(step(), 1..60),
    ) {
        run::<Arc<MemoryDevice>>(steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_log_on_a_disk_holds_what_was_appended_and_neither_truncated_nor_purged(
        steps in vec(step(), 1..60),
    ) {
        run::<Disk>(steps);
    }
}
