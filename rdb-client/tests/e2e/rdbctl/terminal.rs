//! `rdbctl` in a terminal.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::{Cluster, binary, found};

/// A command in a terminal. Dropping it kills the terminal, and with that the command.
pub(super) struct Terminal {
    process: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Runs `rdbctl` with these arguments, written as for a shell. What it remembers is in `state`.
    pub(super) fn open(cluster: &Cluster, state: &TempDir, arguments: &str) -> Self {
        let mut process = Command::new("script")
            .args([
                "-qec",
                // A shell that stayed in between would take the Ctrl-C for its own, too.
                &format!("exec '{}' {arguments}", binary("rdbctl").display()),
                "/dev/null",
            ])
            .env("RDBCTL_PD", cluster.pd.address())
            .env("XDG_STATE_HOME", state.path())
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux has it");
        let mut stdout = process.stdout.take().expect("it is piped");
        let keys = process.stdin.take().expect("it is piped");
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let screen = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(length @ 1..) = stdout.read(&mut bytes) {
                let mut screen = screen.lock().expect("no panic");
                screen.extend_from_slice(&bytes[..length]);
            }
        });
        Self {
            process,
            keys,
            shown,
        }
    }

    pub(super) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("it runs");
        self.keys.flush().expect("it runs");
    }

    /// Tells the shell `times` that the size of the terminal has changed, and waits each time until it has taken that.
    pub(super) async fn resize(&self, times: usize) {
        let script = self.process.id();
        let children = format!("/proc/{script}/task/{script}/children");
        let children = fs::read_to_string(children).expect("it runs");
        let shell: i32 = children.trim().parse().expect("it has one child");
        let pid = Pid::from_raw(shell).expect("it is positive");
        for _ in 0..times {
            kill_process(pid, Signal::WINCH).expect("it runs");
            found("a signal is taken", async || {
                let status = fs::read_to_string(format!("/proc/{shell}/status"));
                let status = status.expect("it runs");
                let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
                let pending = u64::from_str_radix(pending?.trim(), 16).expect("it is a number");
                let is_pending = pending >> (Signal::WINCH.as_raw() - 1) & 1 == 1;
                (!is_pending).then_some(())
            })
            .await;
        }
    }

    /// Waits until it has ended. Returns its exit code.
    pub(super) async fn ended(&mut self) -> Option<i32> {
        let process = &mut self.process;
        let ended = found("it ends", async || {
            process.try_wait().expect("a child can be asked")
        });
        ended.await.code()
    }

    /// All that was written to it so far.
    pub(super) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic")).into_owned()
    }

    pub(super) async fn shows(&self, text: &str) {
        found(text, async || self.shown().contains(text).then_some(())).await;
    }

    /// Waits until it has read a line for the `times`th time.
    pub(super) async fn has_read(&self, times: usize) {
        const BRACKETED_PASTE_ENDS: &str = "\x1b[?2004l";
        self.shows_often("it has read", BRACKETED_PASTE_ENDS, times)
            .await;
    }

    /// Waits until it reads a line for the `times`th time. What is typed before that, the terminal may throw away on Ctrl-C.
    pub(super) async fn reads(&self, times: usize) {
        const BRACKETED_PASTE_BEGINS: &str = "\x1b[?2004h";
        self.shows_often("it reads", BRACKETED_PASTE_BEGINS, times)
            .await;
    }

    /// Waits for something that is shown with each line.
    async fn shows_often(&self, what: &str, text: &str, times: usize) {
        found(&format!("{what} line {times}"), async || {
            (self.shown().matches(text).count() >= times).then_some(())
        })
        .await;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("---- the terminal:\n{}", self.shown());
        }
    }
}
