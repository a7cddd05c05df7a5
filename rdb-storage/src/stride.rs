//! Strides: bounded steps of a scan over a range of deleted keys.
//!
//! RocksDB gives up a search that has skipped too many deleted entries, but does not say where it was. So the scan searches
//! again with a nearer bound, until a search reaches its bound or finds an entry. The bounds are computed. A place in the
//! key space is a binary fraction, and a stride of n bits leads to the next fraction of n bits. The shortest stride passes
//! exactly one possible key, so a search always makes progress, for any keys.
//!
//! After a stride that was too long, the next one has a number of bits half way to that of the last stride that was short enough, or else
//! of the shortest one. Strides that were not too long grow faster and faster. So only more deleted entries make more strides.

use bytes::Bytes;

use crate::limits::KEY_BYTES_MAX;

/// The length of the strides of one scan.
#[derive(Debug, Default)]
pub(crate) struct Stride {
    /// The length of the next stride. 0: to the end of the scan.
    bits: usize,
    /// The longest stride that is known to be too long.
    too_long: Option<usize>,
    /// The last stride that was short enough.
    short_enough: Option<usize>,
    /// How many bits shorter the fraction is next time, if the present stride is short enough.
    growth: usize,
}

impl Stride {
    /// Call after RocksDB gave up a search that began at `place`.
    pub(crate) fn shorten(&mut self, place: &[u8]) {
        let shortest = shortest(place);
        let upper = match self.short_enough {
            Some(bits) if bits > self.bits => bits,
            // A stride that was short enough at another place is too long here.
            _ => shortest,
        };
        self.too_long = Some(self.bits);
        // Rounded up, so that the shortest is reached.
        self.bits = (self.bits + upper).div_ceil(2).min(shortest);
        self.growth = 0;
    }

    /// Call after a search that reached its bound.
    pub(crate) fn lengthen(&mut self) {
        self.short_enough = Some(self.bits);
        let longest = self.too_long.take().map_or(0, |bits| bits + 1);
        self.bits = self.bits.saturating_sub(self.growth).max(longest);
        self.growth = (self.growth * 2).max(1);
    }

    /// Whether a stride from `place` passes a single key.
    pub(crate) fn is_shortest(&self, place: &[u8]) -> bool {
        self.bits >= shortest(place)
    }

    /// Where a stride up from `place` ends, exclusively. `None`: above every key.
    pub(crate) fn up(&self, place: &[u8]) -> Option<Bytes> {
        if self.bits > place.len() * 8 {
            return Some([place, &[0]].concat().into());
        }
        let mut bound = fraction(place, self.bits);
        let mut carry = unit(self.bits);
        for byte in bound.iter_mut().rev() {
            let overflows;
            (*byte, overflows) = byte.overflowing_add(carry);
            if !overflows {
                // The lowest string of this fraction: keys that only end in more zeros are not below it.
                bound.truncate(bound.iter().rposition(|byte| *byte != 0)? + 1);
                return Some(bound.into());
            }
            carry = 1;
        }
        None
    }

    /// Where a stride down from `place`, which is exclusive, ends inclusively. `None`: below every key.
    pub(crate) fn down(&self, place: &[u8]) -> Option<Bytes> {
        if self.is_shortest(place) {
            return Some(key_below(place));
        }
        let mut bound = fraction(place, self.bits);
        if bound != place {
            return Some(bound.into());
        }
        let mut borrow = unit(self.bits);
        for byte in bound.iter_mut().rev() {
            let underflows;
            (*byte, underflows) = byte.overflowing_sub(borrow);
            if !underflows {
                return Some(bound.into());
            }
            borrow = 1;
        }
        None
    }
}

/// The bits of the stride from `place` that passes a single key. `place` may be a byte longer than a key.
fn shortest(place: &[u8]) -> usize {
    match place.len() {
        bytes if bytes > KEY_BYTES_MAX => KEY_BYTES_MAX * 8,
        bytes => bytes * 8 + 1,
    }
}

/// The first `bits` of `place`, which has as many or more.
fn fraction(place: &[u8], bits: usize) -> Vec<u8> {
    let bytes = bits.div_ceil(8).min(place.len());
    let mut fraction = place[..bytes].to_vec();
    if let Some(last) = fraction.last_mut() {
        *last &= !(unit(bits) - 1);
    }
    fraction
}

/// The lowest of `bits` bits, within the byte that it is in.
fn unit(bits: usize) -> u8 {
    1 << (bits.next_multiple_of(8) - bits)
}

