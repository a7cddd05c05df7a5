//! Where the lines of a shell come from.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor};

use super::completion::Completion;
use crate::failure::Failure;

const PROMPT: &str = "rdbctl> ";

/// The most bytes of a line of a script: more than a value may have, written as `\xHH`.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// The most lines that are remembered.
const HISTORY_LINES_MAX: usize = 10_000;

pub(super) enum Lines {
    Terminal {
        editor: Box<Editor<Completion, DefaultHistory>>,
        /// `None`: nothing is remembered.
        history: Option<PathBuf>,
    },
    Script,
}

pub(super) enum Next {
    Line(Vec<u8>),
    /// The line was given up.
    Nothing,
    End,
}

impl Lines {
    pub(super) fn open() -> Result<Self, Failure> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Ok(Self::Script);
        }
        let config = Config::builder()
            .max_history_size(HISTORY_LINES_MAX)
            .map_err(failed)?
            .history_ignore_space(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Completion::new()));
        let history = history_path();
        if let Some(path) = &history {
            // There is none yet, or it cannot be read: the shell is as good without.
            if let Err(error) = editor.load_history(path) {
                tracing::debug!(%error, "no history");
            }
        }
        Ok(Self::Terminal {
            editor: Box::new(editor),
            history,
        })
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    pub(super) fn next(&mut self) -> Result<Next, Failure> {
        match self {
            Self::Script => script_line(),
            Self::Terminal { editor, history } => match editor.readline(PROMPT) {
                Ok(line) => {
                    remember(editor, history, &line);
                    Ok(Next::Line(line.into()))
                }
                Err(ReadlineError::Interrupted) => Ok(Next::Nothing),
                Err(ReadlineError::Eof) => Ok(Next::End),
                Err(error) => Err(failed(error)),
            },
        }
    }
}

/// Remembers a line at once: a shell may be ended in any way.
fn remember(
    editor: &mut Editor<Completion, DefaultHistory>,
    history: &mut Option<PathBuf>,
    line: &str,
) {
    let added = editor.add_history_entry(line);
    let Some(path) = history else {
        return;
    };
    if let Err(error) = added.and_then(|_| editor.append_history(path)) {
        tracing::warn!(path = %path.display(), %error, "the history is not kept");
        *history = None;
    }
}

/// Standard input is locked for one line only, since a command may read what follows.
fn script_line() -> Result<Next, Failure> {
    let mut line = Vec::new();
    let mut input = io::Read::take(io::stdin().lock(), LINE_BYTES_MAX);
    let read = input.read_until(b'\n', &mut line);
    read.map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
    if line.is_empty() {
        return Ok(Next::End);
    }
    if line.len() as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
        return Err(Failure::usage("a line is too long"));
    }
    Ok(Next::Line(line))
}

/// Where lines are remembered; the directory is made if it is missing.
fn history_path() -> Option<PathBuf> {
    let path = history_path_in(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))?;
    let made = path.parent().map(fs::create_dir_all);
    made?.is_ok().then_some(path)
}

/// <https://specifications.freedesktop.org/basedir-spec/latest/>: a path that is not absolute does not count.
fn history_path_in(state: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let state = state.and_then(absolute);
    let state = state.or_else(|| Some(home.and_then(absolute)?.join(".local/state")));
    Some(state?.join("rdbctl/history"))
}

fn failed(error: ReadlineError) -> Failure {
    Failure::failed(format!("cannot read a line: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_remembered_where_state_belongs() {
        let path = |state: Option<&str>, home: Option<&str>| {
            history_path_in(state.map(OsString::from), home.map(OsString::from))
        };
        let in_home = Some(PathBuf::from("/home/a/.local/state/rdbctl/history"));
        assert_eq!(
            path(Some("/s"), Some("/home/a")),
            Some("/s/rdbctl/history".into())
        );
        assert_eq!(path(None, Some("/home/a")), in_home);
        assert_eq!(path(Some("relative"), Some("/home/a")), in_home);
        assert_eq!(path(Some(""), None), None);
    }
}
