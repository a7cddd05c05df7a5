//! How far the timestamps of this client have come.

use std::sync::atomic::{AtomicU64, Ordering};

use rdb_proto::pdpb::GetTsoResponse;

use super::unasked;
use crate::Error;

/// The lowest timestamp that was not given yet, as far as this client knows. It only grows.
///
/// Relaxed: when one call begins after another has ended, whatever told it so has made the mark visible, too.
#[derive(Debug, Default)]
pub(crate) struct Watermark(AtomicU64);

impl Watermark {
    /// Answers to requests that are sent from now on lie at this mark or above.
    pub(super) fn mark(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes in the answer to a request for `count` timestamps that was sent after `mark` was read.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] when it answers another request, or a timestamp of the answer had been given before. Nothing has
    /// happened then.
    pub(super) fn raise(
        &self,
        mark: u64,
        count: u32,
        answer: &GetTsoResponse,
    ) -> Result<(), Error> {
        let first = answer.first;
        let fitting = first.checked_add(count.into());
        let fitting = fitting.filter(|_| answer.count == count);
        let next = fitting.ok_or_else(unasked)?;
        if first < mark {
            let last = mark - 1;
            let cause = format!(
                "the placement driver gave timestamp {first} after {last}; was it restored from an old copy?"
            );
            return Err(Error::internal(cause));
        }
        self.0.fetch_max(next, Ordering::Relaxed);
        Ok(())
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

    fn raise(watermark: &Watermark, mark: u64, first: u64, count: u32) -> Result<(), Error> {
        watermark.raise(mark, count, &answer(first, count))
    }

    #[test]
    fn an_answer_that_was_given_before_is_an_error_that_names_both() {
        let watermark = Watermark::default();
        assert_eq!(raise(&watermark, watermark.mark(), 0, 5), Ok(()));
        assert_eq!(raise(&watermark, watermark.mark(), 5, 1), Ok(()));
        for first in [5, 4] {
            let error = raise(&watermark, watermark.mark(), first, 9);
            let text = error.expect_err("given before").to_string();
            assert!(text.contains(&format!("{first} after 5")), "{text}");
        }
        assert_eq!(watermark.mark(), 6, "nothing was handed out");
    }

    #[test]
    fn of_two_requests_on_the_way_at_once_either_may_be_answered_first() {
        let watermark = Watermark::default();
        let (early, late) = (watermark.mark(), watermark.mark());
        assert_eq!(raise(&watermark, late, 11, 1), Ok(()));
        assert_eq!(raise(&watermark, early, 10, 1), Ok(()));
        assert_eq!(watermark.mark(), 12);
    }

    #[test]
    fn an_answer_to_another_request_is_an_error_and_raises_nothing() {
        let watermark = Watermark::default();
        for (asked, first, count) in [(1, u64::MAX - 2, 2), (2, 7, 1), (2, u64::MAX - 1, 2)] {
            let raised = watermark.raise(watermark.mark(), asked, &answer(first, count));
            assert!(raised.is_err(), "{asked} {first} {count}");
        }
        assert_eq!(watermark.mark(), 0);
    }
}
