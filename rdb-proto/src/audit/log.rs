//! The sending end of the audit log, where events are noted.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::file::{LogFile, Written};
use super::key_hash::KeyHasher;
use super::queue::{Noted, QUEUE_EVENTS_MAX, Queue};
use super::writer::Writer;
use super::{AuditError, AuditEvent, AuditKey, AuditRank, AuditWriter};
use crate::figures::Counter;
use crate::spans::Origin;
use crate::transport::status::Exposition;
use crate::transport::{HealthHandle, WarningAbout};

/// From how many MiB on a file is rotated, unless a flag says otherwise.
pub const DEFAULT_FILE_MIB_MAX: u64 = 100;

/// From how many MiB on it may be.
pub const FILE_MIB: RangeInclusive<u64> = 1..=1 << 20;

/// What differs between logs.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// The process that writes it.
    pub origin: Origin,
    /// From how many bytes on a file is rotated.
    pub file_bytes_max: u64,
    /// Whether writes are noted that were not refused for lack of a right.
    pub notes_writes: bool,
}

/// Takes events. Clones take them for the same file.
#[derive(Debug, Clone)]
pub struct AuditLog(Arc<Shared>);

/// What those who note events and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) hasher: KeyHasher,
    pub(super) notes_writes: bool,
    /// Events that found no room, or that could not be written before the end.
    pub(super) dropped: Counter,
    /// How many of them were refusals without room.
    pub(super) dropped_refusals: Counter,
    pub(super) written: Written,
    /// How often something did not work.
    pub(super) errors: Counter,
    warning: Mutex<Warning>,
}

/// What is wrong, and where that is told.
#[derive(Debug, Default)]
struct Warning {
    text: Option<String>,
    health: Option<HealthHandle>,
}

impl AuditLog {
    /// Opens or makes a log, and starts the thread that writes it.
    ///
    /// # Errors
    ///
    /// [`AuditError`] when the file cannot be written to, or another process does.
    pub fn open(path: PathBuf, options: AuditOptions) -> Result<(Self, AuditWriter), AuditError> {
        let (log, writer) = Self::prepare(path.clone(), options)?;
        match AuditWriter::start(writer) {
            Ok(writer) => Ok((log, writer)),
            Err(source) => Err(AuditError::Io {
                path,
                what: "written, since no thread can be started",
                source,
            }),
        }
    }

    /// The same, for a process with this data directory.
    ///
    /// # Errors
    ///
    /// [`AuditError::InDataDirectory`] when the file is in there: a new directory would be taken for a foreign one at the next start.
    pub fn open_beside(
        data_dir: &Path,
        path: PathBuf,
        options: AuditOptions,
    ) -> Result<(Self, AuditWriter), AuditError> {
        Self::check_beside(data_dir, &path)?;
        Self::open(path, options)
    }

