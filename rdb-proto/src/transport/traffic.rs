//! What moves on one connection, counted in ticks: enough to tell an idle connection and one whose peer takes nothing.
//!
//! Who stands still, who sees it, and what ends:
//!
//! | what stands still | seen by | ends | after |
//! | --- | --- | --- | --- |
//! | a call: its peer's window is closed | `call_task` | the call | [`STALLED_TICKS`]; in a drain [`DRAIN_STALLED_TICKS`] |
//! | a unary request: the rest does not arrive | `arriving` | the call | its timeout; while the connection closes [`DRAIN_STALLED_TICKS`] |
//! | a chunk that HTTP/2 holds: its call is over, or lasts longer than it may | [`Traffic::is_stuck`] | the connection | `TICKS - 1`; in a drain `DRAIN_STALLED_TICKS + 1` |
//! | the socket: it takes no bytes | [`Traffic::is_stuck`] | the connection | [`STALLED_TICKS`]; in a drain [`DRAIN_STALLED_TICKS`] |
//! | the connection: no call sends or receives | `connection` | the connection, in good order | the idle timeout |
//!
//! A tick is a tenth of the time that sending may stand still. The connection's task counts ticks with [`Traffic::tick`]. All
//! others only note in which tick something happened, so that a call reads no clock.
//!
//! All atomics are relaxed: no two of them have to agree, and to see a change one tick late is not wrong.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// After that many ticks without progress sending stands still.
pub(super) const STALLED_TICKS: u32 = 10;

/// The same once the process drains.
pub(super) const DRAIN_STALLED_TICKS: u32 = 2;

/// How many ticks are told apart. An older chunk would look young again.
const TICKS: usize = 16;

/// A call that stands still is reset before its connection.
const _: () = assert!(STALLED_TICKS < TICKS as u32 - 1 && DRAIN_STALLED_TICKS < STALLED_TICKS);

#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Ticks since the connection was accepted.
    now: AtomicU32,
    last_traffic: AtomicU32,
    calls: AtomicUsize,
    /// Chunks that were handed to the transport and not sent yet, by the tick in which that was, modulo [`TICKS`].
    unsent: [AtomicU32; TICKS],
    /// One more than the tick since which the socket takes no bytes; 0 while it takes them.
    blocked_since: AtomicU32,
}

/// In which tick a chunk was handed out.
#[derive(Debug)]
pub(super) struct ChunkTick(usize);

impl Traffic {
    /// How long a tick takes where sending may stand still for `send_stall_timeout`.
    pub(super) fn tick_duration(send_stall_timeout: Duration) -> Duration {
        (send_stall_timeout / STALLED_TICKS).max(Duration::from_millis(1))
    }

    /// Goes on to the next tick.
    pub(super) fn tick(&self) {
        self.now.fetch_add(1, Relaxed);
    }

    /// A call sent or received something.
    pub(super) fn touch(&self) {
        self.last_traffic.store(self.now.load(Relaxed), Relaxed);
    }

    pub(super) fn begin_call(&self) {
        self.calls.fetch_add(1, Relaxed);
        self.touch();
    }

    pub(super) fn end_call(&self) {
        self.calls.fetch_sub(1, Relaxed);
        self.touch();
    }

    /// Whether a call is in flight that is not a silent stream: no unary call goes without traffic for
    /// `silent_call_ticks`.
    pub(super) fn is_in_use(&self, silent_call_ticks: u32) -> bool {
        self.calls.load(Relaxed) > 0 && self.idle_ticks() < silent_call_ticks
    }

    /// A chunk goes to the transport.
    pub(super) fn hand_out(&self) -> ChunkTick {
        self.touch();
        let tick = self.now.load(Relaxed) as usize % TICKS;
        self.unsent[tick].fetch_add(1, Relaxed);
        ChunkTick(tick)
    }

    /// The transport is done with a chunk.
    pub(super) fn sent(&self, handed_out: &ChunkTick) {
        self.unsent[handed_out.0].fetch_sub(1, Relaxed);
    }