/// The highest key below `place`.
fn key_below(place: &[u8]) -> Bytes {
    let Some((&last, rest)) = place.split_last() else {
        return Bytes::new();
    };
    if place.len() > KEY_BYTES_MAX {
        return Bytes::copy_from_slice(rest);
    }
    let mut key = rest.to_vec();
    if let Some(last) = last.checked_sub(1) {
        key.push(last);
        key.resize(KEY_BYTES_MAX, 0xff);
    }
    key.into()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn stride(bits: usize) -> Stride {
        Stride {
            bits,
            ..Stride::default()
        }
    }

    #[test]
    fn a_stride_leads_to_the_next_fraction_of_its_bits() {
        let up = |place: &[u8], bits| stride(bits).up(place).map(|bound| bound.to_vec());
        assert_eq!(up(b"ab", 0), None);
        assert_eq!(up(b"ab", 8), Some(b"b".to_vec()));
        assert_eq!(up(b"ab", 16), Some(b"ac".to_vec()));
        assert_eq!(up(b"ab", 17), Some(b"ab\0".to_vec()));
        assert_eq!(up(b"a\xff", 16), Some(b"b".to_vec()));
        assert_eq!(up(b"\x41", 2), Some(b"\x80".to_vec()));
        assert_eq!(up(b"\xff\xff", 16), None);
        let down = |place: &[u8], bits| stride(bits).down(place).map(|bound| bound.to_vec());
        assert_eq!(down(b"ab", 0), Some(b"".to_vec()));
        assert_eq!(down(b"ab", 8), Some(b"a".to_vec()));
        assert_eq!(down(b"a", 8), Some(b"`".to_vec()));
        assert_eq!(down(b"\0", 8), None);
        assert_eq!(down(b"a\0", 17), Some(b"a".to_vec()));
    }

    #[test]
    fn the_shortest_stride_passes_exactly_one_key() {
        let longest = vec![b'k'; KEY_BYTES_MAX];
        let behind = [&longest[..], b"\0"].concat();
        let next = [&longest[..KEY_BYTES_MAX - 1], b"l"].concat();
        let up = |place: &[u8]| stride(shortest(place)).up(place).unwrap();
        assert_eq!(up(&longest), behind);
        assert_eq!(up(&behind), next, "no key is between them");
        let down = |place: &[u8]| stride(shortest(place)).down(place).unwrap();
        assert_eq!(down(&behind), longest);
        assert_eq!(down(b"a\0"), "a");
        let below_a = [&[b'`'][..], &[0xff; KEY_BYTES_MAX - 1]].concat();
        assert_eq!(down(b"a"), below_a);
    }

    /// Strides over a row of deleted keys as a scan does, with at most `budget` of them per search. Returns the number of searches.
    /// At most 17 searches fail between two that succeed: there are 65,537 lengths, and each failure halves the rest.
    fn searches(deleted: &[Vec<u8>], budget: usize, reverse: bool) -> usize {
        let mut place = if reverse { vec![0xff; 9] } else { Vec::new() };
        let (mut stride, mut searches, mut in_vain) = (Stride::default(), 0, 0);
        loop {
            searches += 1;
            let bound = if reverse {
                stride.down(&place)
            } else {
                stride.up(&place)
            };
            let between = |key: &&Vec<u8>| match (&bound, reverse) {
                (None, false) => **key >= place,
                (Some(bound), false) => **key >= place && key.as_slice() < &bound[..],
                (None, true) => **key < place,
                (Some(bound), true) => **key < place && key.as_slice() >= &bound[..],
            };
            let met = deleted.iter().filter(between).count();
            if met > budget && !stride.is_shortest(&place) {
                stride.shorten(&place);
                in_vain += 1;
                assert!(in_vain <= 17);
                continue;
            }
            assert!(met <= budget.max(1));
            match bound {
                Some(bound) if !bound.is_empty() => {
                    assert_eq!(bound[..] < place[..], reverse, "it gets on");
                    place = bound.to_vec();
                }
                _ => return searches,
            }
            in_vain = 0;
            stride.lengthen();
        }
    }

    proptest! {
        #[test]
        fn strides_get_past_any_deleted_keys(
            keys in vec(vec(prop_oneof![Just(0), Just(1), Just(b'a'), Just(0xff), any::<u8>()], 1..7), 0..60),
            prefix in vec(any::<u8>(), 0..3),
            budget in 1..9_usize,
            reverse: bool,
        ) {
            let keys: std::collections::BTreeSet<_> =
                keys.into_iter().map(|key| [&prefix[..], &key].concat()).collect();
            let keys: Vec<_> = keys.into_iter().collect();
            searches(&keys, budget, reverse);
        }
    }

    #[test]
    fn a_long_row_takes_few_searches() {
        let row: Vec<_> = (0..20_000)
            .map(|number| format!("user:{number:08}").into_bytes())
            .collect();
        for reverse in [false, true] {
            let searches = searches(&row, 1000, reverse);
            println!("{searches} searches past 20,000 keys of 1,000 each, reverse: {reverse}");
            assert!(searches < 500, "{searches}");
        }
    }
}
