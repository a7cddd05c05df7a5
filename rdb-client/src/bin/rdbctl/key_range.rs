//! Ranges of keys as they are typed: bounds, or a prefix.
//!
//! A scan without bounds reads everything. A range delete covers everything only with `--all`: an empty bound, which may
//! come from an unset shell variable, is refused there.

use rdb_client::{KeyRange, ScanOptions};

use crate::arguments::whole;
use crate::encoding::KeyArgument;
use crate::failure::Failure;
use crate::session::Session;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ScanArguments {
    /// The first key, inclusive. Without it, or when it is empty: from the lowest key
    #[arg(conflicts_with = "prefix")]
    start: Option<KeyArgument>,
    /// The first key behind the range. Without it: to the highest key
    #[arg(conflicts_with = "prefix")]
    end: Option<KeyArgument>,
    /// All keys that begin so
    #[arg(short, long)]
    prefix: Option<KeyArgument>,
    /// Most entries
    #[arg(short, long, value_name = "N", value_parser = whole(1usize..))]
    limit: Option<usize>,
    /// From the highest key down
    #[arg(short, long)]
    reverse: bool,
    /// Leave the values out
    #[arg(short, long)]
    keys_only: bool,
}

impl ScanArguments {
    /// # Errors
    ///
    /// [`Failure::Usage`] for a key in another encoding, or an empty end, which would match nothing.
    pub(crate) fn range(&self, session: &Session) -> Result<KeyRange, Failure> {
        let (start, end) = (self.start.as_ref(), self.end.as_ref());
        range_to_read(start, end, self.prefix.as_ref(), session)
    }

    pub(crate) fn options(&self) -> ScanOptions {
        ScanOptions::default()
            .with_limit(self.limit)
            .with_reverse(self.reverse)
            .with_keys_only(self.keys_only)
    }
}

/// The range of a command whose positional arguments are others.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RangeOptions {
    /// The first key, inclusive. Without it, or when it is empty: from the lowest key
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    start: Option<KeyArgument>,
    /// The first key behind the range. Without it: to the highest key
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    end: Option<KeyArgument>,
    /// All keys that begin so
    #[arg(short, long)]
    prefix: Option<KeyArgument>,
}

impl RangeOptions {
    /// Whether any of it was typed.
    pub(crate) fn is_given(&self) -> bool {
        self.start.is_some() || self.end.is_some() || self.prefix.is_some()
    }

    /// # Errors
    ///
    /// As those of [`ScanArguments::range`].
    pub(crate) fn range(&self, session: &Session) -> Result<KeyRange, Failure> {
        let (start, end) = (self.start.as_ref(), self.end.as_ref());
        range_to_read(start, end, self.prefix.as_ref(), session)
    }
}

fn range_to_read(
    start: Option<&KeyArgument>,
    end: Option<&KeyArgument>,
    prefix: Option<&KeyArgument>,
    session: &Session,
) -> Result<KeyRange, Failure> {
    let bound = |argument: &KeyArgument| session.bound(argument.clone());
    if let Some(prefix) = prefix {
        return Ok(KeyRange::prefix(bound(prefix)?));
    }
    let start = start.map(bound).transpose()?.unwrap_or_default();
    let Some(end) = end.map(bound).transpose()? else {
        return Ok((start..).into());
    };
    if end.is_empty() {
        return Err(Failure::usage(
            "END is empty; leave it out to scan to the highest key",
        ));
    }
    Ok((start..end).into())
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DeleteRangeArguments {
    /// The first key to delete
    #[arg(requires = "end", required_unless_present_any = ["prefix", "all"], conflicts_with_all = ["prefix", "all"])]
    start: Option<KeyArgument>,
    /// The first key behind the range, which stays
    #[arg(conflicts_with_all = ["prefix", "all"])]
    end: Option<KeyArgument>,
    /// All keys that begin so
    #[arg(short, long, conflicts_with = "all")]
    prefix: Option<KeyArgument>,
    /// Every key of the keyspace
    #[arg(long)]
    all: bool,
}

impl DeleteRangeArguments {
    /// # Errors
    ///
    /// [`Failure::Usage`] for a key in another encoding, and for everything that would delete all keys without `--all`.
    pub(crate) fn range(self, session: &Session) -> Result<KeyRange, Failure> {
        let bound = |name: &str, argument: Option<KeyArgument>| {
            let bound = argument
                .map(|argument| session.bound(argument))
                .transpose()?;
            match bound {
                Some(bound) if !bound.is_empty() => Ok(bound),
                _ => Err(Failure::usage(format!(
                    "{name} is empty; to delete every key, say --all"
                ))),
            }
        };
        match self {
            Self { all: true, .. } => Ok(KeyRange::from(..)),
            Self {
                prefix: Some(prefix),
                ..
            } => Ok(KeyRange::prefix(bound("the prefix", Some(prefix))?)),
            Self { start, end, .. } => Ok((bound("START", start)?..bound("END", end)?).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Command};
    use crate::raw::RawCommand;

    fn range_of(line: &[&str]) -> Result<KeyRange, Failure> {
        let line = ["rdbctl", "raw"].iter().chain(line);
        let Arguments { global, command } = Arguments::try_parse_from(line).expect("usage");
        let session = Session::new(&global).expect("plain text");
        match command {
            Command::Raw(RawCommand::Scan(arguments)) => arguments.range(&session),
            Command::Raw(RawCommand::DeleteRange(arguments)) => arguments.range(&session),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_scan_reads_everything_unless_bounds_say_otherwise() {
        let expected: [(&[&str], KeyRange); 6] = [
            (&["scan"], (..).into()),
            (&["scan", "--prefix", ""], (..).into()),
            (&["scan", "a"], ("a"..).into()),
            (&["scan", "a", "b"], ("a".."b").into()),
            (&["scan", "", "b"], (.."b").into()),
            (&["scan", "--prefix", "a/"], ("a/".."a0").into()),
        ];
        for (line, range) in expected {
            assert_eq!(range_of(line).expect("a range"), range, "{line:?}");
        }
        assert!(range_of(&["scan", "a", ""]).is_err());
    }

    #[test]
    fn a_range_delete_means_everything_only_when_it_says_so() {
        assert_eq!(
            range_of(&["delete-range", "--all"]).expect("a range"),
            KeyRange::from(..)
        );
        assert_eq!(
            range_of(&["delete-range", "a", "b"]).expect("a range"),
            KeyRange::from("a".."b")
        );
        for line in [
            ["delete-range", "", "b"],
            ["delete-range", "a", ""],
            ["delete-range", "--prefix", ""],
        ] {
            let failure = range_of(&line).expect_err("refused");
            assert!(failure.to_string().contains("--all"), "{line:?}: {failure}");
        }
    }
}
