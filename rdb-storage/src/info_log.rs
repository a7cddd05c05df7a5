//! RocksDB's info log. It is passed on to `tracing`, and some of its warnings are kept to explain a failed open or flush.
//!
//! RocksDB's errors about the write-ahead log do not say which file is damaged; its info log does. Its lines during an open
//! become warnings only if the open succeeds: for a refused open, [`OpenError`](crate::OpenError) says what matters.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rocksdb::{InfoLogger, LogLevel};

use crate::database::DatabaseKind;

/// How many warnings are kept.
const WARNINGS_MAX: usize = 8;

/// How much of a warning is kept, in characters. It names a file by its whole path.
const WARNING_CHARS_MAX: usize = 500;

/// A warning that differs from a kept one only in its numbers is left out for this long. RocksDB retries every few seconds on
/// a full disk, and says so each time.
const REPEATED_AFTER: Duration = Duration::from_secs(600);

/// Warnings of one database: while it is opened the first ones, then the last ones.
#[derive(Debug, Clone)]
pub(crate) struct InfoLog {
    database: DatabaseKind,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_open: bool,
    warnings: VecDeque<Warning>,
}

#[derive(Debug)]
struct Warning {
    text: String,
    is_error: bool,
    at: Instant,
}

impl InfoLog {
    pub(crate) fn new(database: DatabaseKind) -> Self {
        Self {
            database,
            shared: Arc::default(),
        }
    }

    /// A logger for RocksDB's options that feeds this log.
    pub(crate) fn logger(&self) -> InfoLogger {
        let log = self.clone();
        InfoLogger::new_callback_logger(LogLevel::Info, move |level, message| {
            log.receive(level, message.trim_end());
        })
    }

    /// Says that the open has succeeded.
    pub(crate) fn opened(&self) {
        let mut shared = self.lock();
        shared.is_open = true;
        for warning in &shared.warnings {
            self.pass_on(warning.is_error, &warning.text);
        }
    }

    /// The kept warnings and errors, oldest first.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let warnings = &self.lock().warnings;
        warnings
            .iter()
            .map(|warning| warning.text.clone())
            .collect()
    }

    /// The last warning about an error in RocksDB's own threads. Later warnings may be about its handling only.
    pub(crate) fn last_background_error(&self) -> Option<String> {
        let tells = |warning: &String| {
            let warning = warning.to_ascii_lowercase();
            warning.contains("background") && warning.contains("error")
        };
        self.warnings().into_iter().rev().find(tells)
    }

    fn receive(&self, level: LogLevel, message: &str) {
        let is_error = match level {
            LogLevel::Debug | LogLevel::Info | LogLevel::Header => {
                tracing::debug!(target: "rocksdb", database = %self.database, "{message}");
                return;
            }
            LogLevel::Warn => false,
            LogLevel::Error | LogLevel::Fatal => true,
        };
        let warning = Warning {
            text: shortened(message),
            is_error,
            at: Instant::now(),
        };
        if self.keep(warning) {
            self.pass_on(is_error, message);
        } else {
            tracing::debug!(target: "rocksdb", database = %self.database, "{message}");
        }
    }

    /// Returns whether the warning is worth a line now.
    fn keep(&self, warning: Warning) -> bool {
        let mut shared = self.lock();
        if shared.warnings.iter().any(|kept| kept.covers(&warning)) {
            return false;
        }
        if shared.warnings.len() < WARNINGS_MAX {
            shared.warnings.push_back(warning);
        } else if shared.is_open {
            shared.warnings.pop_front();
            shared.warnings.push_back(warning);
        }
        shared.is_open
    }

    fn pass_on(&self, is_error: bool, message: &str) {
        if is_error {
            tracing::error!(target: "rocksdb", database = %self.database, "{message}");
        } else {
            tracing::warn!(target: "rocksdb", database = %self.database, "{message}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole words of a message that are kept.
fn shortened(message: &str) -> String {
    let Some((end, _)) = message.char_indices().nth(WARNING_CHARS_MAX) else {
        return message.to_owned();
    };
    let kept = &message[..end];
    let words = kept.rsplit_once(' ').map_or(kept, |(words, _)| words);
    format!("{words} ...")
}

impl Warning {
    fn covers(&self, later: &Self) -> bool {
        let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        later.at.saturating_duration_since(self.at) < REPEATED_AFTER
            && words(&self.text) == words(&later.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_warning_is_cut_between_two_words() {
        let log = InfoLog::new(DatabaseKind::Data);
        let message = format!("in /{}, Accumulated", "d".repeat(WARNING_CHARS_MAX - 10));
        log.receive(LogLevel::Error, &message);
        let kept = message.replace(" Accumulated", " ...");
        assert_eq!(log.warnings(), [kept]);
        log.receive(LogLevel::Error, &"ä".repeat(WARNING_CHARS_MAX + 1));
        let kept = log.warnings().pop().expect("it is kept");
        assert_eq!(kept, format!("{} ...", "ä".repeat(WARNING_CHARS_MAX)));
    }

    #[test]
    fn the_first_warnings_explain_an_open_and_the_last_a_flush_and_none_is_kept_twice() {
        let log = InfoLog::new(DatabaseKind::Data);
        let word = |number: u8| char::from(b'a' + number).to_string();
        for number in 0..20 {
            log.receive(LogLevel::Warn, &word(number));
            log.receive(LogLevel::Warn, &format!("{}{number}", word(0)));
        }
        let first: Vec<_> = (0..8).map(word).collect();
        assert_eq!(log.warnings(), first);
        log.opened();
        log.receive(LogLevel::Error, "background error 1");
        log.receive(LogLevel::Error, "background error 2");
        assert_eq!(log.warnings()[..7], first[1..]);
        assert_eq!(log.warnings()[7], "background error 1");
    }
}
