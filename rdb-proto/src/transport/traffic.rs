//! What moves on one connection, counted in ticks: enough to tell an idle connection and one whose peer takes nothing.
//!
//! What stalls, what notices it, and what ends:
//!
//! | what stalls | seen by | ends | after |
//! | --- | --- | --- | --- |
//! | a call: its peer's window is closed | `call_task` | the call | [`STALLED_TICKS`]; in a drain [`DRAIN_STALLED_TICKS`] |
//! | a unary request: the rest does not arrive | `arriving` | the call | its timeout; while the connection closes [`DRAIN_STALLED_TICKS`] |
//! | a chunk in HTTP/2: its call is over, or overdue | [`Traffic::is_stuck`] | the connection | `TICKS - 1`; in a drain `DRAIN_STALLED_TICKS + 1` |
//! | the socket: it takes no bytes | [`Traffic::is_stuck`] | the connection | [`STALLED_TICKS`]; in a drain [`DRAIN_STALLED_TICKS`] |
//! | the connection: no call sends or receives | `connection` | the connection, in good order | the idle timeout |
//! | a peer that was told to go away and does not | [`Traffic::is_overdue`] | the connection | see there |
//!
//! A tick is a tenth of the time that sending may stall. The connection's task counts ticks with [`Traffic::tick`]. All other
//! code only notes the tick in which something happened, so that a call reads no clock.
//!
//! All atomics are relaxed: no two of them have to agree, and seeing a change one tick late does no harm.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::limits::CONNECTION_CLOSE_TIMEOUT;
use super::serve::ServeOptions;

/// So long after a call a connection is not idle yet: a client that makes one call after the other is between two of them
/// most of the time.
const BETWEEN_CALLS_TICKS: u32 = 2;

/// Ticks without progress after which sending counts as stalled.
pub(super) const STALLED_TICKS: u32 = 10;

/// The same once the process drains.
pub(super) const DRAIN_STALLED_TICKS: u32 = 2;

/// How many ticks are told apart. An older chunk would look young again.
const TICKS: usize = 16;

/// A stalled call is reset before its connection.
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
    /// One more than the tick in which a call ended last; 0 before.
    call_ended: AtomicU32,
    /// One more than the tick in which the peer was told to go away; 0 before.
    closing_since: AtomicU32,
}

/// How many ticks a server waits for a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Without traffic, until the peer is told to go away.
    pub(super) idle: Option<u32>,
    /// Without traffic, until its calls are taken for streams that nobody uses: a unary one has ended before.
    pub(super) silent_call: u32,
    /// For silent streams once the peer was told to go away. For all calls when others need the connection's place.
    pub(super) closing: u32,
    /// How many ticks all calls have once the peer was told to go away.
    pub(super) closing_max: u32,
}

impl Patience {
    pub(super) fn new(options: &ServeOptions) -> Self {
        let tick_duration = Traffic::tick_duration(options.send_stall_timeout);
        // One more: the first tick may have been nearly over.
        let ticks = |timeout: Duration| {
            let ticks = timeout.as_millis().div_ceil(tick_duration.as_millis());
            u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1)
        };
        Self {
            idle: options.idle_timeout.map(ticks),
            silent_call: ticks(options.call_timeout),
            closing: ticks(CONNECTION_CLOSE_TIMEOUT),
            closing_max: ticks(options.call_timeout + CONNECTION_CLOSE_TIMEOUT),
        }
    }
}

/// The tick in which a chunk was handed out.
#[derive(Debug)]
pub(super) struct ChunkTick(usize);

impl Traffic {
    /// The length of a tick if sending may stall for `send_stall_timeout`.
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
        self.call_ended.store(self.now.load(Relaxed) + 1, Relaxed);
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    /// Whether there ever was a call.
    pub(super) fn has_had_calls(&self) -> bool {
        self.calls() > 0 || self.call_ended.load(Relaxed) > 0
    }

