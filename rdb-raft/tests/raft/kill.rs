//! kill -9: every entry and vote that was acknowledged is there, in order and without a gap.
//!
//! A child process appends to several groups, votes, truncates and purges. It prints a line for each append and each vote that
//! is durable, and one before each truncation and each purge. It is killed again and again on one directory that is never
//! closed in order.
//!
//! A kill leaves what the operating system has in its cache, so this would pass without any sync. That the device syncs what it
//! is told to is shown in `rdb-storage`, and that the log tells it to by `writer`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use fastrand::Rng;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use rdb_raft::log::{LogReader, LogStore, LogWriter};
use rdb_raft::{Entry, LogId, Vote};

use crate::child;
use crate::entries::{Durable, append, entry};
use crate::medium::open;

const GROUPS: u64 = 8;
const KILLS: usize = 15;

/// Appends of a group that are not durable yet.
const IN_FLIGHT_MAX: usize = 4;

/// Most entries that a truncation removes.
const TRUNCATED_MAX: u64 = 20;

/// A purge leaves at most so many entries.
const KEPT_MAX: u64 = 100;

/// What a line of the child says of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// These entries are durable.
    Appended { term: u64, first: u64, last: u64 },
    /// This vote is durable.
    Voted { term: u64 },
    /// The entries after this one are about to go.
    Truncating { last: u64 },
    /// The entries up to this one are about to go.
    Purging { upto: u64 },
}

impl fmt::Display for Said {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Appended { term, first, last } => {
                write!(formatter, "appended {term} {first} {last}")
            }
            Self::Voted { term } => write!(formatter, "voted {term} 0 0"),
            Self::Truncating { last } => write!(formatter, "truncating {last} 0 0"),
            Self::Purging { upto } => write!(formatter, "purging {upto} 0 0"),
        }
    }
}

impl FromStr for Said {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let words: Vec<_> = line.split(' ').collect();
        let [kind, a, b, c] = words[..] else {
            return Err(());
        };
        let number = |word: &str| word.parse::<u64>().map_err(drop);
        let (a, b, c) = (number(a)?, number(b)?, number(c)?);
        match kind {
            "appended" => Ok(Self::Appended {
                term: a,
                first: b,
                last: c,
            }),
            "voted" => Ok(Self::Voted { term: a }),
            "truncating" => Ok(Self::Truncating { last: a }),
            "purging" => Ok(Self::Purging { upto: a }),
            _ => Err(()),
        }
    }
}

/// The entry that a group has at an index if it was appended in a term: no other has the same payload.
fn entry_of(group_id: u64, term: u64, index: u64) -> Entry {
    let mut random = Rng::with_seed(group_id << 48 | term << 24 | index);
    let mut payload = vec![0; random.usize(..2000)];
    random.fill(&mut payload);
    entry(term, index, payload)
}

/// One line, in one write.
fn report(line: &dyn fmt::Display) {
    std::io::stdout()
        .write_all(format!("\n{line}\n").as_bytes())
        .unwrap();
}

#[tokio::test]
#[ignore = "runs in the child process of the test of this module"]
async fn child_writes_until_it_is_killed() {
    let Some(directory) = child::directory() else {
        return;
    };
    report(&"opening");
    let (_storage, log) = open(&directory);
    let writer = LogWriter::start(Arc::new(log)).unwrap();
    report(&"writing");
    let groups = (1..=GROUPS).map(|group_id| {
        let store = writer.open_group(group_id).unwrap();
        tokio::spawn(async move { Writing::start(group_id, store).await.for_ever().await })
    });
    for group in groups.collect::<Vec<_>>() {
        group.await.unwrap();
    }
}

/// What the child does to a group.
struct Writing {
    group_id: u64,
    store: LogStore,
    reader: LogReader,
    term: u64,
    /// The last entry, the last that is durable, and the last that was purged; 0 for none.
    last: u64,
    durable: u64,
    purged: u64,
    in_flight: VecDeque<(Said, Durable)>,
}

impl Writing {
    async fn start(group_id: u64, mut store: LogStore) -> Self {
        let state = store.get_log_state().await.unwrap();
        let index = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index);
        let mut reader = store.reader();
        let vote = reader.read_vote().await.unwrap();
        Self {
            group_id,
            store,
            reader,
            term: vote.map_or(0, |vote| vote.leader_id.term),
            last: index(state.last_log_id),
            durable: index(state.last_log_id),
            purged: index(state.last_purged_log_id),
            in_flight: VecDeque::new(),
        }
    }

    async fn for_ever(mut self) {
        self.vote().await;
        let mut random = Rng::new();
        loop {
            match random.u32(..40) {
                0 => self.vote().await,
                1..4 => self.truncate(random.u64(1..=TRUNCATED_MAX)).await,
                4 => self.purge(random.u64(..KEPT_MAX)).await,
                _ => self.append(random.u64(1..5)).await,
            }
        }
    }

    fn report(&self, said: Said) {
        report(&format!("{} {said}", self.group_id));
    }

    async fn append(&mut self, count: u64) {
        let (term, first, last) = (self.term, self.last + 1, self.last + count);
        let entries = (first..=last).map(|index| entry_of(self.group_id, term, index));
        let durable = append(&mut self.store, entries.collect()).await.unwrap();
        self.last = last;
        let said = Said::Appended { term, first, last };
        self.in_flight.push_back((said, durable));
        self.settle(IN_FLIGHT_MAX).await;
    }

    /// Waits until only so many appends are not durable.
    async fn settle(&mut self, in_flight_max: usize) {
        while self.in_flight.len() > in_flight_max
            && let Some((said, durable)) = self.in_flight.pop_front()
        {
            durable.await.unwrap().unwrap();
            self.report(said);
            if let Said::Appended { last, .. } = said {
                self.durable = last;
                self.reader.set_applied(last);
            }
        }
    }

    async fn vote(&mut self) {
        self.term += 1;
        let vote = Vote::new(self.term, self.group_id);
        self.store.save_vote(&vote).await.unwrap();
        self.report(Said::Voted { term: self.term });
    }

    /// Other entries take the place of those that go, under another term. They are gone when the vote is durable.
    async fn truncate(&mut self, count: u64) {
        self.settle(0).await;
        if self.last <= self.purged + count {
            return;
        }
        let last = self.last - count;
        let log_id = self.log_id(last).await;
        self.report(Said::Truncating { last });
        self.store.truncate_after(Some(log_id)).await.unwrap();
        (self.last, self.durable) = (last, last);
        self.vote().await;
    }

    async fn purge(&mut self, kept: u64) {
        let upto = self.durable.saturating_sub(kept);
        if upto <= self.purged {
            return;
        }
        let log_id = self.log_id(upto).await;
        self.report(Said::Purging { upto });
        self.store.purge(log_id).await.unwrap();
        self.purged = upto;
    }

    async fn log_id(&mut self, index: u64) -> LogId {
        let read = self.reader.try_get_log_entries(index..=index).await;
        read.unwrap()[0].log_id
    }
}

