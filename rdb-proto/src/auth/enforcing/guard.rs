//! The rights that hold now, in a server.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tonic::Code;

use super::clock::Moment;
use super::refusal;
use super::rights::Rights;
use crate::error::Fault;
use crate::figures::Counter;

/// The number of the state in which nothing is enforced.
pub(super) const OFF: u64 = 0;

/// Where no rights are held, this stands for their version. None have it.
const NO_VERSION: u64 = 0;

/// What a server lets callers do now. There is one in each process, and every change of the rights is set on it.
///
/// It is in one of the states of [`GuardState`]. [`set`](Self::set) and [`refuse`](Self::refuse) move it on, and so does time.
#[derive(Debug)]
pub struct Guard {
    /// The number of the present state: [`OFF`], or one that no other state has had. Written under the lock of the state. Relaxed
    /// is enough: it is only compared, and what belongs to another number is read under the lock.
    epoch: AtomicU64,
    /// The version of the rights that are held, or [`NO_VERSION`]. Written under the lock of the state, and read without it, so that
    /// readers of this figure delay no caller.
    version: AtomicU64,
    state: RwLock<State>,
    /// When the rights were confirmed last, as a [`Moment`]. Relaxed: it stands for itself.
    renewed_ms: AtomicI64,
    stale_max: Option<Duration>,
    refusals: Arc<Refusals>,
    /// Set at most once, before the first call.
    refused_stores: OnceLock<Arc<dyn RefusedStores>>,
}

/// Is told of refused calls that are for stores.
pub trait RefusedStores: Debug + Send + Sync + 'static {
    /// Notes where one came from, and why it was refused. It must not wait: anybody can make such a call.
    fn note(&self, address: IpAddr, cause: &str);
}

/// The state of a [`Guard`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardState {
    /// Rights are not enforced: everything is allowed.
    Off,
    /// They are enforced, and there are none: every call that needs any is refused as UNAVAILABLE.
    Missing,
    /// They were confirmed longer ago than the server's bound: calls are refused like that, too.
    Stale,
    /// They were confirmed that long ago: what they allow is allowed.
    Good(Duration),
}

#[derive(Debug)]
struct State {
    /// The last number that was given out.
    last_epoch: u64,
    now: Now,
}

/// What was set last.
#[derive(Debug)]
enum Now {
    Off,
    Refusing,
    Holding(Arc<Held>),
}

/// Rights, and who counts what they do not allow.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) rights: Arc<Rights>,
    pub(super) refusals: Arc<Refusals>,
}

/// Counts refusals since the start of the process.
#[derive(Debug, Default)]
pub struct Refusals {
    unauthenticated: Counter,
    denied: Counter,
    unavailable: Counter,
}

impl Refusals {
    /// Refusals of callers that have not shown who they are.
    pub fn unauthenticated(&self) -> u64 {
        self.unauthenticated.get()
    }

    /// Refusals of users that lack a right.
    pub fn denied(&self) -> u64 {
        self.denied.get()
    }

    /// Refusals for lack of rights that are recent enough.
    pub fn unavailable(&self) -> u64 {
        self.unavailable.get()
    }

    /// Counts a caller that its handler has refused, for methods whose handler alone checks callers.
    pub fn count_denied(&self) {
        self.denied.increment();
    }

    /// Counts a refusal.
    pub(super) fn note(&self, refusal: &Fault) {
        let counter = match refusal.code {
            Code::Unauthenticated => &self.unauthenticated,
            Code::PermissionDenied => &self.denied,
            _ => &self.unavailable,
        };
        counter.increment();
    }
}

impl Guard {
    /// Allows everything, until rights are set.
    pub fn off() -> Self {
        let state = State {
            last_epoch: OFF,
            now: Now::Off,
        };
        Self {
            epoch: AtomicU64::new(OFF),
            version: AtomicU64::new(NO_VERSION),
            state: RwLock::new(state),
            renewed_ms: AtomicI64::new(Moment::now().ms),
            stale_max: None,
            refusals: Arc::default(),
            refused_stores: OnceLock::new(),
        }
    }

    /// Refuses everything, until rights are set.
    pub fn refusing() -> Self {
        let guard = Self::off();
        guard.refuse();
        guard
    }

    /// Enforces `rights`, however long ago they were confirmed. For the process that keeps them.
    pub fn without_limit(rights: Arc<Rights>) -> Self {
        let guard = Self::off();
        guard.set(Some(rights));
        guard
    }

