//! What clients of a group have seen, and whether that can be.
//!
//! The state of a group is the list of the values written to it. A write appends one that no other write has, and is answered with
//! the length of the list. So the list at the end says in which order the writes were made, and where each read belongs. That order
//! has to agree with time: what begins after something else has ended sees at least what that has seen.

use std::collections::BTreeSet;

#[derive(Default)]
pub(crate) struct History {
    calls: Vec<Call>,
    /// Counts beginnings and ends.
    moments: u64,
    values: u64,
}

struct Call {
    store_id: u64,
    /// What is written. `None`: it is a read.
    value: Option<u64>,
    began: u64,
    ended: Option<End>,
}

struct End {
    at: u64,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The list had this length, and ended with this value.
    Saw { length: usize, last: Option<u64> },
    /// The store said that the write is not applied and will not be.
    NotApplied,
    /// Nothing is known of it.
    Unknown,
}

impl History {
    /// Begins a write. Returns the call and its value.
    pub(crate) fn begin_write(&mut self, store_id: u64) -> (usize, u64) {
        self.values += 1;
        (self.begin(store_id, Some(self.values)), self.values)
    }

    pub(crate) fn begin_read(&mut self, store_id: u64) -> usize {
        self.begin(store_id, None)
    }

    fn begin(&mut self, store_id: u64, value: Option<u64>) -> usize {
        let began = self.moment();
        self.calls.push(Call {
            store_id,
            value,
            began,
            ended: None,
        });
        self.calls.len() - 1
    }

    pub(crate) fn end(&mut self, call: usize, outcome: Outcome) {
        let at = self.moment();
        self.calls[call].ended = Some(End { at, outcome });
    }

    /// Now, for [`History::seen_since`].
    pub(crate) fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// How many writes and reads have begun after a moment and were answered.
    pub(crate) fn seen_since(&self, moment: u64) -> (usize, usize) {
        let calls = self.calls.iter();
        let seen = calls.filter(|call| call.began > moment && call.saw().is_some());
        let (writes, reads): (Vec<_>, Vec<_>) = seen.partition(|call| call.value.is_some());
        (writes.len(), reads.len())
    }

    /// Checks it against the list as it is in the end.
    ///
    /// # Errors
    ///
    /// What cannot be.
    pub(crate) fn check(&self, list: &[u64]) -> Result<(), String> {
        let values: BTreeSet<_> = list.iter().copied().collect();
        if values.len() != list.len() {
            return Err("a value was written twice".to_owned());
        }
        for call in &self.calls {
            let outcome = call.ended.as_ref().map(|end| end.outcome);
            match (outcome, call.value) {
                (Some(Outcome::Saw { length, last }), value) => {
                    let there = length.checked_sub(1).and_then(|at| list.get(at)).copied();
                    if last != there || value.is_some_and(|value| Some(value) != there) {
                        return Err(format!(
                            "{call} saw {last:?} at {length}, where there is {there:?}"
                        ));
                    }
                }
                (Some(Outcome::NotApplied), Some(value)) if values.contains(&value) => {
                    return Err(format!("{call} was certainly not applied, and is there"));
                }
                _ => {}
            }
        }
        self.check_order()
    }

    fn check_order(&self) -> Result<(), String> {
        let mut begun: Vec<_> = self.calls.iter().collect();
        begun.sort_by_key(|call| call.began);
        let mut ended: Vec<_> = self
            .calls
            .iter()
            .filter(|call| call.saw().is_some())
            .collect();
        ended.sort_by_key(|call| call.ended.as_ref().map(|end| end.at));
        let mut ended = ended.into_iter().peekable();
        // The latest state that was seen by a call that has ended.
        let mut latest: Option<(usize, &Call)> = None;
        for call in begun {
            while let Some(before) =
                ended.next_if(|before| before.ended.as_ref().is_some_and(|end| end.at < call.began))
            {
                let length = before.saw().unwrap_or(0);
                if latest.is_none_or(|(latest, _)| length > latest) {
                    latest = Some((length, before));
                }
            }
            let (Some(length), Some((seen, before))) = (call.saw(), latest) else {
                continue;
            };
            // A write makes a state that nobody has seen before.
            if length < seen + usize::from(call.value.is_some()) {
                return Err(format!(
                    "{call} saw the state at {length}, and {before} had seen that at {seen}"
                ));
            }
        }
        Ok(())
    }
}

impl Call {
    fn saw(&self) -> Option<usize> {
        match self.ended.as_ref()?.outcome {
            Outcome::Saw { length, .. } => Some(length),
            Outcome::NotApplied | Outcome::Unknown => None,
        }
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.value {
            Some(value) => write!(formatter, "the write of {value}")?,
            None => write!(formatter, "a read")?,
        }
        write!(formatter, " on store {} at {}", self.store_id, self.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saw(length: usize, last: u64) -> Outcome {
        let last = Some(last);
        Outcome::Saw { length, last }
    }

    #[test]
    fn what_agrees_with_time_is_fine_and_what_does_not_is_told() {
        let mut history = History::default();
        let (first, _) = history.begin_write(1);
        let (lost, _) = history.begin_write(1);
        let early = history.begin_read(2);
        history.end(first, saw(1, 1));
        history.end(lost, Outcome::NotApplied);
        let none = Outcome::Saw {
            length: 0,
            last: None,
        };
        history.end(early, none);
        assert_eq!(history.check(&[1]), Ok(()));
        history
            .check(&[])
            .expect_err("an acknowledged write is lost");
        history.check(&[1, 2]).expect_err("a refused one is there");
        history.check(&[1, 3, 3]).expect_err("one is there twice");
        let stale = history.begin_read(2);
        history.end(stale, none);
        history.check(&[1]).expect_err("a read is stale");
    }
}
