//! How far the timestamps of this client have come.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdb_proto::pdpb::GetTsoResponse;

use super::unasked;
use crate::Error;

/// Most gaps that are remembered. Beyond that the lowest one is forgotten: an answer from there counts as given before.
const GAPS_MAX: usize = 1 << 16;

/// Knows which timestamps this client was given. None is taken twice, in whatever order concurrent requests are answered.
#[derive(Debug, Default)]
pub(crate) struct Watermark(Mutex<Given>);

/// - `next` only grows. Nothing at or above it was given.
/// - Nothing in a gap was given. A gap ends at or below `next`, and begins at or above the lowest mark of an open request.
///   So it goes once the requests are over whose answers may lie there.
#[derive(Debug, Default)]
struct Given {
    next: u64,
    /// The end of each gap, by its start.
    gaps: BTreeMap<u64, u64>,
    /// The number of open requests, by their marks.
    open: BTreeMap<u64, usize>,
}

/// A request that is open until this is dropped. Its answer lies at `mark` or above.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    watermark: &'a Watermark,
    mark: u64,
}

impl Watermark {
    /// Opens a request, before it is sent.
    pub(super) fn ask(&self) -> Asked<'_> {
        let mut given = self.lock();
        let mark = given.next;
        *given.open.entry(mark).or_default() += 1;
        drop(given);
        Asked {
            watermark: self,
            mark,
        }
    }

    /// Takes in an answer with `count` timestamps that has to lie above all that were given before it came.
    ///
    /// # Errors
    ///
    /// As [`Asked::raise`].
    pub(super) fn take_next(&self, count: u32, answer: &GetTsoResponse) -> Result<(), Error> {
        let end = end_of(count, answer)?;
        let mut given = self.lock();
        let next = given.next;
        given.take(next, answer.first, end)
    }

    fn lock(&self) -> MutexGuard<'_, Given> {
        // Nothing between lock and unlock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked<'_> {
    /// Takes in the answer to this request for `count` timestamps.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] when it answers another request, or a timestamp of the answer had been given before. Nothing has
    /// happened then.
    pub(super) fn raise(&self, count: u32, answer: &GetTsoResponse) -> Result<(), Error> {
        let end = end_of(count, answer)?;
        self.watermark.lock().take(self.mark, answer.first, end)
    }
}

/// Where the timestamps end of an answer to a request for `count`.
fn end_of(count: u32, answer: &GetTsoResponse) -> Result<u64, Error> {
    let end = answer.first.checked_add(count.into());
    end.filter(|_| answer.count == count).ok_or_else(unasked)
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.watermark.lock().close(self.mark);
    }
}

impl Given {
    /// Takes the timestamps from `first` up to `end`, for a request with this mark.
    fn take(&mut self, mark: u64, first: u64, end: u64) -> Result<(), Error> {
        if first >= self.next {
            // No other answer can lie there unless its request is open.
            if !self.open.is_empty() {
                self.add_gap(self.next, first);
            }
            self.next = end;
            return Ok(());
        }
        let gap = self.gaps.range(..=first).next_back();
        let fitting = gap.filter(|&(_, &gap_end)| mark <= first && end <= gap_end);
        let Some((&gap_start, &gap_end)) = fitting else {
            let last = self.next - 1;
            let cause = format!(
                "the placement driver gave timestamp {first} after {last}; was it restored from an old copy?"
            );
            return Err(Error::internal(cause));
        };
        self.gaps.remove(&gap_start);
        self.add_gap(gap_start, first);
        self.add_gap(end, gap_end);
        Ok(())
    }

    fn add_gap(&mut self, start: u64, end: u64) {
        if start < end {
            self.gaps.insert(start, end);
        }
        if self.gaps.len() > GAPS_MAX {
            self.gaps.pop_first();
        }
    }