    /// Whether a log can be there for a process with this data directory, before anything is made.
    ///
    /// # Errors
    ///
    /// The errors of [`open_beside`](Self::open_beside) that the path alone causes. Whether another process writes to the file
    /// shows only when it is opened. A directory above the data directory may be missing: it is made with that.
    pub fn check_beside(data_dir: &Path, path: &Path) -> Result<(), AuditError> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if absolute(path).starts_with(absolute(data_dir)) {
            let path = path.to_owned();
            return Err(AuditError::InDataDirectory { path });
        }
        match LogFile::check(path) {
            Err(AuditError::NoDirectory { directory, .. })
                if absolute(data_dir).starts_with(absolute(&directory)) =>
            {
                Ok(())
            }
            checked => checked,
        }
    }

    /// A log, and what is to write it.
    pub(super) fn prepare(
        path: PathBuf,
        options: AuditOptions,
    ) -> Result<(Self, Writer), AuditError> {
        let AuditOptions {
            origin,
            file_bytes_max,
            notes_writes,
        } = options;
        LogFile::check(&path)?;
        // It is locked before the log is made.
        let hasher = KeyHasher::open(&path)?;
        let file = LogFile::open(path, file_bytes_max)?;
        let log = Self(Arc::new(Shared {
            queue: Queue::default(),
            hasher,
            notes_writes,
            dropped: Counter::default(),
            dropped_refusals: Counter::default(),
            written: Written::default(),
            errors: Counter::default(),
            warning: Mutex::default(),
        }));
        let writer = Writer::new(Arc::clone(&log.0), file, &origin);
        Ok((log, writer))
    }

    /// A log whose events wait, since nobody writes them.
    #[cfg(test)]
    pub(crate) fn unwritten(path: PathBuf) -> Self {
        let options = AuditOptions {
            origin: Origin {
                program: "test",
                version: "1.2.3",
                instance: "here".to_owned(),
            },
            file_bytes_max: 1 << 20,
            notes_writes: false,
        };
        let (log, _) = Self::prepare(path, options).expect("it can be written");
        log
    }

    /// Notes an event. It is dropped, and counted, where there is no room.
    pub fn note(&self, event: AuditEvent) {
        let at = SystemTime::now();
        let event = event.shortened();
        let rank = event.rank;
        if !self.0.queue.offer(Noted { at, event }) {
            self.0.dropped.increment();
            if rank == AuditRank::Refusal {
                self.0.dropped_refusals.increment();
            }
        }
    }

    /// What the log says of `key`.
    pub fn key(&self, key: &[u8]) -> AuditKey {
        self.0.hasher.key(key)
    }

    /// Whether writes are noted that were not refused.
    pub fn notes_writes(&self) -> bool {
        self.0.notes_writes
    }

    /// How many events were dropped.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.get()
    }

    /// From now on `health` says what is wrong with the log.
    pub fn tell(&self, health: HealthHandle) {
        let mut warning = self.0.warning();
        health.warn(WarningAbout::AuditLog, warning.text.clone());
        warning.health = Some(health);
    }

    /// What `/status` says of it.
    pub fn describe(&self) -> Value {
        let Shared {
            notes_writes,
            dropped,
            written,
            errors,
            ..
        } = &*self.0;
        json!({
            "writes": notes_writes,
            "lines": written.lines.get(),
            "bytes": written.bytes.get(),
            "dropped": dropped.get(),
            "errors": errors.get(),
            "warning": self.0.warning().text,
        })
    }

    /// Writes the metrics of a log, or of none: each is 0 then.
    ///
    /// # Errors
    ///
    /// Only those of the exposition.
    pub(crate) fn write_to(log: Option<&Self>, exposition: &mut Exposition<'_>) -> fmt::Result {
        let count = |of: fn(&Shared) -> &Counter| log.map_or(0, |log| of(&log.0).get());
        exposition.counter(
            "flaredb_audit_lines_total",
            "Lines that were written to the audit log.",
            count(|shared| &shared.written.lines),
        )?;
        exposition.counter(
            "flaredb_audit_written_bytes_total",
            "Bytes that were written to the audit log.",
            count(|shared| &shared.written.bytes),
        )?;
        exposition.counter(
            "flaredb_audit_dropped_total",
            "Events that are missing in the audit log, since it was not written as fast as they came.",
            count(|shared| &shared.dropped),
        )?;
        exposition.counter(
            "flaredb_audit_errors_total",
            "Times that the file of the audit log could not be opened, written, synced or rotated.",
            count(|shared| &shared.errors),
        )?;
        exposition.gauge(
            "flaredb_audit_queue_events",
            "Events that wait to be written to the audit log.",
            log.map_or(0, |log| log.0.queue.waiting()) as f64,
        )?;
        exposition.gauge(
            "flaredb_audit_queue_limit_events",
            "Waiting events from which on any is dropped. Writes are dropped from a little less on, and refusals from half of it on.",
            QUEUE_EVENTS_MAX as f64,
        )
    }
}

impl Shared {
    /// Says what is wrong with the log; `None`: nothing. Returns whether that is new.
    pub(super) fn warn(&self, text: Option<String>) -> bool {
        let mut warning = self.warning();
        if warning.text == text {
            return false;
        }
        if let Some(health) = &warning.health {
            health.warn(WarningAbout::AuditLog, text.clone());
        }
        warning.text = text;
        true
    }

    fn warning(&self) -> MutexGuard<'_, Warning> {
        self.warning.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
