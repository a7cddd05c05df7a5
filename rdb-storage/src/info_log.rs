//! RocksDB's info log: passed on to `tracing`, and its last warnings kept to explain a failed open or a failed flush.
//!
//! RocksDB's errors about the write-ahead log do not say which file is damaged; its info log does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rocksdb::{InfoLogger, LogLevel};

/// How many warnings are kept.
const WARNINGS_MAX: usize = 8;

/// How much of a warning is kept, in characters.
const WARNING_CHARS_MAX: usize = 300;

/// The last warnings of one database.
#[derive(Debug, Clone, Default)]
pub(crate) struct InfoLog {
    warnings: Arc<Mutex<VecDeque<String>>>,
}

impl InfoLog {
    /// A logger for RocksDB's options that feeds this log.
    pub(crate) fn logger(&self) -> InfoLogger {
        let log = self.clone();
        InfoLogger::new_callback_logger(LogLevel::Info, move |level, message| {
            log.receive(level, message.trim_end());
        })
    }

    /// The last warnings and errors, oldest first.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.iter().cloned().collect()
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
        match level {
            LogLevel::Debug | LogLevel::Info | LogLevel::Header => {
                tracing::debug!(target: "rocksdb", "{message}");
                return;
            }
            LogLevel::Warn => tracing::warn!(target: "rocksdb", "{message}"),
            LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "rocksdb", "{message}"),
        }
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() == WARNINGS_MAX {
            warnings.pop_front();
        }
        warnings.push_back(message.chars().take(WARNING_CHARS_MAX).collect());
    }
}
