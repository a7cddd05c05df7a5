//! What clients did and saw, and whether it can be. A history can be written down, one call a line, and read again.

mod raw;
mod record;
#[cfg(test)]
mod tests;
mod versioned;

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Debug, Display, Write as _};
use std::num::ParseIntError;
use std::time::Duration;

pub(crate) use raw::{Raw, RawCall};
pub(crate) use record::Record;
pub(crate) use versioned::{Entry, Outcome, Versioned, VersionedCall};

use crate::linearizability::{Interval, Model, Verdict, check};

/// A line of a written history that is a problem.
const PROBLEM: &str = "#! ";

/// How many calls around one that does not fit are shown.
const SHOWN: usize = 30;

/// A call of one client on one key, with its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call<C> {
    pub(crate) client: u32,
    pub(crate) key: String,
    /// In nanoseconds since the history began.
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) did: C,
}

/// The calls of a run. Those that failed and certainly did nothing are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) raw: Vec<Call<RawCall>>,
    pub(crate) versioned: Vec<Call<VersionedCall>>,
    /// What does not hold of other keys, a line each.
    pub(crate) problems: String,
}

/// What a check has against a history.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What cannot be.
    pub(crate) violations: String,
    /// Keys whose search was given up.
    pub(crate) undecided: String,
}

impl Findings {
    /// The word for it, by which `scripts/mutants.sh` knows a violation. `None`: the history can be.
    pub(crate) fn verdict(&self) -> Option<&'static str> {
        match (&*self.violations, &*self.undecided) {
            ("", "") => None,
            ("", _) => Some("UNDECIDED"),
            _ => Some("VIOLATION"),
        }
    }
}

impl Display for Findings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.violations, self.undecided)
    }
}

impl History {
    pub(crate) fn len(&self) -> usize {
        self.raw.len() + self.versioned.len()
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.raw.append(&mut other.raw);
        self.versioned.append(&mut other.versioned);
    }

    /// Checks that each key was linearizable, and that there are no problems.
    pub(crate) fn check(&self) -> Findings {
        let mut findings = Findings {
            violations: self.problems.clone(),
            ..Findings::default()
        };
        for (key, mut calls) in by_key(&self.raw) {
            let seen: HashSet<_> = calls.iter().filter_map(|call| call.did.seen()).collect();
            calls.retain(|call| {
                call.did
                    .unknown_value()
                    .is_none_or(|value| seen.contains(&value))
            });
            check_key::<Raw>(key, calls, RawCall::is_known, &mut findings);
        }
        for (key, mut calls) in by_key(&self.versioned) {
            versioned::note_what_was_seen(&mut calls);
            let seen: HashSet<_> = calls.iter().filter_map(|call| call.did.seen()).collect();
            let seen: HashSet<_> = seen.into_iter().map(|entry| entry.value).collect();
            calls.retain(|call| {
                call.did
                    .unknown_value()
                    .is_none_or(|value| seen.contains(&value))
            });
            check_key::<Versioned>(key, calls, VersionedCall::is_known, &mut findings);
        }
        findings
    }

    /// How long no read, and how long no write, was answered.
    pub(crate) fn longest_waits(&self) -> (Duration, Duration) {
        let raw = self.raw.iter().filter(|call| call.did.is_known());
        let raw = raw.map(|call| (matches!(call.did, RawCall::Get { .. }), call.ended));
        let versioned = self.versioned.iter().filter(|call| call.did.is_known());
        let versioned =
            versioned.map(|call| (matches!(call.did, VersionedCall::Get { .. }), call.ended));
        let (reads, writes) = raw.chain(versioned).partition(|&(is_read, _)| is_read);
        (longest_wait(reads), longest_wait(writes))
    }

    /// Reads what [`Display`] writes.
    pub(crate) fn parse(text: &str) -> Result<Self, ParseError> {
        let mut history = Self::default();
        for problem in text.lines().filter_map(|line| line.strip_prefix(PROBLEM)) {
            history.problems.push_str(problem);
            history.problems.push('\n');
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split_whitespace().collect();
            match words.get(4).copied() {
                Some("put" | "delete" | "get") => history.raw.push(Call::parse(&words)?),
                _ => history.versioned.push(Call::parse(&words)?),
            }
        }
        Ok(history)
    }
}

