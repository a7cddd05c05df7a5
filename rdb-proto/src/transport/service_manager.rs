//! What systemd, or another service manager with its protocol, is told: when the process has started, why it does not serve, and when it
//! stops.
//!
//! Nothing is sent unless the variable `NOTIFY_SOCKET` names a socket, as it does for a unit with `Type=notify`. A manager that takes no
//! messages holds up only the task that sends them.

use std::convert::Infallible;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::HealthHandle;

/// How long a drain waits until the manager has been told.
const STOPPING_TIMEOUT: Duration = Duration::from_millis(200);

/// Tells once that the process has started, and its health as a line for people whenever that changes.
pub(super) async fn follow(health: HealthHandle) -> Infallible {
    let (mut changes, mut started) = (health.subscribe(), health.started());
    let mut is_ready = false;
    loop {
        let line = match &*changes.borrow_and_update() {
            Ok(()) => "serving".to_owned(),
            Err(cause) => cause.replace('\n', "; "),
        };
        let becomes_ready = *started.borrow_and_update() && !is_ready;
        is_ready |= becomes_ready;
        tell(move || {
            let states = [NotifyState::Status(&line), NotifyState::Ready];
            sd_notify::notify(&states[..1 + usize::from(becomes_ready)])
        })
        .await;
        let changed = tokio::select! {
            changed = changes.changed() => changed,
            changed = started.changed() => changed,
        };
        changed.expect("the handle holds the senders");
    }
}

/// Tells that the drain begins.
pub(super) async fn tell_stopping() {
    let telling = tell(|| sd_notify::notify(&[NotifyState::Stopping]));
    // It goes on by itself.
    let _ = timeout(STOPPING_TIMEOUT, telling).await;
}

async fn tell(notify: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
    let told = spawn_blocking(notify).await;
    if let Err(error) = told.unwrap_or_else(|panic| Err(panic.into())) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