    /// Whether a call is in flight that is not a silent stream.
    pub(super) fn is_in_use(&self, patience: &Patience) -> bool {
        self.calls() > 0 && self.idle_ticks() < patience.silent_call
    }

    /// Whether a call has ended so lately that the next one may be on its way.
    pub(super) fn is_between_calls(&self) -> bool {
        let ticks = self.ticks_since(&self.call_ended);
        ticks.is_some_and(|ticks| ticks < BETWEEN_CALLS_TICKS)
    }

    /// The peer is told to go away.
    pub(super) fn begin_closing(&self) {
        self.closing_since
            .store(self.now.load(Relaxed) + 1, Relaxed);
    }

    /// Ticks since the peer was told to go away.
    pub(super) fn closing_ticks(&self) -> Option<u32> {
        self.ticks_since(&self.closing_since)
    }

    /// Whether a connection whose peer was told to go away is no longer waited for. A peer that acknowledges ends it
    /// earlier. A drain has its own timeout: it waits for calls, and without calls only for a peer that may have one
    /// under way. Otherwise unary calls are waited for, but not for ever, since the peer can begin others.
    pub(super) fn is_overdue(&self, patience: &Patience, draining: bool) -> bool {
        let Some(ticks) = self.closing_ticks() else {
            return false;
        };
        if draining {
            return self.calls() == 0 && ticks.min(self.idle_ticks()) > DRAIN_STALLED_TICKS;
        }
        ticks >= patience.closing_max || (ticks >= patience.closing && !self.is_in_use(patience))
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
        self.ticks_since(&self.blocked_since).unwrap_or(0)
    }

    /// Ticks since `event`, which is one more than its tick, or 0.
    fn ticks_since(&self, event: &AtomicU32) -> Option<u32> {
        let tick = event.load(Relaxed).checked_sub(1)?;
        Some(self.now.load(Relaxed).saturating_sub(tick))
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

    const PATIENCE: Patience = Patience {
        idle: None,
        silent_call: 3,
        closing: 5,
        closing_max: 9,
    };

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
        assert!(traffic.is_in_use(&PATIENCE), "the call may be answered yet");
        traffic.tick();
        assert!(!traffic.is_in_use(&PATIENCE), "it is a silent stream");
        traffic.end_call();
        assert!(!traffic.is_in_use(&PATIENCE));
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

    #[test]
    fn a_peer_that_does_not_go_away_is_not_waited_for_whatever_it_calls() {
        let traffic = Traffic::default();
        ticks(&traffic, 20);
        assert!(!traffic.is_overdue(&PATIENCE, false), "it may stay");
        traffic.begin_closing();
        ticks(&traffic, PATIENCE.closing - 1);
        assert!(!traffic.is_overdue(&PATIENCE, false), "it may be slow");
        traffic.tick();
        assert!(traffic.is_overdue(&PATIENCE, false));
        traffic.begin_call();
        assert!(!traffic.is_overdue(&PATIENCE, false), "it was not slow");
        for _ in PATIENCE.closing..PATIENCE.closing_max {
            assert!(!traffic.is_overdue(&PATIENCE, false));
            traffic.tick();
            traffic.touch();
        }
        assert!(traffic.is_overdue(&PATIENCE, false));
        assert!(!traffic.is_overdue(&PATIENCE, true), "a drain waits");
    }

    #[test]
    fn in_a_drain_a_peer_without_a_call_has_a_moment_to_go_away() {
        let traffic = Traffic::default();
        ticks(&traffic, 20);
        traffic.begin_closing();
        ticks(&traffic, DRAIN_STALLED_TICKS);
        assert!(!traffic.is_overdue(&PATIENCE, true), "a call may come");
        traffic.begin_call();
        ticks(&traffic, 20);
        assert!(!traffic.is_overdue(&PATIENCE, true), "it came");
        traffic.end_call();
        ticks(&traffic, DRAIN_STALLED_TICKS);
        assert!(!traffic.is_overdue(&PATIENCE, true));
        traffic.tick();
        assert!(traffic.is_overdue(&PATIENCE, true));
    }
}
