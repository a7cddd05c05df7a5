//! The clock that measures the age of rights.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
use std::time::Instant;

/// A point in time on the clock that measures the age of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub(super) ms: i64,
}

impl Moment {
    /// The present.
    pub fn now() -> Self {
        Self { ms: now_ms() }
    }
}

/// Milliseconds since the machine was started, while it was asleep or paused, too: rights grow old meanwhile.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn now_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Milliseconds since this was first called. The clock may stand still while the machine is asleep.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn now_ms() -> i64 {
    static FIRST: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let elapsed = FIRST.get_or_init(Instant::now).elapsed();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_goes_on_in_milliseconds() {
        let begun_ms = now_ms();
        std::thread::sleep(Duration::from_millis(20));
        assert!(now_ms() - begun_ms >= 19);
    }
}
