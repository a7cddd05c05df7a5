//! Commands one after the other, from a script and from a terminal.

use std::fs;
use std::io::{BufRead, BufReader, Write};

use tempfile::TempDir;

use super::terminal::Terminal;
use super::transfer::{begin, interrupted};
use super::{CONFLICT, DONE, FAILED, NOT_FOUND, Rdbctl, USAGE, assert_exit, errors};
use crate::harness::{Cluster, found};

#[tokio::test]
async fn a_script_runs_to_its_end_and_its_exit_code_is_that_of_the_first_failure() {
    let cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    let well = b"\
# a comment
rdbctl raw put k 'two words'

raw get k -o json
cas put k v --expect 0
raw put last - --timeout 1m
the value of last
";
    let ran = rdbctl.run_with_input(["shell"], well).await;
    assert_exit(&ran, DONE, "all commands succeed");
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "OK\n{\"key\":\"k\",\"value\":\"two words\"}\n1\nOK\n"
    );
    let got = rdbctl.run(["raw", "get", "last"]).await;
    assert_eq!(
        got.stdout, b"the value of last\n",
        "what follows is read by the command"
    );

    for (script, code, told) in [
        (
            "raw get none\ncas put k w --expect 7\nraw get k",
            NOT_FOUND,
            "not found: none",
        ),
        (
            "cas put k w --expect 7\nraw get none\n",
            CONFLICT,
            "conflict",
        ),
        ("raw git k\nraw get none\n", USAGE, "git"),
        ("raw put k 'v\n", USAGE, "a quote is not closed"),
        ("shell\n", USAGE, "not in a shell"),
        ("\\what\n", USAGE, "\\timing"),
    ] {
        let ran = rdbctl.run_with_input(["shell"], script.as_bytes()).await;
        assert_exit(&ran, code, script);
        assert!(errors(&ran).contains(told), "{script}: {}", errors(&ran));
    }
    let script = b"raw get none\nraw get k\n";
    let ran = rdbctl.run_with_input(["shell"], script).await;
    assert_eq!(
        ran.stdout, b"two words",
        "the commands behind a failure run"
    );
    let script = b"raw get k\n\\q\nraw get none\n";
    let ran = rdbctl.run_with_input(["shell"], script).await;
    assert_exit(&ran, DONE, "it ended before");
}

