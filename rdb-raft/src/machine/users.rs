//! What uses a state machine.

use tokio::sync::watch;

/// The users of the state machine of a group. The group has ended when all of them are gone.
pub(crate) struct Users(watch::Sender<bool>);

/// Held by everything that may call the state machine.
pub(crate) struct User(watch::Receiver<bool>);

impl Users {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn add(&self) -> User {
        User(self.0.subscribe())
    }

    /// Tells them to stop, and waits until all are gone.
    pub(crate) async fn stop(&self) {
        self.0.send_replace(true);
        self.0.closed().await;
    }
}

impl User {
    pub(crate) fn should_stop(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it should stop.
    pub(crate) async fn told_to_stop(&mut self) {
        // If nobody is left to tell it, the group is gone.
        let _ = self.0.wait_for(|should_stop| *should_stop).await;
    }
}
