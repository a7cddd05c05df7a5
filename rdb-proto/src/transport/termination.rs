//! Being asked to end: SIGTERM, SIGINT, or SIGHUP, which a terminal sends when it closes. SIGHUP does not end a process that uses it
//! for something else, or that was started with it ignored, as under `nohup`.

use std::future::pending;
use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives the signals that ask the process to end. From its making on they do not end the process by themselves.
#[derive(Debug)]
pub struct Termination {
    terminate: Signal,
    interrupt: Signal,
    /// `None` when it is ignored, as under `nohup`.
    hang_up: Option<Signal>,
}

impl Termination {
    /// To be made before anything that should not be cut short. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the signal handlers cannot be installed.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: if is_hang_up_ignored() {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
        })
    }

    /// From now on SIGHUP does not ask the process to end.
    pub fn leave_hang_up(&mut self) {
        self.hang_up = None;
    }

    /// Resolves when the process is asked to end, once for each time.
    pub async fn requested(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hang_up => {}
        }
    }
}

/// Whether the process was started with SIGHUP ignored. Linux says so; elsewhere it counts as not ignored.
fn is_hang_up_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Bit 0 is signal 1.
    ignored.is_some_and(|mask| mask & 1 != 0)
}
