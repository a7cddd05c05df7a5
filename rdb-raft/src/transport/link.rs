//! The way to one other store: connects when somebody wants to send, again and again.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::connection::{Connection, Ended};
use super::dial::{Dialed, Dialer, NO_ADDRESS, Open};

/// The first wait before another attempt. Each later one is twice as long, up to the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The longest wait before another attempt to connect with a new token, while the connection that has shown the old one works.
const RENEWAL_BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The number of the failed attempt that is logged. That one is made about 17 s after the first, and stores learn of a token sooner.
const RENEWALS_UNTIL_TOLD: u32 = 10;

/// How many attempts in a row without an address are made until that is logged. The last is made about 8 s after the first while the
/// store is wanted, and stores learn of addresses sooner, with their heartbeats.
const NAMELESS_UNTIL_TOLD: u32 = 15;

/// The way to a store. Its owner runs [`Link::keep`] in a task; all others only use the connections that this makes.
///
/// - *pending*: it connects as soon as somebody wants it, or is about to.
/// - *up*: it is connected. The connection may have broken a moment ago. When this store gets a new token, a connection that has shown it
///   replaces the old connection, and the other store may refuse the old token from then on. Nobody waits for the new connection, but what
///   is in flight on the old one is lost, as when it breaks.
/// - *down*: the last attempt or the last connection failed, and the next attempt is not due.
pub(super) struct Link {
    pub(super) store_id: u64,
    state: watch::Sender<State>,
    wanted: Notify,
    /// Whether it has to connect once, though nobody has anything to send. Relaxed: the notification comes after it.
    greets: AtomicBool,
}

enum State {
    /// With the cause of the state before.
    Pending(Arc<str>),
    Up(Arc<Connection>),
    Down(Arc<str>),
}

impl Link {
    pub(super) fn new(store_id: u64) -> Self {
        Self {
            store_id,
            state: watch::Sender::new(State::Pending("it was not connected before".into())),
            wanted: Notify::new(),
            greets: AtomicBool::new(false),
        }
    }

