//! Who may have a connection: a number of places, and a window for each.
//!
//! When all places are taken, one connection makes room for a new one, the first of these:
//!
//! 1. A connection whose peer does not greet.
//! 2. A connection whose peer calls and is no user.
//! 3. The connection that has been idle longest.
//!
//! It is told to go away and then closed, so for a moment a few more are open than there are places. When these are
//! [`CLOSING_CONNECTIONS_MAX`], the one that has been closing longest is cut off, once it has had
//! [`CONNECTION_CLOSE_TIMEOUT`](super::limits::CONNECTION_CLOSE_TIMEOUT) for calls that were under way.
//!
//! When all places are taken by connections in use, other stores still get one, up to a number, since clients may wait for
//! them. Nobody knows who connects, so anybody gets such an extra place. On it only the methods for stores can be called,
//! and it makes room for the next one.
//!
//! A connection's window is what its peer can send before anything is read. Unread bytes are not charged to the bytes in
//! flight, so windows come from a separate sum: the first connections get large ones, later ones what is left. When it is
//! used up, some more get [`CONNECTION_WINDOW_BYTES_LOW`], and the others [`CONNECTION_WINDOW_BYTES_MIN`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::Connection;
use super::limits::{
    CONNECTION_WINDOW_BYTES, CONNECTION_WINDOW_BYTES_LOW, CONNECTION_WINDOW_BYTES_MIN, LOW_WINDOWS,
    WINDOWS_PART,
};
use super::traffic::Patience;

/// Most connections that are open beyond the places, since they are being closed to make room.
const CLOSING_CONNECTIONS_MAX: usize = 64;

/// A new connection takes one part in this many of what is left for windows.
const WINDOW_PART: usize = 4;

/// The places of one server.
#[derive(Debug)]
pub(super) struct Places {
    connections_max: usize,
    per_address_max: Option<usize>,
    for_stores_max: usize,
    /// The sum of the windows, beside those of the least sizes.
    windows_bytes: usize,
    patience: Patience,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next_id: u64,
    connections: HashMap<u64, (IpAddr, Arc<Connection>)>,
    /// Those beyond the places.
    for_stores: HashMap<u64, Arc<Connection>>,
    window_bytes: usize,
}

/// A place that is taken until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    id: u64,
    /// The HTTP/2 window of the connection.
    pub(super) window_bytes: u32,
    /// Whether only other stores are served.
    pub(super) is_for_stores: bool,
}

/// Why a connection gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("all places for connections are taken by connections in use")]
    Process,
    #[error("its address has all the connections that one address may have")]
    Address,
}

