//! Completions and manual pages.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::{DONE, FAILED, Rdbctl, assert_exit, errors};
use crate::harness::binary;

fn rdbctl() -> Rdbctl {
    // No cluster is needed.
    Rdbctl::at("127.0.0.1:1")
}

#[tokio::test]
async fn bash_completes_subcommands_and_options() {
    let program = binary("rdbctl");
    for (words, word, before, completed) in [
        ("rdbctl ra", "ra", "rdbctl", "raw"),
        ("rdbctl raw delete-", "delete-", "raw", "delete-range"),
        ("rdbctl cas put --exp", "--exp", "put", "--expect"),
    ] {
        let script = format!(
            "source <({} completions bash) && COMP_WORDS=({words}) && COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) \
             && _rdbctl rdbctl {word} {before} && echo \"${{COMPREPLY[@]}}\"",
            program.display()
        );
        let output = Command::new("bash").args(["-c", &script]).output();
        let output = output.expect("bash is there");
        let reply = String::from_utf8_lossy(&output.stdout);
        assert_eq!(reply.trim(), completed, "{words}: {output:?}");
    }
}

#[tokio::test]
async fn every_shell_has_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = rdbctl().run(["completions", shell]).await;
        assert_exit(&output, DONE, shell);
        let script = String::from_utf8(output.stdout).expect("text");
        assert!(script.contains("delete-range"), "{shell}: {script}");
    }
}

#[tokio::test]
async fn each_subcommand_has_a_manual_page() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let pages = directory.path().join("man/man1");
    let written = rdbctl().run(["manual".as_ref(), pages.as_os_str()]).await;
    assert_exit(&written, DONE, "pages");
    for (page, says) in [
        ("rdbctl.1", "Exit codes:"),
        ("rdbctl-raw-put.1", "picture.png"),
        ("rdbctl-cas-put.1", "expect"),
        ("rdbctl-auth-grant.1", "app/"),
    ] {
        let text = fs::read_to_string(pages.join(page)).expect(page);
        assert!(text.contains(says), "{page}: {text}");
    }
    let file = pages.join("rdbctl.1");
    let refused = rdbctl().run(["manual".as_ref(), file.as_os_str()]).await;
    assert_exit(&refused, FAILED, "a file in the way");
    assert!(errors(&refused).contains("rdbctl.1"), "it is named");
}
