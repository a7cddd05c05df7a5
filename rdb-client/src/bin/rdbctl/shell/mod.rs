//! `rdbctl shell`: runs commands in sequence, over one connection.
//!
//! Each line is parsed by the definition of the command line itself. `words` splits it, `completion` knows what can come next,
//! `lines` is where lines come from: a terminal with editing and history, or a script.

mod completion;
mod lines;
mod words;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use crate::arguments::{Arguments, Command, GlobalArguments};
use crate::executor::Executor;
use crate::failure::Failure;
use crate::output::Output;
use crate::report;
use lines::{Lines, Next};

pub(crate) const AFTER_HELP: &str = "\
Each line is a command as behind `rdbctl`, with quotes as in a POSIX shell; what
stands behind # is a comment. Options like --pd or -o hold for all commands, and on a
line for that one. The tabulator completes; Ctrl-C ends the command that runs, or
clears the line; Ctrl-D or \\q ends the shell.

  \\timing    say after each command how long it took; again: do not
  \\help      this; `help` and `help raw put` are about commands
  \\q         end

Lines are remembered in $XDG_STATE_HOME/rdbctl/history (~/.local/state without it),
values that you type as well; one that begins with a space is not.

When standard input is no terminal, it is read line by line without a prompt. The
commands behind one that failed run all the same; the exit code is that of the first
that failed. Ctrl-C ends the script, and so does a quote that its line does not close,
and a failure of a command that reads what follows as its data. A value is written as it
is there, without a line feed behind it; with -o json it is a line.

Examples:
  rdbctl shell
  printf 'raw put k1 v1\\nraw get k1\\n' | rdbctl shell";

/// Runs until the lines end. On a terminal the exit code is 0 even if commands failed: somebody saw that.
pub(crate) fn run(global: &GlobalArguments, output: &mut Output<'_>) -> ExitCode {
    match Shell::start(global) {
        Ok(mut shell) => shell.run(output),
        Err(failure) => report(&failure, global.output, output),
    }
}

struct Shell<'a> {
    global: &'a GlobalArguments,
    lines: Lines,
    executor: Executor,
    is_timing: bool,
    /// The exit code of the first command that failed.
    failed: Option<ExitCode>,
}

/// Whether the shell goes on.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

impl<'a> Shell<'a> {
    fn start(global: &'a GlobalArguments) -> Result<Self, Failure> {
        Ok(Self {
            global,
            lines: Lines::open()?,
            executor: Executor::of_shell()?,
            is_timing: false,
            failed: None,
        })
    }

    fn run(&mut self, output: &mut Output<'_>) -> ExitCode {
        loop {
            let then = match self.lines.next(&mut self.executor) {
                Ok(Next::Line(line)) => self.take(&line, output),
                Ok(Next::Nothing) => Then::GoOn,
                Ok(Next::End) => Then::End,
                // What was typed is no text.
                Err(failure @ Failure::Usage(_)) if self.lines.is_terminal() => {
                    self.told(&failure, self.global, output)
                }
                Err(failure) => {
                    self.told(&failure, self.global, output);
                    return self.failed.unwrap_or(failure.exit_code());
                }
            };
            if then == Then::End {
                break;
            }
        }
        match self.failed {
            Some(code) if !self.lines.is_terminal() => code,
            _ => ExitCode::SUCCESS,
        }
    }

    fn take(&mut self, line: &[u8], output: &mut Output<'_>) -> Then {
        // A space at the end may stand behind a backslash.
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.trim_ascii() {
            b"" => Then::GoOn,
            b"\\q" => Then::End,
            b"\\help" => self.say(AFTER_HELP, output),
            b"\\timing" => {
                self.is_timing = !self.is_timing;
                let state = if self.is_timing { "on" } else { "off" };
                self.say(&format!("timing is {state}"), output)
            }
            meta if meta.starts_with(b"\\") => {
                let failure = Failure::usage("there are \\timing, \\help and \\q");
                self.told(&failure, self.global, output)
            }
            _ => match words::split(line) {
                Some(words) if words.is_empty() => Then::GoOn,
                Some(words) => self.execute(words, output),
                None => {
                    let failure =
                        Failure::usage("a quote is not closed, or a backslash ends the line");
                    self.told(&failure, self.global, output);
                    // What was to stand within the quotes is no command.
                    self.lines.give_up()
                }
            },
        }
    }

    fn execute(&mut self, words: Vec<OsString>, output: &mut Output<'_>) -> Then {
        let Arguments { global, command } = match Arguments::parse_within(words, self.global) {
            Ok(arguments) => arguments,
            Err(error) => return self.unparsed(&error, output),
        };
        let mut output = output.formatted(global.output, global.key_encoding);
        let reads_lines = command.reads_standard_input();
        let began = Instant::now();
        let executed = match command {
            Command::Shell | Command::Playground(_) => {
                Err(Failure::usage("not in a shell: run it in another terminal"))
            }
            command => self.executor.execute(command, &global, &mut output),
        };
        let took = began.elapsed();
        let then = match executed.and_then(|()| output.flush()) {
            Ok(()) => Then::GoOn,
            Err(failure) => match self.told(&failure, &global, &mut output) {
                // What is left of its data is no command.
                Then::GoOn if reads_lines => self.lines.give_up(),
                then => then,
            },
        };
        if self.is_timing {
            let line = format!("time: {:.3} ms\n", took.as_secs_f64() * 1e3);
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        then
    }

    /// What was asked for help, or is wrong.
    fn unparsed(&mut self, error: &clap::Error, output: &mut Output<'_>) -> Then {
        let _ = output.flush();
        let _ = error.print();
        if let Ok(code @ 1..) = u8::try_from(error.exit_code()) {
            self.failed.get_or_insert(ExitCode::from(code));
        }
        Then::GoOn
    }

    /// Reports a failure. Only one whose reader has gone ends the shell.
    fn told(
        &mut self,
        failure: &Failure,
        global: &GlobalArguments,
        output: &mut Output<'_>,
    ) -> Then {
        if failure.is_broken_pipe() {
            // The rest of a script does not run.
            self.failed.get_or_insert(failure.exit_code());
            return Then::End;
        }
        let code = report(failure, global.output, output);
        self.failed.get_or_insert(code);
        Then::GoOn
    }

    fn say(&mut self, text: &str, output: &mut Output<'_>) -> Then {
        match output.line(text).and_then(|()| output.flush()) {
            Ok(()) => Then::GoOn,
            Err(failure) => self.told(&failure, self.global, output),
        }
    }
}