/// What a group has to have after a kill.
#[derive(Debug, Default)]
struct Expected {
    /// The term of each entry that is there for certain, unless it is purged.
    terms: BTreeMap<u64, u64>,
    voted: u64,
    /// The last entry that a truncation left, while it is not durable.
    truncating: Option<u64>,
    /// The last entry that a durable truncation left, and the lowest term of those after it.
    truncated: (u64, u64),
    /// The last entry that was purged, and the last that was to be.
    purged: u64,
    purging: u64,
}

impl Expected {
    fn note(&mut self, said: Said) {
        match said {
            Said::Appended { term, first, last } => {
                self.terms.extend((first..=last).map(|index| (index, term)));
            }
            Said::Voted { term } => {
                self.voted = term;
                if let Some(last) = self.truncating.take() {
                    self.truncated = (last, term);
                }
            }
            Said::Truncating { last } => {
                self.terms.split_off(&(last + 1));
                self.truncating = Some(last);
            }
            Said::Purging { upto } => self.purging = upto,
        }
    }

    /// Compares with what is there, and goes on from there: what was under way may be there.
    async fn compare(&mut self, group_id: u64, mut store: LogStore) {
        let mut reader = store.reader();
        let vote = reader.read_vote().await.unwrap();
        let voted = vote.map_or(0, |vote| vote.leader_id.term);
        let next = self.voted + 1;
        assert!(
            [self.voted, next].contains(&voted),
            "{voted}, {}",
            self.voted
        );

        let state = store.get_log_state().await.unwrap();
        let purged = state.last_purged_log_id.map_or(0, |purged| purged.index);
        assert!((self.purged..=self.purging).contains(&purged), "{purged}");
        let entries = reader.try_get_log_entries(..).await.unwrap();
        let last = entries.last().map(|entry| entry.log_id);
        assert_eq!(state.last_log_id, last.or(state.last_purged_log_id));
        let mut terms = BTreeMap::new();
        for (index, found) in (purged + 1..).zip(entries) {
            let term = found.log_id.leader_id.term;
            assert_eq!(found, entry_of(group_id, term, index), "it is whole");
            assert!(term <= voted, "an entry of term {term} after vote {voted}");
            terms.insert(index, term);
        }
        assert!(terms.values().is_sorted(), "{terms:?}");
        let (kept, rewritten) = self.truncated;
        let mut after = terms.range(kept + 1..);
        assert!(
            after.all(|(_, term)| *term >= rewritten),
            "what comes after entry {kept} is older than {rewritten}: {terms:?}"
        );
        for (index, term) in self.terms.range(purged + 1..) {
            assert_eq!(terms.get(index), Some(term), "entry {index}");
        }
        *self = Self {
            terms,
            voted,
            purged,
            purging: purged,
            ..Self::default()
        };
    }
}

/// Starts the child, kills it after a random number of lines, and notes what it said.
fn run_and_kill(directory: &Path, groups: &mut BTreeMap<u64, Expected>, round: usize) -> usize {
    let mut child = child::spawn("kill::child_writes_until_it_is_killed", directory);
    let output = BufReader::new(child.stdout.take().unwrap());
    // Every fourth child is killed while it opens.
    let kill_after = if round % 4 == 3 {
        0
    } else {
        fastrand::usize(1..3000)
    };
    let mut lines = 0;
    let mut killed = false;
    for line in output.split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        let said = line.split_once(' ');
        let said = said.and_then(|(group, said)| Some((group.parse().ok()?, said.parse().ok()?)));
        if let Some((group_id, said)) = said {
            groups.entry(group_id).or_default().note(said);
            lines += 1;
        }
        let due = lines > 0 || kill_after == 0 && line == "opening";
        if due && lines >= kill_after && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the child ended by itself: {status}");
    lines
}

#[tokio::test]
async fn every_acknowledged_entry_and_vote_is_there_after_kills_in_order_and_without_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let mut groups = BTreeMap::new();
    let mut lines = 0;
    for round in 0..KILLS {
        lines += run_and_kill(directory.path(), &mut groups, round);
        // Dropped without closing it: nothing is flushed.
        let (_storage, log) = open(directory.path());
        let writer = LogWriter::start(Arc::new(log)).unwrap();
        for (group_id, expected) in &mut groups {
            let store = writer.open_group(*group_id).unwrap();
            expected.compare(*group_id, store).await;
        }
    }
    assert_eq!(groups.len() as u64, GROUPS);
    println!("{KILLS} kills, {lines} lines, nothing is missing");
}
