//! What the system knows of this process, and which build it is.
//!
//! The names are those of Prometheus's own libraries. What a system does not report is left out.

use std::fmt;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::Exposition;

/// What does not change while the process runs.
#[derive(Debug, Clone)]
pub(super) struct ProcessMetrics {
    program: &'static str,
    version: &'static str,
    start_time: SystemTime,
}

impl ProcessMetrics {
    /// The metrics of a process that has run for `age`.
    pub(super) fn new(program: &'static str, version: &'static str, age: Duration) -> Self {
        Self {
            program,
            version,
            start_time: SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH),
        }
    }

    pub(super) fn write(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        let profile = if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        };
        let commit = option_env!("FLAREDB_COMMIT").unwrap_or("unknown");
        exposition.info(
            "flaredb_build_info",
            "The program, its version, and how it was built.",
            &[
                ("program", self.program),
                ("version", self.version),
                ("profile", profile),
                ("commit", commit),
            ],
        )?;
        let started = self.start_time.duration_since(UNIX_EPOCH);
        exposition.gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since the Unix epoch.",
            started.unwrap_or_default().as_secs_f64(),
        )?;
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        exposition.counters_of_seconds(
            "process_cpu_seconds_total",
            "Processor time that the process has used, of its own and of the system's.",
            [(
                &[] as super::Labels<'_>,
                spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9,
            )],
        )?;
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            write_status(&status, exposition)?;
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // The listing itself is one.
            let open = files.count().saturating_sub(1);
            exposition.gauge("process_open_fds", "Open file descriptors.", open as f64)?;
        }
        if let Some(max) = getrlimit(Resource::Nofile).current {
            exposition.gauge(
                "process_max_fds",
                "Most file descriptors that may be open.",
                max as f64,
            )?;
        }
        Ok(())
    }
}

/// How long this process has run. `None`: the system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn age() -> Option<Duration> {
    /// The same on all that Rust's standard library runs on.
    const TICKS_PER_SECOND: u64 = 100;
    let started = started_ticks(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let started = Duration::from_millis(started * (1000 / TICKS_PER_SECOND));
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    now.checked_sub(started)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn age() -> Option<Duration> {
    None
}

/// When a process started, in ticks since the boot, as its `/proc/…/stat` says.
#[cfg(target_os = "linux")]
fn started_ticks(stat: &str) -> Option<u64> {
    // The second field is a name in parentheses, which may have anything in it.
    let (_, from_third) = stat.rsplit_once(')')?;
    let started = from_third.split_whitespace().nth(22 - 3);
    started?.parse().ok()
}

/// What Linux says in `/proc/self/status`.
fn write_status(status: &str, exposition: &mut Exposition<'_>) -> fmt::Result {
    if let Some(kib) = field(status, "VmRSS:") {
        exposition.gauge(
            "process_resident_memory_bytes",
            "Memory that the process has in use, files that it maps included.",
            (kib << 10) as f64,
        )?;
    }
    if let Some(kib) = field(status, "RssAnon:") {
        exposition.gauge(
            "process_anonymous_memory_bytes",
            "Memory that the process has in use without the files that it maps.",
            (kib << 10) as f64,
        )?;
    }
    if let Some(kib) = field(status, "VmSize:") {
        exposition.gauge(
            "process_virtual_memory_bytes",
            "Size of the address space of the process.",
            (kib << 10) as f64,
        )?;
    }
    if let Some(threads) = field(status, "Threads:") {
        exposition.gauge("process_threads", "Threads of the process.", threads as f64)?;
    }
    Ok(())
}

/// The number of a line `NAME NUMBER [kB]`.
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::exposition::text;
    use super::*;

    #[test]
    fn a_field_is_the_number_after_its_name() {
        let status = "Name:\trdb\nVmRSS:\t   1234 kB\nThreads:\t7\n";
        assert_eq!(field(status, "VmRSS:"), Some(1234));
        assert_eq!(field(status, "Threads:"), Some(7));
        assert_eq!(field(status, "VmSize:"), None);
        assert_eq!(field(status, "Name:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_has_run_since_its_first_thread_did() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 2 1 0 0 20 0 1 0 12345 9 8";
        assert_eq!(started_ticks(stat), Some(12345));
        assert_eq!(started_ticks("7 (a) S 1"), None);
        let age = age().expect("it is told");
        assert!(age < Duration::from_secs(24 * 60 * 60), "{age:?}");
    }

    #[test]
    fn a_process_knows_what_it_is_and_what_it_uses() {
        let metrics = ProcessMetrics::new("test", "1.2.3", Duration::ZERO);
        let written = text(move |exposition| metrics.write(exposition));
        let written = written.expect("a string takes all");
        assert!(
            written.contains("flaredb_build_info{program=\"test\",version=\"1.2.3\",profile="),
            "{written}"
        );
        assert!(
            written.contains("\nprocess_cpu_seconds_total "),
            "{written}"
        );
        let commit = option_env!("FLAREDB_COMMIT").unwrap_or("unknown");
        let built = format!(",commit=\"{commit}\"}} 1\n");
        assert!(written.contains(&built), "{written}");
        if cfg!(target_os = "linux") {
            for name in [
                "process_resident_memory_bytes",
                "process_threads",
                "process_open_fds",
                "process_max_fds",
            ] {
                let prefix = format!("{name} ");
                let found = written.lines().find_map(|line| line.strip_prefix(&prefix));
                let value: f64 = found.expect(name).parse().expect("a number");
                assert!(value > 0.0, "{name}");
            }
        }
    }
}