    /// The connection, if there is one or the next attempt makes it. Does not wait while no attempt is due.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, Arc<str>> {
        self.wait(|state| match state {
            State::Pending(_) => None,
            State::Up(connection) => Some(Ok(Arc::clone(connection))),
            State::Down(cause) => Some(Err(Arc::clone(cause))),
        })
        .await
    }

    /// Waits for a connection as long as it takes.
    pub(super) async fn connected(&self) -> Arc<Connection> {
        self.wait(|state| match state {
            State::Pending(_) | State::Down(_) => None,
            State::Up(connection) => Some(Arc::clone(connection)),
        })
        .await
    }

    /// Why there is no connection.
    pub(super) fn cause(&self) -> String {
        match &*self.state.borrow() {
            State::Pending(cause) | State::Down(cause) => cause.to_string(),
            State::Up(_) => "it is connected only now".to_owned(),
        }
    }

    async fn wait<T>(&self, found: impl Fn(&State) -> Option<T>) -> T {
        let mut state = self.state.subscribe();
        loop {
            {
                let seen = state.borrow_and_update();
                if !matches!(*seen, State::Up(_)) {
                    self.wanted.notify_one();
                }
                if let Some(found) = found(&seen) {
                    return found;
                }
            }
            // The sender is in `self`.
            let _ = state.changed().await;
        }
    }

    /// Lets it connect, as often as that takes.
    pub(super) fn greet(&self) {
        self.greets.store(true, Ordering::Relaxed);
        self.wanted.notify_one();
    }

    /// Connects whenever it is wanted. Does not end by itself; dropping it closes the connection.
    pub(super) async fn keep(self: Arc<Self>, dialer: Dialer) {
        let _end = End(Arc::clone(&self));
        let mut backoff = BACKOFF_MIN;
        let mut told = Told::default();
        loop {
            self.wanted.notified().await;
            let ended = match dialer.dial(self.store_id).await {
                Ok(dialed) => {
                    self.greets.store(false, Ordering::Relaxed);
                    let (store_id, began) = (self.store_id, Instant::now());
                    tracing::info!(store_id, "connected to another store");
                    self.go_up(&dialed.0);
                    let ended = self.read(&dialer, dialed).await;
                    if began.elapsed() > BACKOFF_MAX {
                        backoff = BACKOFF_MIN;
                    }
                    told = Told::default();
                    ended
                }
                Err(cause) => Ended::Broken(cause),
            };
            let cause = match ended {
                Ended::InOrder(cause) => {
                    tracing::info!(store_id = self.store_id, cause, "a connection was closed");
                    cause.to_owned()
                }
                Ended::Broken(cause) => {
                    if told.takes(&cause) {
                        let store_id = self.store_id;
                        tracing::warn!(store_id, cause, "another store cannot be reached");
                    }
                    cause
                }
            };
            let cause = Arc::<str>::from(cause);
            self.state.send_replace(State::Down(Arc::clone(&cause)));
            // Stores that have lost the same one do not come back together.
            sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
            self.state.send_replace(State::Pending(cause));
            if self.greets.load(Ordering::Relaxed) {
                self.wanted.notify_one();
            }
        }
    }

    fn go_up(&self, open: &Open) {
        self.state
            .send_replace(State::Up(Arc::clone(open.connection())));
    }

    /// Hands out answers until the connection ends, or the last of those that take its place.
    async fn read(&self, dialer: &Dialer, dialed: Dialed) -> Ended {
        let (mut open, mut token_replaced) = dialed;
        loop {
            let reading = pin!(open.read());
            let renewing = pin!(self.renew(dialer, token_replaced));
            // A connection that is made is used also where the one before has just ended.
            match select(renewing, reading).await {
                Either::Left((renewed, _)) => {
                    (open, token_replaced) = renewed;
                    self.go_up(&open);
                }
                Either::Right((ended, _)) => return ended,
            }
        }
    }

    /// Waits until this store has another token, and connects with it, as often as that takes: the other store may not know it yet.
    async fn renew(&self, dialer: &Dialer, token_replaced: BoxFuture<'static, ()>) -> Dialed {
        token_replaced.await;
        // What is in flight to all followers is not lost in the same moment.
        sleep(BACKOFF_MAX.mul_f64(fastrand::f64())).await;
        let store_id = self.store_id;
        let mut backoff = BACKOFF_MIN;
        let mut in_vain = 0;
        loop {
            let cause = match dialer.dial(store_id).await {
                Ok(dialed) => {
                    tracing::info!(store_id, "another store has taken the new token");
                    return dialed;
                }
                Err(cause) => cause,
            };
            in_vain += 1;
            if in_vain == RENEWALS_UNTIL_TOLD {
                tracing::warn!(
                    store_id,
                    cause,
                    "another store does not take the new token: do not drop the old one yet"
                );
            }
            sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            backoff = (backoff * 2).min(RENEWAL_BACKOFF_MAX);
        }
    }
}

/// What was logged of failed attempts since the last connection.
#[derive(Debug, Default)]
struct Told {
    last_cause: String,
    /// How many attempts in a row had no address.
    nameless: u32,
}

impl Told {
    /// Whether to log this cause: once if it repeats. A missing address is logged only when that lasts.
    fn takes(&mut self, cause: &str) -> bool {
        if cause == NO_ADDRESS {
            self.nameless = self.nameless.saturating_add(1);
            if self.nameless < NAMELESS_UNTIL_TOLD {
                return false;
            }
        } else {
            self.nameless = 0;
        }
        let is_news = cause != self.last_cause;
        if is_news {
            cause.clone_into(&mut self.last_cause);
        }
        is_news
    }
}

/// Nobody waits for a link that nobody keeps.
struct End(Arc<Link>);

impl Drop for End {
    fn drop(&mut self) {
        let cause = "the transport has ended";
        self.0.state.send_replace(State::Down(cause.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_whose_address_comes_soon_is_not_told_of() {
        let mut told = Told::default();
        for _ in 1..NAMELESS_UNTIL_TOLD {
            assert!(!told.takes(NO_ADDRESS));
        }
        assert!(told.takes(NO_ADDRESS), "it lasts");
        assert!(!told.takes(NO_ADDRESS), "it was told");
        assert!(told.takes("connection refused"));
        assert!(!told.takes("connection refused"));
        assert!(!told.takes(NO_ADDRESS), "it begins anew");
    }
}
