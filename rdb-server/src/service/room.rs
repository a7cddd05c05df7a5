//! Room: bytes in flight that are reserved before a result takes memory.
//!
//! A read first gets a little room. When its result is larger, the read fails without taking memory, and says how many
//! bytes it needs. Then it waits for that room, for a bounded time, and runs again. The room stays reserved until the
//! answer is sent.

use rdb_proto::error::busy;
use rdb_proto::transport::limits::{ADMISSION_WAIT, BYTES_BACKOFF, CONNECTION_BYTES_GUARANTEED};
use rdb_proto::transport::{BytesInFlight, Call, Reservation, Waited};
use rdb_storage::limits::SCAN_PAGE_BYTES;

use crate::error::Rejection;
use crate::region::ReadFailure;

/// The room that a read gets before its size is known, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct FirstRoom {
    /// Reserved if it is free.
    most: usize,
    /// Waited for otherwise.
    least: usize,
}

/// A quarter of the bytes that a connection is guaranteed, so that its requests fit beside it.
const LEAST: usize = CONNECTION_BYTES_GUARANTEED / 4;

/// The first room of a read of one key.
pub(super) const POINT_ROOM: FirstRoom = FirstRoom::exactly(16 << 10);

/// The first room of a read of several keys.
pub(super) const BATCH_ROOM: FirstRoom = FirstRoom::exactly(LEAST);

/// The first room of a page of a scan. The page ends where its room does.
pub(super) const PAGE_ROOM: FirstRoom = FirstRoom {
    most: SCAN_PAGE_BYTES,
    least: LEAST,
};

/// The first room of a response of a stream. The response ends where its room does.
pub(super) const RESPONSE_ROOM: FirstRoom = FirstRoom {
    most: CONNECTION_BYTES_GUARANTEED,
    least: LEAST,
};

impl FirstRoom {
    const fn exactly(bytes: usize) -> Self {
        Self {
            most: bytes,
            least: bytes,
        }
    }

    pub(super) fn try_reserve(self, budgets: &BytesInFlight) -> Option<Reservation> {
        let most = budgets.try_reserve(self.most);
        most.or_else(|| budgets.try_reserve(self.least))
    }

    async fn reserve(
        self,
        budgets: &BytesInFlight,
        waited: &Waited,
    ) -> Result<Reservation, Rejection> {
        match self.try_reserve(budgets) {
            Some(room) => Ok(room),
            None => wait_for(budgets, self.least, waited).await,
        }
    }
}

async fn reserve(
    budgets: &BytesInFlight,
    bytes: usize,
    waited: &Waited,
) -> Result<Reservation, Rejection> {
    match budgets.try_reserve(bytes) {
        Some(room) => Ok(room),
        None => wait_for(budgets, bytes, waited).await,
    }
}

async fn wait_for(
    budgets: &BytesInFlight,
    bytes: usize,
    waited: &Waited,
) -> Result<Reservation, Rejection> {
    let _wait = waited.begin();
    let room = budgets.reserve(bytes, ADMISSION_WAIT).await;
    room.map_err(|_| Rejection::Routing(busy(BYTES_BACKOFF)))
}

/// Makes an answer with the room that it needs. The transport holds `bytes_of` the answer until it is sent.
pub(super) async fn answer_with_room<T, F>(
    call: &Call,
    first: FirstRoom,
    bytes_of: impl Fn(&T) -> usize,
    read: impl Fn(usize) -> F,
) -> Result<T, Rejection>
where
    F: Future<Output = Result<T, ReadFailure>>,
{
    let (budgets, waited) = (call.bytes_in_flight(), call.waited());
    let (answer, mut room) = read_with_room(budgets, first, waited, read).await?;
    room.shrink_to(bytes_of(&answer));
    call.hold_until_sent(room);
    Ok(answer)
}

/// Reads with the room that the result needs. What it waits for room is added to `waited`.
pub(super) async fn read_with_room<T, F>(
    budgets: &BytesInFlight,
    first: FirstRoom,
    waited: &Waited,
    read: impl Fn(usize) -> F,
) -> Result<(T, Reservation), Rejection>
where
    F: Future<Output = Result<T, ReadFailure>>,
{
    let mut room = first.reserve(budgets, waited).await?;
    loop {
        match read(room.bytes()).await {
            Ok(found) => return Ok((found, room)),
            Err(ReadFailure::NeedsRoom { bytes }) => {
                // Given back first: two reads that hold some and wait for more would wait for each other.
                drop(room);
                room = reserve(budgets, bytes, waited).await?;
            }
            Err(ReadFailure::Rejected(rejection)) => return Err(rejection),
        }
    }
}