    /// The same, refusing everything when the rights were confirmed longer ago than that.
    #[must_use]
    pub fn with_stale_max(self, stale_max: Duration) -> Self {
        Self {
            stale_max: Some(stale_max),
            ..self
        }
    }

    /// From now on `refused_stores` is told of refused calls that are for stores. Nobody can take its place.
    pub fn tell(&self, refused_stores: Arc<dyn RefusedStores>) {
        self.refused_stores.get_or_init(|| refused_stores);
    }

    /// From now on these rights hold, which are confirmed now. `None`: rights are not enforced.
    pub fn set(&self, rights: Option<Arc<Rights>>) {
        match rights {
            Some(rights) => self.set_asked_at(Moment::now(), rights),
            None => self.enter(Moment::now(), Now::Off),
        }
    }

    /// From now on these rights hold. Their age counts from the question that they answer: they may have changed since, and the answer may
    /// have waited while the machine slept.
    pub fn set_asked_at(&self, asked: Moment, rights: Arc<Rights>) {
        let held = Held {
            rights,
            refusals: Arc::clone(&self.refusals),
        };
        self.enter(asked, Now::Holding(Arc::new(held)));
    }

    /// From now on everything is refused, until rights are set. Those that it had are gone.
    pub fn refuse(&self) {
        self.enter(Moment::now(), Now::Refusing);
    }

    /// The rights that it has are confirmed by the answer to a question, see [`set_asked_at`](Self::set_asked_at).
    pub fn renew(&self, asked: Moment) {
        self.renewed_ms.store(asked.ms, Relaxed);
    }

    /// Whether rights are enforced.
    pub fn is_enforced(&self) -> bool {
        self.epoch() != OFF
    }

    /// Its state at this moment.
    pub fn state(&self) -> GuardState {
        match self.read().now {
            Now::Off => GuardState::Off,
            Now::Refusing => GuardState::Missing,
            Now::Holding(_) => {
                let age = self.since_renewed();
                if self.stale_max.is_some_and(|stale_max| age > stale_max) {
                    GuardState::Stale
                } else {
                    GuardState::Good(age)
                }
            }
        }
    }

    /// The version of the rights that it has. `None`: it has none.
    pub fn version(&self) -> Option<u64> {
        let version = self.version.load(Acquire);
        (version != NO_VERSION).then_some(version)
    }

    /// How long ago the rights were confirmed, also when that is too long. `None`: it has none.
    pub fn age(&self) -> Option<Duration> {
        self.version().map(|_| self.since_renewed())
    }

    /// What was refused so far.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Tells that a call was refused that is for stores.
    pub(crate) fn note_refused_store(&self, address: IpAddr, refusal: &Fault) {
        if let Some(refused_stores) = self.refused_stores.get() {
            refused_stores.note(address, &refusal.cause);
        }
    }

    /// The number of the present state.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// The rights of now and the number of their state. `None`: rights are not enforced.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE when there are none.
    pub(super) fn present(&self) -> Result<Option<(u64, Arc<Held>)>, Fault> {
        let state = self.read();
        match &state.now {
            Now::Off => Ok(None),
            Now::Refusing => Err(refusal::no_rights()),
            Now::Holding(held) => Ok(Some((self.epoch(), Arc::clone(held)))),
        }
    }

    /// Checks that the rights are recent enough.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE when they are not.
    pub(super) fn check_recent(&self) -> Result<(), Fault> {
        let Some(stale_max) = self.stale_max else {
            return Ok(());
        };
        if self.since_renewed() <= stale_max {
            return Ok(());
        }
        Err(refusal::stale(stale_max))
    }

    fn enter(&self, confirmed: Moment, now: Now) {
        let mut state = self.write();
        let epoch = match now {
            Now::Off => OFF,
            Now::Refusing | Now::Holding(_) => {
                state.last_epoch += 1;
                state.last_epoch
            }
        };
        let version = match &now {
            Now::Off | Now::Refusing => NO_VERSION,
            Now::Holding(held) => held.rights.version(),
        };
        state.now = now;
        self.renew(confirmed);
        self.epoch.store(epoch, Relaxed);
        // Who sees the version sees when it was confirmed.
        self.version.store(version, Release);
    }