    /// Whether the socket took what was written.
    pub(super) fn socket_took(&self, took: bool) {
        if took {
            if self.blocked_since.load(Relaxed) != 0 {
                self.blocked_since.store(0, Relaxed);
            }
        } else if self.blocked_since.load(Relaxed) == 0 {
            self.blocked_since
                .store(self.now.load(Relaxed) + 1, Relaxed);
        }
    }

    /// Ticks since a call sent or received something.
    pub(super) fn idle_ticks(&self) -> u32 {
        let now = self.now.load(Relaxed);
        now.saturating_sub(self.last_traffic.load(Relaxed))
    }

    /// Whether the peer has kept the transport from sending for so long that only closing the connection helps: the calls
    /// themselves are over, or are reset earlier.
    pub(super) fn is_stuck(&self, draining: bool) -> bool {
        let (blocked_max, unsent_max) = if draining {
            (DRAIN_STALLED_TICKS, DRAIN_STALLED_TICKS + 1)
        } else {
            (STALLED_TICKS, TICKS as u32 - 1)
        };
        self.blocked_ticks() >= blocked_max || self.oldest_unsent_ticks() >= unsent_max
    }

    fn blocked_ticks(&self) -> u32 {
        match self.blocked_since.load(Relaxed) {
            0 => 0,
            since => self.now.load(Relaxed).saturating_sub(since - 1),
        }
    }

    fn oldest_unsent_ticks(&self) -> u32 {
        let now = self.now.load(Relaxed);
        let ages = (1..(TICKS as u32).min(now + 1)).rev();
        let is_unsent = |age: &u32| self.unsent[(now - age) as usize % TICKS].load(Relaxed) > 0;
        ages.into_iter().find(is_unsent).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(traffic: &Traffic, count: u32) {
        for _ in 0..count {
            traffic.tick();
        }
    }

    #[test]
    fn a_connection_is_idle_since_its_last_traffic() {
        let traffic = Traffic::default();
        ticks(&traffic, 3);
        assert_eq!(traffic.idle_ticks(), 3);
        traffic.begin_call();
        assert_eq!(traffic.idle_ticks(), 0);
        ticks(&traffic, 2);
        assert_eq!(traffic.idle_ticks(), 2);
        assert!(traffic.is_in_use(3), "the call may be answered yet");
        assert!(!traffic.is_in_use(2), "it is a silent stream");
        traffic.end_call();
        assert!(!traffic.is_in_use(3));
        assert_eq!(traffic.idle_ticks(), 0);
    }

    #[test]
    fn a_chunk_that_is_never_sent_makes_the_connection_stuck() {
        let traffic = Traffic::default();
        ticks(&traffic, 40);
        for _ in 0..100 {
            traffic.sent(&traffic.hand_out());
            traffic.tick();
            assert!(!traffic.is_stuck(true), "all is sent");
        }
        let chunk = traffic.hand_out();
        ticks(&traffic, DRAIN_STALLED_TICKS + 1);
        assert!(traffic.is_stuck(true) && !traffic.is_stuck(false));
        ticks(&traffic, STALLED_TICKS);
        assert!(!traffic.is_stuck(false), "calls are reset first");
        ticks(&traffic, 2);
        assert!(traffic.is_stuck(false));
        traffic.sent(&chunk);
        assert!(!traffic.is_stuck(false));
    }

    #[test]
    fn a_socket_that_takes_nothing_makes_the_connection_stuck() {
        let traffic = Traffic::default();
        traffic.socket_took(false);
        ticks(&traffic, STALLED_TICKS - 1);
        traffic.socket_took(false);
        assert!(traffic.is_stuck(true) && !traffic.is_stuck(false));
        traffic.tick();
        assert!(traffic.is_stuck(false));
        traffic.socket_took(true);
        assert!(!traffic.is_stuck(true));
    }
}
