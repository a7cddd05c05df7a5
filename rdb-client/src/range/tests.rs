use std::ops::RangeBounds;

use proptest::prelude::*;

use super::*;
use crate::limits::tests::LIMITS;

fn range(start: Bound<&[u8]>, end: Bound<&[u8]>) -> Result<KeyRange, Error> {
    KeyRange::from((start, end)).checked(&LIMITS)
}

fn parts(range: Result<KeyRange, Error>) -> (Bytes, Option<Bytes>) {
    let range = range.expect("valid");
    (range.start, range.end)
}

#[test]
fn bounds_become_half_open_by_a_zero_byte() {
    use Bound::{Excluded, Included, Unbounded};
    let bytes = Bytes::from_static;
    assert_eq!(
        parts(range(Included(b"a"), Excluded(b"b"))),
        (bytes(b"a"), Some(bytes(b"b")))
    );
    assert_eq!(
        parts(range(Excluded(b"a"), Included(b"b"))),
        (bytes(b"a\0"), Some(bytes(b"b\0")))
    );
    assert_eq!(parts(range(Unbounded, Unbounded)), (bytes(b""), None));
}

#[test]
fn every_range_of_rust_is_one_of_keys() {
    use Bound::{Excluded, Included, Unbounded};
    let from = |bounds: (Bound<&str>, Bound<&str>)| KeyRange::from(bounds);
    assert_eq!(KeyRange::from(..), from((Unbounded, Unbounded)));
    assert_eq!(
        KeyRange::from("a".."b"),
        from((Included("a"), Excluded("b")))
    );
    assert_eq!(
        KeyRange::from("a"..="b"),
        from((Included("a"), Included("b")))
    );
    assert_eq!(KeyRange::from("a"..), from((Included("a"), Unbounded)));
    assert_eq!(KeyRange::from(.."b"), from((Unbounded, Excluded("b"))));
    assert_eq!(KeyRange::from(..="b"), from((Unbounded, Included("b"))));
}

#[test]
fn an_excluded_empty_end_is_nothing_and_not_everything() {
    let nothing = range(Bound::Unbounded, Bound::Excluded(b"")).expect("valid");
    assert!(nothing.is_empty());
    assert!(range(Bound::Included(b"a"), Bound::Excluded(b"")).is_err());
}

#[test]
fn inverted_ranges_and_long_bounds_are_refused_by_name() {
    let longest = [b'k'; 5];
    let refused = [
        (
            range(Bound::Included(b"b"), Bound::Excluded(b"a")),
            "end_key",
        ),
        (
            range(Bound::Excluded(&longest), Bound::Unbounded),
            "start_key",
        ),
        (
            range(Bound::Unbounded, Bound::Included(&longest)),
            "end_key",
        ),
    ];
    for (result, expected) in refused {
        let error = result.expect_err(expected);
        assert!(
            matches!(&error, Error::InvalidArgument { field, .. } if field == expected),
            "{error:?}"
        );
    }
    assert!(range(Bound::Included(&longest), Bound::Unbounded).is_ok());
}

/// Short keys over few bytes, so that they often meet.
fn key(bytes_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0), Just(1), Just(b'a'), Just(0xfe), Just(0xff)];
    proptest::collection::vec(byte, 0..=bytes_max)
}

proptest! {
    #[test]
    fn a_range_holds_the_keys_that_rust_says(
        start in key(3), end in key(3), candidate in key(4), kinds in 0..9_u8,
    ) {
        let bound = |kind, key| match kind {
            0 => Bound::Included(key),
            1 => Bound::Excluded(key),
            _ => Bound::Unbounded,
        };
        let asked = (bound(kinds / 3, &start[..]), bound(kinds % 3, &end[..]));
        let inside = |key: &[u8]| RangeBounds::<[u8]>::contains(&asked, key);
        match range(asked.0, asked.1) {
            Ok(range) => {
                let held = range.start[..] <= candidate[..]
                    && range.end.as_ref().is_none_or(|end| end[..] > candidate[..]);
                prop_assert_eq!(held, inside(&candidate));
            }
            Err(_) => prop_assert!(!inside(&candidate), "refused, though it holds a key"),
        }
    }

    #[test]
    fn a_prefix_covers_exactly_the_keys_that_begin_so(prefix in key(3), candidate in key(4)) {
        let range = KeyRange::prefix(&prefix);
        let held = range.start[..] <= candidate[..]
            && range.end.as_ref().is_none_or(|end| end[..] > candidate[..]);
        prop_assert_eq!(held, candidate.starts_with(&prefix));
    }

    #[test]
    fn no_region_begins_between_the_highest_key_and_the_end(
        end in proptest::option::of(key(5)), boundary in key(4),
    ) {
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = range(Bound::Unbounded, end).expect("valid");
        prop_assume!(!range.is_empty());
        let highest = range.highest_key(&LIMITS);
        prop_assert!(range.end.as_ref().is_none_or(|end| highest < end));
        let between = boundary[..] > highest[..]
            && range.end.as_ref().is_none_or(|end| boundary[..] < end[..]);
        prop_assert!(!between, "{highest:?}");
    }

    #[test]
    fn clamped_parts_and_the_rest_make_up_the_range(split in key(3), start in key(3), end in key(3)) {
        prop_assume!(start < end && !split.is_empty());
        let range = range(Bound::Included(&start), Bound::Excluded(&end)).expect("valid");
        let split = Bytes::from(split);
        let (above, below) = (range.above(&split), range.below(&split));
        prop_assert!(above.is_some() || below.is_some());
        if let Some(above) = above && range.start < split {
            let part = range.clamped(&Bytes::new(), &split);
            prop_assert_eq!((&part.start, part.end.as_ref()), (&range.start, Some(&above.start)));
            prop_assert_eq!(above.end, range.end.clone());
        }
        if let Some(below) = below && range.end.as_ref().is_none_or(|end| *end > split) {
            let part = range.clamped(&split, &Bytes::new());
            prop_assert_eq!((Some(&part.start), &part.end), (below.end.as_ref(), &range.end));
        }
    }
}

#[test]
fn everything_is_left_above_nothing_and_nothing_above_the_last_region() {
    let everything = KeyRange::from(..);
    assert_eq!(everything.above(&Bytes::new()), None);
    assert_eq!(everything.below(&Bytes::new()), None);
    assert!(everything.above(&Bytes::from_static(b"m")).is_some());
}