impl Places {
    pub(super) fn new(
        connections_max: usize,
        per_address_max: Option<usize>,
        for_stores_max: usize,
        patience: Patience,
        bytes_in_flight_max: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            connections_max,
            per_address_max,
            for_stores_max,
            windows_bytes: bytes_in_flight_max / WINDOWS_PART,
            patience,
            taken: Mutex::default(),
        })
    }

    /// A place for `connection`, which comes from `address`.
    pub(super) fn take(
        self: &Arc<Self>,
        address: IpAddr,
        connection: &Arc<Connection>,
    ) -> Result<Place, Full> {
        let address = address.to_canonical();
        let mut taken = self.taken();
        if let Some(max) = self.per_address_max {
            let same = taken.connections.values().filter(|(of, _)| *of == address);
            if same.count() >= max {
                return Err(Full::Address);
            }
        }
        let is_full = taken.connections.len() >= self.connections_max;
        let is_for_stores = is_full && self.make_room(&taken).is_err();
        if is_for_stores {
            self.make_room_for_stores(&taken)?;
        }
        let window_bytes = self.window_bytes(taken.window_bytes);
        taken.window_bytes += window_bytes as usize;
        let id = taken.next_id;
        taken.next_id += 1;
        let connection = Arc::clone(connection);
        if is_for_stores {
            taken.for_stores.insert(id, connection);
        } else {
            taken.connections.insert(id, (address, connection));
        }
        Ok(Place {
            places: Arc::clone(self),
            id,
            window_bytes,
            is_for_stores,
        })
    }

    /// The window of one more connection.
    fn window_bytes(&self, taken_bytes: usize) -> u32 {
        let low_bytes = self.windows_bytes + LOW_WINDOWS * CONNECTION_WINDOW_BYTES_LOW as usize;
        let least = if taken_bytes < low_bytes {
            CONNECTION_WINDOW_BYTES_LOW
        } else {
            CONNECTION_WINDOW_BYTES_MIN
        };
        let part = self.windows_bytes.saturating_sub(taken_bytes) / WINDOW_PART;
        let part = u32::try_from(part).unwrap_or(u32::MAX);
        part.clamp(least, CONNECTION_WINDOW_BYTES)
    }

    /// Asks the longest idle connection to close. When enough are closing already, one of them has to end for that.
    fn make_room(&self, taken: &Taken) -> Result<(), Full> {
        let connections = taken.connections.values().map(|(_, connection)| connection);
        let open = connections.filter(|connection| !connection.cut_off.is_cancelled());
        let mut overdue = None;
        if open.clone().count() >= self.connections_max + CLOSING_CONNECTIONS_MAX {
            let longest = open.clone().max_by_key(|c| c.traffic.closing_ticks());
            let is_overdue =
                |c: &&Arc<Connection>| c.traffic.closing_ticks() >= Some(self.patience.closing);
            overdue = Some(longest.filter(is_overdue).ok_or(Full::Process)?);
        }
        let staying = open.filter(|connection| !connection.closing.is_cancelled());
        if staying.clone().count() >= self.connections_max {
            // What calls a stranger makes is no reason for it to stay: everybody may make them, or nobody was let in.
            let is_idle = |c: &&Arc<Connection>| {
                let is_used = c.traffic.is_in_use(&self.patience) || c.traffic.is_between_calls();
                !is_used || c.is_of_a_stranger()
            };
            let idle = staying.filter(is_idle);
            // Strangers that hold a place without a word go before peers that have shown who they are.
            let longest = idle.max_by_key(|c| {
                let is_strange = (c.is_slow_to_greet(), c.is_of_a_stranger());
                (is_strange, c.traffic.idle_ticks())
            });
            longest.ok_or(Full::Process)?.closing.cancel();
        }
        if let Some(overdue) = overdue {
            overdue.cut_off.cancel();
        }
        Ok(())
    }

    /// Cuts off a connection beyond the places if there may be no more of them. It has no call, and has been idle longest.
    fn make_room_for_stores(&self, taken: &Taken) -> Result<(), Full> {
        let connections = taken.for_stores.values();
        let open = connections.filter(|connection| !connection.cut_off.is_cancelled());
        if open.clone().count() >= self.for_stores_max {
            let unused = open.filter(|connection| connection.traffic.calls() == 0);
            let longest = unused.max_by_key(|connection| connection.traffic.idle_ticks());
            longest.ok_or(Full::Process)?.cut_off.cancel();
        }
        Ok(())
    }

    /// How many calls are in flight.
    pub(super) fn calls(&self) -> usize {
        let taken = self.taken();
        let connections = taken.connections.values();
        let connections = connections.map(|(_, connection)| connection);
        connections
            .chain(taken.for_stores.values())
            .map(|connection| connection.traffic.calls())
            .sum()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.connections.remove(&self.id);
        taken.for_stores.remove(&self.id);
        taken.window_bytes -= self.window_bytes as usize;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio_util::sync::CancellationToken;

    use super::super::budget::{ByteBudget, ProcessBudgets};
    use super::super::limits::PROCESS_BYTES_IN_FLIGHT_MAX;
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const PATIENCE: Patience = Patience {
        idle: None,
        silent_call: 30,
        closing: 3,
        closing_max: 33,
    };

    fn connection() -> Arc<Connection> {
        let closing = CancellationToken::new();
        let process = ProcessBudgets {
            clients: ByteBudget::new(0),
            stores: ByteBudget::new(0),
        };
        let connection = Connection::new(&process, closing);
        connection.note_let_in(true);
        Arc::new(connection)
    }

    fn places(connections_max: usize, per_address_max: Option<usize>) -> Arc<Places> {
        let bytes_in_flight_max = PROCESS_BYTES_IN_FLIGHT_MAX;
        Places::new(
            connections_max,
            per_address_max,
            0,
            PATIENCE,
            bytes_in_flight_max,
        )
    }

    #[test]
    fn the_longest_idle_connection_without_a_call_makes_room() {
        let places = places(3, None);
        let connections = [connection(), connection(), connection()];
        let held = connections
            .each_ref()
            .map(|c| places.take(HERE, c).expect("free"));
        let [busy, old, young] = &connections;
        for _ in 0..5 {
            busy.traffic.tick();
            old.traffic.tick();
        }
        busy.traffic.begin_call();
        old.traffic.tick();
        let newcomer = places.take(HERE, &connection()).expect("room is made");
        let closing = connections.each_ref().map(|c| c.closing.is_cancelled());
        assert_eq!(closing, [false, true, false]);
        drop(held);
        drop(newcomer);
        assert!(!young.closing.is_cancelled());
        assert!(places.taken().connections.is_empty());
        assert_eq!(places.taken().window_bytes, 0);
    }

    #[test]
    fn who_does_not_greet_makes_room_before_an_idle_client() {
        let places = places(2, None);
        let [client, mut stranger] = [connection(), connection()];
        client.stream_window_bytes.get_or_init(|| 0);
        for _ in 0..5 {
            client.traffic.tick();
        }
        let of_stranger = Arc::get_mut(&mut stranger).expect("it is not shared yet");
        let accepted_at = of_stranger.accepted_at;
        of_stranger.accepted_at = accepted_at - 2 * super::super::connection::GREETING_EXPECTED;
        let _held = [&client, &stranger].map(|c| places.take(HERE, c).expect("free"));
        let _newcomer = places.take(HERE, &connection()).expect("room is made");
        assert!(stranger.closing.is_cancelled() && !client.closing.is_cancelled());
    }

    #[test]
    fn who_calls_and_is_no_user_makes_room_before_an_idle_client() {
        let places = places(3, None);
        let [client, stranger, greeted] = [connection(), connection(), connection()];
        client.traffic.begin_call();
        client.traffic.end_call();
        greeted.note_let_in(false);
        for _ in 0..5 {
            client.traffic.tick();
        }
        stranger.note_let_in(false);
        stranger.traffic.begin_call();
        let _held = [&client, &stranger, &greeted].map(|c| places.take(HERE, c).expect("free"));
        let _newcomer = places.take(HERE, &connection()).expect("room is made");
        let closing = [&client, &stranger, &greeted].map(|c| c.closing.is_cancelled());
        assert_eq!(closing, [false, true, false]);
    }

    #[test]
    fn a_call_keeps_the_place_unless_it_is_silent_for_long() {
        let places = places(1, None);
        let connection = connection();
        let _held = places.take(HERE, &connection).expect("free");
        connection.traffic.begin_call();
        let newcomer = self::connection();
        assert_eq!(places.take(HERE, &newcomer).err(), Some(Full::Process));
        for _ in 0..PATIENCE.silent_call {
            connection.traffic.tick();
        }
        assert!(places.take(HERE, &newcomer).is_ok());
        assert!(connection.closing.is_cancelled());
    }

    #[test]
    fn a_client_keeps_the_place_between_its_calls() {
        let places = places(1, None);
        let connection = connection();
        let _held = places.take(HERE, &connection).expect("free");
        connection.traffic.begin_call();
        connection.traffic.end_call();
        connection.traffic.tick();
        let newcomer = self::connection();
        assert_eq!(places.take(HERE, &newcomer).err(), Some(Full::Process));
        connection.traffic.tick();
        assert!(places.take(HERE, &newcomer).is_ok());
    }

    #[test]
    fn a_store_gets_a_place_beside_busy_clients_and_whoever_makes_no_call_makes_room_for_it() {
        let bytes_in_flight_max = PROCESS_BYTES_IN_FLIGHT_MAX;
        let places = Places::new(1, None, 2, PATIENCE, bytes_in_flight_max);
        let [client, store, silent, other] = [(); 4].map(|()| connection());
        let take = |connection: &_| places.take(HERE, connection);
        let free = take(&client).expect("free");
        assert!(!free.is_for_stores);
        client.traffic.begin_call();
        let beyond = take(&store).expect("a place beyond");
        assert!(beyond.is_for_stores);
        store.traffic.begin_call();
        let unused = take(&silent).expect("the last one");
        let instead = take(&other).expect("room is made");
        assert!(silent.cut_off.is_cancelled() && !store.cut_off.is_cancelled());
        other.traffic.begin_call();
        assert_eq!(take(&connection()).err(), Some(Full::Process));
        assert_eq!(places.calls(), 3);
        drop((free, beyond, unused, instead));
        assert!(places.taken().for_stores.is_empty());
        assert_eq!(places.taken().window_bytes, 0);
    }

    #[test]
    fn connections_that_never_close_do_not_add_up() {
        let places = places(2, None);
        let take = || places.take(HERE, &connection()).ok();
        let held: Vec<_> = std::iter::from_fn(take).take(1000).collect();
        assert_eq!(held.len(), 2 + CLOSING_CONNECTIONS_MAX);
    }

    #[test]
    fn of_too_many_that_do_not_close_the_one_that_was_told_first_is_cut_off() {
        let places = places(1, None);
        let connections: Vec<_> = (0..=CLOSING_CONNECTIONS_MAX)
            .map(|_| connection())
            .collect();
        let take = |connection: &_| places.take(HERE, connection);
        let mut held: Vec<_> = connections.iter().map(|c| take(c).expect("room")).collect();
        let [first, second, ..] = &*connections else {
            panic!("there are more");
        };
        for told in [second, first] {
            told.traffic.begin_closing();
            told.traffic.begin_call();
            told.traffic.tick();
        }
        assert!(take(&connection()).is_err(), "they have a moment");
        for _ in 1..PATIENCE.closing {
            assert!(!second.cut_off.is_cancelled());
            second.traffic.tick();
        }
        held.push(take(&connection()).expect("room is made"));
        let cut_off = connections.iter().map(|c| c.cut_off.is_cancelled());
        assert!(cut_off.eq((0..=CLOSING_CONNECTIONS_MAX).map(|index| index == 1)));
        assert!(take(&connection()).is_err(), "room for one");
    }

    #[test]
    fn one_address_has_its_share_only() {
        let places = places(10, Some(2));
        let held = [(); 2].map(|()| places.take(HERE, &connection()).expect("free"));
        assert_eq!(places.take(HERE, &connection()).err(), Some(Full::Address));
        let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        assert_eq!(
            places.take(mapped, &connection()).err(),
            Some(Full::Address)
        );
        assert!(places.take(THERE, &connection()).is_ok());
        drop(held);
        assert!(places.take(HERE, &connection()).is_ok());
    }

    #[test]
    fn windows_are_large_for_few_and_bounded_for_many() {
        for (bytes_in_flight_mib, first_mib, sum_mib) in
            [(256, 8, 110), (64, 2, 84), (4096, 16, 592)]
        {
            let bytes_in_flight_max = bytes_in_flight_mib << 20;
            let places = Places::new(1024, None, 0, PATIENCE, bytes_in_flight_max);
            let first = places.take(HERE, &connection()).expect("free");
            let first_bytes = first_mib << 20;
            assert_eq!(first.window_bytes as usize, first_bytes);
            let take = |_| places.take(HERE, &connection()).expect("free");
            let others: Vec<_> = (1..1024).map(take).collect();
            let low = |place: &&Place| place.window_bytes >= CONNECTION_WINDOW_BYTES_LOW;
            assert!(others.iter().filter(low).count() >= LOW_WINDOWS);
            let bytes = places.taken().window_bytes;
            assert!(bytes <= sum_mib << 20, "{bytes}");
            drop(others);
            assert_eq!(places.taken().window_bytes, first_bytes);
        }
    }
}