impl Display for History {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "# client key began_ns ended_ns call")?;
        for call in &self.raw {
            writeln!(formatter, "{call}")?;
        }
        for call in &self.versioned {
            writeln!(formatter, "{call}")?;
        }
        for problem in self.problems.lines() {
            writeln!(formatter, "{PROBLEM}{problem}")?;
        }
        Ok(())
    }
}

/// The longest time from one answer to the next.
fn longest_wait(answers: Vec<(bool, u64)>) -> Duration {
    let mut ended: Vec<_> = answers.into_iter().map(|(_, ended)| ended).collect();
    ended.sort_unstable();
    let waits = ended.windows(2).map(|pair| pair[1] - pair[0]);
    Duration::from_nanos(waits.max().unwrap_or(0))
}

fn by_key<C: Clone>(calls: &[Call<C>]) -> BTreeMap<&str, Vec<Call<C>>> {
    let mut by_key = BTreeMap::<_, Vec<_>>::new();
    for call in calls {
        by_key
            .entry(call.key.as_str())
            .or_default()
            .push(call.clone());
    }
    by_key
}

/// A write whose fate is not known may happen at any time after it began. One whose value nobody has seen needs no place at all,
/// so the caller leaves it out.
fn check_key<M: Model<Call: Display>>(
    key: &str,
    mut calls: Vec<Call<M::Call>>,
    is_known: impl Fn(&M::Call) -> bool,
    findings: &mut Findings,
) {
    calls.sort_by_key(|call| call.began);
    let clients: Vec<_> = calls.iter().map(|call| call.client).collect();
    let intervals: Vec<_> = calls
        .into_iter()
        .map(|call| Interval {
            began: call.began,
            ended: if is_known(&call.did) {
                call.ended
            } else {
                u64::MAX
            },
            call: call.did,
        })
        .collect();
    let shown = |index: usize| {
        let Interval { began, ended, call } = &intervals[index];
        let client = clients[index];
        format!("    {began:>14} {ended:>20}  client {client}: {call}\n")
    };
    match check::<M>(&intervals) {
        Verdict::Linearizable => {}
        Verdict::Unknown => {
            let count = intervals.len();
            let _ = writeln!(
                findings.undecided,
                "{key}: the search through {count} calls was given up"
            );
        }
        Verdict::Violated { order, misfit } => {
            let problems = &mut findings.violations;
            let taken: HashSet<_> = order.iter().copied().collect();
            let state = order.iter().fold(M::State::default(), |state, &index| {
                M::step(&state, &intervals[index].call).unwrap_or(state)
            });
            let _ = writeln!(
                problems,
                "{key} is not linearizable. An order that fits ends with:"
            );
            for &index in &order[order.len().saturating_sub(SHOWN)..] {
                problems.push_str(&shown(index));
            }
            let _ = writeln!(
                problems,
                "  The key is then {state:?}, and what overlaps does not fit:"
            );
            let is_next = |&index: &usize| {
                !taken.contains(&index) && intervals[index].began <= intervals[misfit].ended
            };
            for index in (0..intervals.len()).filter(is_next).take(SHOWN) {
                problems.push_str(&shown(index));
            }
        }
    }
}

/// A line of a written history cannot be read.
#[derive(Debug)]
pub(crate) struct ParseError;

impl From<ParseIntError> for ParseError {
    fn from(_: ParseIntError) -> Self {
        Self
    }
}

/// A call in its written form.
pub(crate) trait Parse: Sized {
    fn parse(words: &[&str]) -> Result<Self, ParseError>;
}

impl<C: Parse> Parse for Call<C> {
    fn parse(words: &[&str]) -> Result<Self, ParseError> {
        let [client, key, began, ended, did @ ..] = words else {
            return Err(ParseError);
        };
        Ok(Self {
            client: client.parse()?,
            key: (*key).to_owned(),
            began: began.parse()?,
            ended: ended.parse()?,
            did: C::parse(did)?,
        })
    }
}

impl<C: Display> Display for Call<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            key,
            began,
            ended,
            did,
        } = self;
        write!(formatter, "{client} {key} {began} {ended} {did}")
    }
}

fn fate(is_known: bool) -> &'static str {
    if is_known { "done" } else { "unknown" }
}