    fn close(&mut self, mark: u64) {
        if let Some(count) = self.open.get_mut(&mark) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&mark);
            }
        }
        let oldest = self.open.keys().next().copied().unwrap_or(self.next);
        while let Some(gap) = self.gaps.first_entry()
            && *gap.key() < oldest
        {
            gap.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(first: u64, count: u32) -> GetTsoResponse {
        GetTsoResponse {
            first,
            count,
            cluster_id: 7,
        }
    }

    fn raise(asked: &Asked<'_>, first: u64, count: u32) -> Result<(), Error> {
        asked.raise(count, &answer(first, count))
    }

    fn next(watermark: &Watermark) -> u64 {
        watermark.lock().next
    }

    #[test]
    fn an_answer_that_was_given_before_is_an_error_that_names_both() {
        let watermark = Watermark::default();
        assert_eq!(raise(&watermark.ask(), 0, 5), Ok(()));
        assert_eq!(raise(&watermark.ask(), 5, 1), Ok(()));
        for first in [5, 4] {
            let error = raise(&watermark.ask(), first, 9);
            let text = error.expect_err("given before").to_string();
            assert!(text.contains(&format!("{first} after 5")), "{text}");
        }
        assert_eq!(next(&watermark), 6, "nothing was handed out");
    }

    #[test]
    fn of_two_requests_on_the_way_at_once_either_may_be_answered_first() {
        let watermark = Watermark::default();
        let (early, late) = (watermark.ask(), watermark.ask());
        assert_eq!(raise(&late, 11, 1), Ok(()));
        assert_eq!(raise(&early, 10, 1), Ok(()));
        assert_eq!(next(&watermark), 12);
    }

    #[test]
    fn of_two_requests_on_the_way_at_once_only_one_is_given_a_timestamp() {
        let watermark = Watermark::default();
        let asked: [_; 4] = std::array::from_fn(|_| watermark.ask());
        assert_eq!(raise(&asked[0], 10, 4), Ok(()));
        for (first, count) in [(10, 4), (13, 1), (9, 2), (13, 2), (0, 20)] {
            let error = raise(&asked[1], first, count);
            let text = error.expect_err("given before").to_string();
            assert!(text.contains(&format!("{first} after 13")), "{text}");
        }
        assert_eq!(raise(&asked[1], 2, 3), Ok(()));
        assert!(raise(&asked[2], 4, 2).is_err(), "4 was given");
        assert_eq!(raise(&asked[2], 5, 5), Ok(()));
        assert_eq!(raise(&asked[3], 0, 2), Ok(()));
        assert!(watermark.lock().gaps.is_empty(), "all was given");
    }

    #[test]
    fn an_answer_of_a_stream_lies_above_all_and_leaves_what_is_below_to_open_requests() {
        let watermark = Watermark::default();
        let take = |first, count| watermark.take_next(count, &answer(first, count));
        assert_eq!(take(5, 1), Ok(()));
        assert!(watermark.lock().gaps.is_empty(), "no request is open");
        let asked = watermark.ask();
        assert_eq!(take(10, 1), Ok(()));
        assert!(take(8, 1).is_err(), "it came later");
        assert_eq!(raise(&asked, 8, 1), Ok(()));
        drop(asked);
        let given = watermark.lock();
        assert!(given.gaps.is_empty() && given.open.is_empty(), "{given:?}");
    }

    #[test]
    fn what_was_never_given_is_as_good_as_given_once_later_requests_are_sent() {
        let watermark = Watermark::default();
        let early = watermark.ask();
        assert_eq!(raise(&early, 10, 1), Ok(()));
        let late = watermark.ask();
        assert!(raise(&late, 5, 1).is_err(), "given before it was asked for");
        assert_eq!(raise(&late, 20, 1), Ok(()));
        drop(early);
        let starts: Vec<_> = watermark.lock().gaps.keys().copied().collect();
        assert_eq!(starts, [11], "no open request can have the one below");
        drop(late);
        let given = watermark.lock();
        assert!(given.gaps.is_empty() && given.open.is_empty(), "{given:?}");
    }

    #[test]
    fn a_request_that_is_overtaken_for_long_takes_a_bounded_memory() {
        let watermark = Watermark::default();
        let overtaken = watermark.ask();
        let gaps = GAPS_MAX as u64 + 1;
        for first in (0..gaps).map(|gap| 2 * gap + 1) {
            assert_eq!(raise(&watermark.ask(), first, 1), Ok(()));
        }
        assert_eq!(watermark.lock().gaps.len(), GAPS_MAX);
        assert!(raise(&overtaken, 0, 1).is_err(), "forgotten");
        assert_eq!(raise(&overtaken, 2, 1), Ok(()));
    }

    #[test]
    fn an_answer_to_another_request_is_an_error_and_raises_nothing() {
        let watermark = Watermark::default();
        for (asked, first, count) in [(1, u64::MAX - 2, 2), (2, 7, 1), (2, u64::MAX - 1, 2)] {
            let raised = watermark.ask().raise(asked, &answer(first, count));
            assert!(raised.is_err(), "{asked} {first} {count}");
        }
        assert_eq!(next(&watermark), 0);
    }
}
