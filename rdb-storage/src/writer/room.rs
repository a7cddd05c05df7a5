//! Room in the write queue, in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::command::require;
use crate::error::Error;

/// All of the queue's room.
#[derive(Debug)]
pub(super) struct Room {
    bytes_max: usize,
    /// Relaxed throughout: the count guards nothing but itself.
    taken_bytes: AtomicUsize,
}

/// Room in the write queue that is taken. Dropping it gives the room back.
#[derive(Debug)]
pub struct WriteRoom {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            taken_bytes: AtomicUsize::new(0),
        })
    }

    /// How much is taken, and how much there is, in bytes.
    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.taken_bytes.load(Ordering::Relaxed), self.bytes_max)
    }

    /// Takes room for `bytes`, without waiting.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<WriteRoom, Error> {
        let max = self.bytes_max;
        require(bytes <= max, "submission", Some(max), || {
            format!(
                "the submission counts {bytes} bytes, and the write queue holds {max}; split it"
            )
        })?;
        let order = Ordering::Relaxed;
        let taken = self.taken_bytes.fetch_update(order, order, |taken| {
            let taken = taken.saturating_add(bytes);
            (taken <= max).then_some(taken)
        });
        let room = Arc::clone(self);
        taken
            .map(|_| WriteRoom { room, bytes })
            .map_err(|_| Error::Busy {
                queue: "write",
                limit: max as u64,
                unit: "bytes",
            })
    }
}

impl Drop for WriteRoom {
    fn drop(&mut self) {
        self.room
            .taken_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_until_room_is_given_back() {
        let room = Room::new(100);
        let large = room.take(60).unwrap();
        let _small = room.take(40).unwrap();
        assert!(matches!(room.take(1), Err(Error::Busy { limit: 100, .. })));
        drop(large);
        room.take(60).unwrap();
        assert!(matches!(room.take(101), Err(Error::InvalidArgument { .. })));
    }
}
