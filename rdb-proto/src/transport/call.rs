//! A call: what it is charged, and what its handler can learn and ask of the transport.

use std::net::SocketAddr;
#[cfg(feature = "process")]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Request;

#[cfg(feature = "process")]
use super::audited::{Asked, note_denied};
use super::budget::{ByteBudget, BytesInFlight, ProcessBudgets, Reservation};
use super::connection::Connection;
use super::guarded::{self, Caller};
use super::limits::{CALL_BUFFER_BYTES, PROCESS_BYTES_IN_FLIGHT_MAX, WATCH_BYTES};
use super::methods::Method;
use super::stream_places::StreamPlace;
#[cfg(feature = "tls")]
use super::tls::PeerIdentity;
use super::unserved::Waited;
use crate::error::Fault;
use crate::trace::{self, TraceContext};

/// One call, from its headers until the last byte of its answer is sent: everything that has to last that long keeps it.
///
/// The transport charges the request while it arrives and every answer until it is sent. A handler takes the call from its
/// request with [`Call::of`] and adds what only it can know:
///
/// - Before it takes memory for a large answer, it reserves that much, waits a bounded time, and otherwise refuses the
///   call: `call.bytes_in_flight().reserve(bytes, ADMISSION_WAIT).await`.
/// - Once it knows the size, it gives back the rest: [`Reservation::shrink_to`].
/// - It leaves the reservation to the answer: [`Call::hold_until_sent`]. The transport charges the next bytes of the
///   answer to it, and gives it back when they are sent.
#[derive(Debug)]
pub struct Call {
    pub(super) connection: Arc<Connection>,
    pub(super) method: &'static Method,
    charges: Mutex<Charges>,
    waited: Waited,
    trace: Option<TraceContext>,
    caller: Caller,
    /// What it asks for, for the audit log.
    #[cfg(feature = "process")]
    pub(super) asked: OnceLock<Asked>,
    _place: StreamPlace,
}

#[derive(Debug, Default)]
struct Charges {
    /// What every call costs. `None` for one that is refused.
    base: Option<Reservation>,
    /// The charge for messages of the request beyond what the base covers.
    arrived: Option<Reservation>,
    /// How much of `arrived` is for a message that is not complete.
    incomplete_bytes: usize,
    /// A message of the request found no room.
    is_refused: bool,
    /// What the handler has reserved for the answer.
    answer: Option<Reservation>,
    has_answered: bool,
}

impl Call {
    /// The call that `request` belongs to. A request without one has lost it, or did not come over our transport: it gets a
    /// call whose caller is no user.
    pub fn of<T>(request: &Request<T>) -> Arc<Self> {
        if let Some(call) = request.extensions().get::<Arc<Self>>() {
            return Arc::clone(call);
        }
        let trace = trace::of_headers(request.metadata().as_ref());
        Self::apart(Caller::nobody(), trace)
    }

    /// A call of `caller` that does not come over our transport. A request that has it as an extension belongs to it. For tests.
    #[cfg(feature = "process")]
    pub fn unserved(caller: Caller) -> Arc<Self> {
        Self::apart(caller, None)
    }

    /// A call with its own budgets.
    pub(super) fn apart(caller: Caller, trace: Option<TraceContext>) -> Arc<Self> {
        let process = ByteBudget::new(PROCESS_BYTES_IN_FLIGHT_MAX);
        let process = ProcessBudgets {
            clients: process.clone(),
            stores: process,
        };
        let connection = Connection::new(&process, CancellationToken::new());
        let connection = Arc::new(connection);
        Self::new(connection, Method::other(), trace, caller, None, None)
    }

    pub(super) fn new(
        connection: Arc<Connection>,
        method: &'static Method,
        trace: Option<TraceContext>,
        caller: Caller,
        base: Option<Reservation>,
        place: StreamPlace,
    ) -> Arc<Self> {
        connection.traffic.begin_call();
        let charges = Charges {
            base,
            ..Charges::default()
        };
        Arc::new(Self {
            connection,
            method,
            charges: Mutex::new(charges),
            waited: Waited::default(),
            trace,
            caller,
            #[cfg(feature = "process")]
            asked: OnceLock::new(),
            _place: place,
        })
    }

