//! Which keys several prefixes cover together.

/// Sorted intervals of keys that neither touch nor overlap. A range that several grants cover together lies in one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Intervals(Box<[Interval]>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Interval {
    start: Box<[u8]>,
    /// Behind the last key. `None`: there is no end.
    end: Option<Box<[u8]>>,
}

impl Intervals {
    /// The keys that begin with one of `prefixes`.
    pub(super) fn of_prefixes<'a>(prefixes: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut prefixes: Vec<_> = prefixes.into_iter().collect();
        prefixes.sort_unstable();
        let mut merged: Vec<Interval> = Vec::new();
        for prefix in prefixes {
            let end = end_of(prefix);
            match merged.last_mut() {
                Some(last) if last.reaches(prefix) => last.extend_to(end),
                _ => merged.push(Interval {
                    start: prefix.into(),
                    end,
                }),
            }
        }
        Self(merged.into())
    }

    pub(super) fn cover_key(&self, key: &[u8]) -> bool {
        self.holding(key).is_some()
    }

    /// Whether all keys from `start` on and before `end` are covered. An empty `end`: there is no end.
    pub(super) fn cover_range(&self, start: &[u8], end: &[u8]) -> bool {
        self.holding(start).is_some_and(|interval| {
            let last = interval.end.as_deref();
            last.is_none_or(|last| !end.is_empty() && end <= last)
        })
    }

    /// The interval that `key` is in.
    fn holding(&self, key: &[u8]) -> Option<&Interval> {
        let count = self.0.partition_point(|interval| *interval.start <= *key);
        let interval = self.0.get(count.checked_sub(1)?)?;
        let holds = interval.end.as_deref().is_none_or(|end| key < end);
        holds.then_some(interval)
    }
}

impl Interval {
    /// Whether it goes on without a gap if `start` is added. `start` is not before its own.
    fn reaches(&self, start: &[u8]) -> bool {
        self.end.as_deref().is_none_or(|end| start <= end)
    }

    fn extend_to(&mut self, end: Option<Box<[u8]>>) {
        let is_further = match (&self.end, &end) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(own), Some(other)) => own < other,
        };
        if is_further {
            self.end = end;
        }
    }
}

/// The first key behind all that begin with `prefix`. `None`: there is none.
fn end_of(prefix: &[u8]) -> Option<Box<[u8]>> {
    let kept = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut end: Box<[u8]> = prefix.get(..=kept)?.into();
    *end.last_mut()? += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(prefixes: &[&[u8]]) -> Intervals {
        Intervals::of_prefixes(prefixes.iter().copied())
    }

    #[test]
    fn no_prefix_covers_nothing_and_the_empty_one_everything() {
        assert!(!of(&[]).cover_key(b""));
        assert!(!of(&[]).cover_range(b"", b""));
        for all in [of(&[b""]), of(&[b"a", b"", b"\xff"])] {
            assert_eq!(all.0.len(), 1);
            assert!(all.cover_key(b"") && all.cover_key(b"\xff\xff"));
            assert!(all.cover_range(b"", b""));
        }
    }

    #[test]
    fn neighbours_cover_a_range_together_and_a_gap_is_not_covered() {
        let neighbours = of(&[b"b", b"a"]);
        assert!(neighbours.cover_range(b"a", b"c"));
        assert!(!neighbours.cover_range(b"a", b"c\0"));
        assert!(!neighbours.cover_range(b"a", b""));
        assert!(!neighbours.cover_range(b"", b"b"));
        assert!(!of(&[b"a", b"c"]).cover_range(b"a", b"d"));
    }

    #[test]
    fn a_prefix_of_the_last_byte_ends_with_the_next_shorter_one_or_never() {
        let carried = of(&[b"a\xff\xff"]);
        assert!(carried.cover_range(b"a\xff\xff", b"b"));
        assert!(!carried.cover_key(b"b"));
        let last = of(&[b"\xff\xff"]);
        assert!(last.cover_range(b"\xff\xff", b""));
        assert!(!last.cover_key(b"\xff"));
    }

    /// Short keys of few bytes, so that prefixes nest and touch.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(&[0_u8, 1, 2, 254, 255][..]), 0..4)
    }

    /// Whether every key of the range begins with one of `prefixes`. The range has a key that none covers if and only if one of these
    /// is such a key: the first key of the range, and the first one behind each prefix.
    fn covers(prefixes: &[Vec<u8>], start: &[u8], end: &[u8]) -> bool {
        let is_covered = |key: &[u8]| prefixes.iter().any(|prefix| key.starts_with(prefix));
        let is_within = |key: &[u8]| key >= start && (end.is_empty() || key < end);
        let mut firsts = vec![start.to_vec()];
        for prefix in prefixes {
            let mut behind = prefix.clone();
            while behind.last() == Some(&255) {
                behind.pop();
            }
            if let Some(last) = behind.last_mut() {
                *last += 1;
                firsts.push(behind);
            }
        }
        firsts.iter().all(|key| !is_within(key) || is_covered(key))
    }

    proptest! {
        #[test]
        fn a_key_is_covered_if_it_begins_with_one_of_the_prefixes(
            prefixes in prop::collection::vec(key(), 0..6),
            key in key(),
        ) {
            let intervals = Intervals::of_prefixes(prefixes.iter().map(Vec::as_slice));
            let expected = prefixes.iter().any(|prefix| key.starts_with(prefix));
            prop_assert_eq!(intervals.cover_key(&key), expected);
        }

        #[test]
        fn a_range_is_covered_if_each_of_its_keys_is(
            prefixes in prop::collection::vec(key(), 0..6),
            start in key(),
            end in key(),
        ) {
            let intervals = Intervals::of_prefixes(prefixes.iter().map(Vec::as_slice));
            let has_keys = end.is_empty() || start < end;
            let covered = intervals.cover_range(&start, &end);
            if has_keys {
                prop_assert_eq!(covered, covers(&prefixes, &start, &end));
            } else if covered {
                prop_assert!(intervals.cover_key(&start));
            }
        }

        #[test]
        fn intervals_are_sorted_and_leave_gaps_between_them(prefixes in prop::collection::vec(key(), 0..6)) {
            let intervals = Intervals::of_prefixes(prefixes.iter().map(Vec::as_slice));
            for pair in intervals.0.windows(2) {
                let end = pair[0].end.as_deref().expect("another one follows");
                prop_assert!(*pair[0].start < *end && *end < *pair[1].start);
            }
        }
    }
}
