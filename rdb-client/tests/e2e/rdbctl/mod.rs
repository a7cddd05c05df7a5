//! The command line as scripts use it: exit codes, bytes that come back as they went in, JSON that parses.

mod auth;
mod exit_codes;
mod membership;
mod messages;
mod output;
mod playground;
mod processes;
mod regions;
mod shell;
mod shell_support;
mod status;
mod terminal;
mod transfer;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::{Cluster, binary, guarded};

/// What the help text promises.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const UNDETERMINED: i32 = 5;

/// Runs `rdbctl` against one cluster.
pub(crate) struct Rdbctl {
    pd_address: String,
}

impl Rdbctl {
    fn of(cluster: &Cluster) -> Self {
        Self::at(cluster.pd.address())
    }

    pub(crate) fn at(pd_address: impl ToString) -> Self {
        Self {
            pd_address: pd_address.to_string(),
        }
    }

    pub(crate) async fn run(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Output {
        self.run_with_input(arguments, b"").await
    }

    /// Runs it to its end, with `input` on its standard input.
    async fn run_with_input(
        &self,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
        input: &[u8],
    ) -> Output {
        let arguments: Vec<OsString> = arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        let what = format!("rdbctl {arguments:?}");
        let mut command = command();
        command
            .args(arguments)
            .env("RDBCTL_PD", &self.pd_address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_vec();
        let ended = tokio::task::spawn_blocking(move || {
            let mut process = command.spawn().expect("the binary can be started");
            let mut stdin = process.stdin.take().expect("it is piped");
            // One that refuses its arguments has ended without reading.
            let _ = stdin.write_all(&input);
            drop(stdin);
            process
                .wait_with_output()
                .expect("a child can be waited for")
        });
        guarded(&what, ended).await.expect("no panic")
    }
}

/// `rdbctl` without the settings of whoever runs the tests.
pub(crate) fn command() -> Command {
    let mut command = Command::new(binary("rdbctl"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"RDBCTL_") {
            command.env_remove(name);
        }
    }
    command
}

fn assert_exit(output: &Output, expected: i32, what: impl std::fmt::Debug) {
    assert_eq!(
        output.status.code(),
        Some(expected),
        "{what:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        output.stderr.is_empty(),
        expected == DONE,
        "failures are told on stderr: {what:?}"
    );
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One object from each line of standard output.
pub(crate) fn objects(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).expect("JSON is UTF-8");
    let object = |line| serde_json::from_str(line).expect("a line is an object");
    text.lines().map(object).collect()
}