/// Reserves `bytes`, or [`LEAST`] of them, or nothing: only bytes that others do not need.
pub(super) fn spare(budgets: &BytesInFlight, bytes: usize) -> Option<Reservation> {
    let sizes = [bytes, bytes.min(LEAST)].into_iter();
    sizes
        .filter(|&bytes| bytes > 0)
        .find_map(|bytes| budgets.try_reserve_spare(bytes))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rdb_proto::errorpb::region_error::Kind;
    use rdb_proto::transport::ByteBudget;

    use super::*;

    fn budgets(bytes: usize) -> BytesInFlight {
        BytesInFlight::of_connection(&ByteBudget::new(bytes))
    }

    /// Reads a value of `bytes`, and notes how much room was given last.
    async fn read(
        budgets: &BytesInFlight,
        bytes: usize,
        given: &Cell<usize>,
    ) -> Result<((), Reservation), Rejection> {
        let read = |room| async move {
            given.set(room);
            assert!(budgets.connection.bytes_taken() >= room, "it is reserved");
            if bytes > room {
                return Err(ReadFailure::NeedsRoom { bytes });
            }
            Ok(())
        };
        read_with_room(budgets, POINT_ROOM, &Waited::default(), read).await
    }

    #[tokio::test]
    async fn a_small_value_is_read_at_once_and_a_large_one_when_it_has_room() {
        let (budgets, given) = (budgets(8 << 20), Cell::new(0));
        let ((), small) = read(&budgets, 10, &given).await.expect("there is room");
        assert_eq!(
            (small.bytes(), given.get()),
            (POINT_ROOM.least, POINT_ROOM.least)
        );
        let ((), large) = read(&budgets, 4 << 20, &given)
            .await
            .expect("there is room");
        assert_eq!((large.bytes(), given.get()), (4 << 20, 4 << 20));
        drop((small, large));
        assert_eq!(budgets.process.bytes_taken(), 0);
    }

    #[tokio::test]
    async fn a_value_without_room_is_not_read_and_leaves_nothing_reserved() {
        let (budgets, given) = (budgets(1 << 20), Cell::new(0));
        let refused = read(&budgets, 2 << 20, &given).await.expect_err("no room");
        assert!(matches!(refused, Rejection::Routing(Kind::ServerBusy(_))));
        assert_eq!(given.get(), POINT_ROOM.least, "it got no more than that");
        assert_eq!(budgets.process.bytes_taken(), 0);
    }

    #[tokio::test]
    async fn a_value_that_grows_meanwhile_gets_more_room() {
        let (budgets, tries) = (budgets(8 << 20), Cell::new(0));
        let read = |room| {
            let size = (1 << 20) << tries.get().min(2);
            tries.set(tries.get() + 1);
            async move {
                if size > room {
                    return Err(ReadFailure::NeedsRoom { bytes: size });
                }
                Ok(room)
            }
        };
        let found = read_with_room(&budgets, POINT_ROOM, &Waited::default(), read).await;
        assert_eq!(found.expect("there is room").0, 4 << 20);
    }

    #[test]
    fn values_of_conflicts_take_only_what_others_can_spare() {
        let budgets = budgets(1 << 20);
        let all = spare(&budgets, 256 << 10).expect("half is free");
        assert_eq!(all.bytes(), 256 << 10);
        let some = spare(&budgets, 4 << 20).expect("less than half is taken");
        assert_eq!(some.bytes(), LEAST);
        let needed = budgets
            .try_reserve(600 << 10)
            .expect("not spare, but there");
        assert!(spare(&budgets, 1).is_none());
        drop(needed);
        assert!(spare(&budgets, 0).is_none(), "nothing was asked for");
    }

    #[test]
    fn the_first_room_of_every_read_is_within_what_a_connection_always_gets() {
        let process = ByteBudget::new(4 << 20);
        let greedy = BytesInFlight::of_connection(&process);
        let _held = greedy.try_reserve(4 << 20).expect("there is room");
        for first in [POINT_ROOM, BATCH_ROOM, PAGE_ROOM, RESPONSE_ROOM] {
            let modest = BytesInFlight::of_connection(&process);
            let _request = modest.try_reserve(LEAST).expect("guaranteed");
            let room = first.try_reserve(&modest).expect("guaranteed");
            assert!(room.bytes() >= first.least);
        }
    }
}
