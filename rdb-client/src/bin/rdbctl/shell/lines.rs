//! Where the lines of a shell come from.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor};

use super::Then;
use super::completion::Completion;
use crate::executor::Executor;
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
        /// What else was accepted together with the last line, since it was pasted with it.
        pasted: VecDeque<String>,
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
            pasted: VecDeque::new(),
        })
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// The next line, unless Ctrl-C has ended what `executor` runs: a script as a whole, and the lines that were pasted together.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when the line is no text or too long.
    pub(super) fn next(&mut self, executor: &mut Executor) -> Result<Next, Failure> {
        let Self::Terminal {
            editor,
            history,
            pasted,
        } = self
        else {
            let interrupted = Failure::failed("interrupted; the rest of the script is not run");
            return executor
                .unless_interrupted(script_line)
                .unwrap_or(Err(interrupted));
        };
        if executor.was_interrupted() {
            pasted.clear();
        }
        if let Some(line) = pasted.pop_front() {
            return Ok(Next::Line(line.into()));
        }
        match editor.readline(PROMPT) {
            Ok(lines) => {
                remember(editor, history, &lines);
                pasted.extend(lines.split('\n').map(str::to_owned));
                let first = pasted.pop_front().unwrap_or_default();
                Ok(Next::Line(first.into()))
            }
            Err(ReadlineError::Interrupted) => Ok(Next::Nothing),
            Err(ReadlineError::Eof) => Ok(Next::End),
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Failure::usage(
                    "a line is UTF-8; write other bytes with --key-encoding, or take a value from a file",
                ))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives up the lines that belong to one that is wrong: those that were pasted with it, or the rest of a script.
    pub(super) fn give_up(&mut self) -> Then {
        match self {
            Self::Terminal { pasted, .. } => {
                pasted.clear();
                Then::GoOn
            }
            Self::Script => Then::End,
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
