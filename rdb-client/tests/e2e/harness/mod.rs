//! What every module starts from: a [`Cluster`] of [`Node`]s, i.e. child processes that can be killed, paused, restarted and
//! asked for their logs.

mod as_is;
mod binaries;
mod call_path;
mod cluster;
mod directory;
#[allow(dead_code, reason = "not every suite looks at status pages")]
mod http;
mod lossy_line;
mod node;
mod ports;
#[path = "../../../../rdb-storage/tests/storage/skipped.rs"]
mod skipping;

use std::future::Future;
use std::time::Duration;

pub(crate) use as_is::AsIs;
pub(crate) use binaries::binary;
pub(crate) use call_path::{CallPath, over_both_paths};
pub(crate) use cluster::Cluster;
#[allow(
    unused_imports,
    reason = "the fault suite gives each node a place of its own"
)]
pub(crate) use cluster::start_replicated;
pub(crate) use directory::{copy_directory, damage_largest_table};
#[allow(unused_imports, reason = "not every suite looks at status pages")]
pub(crate) use http::{HttpAnswer, Metrics, http_get, http_get_as};
pub(crate) use lossy_line::LossyLine;
pub(crate) use node::{Node, connect, connect_when_listening};
#[allow(unused_imports, reason = "the fault suite makes networks by it")]
pub(crate) use ports::Port;
pub(crate) use skipping::skipped;

/// How long anything here may take before it counts as hung. Far above what a busy machine needs.
pub(crate) const HANG_GUARD: Duration = Duration::from_secs(300);

/// Pause between two looks at something that cannot be waited for, such as a file or a port.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits for `work`, and fails with `what` when it hangs.
pub(crate) async fn guarded<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HANG_GUARD, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not done within {HANG_GUARD:?}"),
    }
}

/// Looks again and again until `look` finds something.
pub(crate) async fn found<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    guarded(what, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await
}