    fn since_renewed(&self) -> Duration {
        let renewed_ms = self.renewed_ms.load(Relaxed);
        // Negative when somebody confirms them meanwhile.
        let age_ms = Moment::now().ms.saturating_sub(renewed_ms);
        Duration::from_millis(u64::try_from(age_ms).unwrap_or(0))
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::super::Caller;
    use super::super::tests::{rights, user};
    use super::super::token::Token;
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// One that has had its rights for two minutes.
    fn old_guard(token: &Token) -> Guard {
        let guard = Guard::without_limit(rights(1, &[user("ada", &[token], &[])]));
        age(&guard);
        guard
    }

    /// Two minutes pass.
    fn age(guard: &Guard) {
        guard.renewed_ms.fetch_sub(2 * 60 * 1000, Relaxed);
    }

    #[test]
    fn rights_that_nobody_confirms_refuse_everything_until_somebody_does() {
        let token = Token::random();
        let guard = Arc::new(old_guard(&token).with_stale_max(MINUTE));
        let new = |token| Caller::with_token(Arc::clone(&guard), token);
        let [caller, remembered, stranger] = [&token, &token, &Token::random()].map(new);
        guard.renew(Moment::now());
        remembered.pass().expect("they are confirmed");
        let cause = "the rights are older than --auth-stale-max-s, 60 s: this store gets no newer ones, and `rdbctl health` says why";
        // Also whom they do not know: that may have changed since.
        for caller in [&caller, &remembered, &stranger] {
            age(&guard);
            let refused = caller.pass().expect_err("the rights are old");
            assert_eq!(refused.code, Code::Unavailable);
            assert_eq!(refused.cause, cause, "however old they are");
        }
        let refusals = guard.refusals();
        assert_eq!((refusals.unavailable(), refusals.unauthenticated()), (3, 0));
        let age = guard.age().expect("it has rights");
        assert!(age >= 2 * MINUTE);
        assert_eq!(guard.state(), GuardState::Stale);
        guard.renew(Moment::now());
        assert!(guard.age().expect("it has rights") < age);
        assert!(matches!(guard.state(), GuardState::Good(now) if now < age));
        caller.pass().expect("they are confirmed");
        remembered.pass().expect("they are confirmed");
        let refused = stranger.pass().expect_err("nobody");
        assert_eq!(refused.code, Code::Unauthenticated);
    }

    #[test]
    fn other_rights_are_confirmed_when_they_are_set() {
        let token = Token::random();
        let guard = Arc::new(old_guard(&token).with_stale_max(MINUTE));
        let caller = Caller::with_token(Arc::clone(&guard), &token);
        guard.set(Some(rights(2, &[user("ada", &[&token], &[])])));
        caller.pass().expect("they are confirmed");
    }

    /// It may have waited while the machine slept.
    #[test]
    fn an_answer_counts_from_the_question() {
        let ada = |version| rights(version, &[user("ada", &[&Token::random()], &[])]);
        let guard = Guard::without_limit(ada(1)).with_stale_max(MINUTE);
        let long_ago = Moment {
            ms: Moment::now().ms - 2 * 60 * 1000,
        };
        guard.renew(long_ago);
        assert_eq!(guard.state(), GuardState::Stale);
        guard.renew(Moment::now());
        assert!(matches!(guard.state(), GuardState::Good(_)));
        guard.set_asked_at(long_ago, ada(2));
        assert_eq!(guard.state(), GuardState::Stale);
        assert_eq!(guard.version(), Some(2));
    }

    #[test]
    fn without_a_limit_rights_stay_good() {
        let token = Token::random();
        let caller = Caller::with_token(Arc::new(old_guard(&token)), &token);
        caller.pass().expect("there is no limit");
    }

    /// A scrape reads them. The first command of a caller takes the lock.
    #[test]
    fn what_a_scrape_shows_is_read_without_the_lock_of_the_state() {
        let guard = Arc::new(old_guard(&Token::random()));
        let _held = guard.write();
        let (show, shown) = mpsc::channel();
        thread::spawn({
            let guard = Arc::clone(&guard);
            move || {
                let age = guard.age().expect("it has rights");
                show.send((guard.is_enforced(), guard.version(), age >= 2 * MINUTE))
            }
        });
        // Far above what a busy machine needs.
        let shown = shown.recv_timeout(5 * MINUTE);
        assert_eq!(shown, Ok((true, Some(1), true)));
    }

    #[test]
    fn what_is_not_enforced_does_not_age() {
        let guard = old_guard(&Token::random()).with_stale_max(MINUTE);
        guard.set(None);
        age(&guard);
        assert_eq!((guard.age(), guard.state()), (None, GuardState::Off));
        let guard = Arc::new(guard);
        let caller = Caller::with_token(Arc::clone(&guard), &Token::random());
        caller.pass().expect("nothing is enforced");
        assert_eq!(guard.refusals().unavailable(), 0);
    }
}
