//! Room in the write queue, in bytes, and the share of it that a region takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::command::require;
use crate::error::Error;

/// All of the queue's room.
#[derive(Debug)]
struct Room {
    bytes_max: usize,
    /// Relaxed throughout: the count guards nothing but itself.
    taken_bytes: AtomicUsize,
    /// How many shares of regions there are. Relaxed throughout, too.
    regions: AtomicUsize,
}

/// What a region takes of the queue's room.
///
/// A single region may take all of it. While there are several, a region that holds room leaves at least as much free as it holds. So
/// a region whose writes wait for long takes at most half of what the others leave.
#[derive(Debug)]
pub struct WriteShare {
    room: Arc<Room>,
    /// Whether it is counted among the shares of regions.
    is_of_region: bool,
    /// What its submissions hold, and their parts of the messages that they came in. Relaxed: two that take room at the same time may
    /// count each other though one of them is refused.
    held_bytes: AtomicUsize,
}

/// Room in the write queue that is taken. Dropping it gives the room back.
#[derive(Debug)]
pub struct WriteRoom {
    share: Arc<WriteShare>,
    bytes: usize,
    held_bytes: usize,
}

impl WriteShare {
    /// The share of all that belongs to no region, and the room of a new queue.
    pub(super) fn of_queue(bytes_max: usize) -> Arc<Self> {
        let room = Room {
            bytes_max,
            taken_bytes: AtomicUsize::new(0),
            regions: AtomicUsize::new(0),
        };
        Arc::new(Self {
            room: Arc::new(room),
            is_of_region: false,
            held_bytes: AtomicUsize::new(0),
        })
    }

    /// The share of a region in the same room.
    pub(super) fn of_region(&self) -> Arc<Self> {
        self.room.regions.fetch_add(1, Relaxed);
        Arc::new(Self {
            room: Arc::clone(&self.room),
            is_of_region: true,
            held_bytes: AtomicUsize::new(0),
        })
    }

    /// How much room is taken, and how much there is, in bytes.
    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.room.taken_bytes.load(Relaxed), self.room.bytes_max)
    }

    /// Takes room for `bytes`, without waiting. `held_bytes` of this and other room count for the share.
    pub(super) fn take(
        self: &Arc<Self>,
        bytes: usize,
        held_bytes: usize,
    ) -> Result<WriteRoom, Error> {
        let room = &self.room;
        let max = room.bytes_max;
        require(bytes <= max, "submission", Some(max), || {
            format!(
                "the submission counts {bytes} bytes, and the write queue holds {max}; split it"
            )
        })?;
        let held_before = self.held_bytes.fetch_add(held_bytes, Relaxed);
        let left_free = if held_before > 0 && room.regions.load(Relaxed) > 1 {
            held_before.saturating_add(held_bytes)
        } else {
            0
        };
        let taken = room.taken_bytes.fetch_update(Relaxed, Relaxed, |taken| {
            let taken = taken.saturating_add(bytes);
            (taken.saturating_add(left_free) <= max).then_some(taken)
        });
        if taken.is_err() {
            self.held_bytes.fetch_sub(held_bytes, Relaxed);
            return Err(Error::Busy {
                queue: "write",
                limit: max as u64,
                unit: "bytes",
            });
        }
        Ok(WriteRoom {
            share: Arc::clone(self),
            bytes,
            held_bytes,
        })
    }
}

impl Drop for WriteShare {
    fn drop(&mut self) {
        if self.is_of_region {
            self.room.regions.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for WriteRoom {
    fn drop(&mut self) {
        let Self {
            share,
            bytes,
            held_bytes,
        } = self;
        share.room.taken_bytes.fetch_sub(*bytes, Relaxed);
        share.held_bytes.fetch_sub(*held_bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_busy(taken: &Result<WriteRoom, Error>) -> bool {
        matches!(taken, Err(Error::Busy { limit: 100, .. }))
    }

    #[test]
    fn what_does_not_fit_is_refused_until_room_is_given_back() {
        let queue = WriteShare::of_queue(100);
        let large = queue.take(60, 60).unwrap();
        let _small = queue.take(40, 40).unwrap();
        assert!(is_busy(&queue.take(1, 1)));
        drop(large);
        queue.take(60, 60).unwrap();
        let never = queue.take(101, 101);
        assert!(matches!(never, Err(Error::InvalidArgument { .. })));
    }

    #[test]
    fn a_region_leaves_room_to_others_as_long_as_there_are_others() {
        let queue = WriteShare::of_queue(100);
        let region = queue.of_region();
        let alone = region.take(90, 90).unwrap();
        assert!(region.take(10, 10).is_ok());
        let other = queue.of_region();
        assert!(is_busy(&region.take(1, 1)));
        drop(alone);

        let _half = [region.take(40, 40).unwrap(), region.take(10, 10).unwrap()];
        assert!(is_busy(&region.take(1, 1)));
        let third = queue.of_region();
        let quarter = [other.take(20, 20).unwrap(), other.take(5, 5).unwrap()];
        assert!(is_busy(&other.take(1, 1)));
        assert!(third.take(25, 25).is_ok());
        // What was refused holds nothing.
        drop(quarter);
        drop(other.take(50, 50).unwrap());

        drop((other, third));
        assert_eq!(queue.room.regions.load(Relaxed), 1);
        assert!(region.take(50, 50).is_ok());
    }
}
