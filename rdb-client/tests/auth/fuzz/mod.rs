//! Credentials that nobody has given, and nonsense. For as long as there is time: nothing of it is let in, everything is answered or
//! closed, and no process panics.

mod certificates;
mod headers;
mod messages;
mod rights;

use std::time::{Duration, Instant};

use fastrand::Rng;

const SECONDS: &str = "RDB_AUTH_FUZZ_SECONDS";
const SEED: &str = "RDB_AUTH_FUZZ_SEED";

/// How long each kind runs, unless somebody asks for more.
const SECONDS_DEFAULT: u64 = 3;

/// Choices of one run, and until when they are made.
struct Fuzz {
    rng: Rng,
    what: &'static str,
    seed: u64,
    tries: u64,
    ends_at: Instant,
}

impl Fuzz {
    fn of(what: &'static str) -> Self {
        let seed = number(SEED).unwrap_or_else(|| fastrand::u64(..));
        let seconds = number(SECONDS).unwrap_or(SECONDS_DEFAULT);
        println!("{what}: {SEED}={seed} makes these choices again");
        Self {
            rng: Rng::with_seed(seed),
            what,
            seed,
            tries: 0,
            ends_at: Instant::now() + Duration::from_secs(seconds),
        }
    }

    /// Whether there is time for one more try. There is for a few, however slow the machine is.
    fn goes_on(&mut self) -> bool {
        const TRIES_MIN: u64 = 50;
        let goes_on = self.tries < TRIES_MIN || Instant::now() < self.ends_at;
        self.tries += u64::from(goes_on);
        goes_on
    }

    /// Which try this is, for a failure.
    fn try_number(&self) -> String {
        format!(
            "try {} of {} with {SEED}={}",
            self.tries, self.what, self.seed
        )
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.rng.usize(..=most);
        std::iter::repeat_with(|| self.rng.u8(..))
            .take(length)
            .collect()
    }

    /// Changes bytes so that they differ: bits, parts that are missing, twice there, or strange.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut mutated = bytes.to_vec();
        while mutated == bytes {
            for _ in 0..self.rng.usize(1..=3) {
                self.mutate_once(&mut mutated);
            }
        }
        mutated
    }

    fn mutate_once(&mut self, bytes: &mut Vec<u8>) {
        let at = self.rng.usize(..=bytes.len());
        let end = (at + self.rng.usize(1..=8)).min(bytes.len());
        match self.rng.u8(..8) {
            0..3 if at < bytes.len() => bytes[at] ^= 1 << self.rng.u8(..8),
            3 if at < bytes.len() => bytes[at] = self.rng.u8(..),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let part = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, part));
            }
            6 => bytes.truncate(at),
            _ => {
                let strange = self.bytes(8);
                drop(bytes.splice(at..at, strange));
            }
        }
    }
}

impl Drop for Fuzz {
    fn drop(&mut self) {
        println!("{}: {} tries", self.what, self.tries);
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect("a number"))
}