    /// The budgets of the call's connection and of the process.
    pub fn bytes_in_flight(&self) -> &BytesInFlight {
        self.connection.budgets(self.method.requests)
    }

    /// Cancelled when the call's connection is about to be closed: the process drains, or nothing has moved on the
    /// connection for long. A stream that never ends by itself has to end then.
    pub fn closing(&self) -> &CancellationToken {
        &self.connection.closing
    }

    /// Where the call's connection comes from. `None`: not from our transport.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.connection.peer
    }

    /// The trace that the call is a part of. `None` for a stream: what its messages ask for are parts of many.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// Whose certificate the call's peer has presented. `None`: it has presented none, or the connection is plain text.
    #[cfg(feature = "tls")]
    pub fn peer_identity(&self) -> Option<&Arc<PeerIdentity>> {
        self.connection.peer_identity.get()
    }

    /// Who calls.
    #[cfg(feature = "process")]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Checks that the caller may still call this method.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub(super) fn check_caller(&self) -> Result<(), Fault> {
        let checked = guarded::check(&self.caller, self.method);
        #[cfg(feature = "process")]
        if let Err(refusal) = &checked {
            note_denied(&self.connection, &self.caller, self.method, refusal);
        }
        checked
    }

    /// Whether rights have changed since the caller was last looked up in them.
    pub(super) fn has_other_rights(&self) -> bool {
        self.caller.has_other_rights()
    }

    /// Whether the caller may be told what goes on in the process: it calls from this machine, or is signed in.
    pub(super) fn is_insider(&self) -> bool {
        let is_here = |peer: SocketAddr| peer.ip().to_canonical().is_loopback();
        self.peer().is_none_or(is_here) || self.caller.is_signed_in()
    }

    /// How long the call, or the last message of a stream, has waited for room before its handler saw it, and what the handler
    /// adds. A handler takes it for its own counts and times. What it leaves is reported when the call ends.
    pub fn waited(&self) -> &Waited {
        &self.waited
    }

    /// Tells of a wait that no handler has taken, if there was one.
    pub(super) fn note_unserved_wait(&self) {
        let waited = self.waited.take();
        if waited > Duration::ZERO {
            let is_refused = self.is_refused();
            self.connection
                .note_unserved(self.method, self.trace, waited, is_refused);
        }
    }

    /// The request found no room: the call is refused, and no handler has seen it.
    pub(super) fn note_found_no_room(&self) {
        let waited = self.waited.take();
        self.connection
            .note_unserved(self.method, self.trace, waited, true);
    }

    /// Keeps `reservation` until the answer is sent. On a stream: until the next messages are sent.
    pub fn hold_until_sent(&self, reservation: Reservation) {
        let charges = &mut self.charges();
        match &mut charges.answer {
            Some(held) => held.join(reservation),
            None => charges.answer = Some(reservation),
        }
    }

    /// Gives back what the transport charged for messages that have arrived completely. Otherwise they are charged until the call ends.
    pub fn release_arrived(&self) {
        drop(self.take_arrived(usize::MAX));
    }

    /// Takes over the charge of a message of `bytes` that has arrived completely. The charge is smaller where the call's
    /// base covers a part of it, and `None` where the base covers all.
    pub fn take_arrived(&self, bytes: usize) -> Option<Reservation> {
        let charges = &mut self.charges();
        let incomplete_bytes = charges.incomplete_bytes;
        let arrived = charges.arrived.as_mut()?;
        let complete_bytes = arrived.bytes().saturating_sub(incomplete_bytes);
        let taken = arrived.split_off(bytes.min(complete_bytes));
        (taken.bytes() > 0).then_some(taken)
    }

    /// Takes over the charge of a message of `message_bytes` that has arrived completely, and brings it to `held_bytes`, whether
    /// they fit or not: for what was made of the message and is kept. Later messages find less room.
    pub fn hold_message(&self, message_bytes: usize, held_bytes: usize) -> Reservation {
        let arrived = self.take_arrived(message_bytes);
        let mut held = arrived.unwrap_or_else(|| self.bytes_in_flight().take(0));
        held.shrink_to(held_bytes);
        let missing = held_bytes - held.bytes();
        if missing > 0 {
            held.join(held.more(missing));
        }
        held
    }

    /// Charges messages of the request, of which the last `incomplete_bytes` are still to come.
    pub(super) fn hold_arrived(&self, reservation: Option<Reservation>, incomplete_bytes: usize) {
        let charges = &mut self.charges();
        match (&mut charges.arrived, reservation) {
            (Some(held), Some(reservation)) => held.join(reservation),
            (held @ None, reservation) => *held = reservation,
            (Some(_), None) => {}
        }
        charges.incomplete_bytes = incomplete_bytes;
    }

    /// What holds `bytes` of the answer: what the handler has reserved, brought to that size. `None` where the base covers
    /// it.
    pub(super) fn charge_answer(&self, bytes: usize) -> Option<Reservation> {
        let charges = &mut self.charges();
        let is_first = !std::mem::replace(&mut charges.has_answered, true);
        match charges.answer.take() {
            Some(mut reserved) => {
                reserved.shrink_to(bytes);
                let missing = bytes - reserved.bytes();
                if missing > 0 {
                    reserved.join(reserved.more(missing));
                }
                Some(reserved)
            }
            None if is_first && bytes <= CALL_BUFFER_BYTES => None,
            None => Some(self.bytes_in_flight().take(bytes)),
        }
    }

    /// The call has only its task and the buffer of its answers left.
    pub(super) fn shrink_base(&self) {
        if let Some(base) = &mut self.charges().base {
            base.shrink_to(WATCH_BYTES);
        }
    }

    /// Whether the request holds bytes that other connections can wait for.
    pub(super) fn holds_shared_bytes(&self) -> bool {
        let charges = self.charges();
        let mut held = [&charges.base, &charges.arrived].into_iter().flatten();
        held.any(|reservation| !reservation.is_guaranteed())
    }

    /// A message of the request found no room. Gives back `unread_bytes` of the request's charge.
    pub(super) fn refuse(&self, unread_bytes: usize) {
        let charges = &mut *self.charges();
        charges.is_refused = true;
        charges.incomplete_bytes = 0;
        if let Some(arrived) = &mut charges.arrived {
            arrived.shrink_to(arrived.bytes().saturating_sub(unread_bytes));
        }
    }

    pub(super) fn is_refused(&self) -> bool {
        self.charges().is_refused
    }

    fn charges(&self) -> MutexGuard<'_, Charges> {
        self.charges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.note_unserved_wait();
        self.connection.traffic.end_call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Arc<Call> {
        Call::of(&Request::new(()))
    }

    fn taken(call: &Call) -> (usize, usize) {
        let budgets = call.bytes_in_flight();
        let taken = (&budgets.connection, &budgets.process);
        (taken.0.bytes_taken(), taken.1.bytes_taken())
    }

    fn reserve(call: &Call, bytes: usize) -> Reservation {
        let reserved = call.bytes_in_flight().try_reserve(bytes);
        reserved.expect("there is room")
    }

    #[cfg(feature = "process")]
    #[test]
    fn a_request_that_has_lost_its_call_is_nobodys() {
        let mut request = Request::new(());
        let pass = Call::of(&request).caller().pass();
        let refusal = pass.expect_err("nobody calls");
        assert_eq!(refusal.code, tonic::Code::Unauthenticated);
        request
            .extensions_mut()
            .insert(Call::unserved(Caller::anyone()));
        assert!(Call::of(&request).caller().pass().is_ok());
    }

    #[test]
    fn a_call_is_a_part_of_the_trace_that_its_metadata_name_if_it_is_valid() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = |traceparent: &str| {
            let mut request = Request::new(());
            let value = traceparent.parse().expect("text");
            request.metadata_mut().insert("traceparent", value);
            Call::of(&request).trace().map(ToString::to_string)
        };
        assert_eq!(traced(valid).as_deref(), Some(valid));
        assert_eq!(traced(&valid.to_uppercase()), None);
        assert_eq!(call().trace(), None);
    }

    #[test]
    fn an_answer_takes_what_was_reserved_for_it_no_more_and_no_less() {
        for (reserved, answer) in [(100_000, 100_000), (100_000, 20_000), (20_000, 100_000)] {
            let call = call();
            call.hold_until_sent(reserve(&call, reserved / 2));
            call.hold_until_sent(reserve(&call, reserved / 2));
            let charge = call.charge_answer(answer).expect("it was reserved");
            assert_eq!(charge.bytes(), answer);
            assert_eq!(taken(&call), (answer, answer));
            drop(charge);
            assert_eq!(taken(&call), (0, 0));
        }
    }

    #[test]
    fn of_an_answer_without_a_reservation_only_a_first_small_part_is_covered() {
        let call = call();
        assert!(call.charge_answer(CALL_BUFFER_BYTES).is_none());
        let second = call.charge_answer(10).expect("charged");
        assert_eq!((second.bytes(), taken(&call)), (10, (10, 10)));
        let other = self::call();
        let large = other.charge_answer(CALL_BUFFER_BYTES + 1);
        assert_eq!(large.expect("charged").bytes(), CALL_BUFFER_BYTES + 1);
    }

    #[test]
    fn complete_messages_are_given_back_and_the_one_that_arrives_is_not() {
        let call = call();
        call.hold_arrived(Some(reserve(&call, 30_000)), 0);
        call.hold_arrived(Some(reserve(&call, 50_000)), 50_000);
        call.release_arrived();
        assert_eq!(taken(&call), (50_000, 50_000));
        call.release_arrived();
        assert_eq!(taken(&call), (50_000, 50_000));
        call.hold_arrived(None, 0);
        call.release_arrived();
        assert_eq!(taken(&call), (0, 0));
    }

    #[test]
    fn a_message_is_taken_over_with_its_charge_and_the_others_keep_theirs() {
        let call = call();
        call.hold_arrived(Some(reserve(&call, 90_000)), 50_000);
        let first = call.take_arrived(30_000).expect("it was charged");
        assert_eq!((first.bytes(), taken(&call)), (30_000, (90_000, 90_000)));
        drop(first);
        let second = call.take_arrived(20_000).expect("a part was charged");
        assert_eq!(second.bytes(), 10_000);
        assert!(call.take_arrived(1).is_none(), "the rest has not arrived");
        drop(second);
        assert_eq!(taken(&call), (50_000, 50_000));
    }

    #[test]
    fn what_is_made_of_a_message_is_held_instead_of_it() {
        for held_bytes in [10, 30_000, 90_000] {
            let call = call();
            let small = call.hold_message(100, 1000);
            assert_eq!((small.bytes(), taken(&call)), (1000, (1000, 1000)));
            drop(small);
            call.hold_arrived(Some(reserve(&call, 30_000)), 0);
            let held = call.hold_message(30_000, held_bytes);
            assert_eq!(taken(&call), (held_bytes, held_bytes));
            drop(held);
            assert_eq!(taken(&call), (0, 0));
        }
    }

    #[test]
    fn a_call_that_ends_gives_everything_back_after_its_last_chunk() {
        let call = call();
        let budgets = call.bytes_in_flight().clone();
        call.hold_arrived(Some(reserve(&call, 30_000)), 30_000);
        call.hold_until_sent(reserve(&call, 20_000));
        let chunk = Arc::clone(&call);
        drop(call);
        assert_eq!(budgets.process.bytes_taken(), 50_000);
        drop(chunk);
        assert_eq!(budgets.process.bytes_taken(), 0);
    }
}