#[tokio::test]
async fn what_is_no_command_ends_a_script_and_does_not_run() {
    let cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    for (script, code) in [
        ("raw put k 'two\ntso\nlines'\n", USAGE),
        ("raw put k v \\\ntso\n", USAGE),
        ("raw import\nno entry\ntso\n", USAGE),
        (
            "raw put k - --pd 127.0.0.1:1 --timeout 500ms\ntso\n",
            FAILED,
        ),
    ] {
        let ran = rdbctl.run_with_input(["shell"], script.as_bytes()).await;
        assert_exit(&ran, code, script);
        assert_eq!(ran.stdout, b"", "{script}");
    }
    let script = b"raw put k v\\ \nraw get k\n";
    let ran = rdbctl.run_with_input(["shell"], script).await;
    assert_eq!(ran.stdout, b"OK\nv ", "a space behind a backslash");

    let mut shell = begin(&cluster, &["shell"]);
    drop(shell.stdout.take());
    let mut lines = shell.stdin.take().expect("it is piped");
    let written = lines.write_all(b"tso\nraw put unseen v\n");
    written.expect("it reads");
    drop(lines);
    let ended =
        tokio::task::spawn_blocking(move || shell.wait().expect("a child can be waited for"));
    let ended = ended.await.expect("no panic");
    assert_eq!(ended.code(), Some(FAILED), "nobody reads what it prints");
    let ran = rdbctl.run(["raw", "get", "unseen"]).await;
    assert_exit(&ran, NOT_FOUND, "the rest did not run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_a_script_and_not_only_its_command() {
    let cluster = Cluster::start().await;
    let directory = TempDir::new().expect("the temporary directory can be written");
    let path = directory.path().join("export");
    let part = directory.path().join("export.part");
    cluster.store.pause();
    let mut shell = begin(&cluster, &["shell", "--timeout", "1h"]);
    let mut lines = shell.stdin.take().expect("it is piped");
    let script = format!("raw export '{}'\ntso\n", path.display());
    lines.write_all(script.as_bytes()).expect("it reads");
    drop(lines);
    found("it has begun", async || part.exists().then_some(())).await;
    let ended = interrupted(shell).await;
    cluster.store.resume();
    assert_exit(&ended, FAILED, "a command was interrupted");
    assert_eq!(ended.stdout, b"", "the next line does not run");
    let told = errors(&ended);
    assert!(told.contains("the rest of the script is not run"), "{told}");

    let mut shell = begin(&cluster, &["shell"]);
    let mut lines = shell.stdin.take().expect("it is piped");
    lines.write_all(b"tso\n").expect("it reads");
    let shown = shell.stdout.take().expect("it is piped");
    let shown = tokio::task::spawn_blocking(move || BufReader::new(shown).lines().next());
    let shown = shown.await.expect("no panic");
    assert!(shown.is_some_and(|line| line.is_ok()), "a timestamp");
    // It waits for the next line.
    let ended = interrupted(shell).await;
    assert_exit(&ended, FAILED, "the script was interrupted");
    drop(lines);
}

#[tokio::test]
async fn help_and_timing_are_no_failures_and_options_hold_for_all_lines() {
    let cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    let script =
        b"help raw put\n\\help\nraw put 6b v\nraw get 6b\nraw get k --key-encoding text -o text\n";
    let line = ["shell", "-o", "json", "--key-encoding", "hex"];
    let ran = rdbctl.run_with_input(line, script).await;
    assert_exit(&ran, DONE, "help is none");
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(text.contains("picture.png"), "{text}");
    assert!(text.contains("XDG_STATE_HOME"), "{text}");
    let answers = "{\"ok\":true}\n{\"key\":\"k\",\"value\":\"v\"}\nv";
    assert!(text.ends_with(answers), "{text}");

    let script = b"\\timing\ntso\n\\timing\ntso\n";
    let ran = rdbctl.run_with_input(["shell"], script).await;
    assert_eq!(ran.status.code(), Some(DONE));
    let told = errors(&ran);
    assert!(
        told.starts_with("time: ") && told.ends_with(" ms\n"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[tokio::test]
async fn in_a_terminal_ctrl_c_ends_the_command_and_not_the_shell_and_lines_are_remembered() {
    let cluster = Cluster::start().await;
    let state = TempDir::new().expect("the temporary directory can be written");
    let mut terminal = Terminal::open(&cluster, &state, "shell");
    terminal.reads(1).await;
    terminal.shows("rdbctl> ").await;
    terminal.press("raw put k v\r");
    terminal.reads(2).await;
    terminal.shows("OK").await;
    // The tabulator completes the subcommand.
    terminal.press("store li\t\r");
    terminal.reads(3).await;
    terminal.shows("HEARTBEAT").await;
    terminal.press("raw put k -\r");
    terminal.reads(4).await;
    terminal.shows("name a file or write the value").await;
    terminal.press("\x1b[200~raw put p1 v\nraw put p2 v\x1b[201~\r");
    terminal.reads(5).await;
    let client = cluster.client().await;
    for key in ["p1", "p2"] {
        let value = client.raw_get(key).await.expect("read");
        assert_eq!(value.as_deref(), Some(&b"v"[..]), "{key}");
    }
    cluster.store.pause();
    // While it reads no line, nobody reads what handlers of its line editor write.
    terminal.press("raw get k --timeout 1h\r");
    terminal.has_read(5).await;
    terminal.resize(1_000).await;
    found("it is interrupted", async || {
        // Where it comes too early, it is a key that clears the line.
        terminal.press("\x03");
        terminal
            .shown()
            .contains("error: interrupted")
            .then_some(())
    })
    .await;
    cluster.store.resume();
    found("it goes on", async || {
        // What is read together with a Ctrl-C that came late is thrown away.
        terminal.press("raw get k -o json --timeout 5m\r");
        let value = r#"{"key":"k","value":"v"}"#;
        terminal.shown().contains(value).then_some(())
    })
    .await;
    // What fails in front of somebody is no failure of the shell.
    terminal.press("\\q\r");
    assert_eq!(terminal.ended().await, Some(DONE), "{}", terminal.shown());
    let history = state.path().join("rdbctl/history");
    let history = fs::read_to_string(history).expect("it is kept");
    for line in ["raw put k v", "store list", "raw get k --timeout 1h"] {
        assert!(history.contains(line), "{line}: {history}");
    }
}

#[tokio::test]
async fn a_line_can_be_corrected_and_comes_back_in_the_next_shell() {
    const DONE_IN_JSON: &str = r#"{"ok":true}"#;
    let cluster = Cluster::start().await;
    let state = TempDir::new().expect("the temporary directory can be written");
    let mut terminal = Terminal::open(&cluster, &state, "shell");
    terminal.reads(1).await;
    // To the front, and an r; to the end, one to the left, and an o.
    terminal.press("aw put k v -o jsn\x01r\x05\x1b[Do\r");
    terminal.shows(DONE_IN_JSON).await;
    drop(terminal);

    let mut terminal = Terminal::open(&cluster, &state, "shell");
    terminal.reads(1).await;
    // The arrow key up.
    terminal.press("\x1b[A\r");
    terminal.shows(DONE_IN_JSON).await;
}
