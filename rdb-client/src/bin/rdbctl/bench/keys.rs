//! The keys of a workload: their form, and which one is next.
//!
//! Key number `n` of at most 2^50 is `bench/` and ten characters of five bits each. An odd multiplier, which maps each
//! number to a different one, scatters the numbers over that space. So keys with consecutive numbers lie far apart in the
//! key space, as the keys of most applications do, and the popular numbers of a zipfian distribution need no scrambling.

use clap::ValueEnum;
use fastrand::Rng;
use serde::Serialize;

/// Length of every key, in bytes.
pub(crate) const KEY_BYTES: usize = 16;

const PREFIX: &[u8; 6] = b"bench/";

/// Ascending in ASCII, so that the keys' order is that of the scattered numbers.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

const NUMBER_BITS: u32 = 50;

/// Odd, and near 2^50 divided by the golden ratio: consecutive numbers spread evenly.
const SCATTER: u64 = 695_856_026_424_889;

/// The exponent that YCSB uses.
const ZIPFIAN_THETA: f64 = 0.99;

/// Key number `number`.
pub(crate) fn key(number: u64) -> [u8; KEY_BYTES] {
    let scattered = number.wrapping_mul(SCATTER) & ((1 << NUMBER_BITS) - 1);
    let mut key = [0; KEY_BYTES];
    let (prefix, digits) = key.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(PREFIX);
    for (position, digit) in digits.iter_mut().enumerate() {
        let shift = NUMBER_BITS - 5 * (position as u32 + 1);
        *digit = ALPHABET[(scattered >> shift) as usize % ALPHABET.len()];
    }
    key
}

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// Each key as often as any other
    Uniform,
    /// Few keys very often: YCSB's distribution, exponent 0.99
    Zipfian,
}

/// Chooses key numbers. One per run; callers bring their own source of randomness.
#[derive(Debug, Clone)]
pub(crate) enum KeyChooser {
    Uniform { keys: u64 },
    Zipfian(Zipfian),
}

impl KeyChooser {
    /// Chooses among `keys` keys, at least 1. Takes time proportional to their number for a zipfian distribution.
    pub(crate) fn new(distribution: Distribution, keys: u64) -> Self {
        match distribution {
            Distribution::Uniform => Self::Uniform { keys },
            Distribution::Zipfian => Self::Zipfian(Zipfian::new(keys)),
        }
    }

    pub(crate) fn choose(&self, rng: &mut Rng) -> u64 {
        match self {
            Self::Uniform { keys } => rng.u64(..*keys),
            Self::Zipfian(zipfian) => zipfian.choose(rng),
        }
    }
}

/// Ranks from 0, rank r with a probability proportional to 1 / (r + 1)^theta, after Gray et al., "Quickly generating
/// billion-record synthetic databases" (SIGMOD 1994), section 3.
#[derive(Debug, Clone)]
pub(crate) struct Zipfian {
    keys: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
    /// Up to here lies the second rank.
    second: f64,
}

impl Zipfian {
    fn new(keys: u64) -> Self {
        let zeta = |n: u64| {
            (1..=n)
                .map(|i| (i as f64).powf(-ZIPFIAN_THETA))
                .sum::<f64>()
        };
        let (zeta_keys, zeta_2) = (zeta(keys), zeta(2));
        let eta = match keys {
            // The first two ranks are decided before eta is used.
            ..=2 => 0.0,
            _ => {
                let rest = 1.0 - (2.0 / keys as f64).powf(1.0 - ZIPFIAN_THETA);
                rest / (1.0 - zeta_2 / zeta_keys)
            }
        };
        Self {
            keys: keys as f64,
            zeta: zeta_keys,
            alpha: 1.0 / (1.0 - ZIPFIAN_THETA),
            eta,
            second: zeta_2,
        }
    }

    fn choose(&self, rng: &mut Rng) -> u64 {
        let uniform = rng.f64();
        let weight = uniform * self.zeta;
        let rank = if weight < 1.0 {
            0.0
        } else if weight < self.second {
            1.0
        } else {
            self.keys * (self.eta * uniform - self.eta + 1.0).powf(self.alpha)
        };
        (rank as u64).min(self.keys as u64 - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_have_16_bytes_and_differ() {
        let keys: HashSet<_> = (0..100_000).map(key).collect();
        assert_eq!(keys.len(), 100_000);
        assert!(keys.iter().all(|key| key.starts_with(b"bench/")));
        assert_ne!(key(0), key((1 << NUMBER_BITS) - 1));
    }

    #[test]
    fn keys_are_scattered_evenly() {
        // About a hundred of 3,200 keys begin with each of the 32 characters.
        let mut counts = [0_u32; 256];
        for number in 0..3200 {
            counts[usize::from(key(number)[PREFIX.len()])] += 1;
        }
        for character in ALPHABET {
            let count = counts[usize::from(*character)];
            assert!((80..=120).contains(&count), "{count}");
        }
    }

    #[test]
    fn every_choice_is_a_key() {
        let mut rng = Rng::with_seed(1);
        for distribution in [Distribution::Uniform, Distribution::Zipfian] {
            for keys in [1, 2, 3, 10, 1000] {
                let chooser = KeyChooser::new(distribution, keys);
                let chosen: HashSet<_> = (0..20_000).map(|_| chooser.choose(&mut rng)).collect();
                assert!(
                    chosen.iter().all(|number| *number < keys),
                    "{distribution:?} {keys}"
                );
                assert!(
                    chosen.len() as u64 * 10 >= keys * 9,
                    "{distribution:?} {keys}"
                );
            }
        }
    }

    #[test]
    fn zipfian_frequencies_fall_with_the_rank() {
        const DRAWS: usize = 1_000_000;
        let mut rng = Rng::with_seed(2);
        let zipfian = Zipfian::new(1000);
        let mut counts = vec![0_u32; 1000];
        for _ in 0..DRAWS {
            counts[zipfian.choose(&mut rng) as usize] += 1;
        }
        for rank in [0, 1, 9, 99] {
            let expected = DRAWS as f64 / ((rank + 1) as f64).powf(ZIPFIAN_THETA) / zipfian.zeta;
            let found = f64::from(counts[rank]);
            // The method approximates all ranks but the first two.
            let tolerance = if rank < 2 { 0.05 } else { 0.25 };
            assert!(
                (found / expected - 1.0).abs() < tolerance,
                "rank {rank}: {found}, expected {expected}"
            );
        }
    }
}
