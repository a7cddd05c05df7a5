//! What systemd, or another service manager with its protocol, is told: when the process serves, why it does not yet, and when it stops.
//!
//! Nothing is sent unless the variable `NOTIFY_SOCKET` names a socket, as it does for a unit with `Type=notify`.

use std::convert::Infallible;

use sd_notify::NotifyState;

use super::HealthHandle;

/// Tells that the process is ready when it does its work for the first time, and its health as a line for people whenever that changes.
pub(super) async fn follow(health: HealthHandle) -> Infallible {
    let mut changes = health.subscribe();
    let mut is_ready = false;
    loop {
        let serving = changes.borrow_and_update().clone();
        match serving {
            Ok(()) if is_ready => tell(&[NotifyState::Status("serving")]),
            Ok(()) => {
                is_ready = true;
                tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
            }
            Err(cause) => {
                let line = cause.replace('\n', "; ");
                tell(&[NotifyState::Status(&line)]);
            }
        }
        let changed = changes.changed().await;
        changed.expect("the handle holds the sender");
    }
}

/// Tells that the drain begins.
pub(super) fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
