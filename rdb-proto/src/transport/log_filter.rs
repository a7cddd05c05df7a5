//! What a server logs, as its operator writes it: `info`, `debug`, `warn,rocksdb=debug`.

use std::str::FromStr;

use tracing::Level;
use tracing_subscriber::EnvFilter;

/// The level beside filters that name none. So a mistyped target silences nothing.
const LEVEL_DEFAULT: &str = "info";

/// The parts of this workspace, by the beginning of their targets.
const OURS: &str = "rdb_";

/// Libraries whose log lines are about what peers send, so that a peer could fill the disk with them: HTTP/2, and Raft, which has
/// several lines for each attempt to reach another store. Each with its directives. openraft returns the cause of a refused call to
/// its caller, and this workspace logs it where it matters. openraft also logs an error for each such call, even at an ordinary end.
const QUIET: [(&str, &str); 2] = [
    ("h2", "h2=error"),
    ("openraft", "openraft=error,openraft::raft=off"),
];

/// A valid `--log-level`. A level finer than `info` is that of FlareDB's own parts; RocksDB, HTTP/2 and other libraries log
/// that much only when a filter names them. HTTP/2 and Raft log errors only, unless a filter names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    directives: String,
}

/// A log level is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part:?} is neither a level (error, warn, info, debug, trace) nor a filter; e.g. info, debug or warn,rocksdb=debug"
)]
pub struct LogFilterError {
    part: String,
}

impl Default for LogFilter {
    fn default() -> Self {
        Self {
            directives: quiet(LEVEL_DEFAULT.to_owned(), &[]),
        }
    }
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, LogFilterError> {
        let mut level = LEVEL_DEFAULT;
        let mut filters = Vec::new();
        for part in text.split(',') {
            let is_filter = part.contains('=') && EnvFilter::try_new(part).is_ok();
            if is_filter {
                filters.push(part);
            } else if !part.is_empty()
                && part.chars().all(char::is_alphabetic)
                && part.parse::<Level>().is_ok()
            {
                level = part;
            } else {
                let part = part.to_owned();
                return Err(LogFilterError { part });
            }
        }
        let is_fine = level
            .parse::<Level>()
            .is_ok_and(|level| level > Level::INFO);
        let directives = if is_fine {
            format!("{LEVEL_DEFAULT},{OURS}={level}")
        } else {
            level.to_owned()
        };
        let mut directives = quiet(directives, &filters);
        for filter in filters {
            directives.push(',');
            directives.push_str(filter);
        }
        Ok(Self { directives })
    }
}

/// The same directives, and those of the [`QUIET`] libraries that no filter names.
fn quiet(mut directives: String, filters: &[&str]) -> String {
    for (library, of_library) in QUIET {
        if !filters.iter().any(|filter| filter.starts_with(library)) {
            directives.push(',');
            directives.push_str(of_library);
        }
    }
    directives
}

impl From<LogFilter> for EnvFilter {
    fn from(filter: LogFilter) -> Self {
        Self::new(filter.directives)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directives(text: &str) -> Result<String, LogFilterError> {
        text.parse().map(|filter: LogFilter| filter.directives)
    }

    #[test]
    fn a_level_is_that_of_our_parts_and_filters_come_after_it() {
        for (text, expected) in [
            ("info", "info,h2=error,openraft=error,openraft::raft=off"),
            ("WARN", "WARN,h2=error,openraft=error,openraft::raft=off"),
            (
                "debug",
                "info,rdb_=debug,h2=error,openraft=error,openraft::raft=off",
            ),
            (
                "h2=trace,debug",
                "info,rdb_=debug,openraft=error,openraft::raft=off,h2=trace",
            ),
            (
                "h2::proto=warn",
                "info,openraft=error,openraft::raft=off,h2::proto=warn",
            ),
            (
                "warn,rocksdb=debug",
                "warn,h2=error,openraft=error,openraft::raft=off,rocksdb=debug",
            ),
            (
                "nonsense=debug",
                "info,h2=error,openraft=error,openraft::raft=off,nonsense=debug",
            ),
        ] {
            assert_eq!(directives(text).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(LEVEL_DEFAULT.parse(), Ok(LogFilter::default()));
    }

    #[test]
    fn what_is_neither_a_level_nor_a_filter_is_refused() {
        for text in [
            "",
            "bogus",
            "inof",
            "5",
            "off",
            "info,",
            "info,rocksdb=zzz",
            "rdb_server",
        ] {
            let refused = directives(text).expect_err(text).to_string();
            assert!(refused.contains("warn,rocksdb=debug"), "{refused}");
        }
    }
}
