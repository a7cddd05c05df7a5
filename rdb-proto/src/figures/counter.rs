//! A number that only grows.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts events since the start of the process.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one event.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `events` at once. Nothing is written for 0 of them.
    pub fn add(&self, events: u64) {
        if events > 0 {
            self.0.fetch_add(events, Relaxed);
        }
    }

    /// How many were counted.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
