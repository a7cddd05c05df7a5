//! Export and import.

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::terminal::Terminal;
use super::{DONE, FAILED, Rdbctl, UNDETERMINED, USAGE, assert_exit, command, errors};
use crate::harness::{Cluster, found, guarded};

/// More than a batch of an import, and than a page of a scan.
const ENTRIES: u32 = 3000;

fn key(number: u32) -> Vec<u8> {
    // Not UTF-8.
    [b"e/\xff".as_slice(), &number.to_be_bytes()].concat()
}

fn value(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(1 + number as usize % 200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_exported_is_imported_in_each_form_by_file_and_by_pipe() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let rdbctl = Rdbctl::of(&cluster);
    client.raw_put("f/other", "stays").await.expect("put");
    for begin in (0..ENTRIES).step_by(1000) {
        let entries = (begin..begin + 1000).map(|number| (key(number), value(number)));
        client.raw_batch_put(entries).await.expect("put");
    }
    let directory = TempDir::new().expect("the temporary directory can be written");
    for form in ["jsonl", "binary"] {
        let path = directory.path().join(form);
        let path = path.to_str().expect("text");
        let exported = rdbctl
            .run(["raw", "export", path, "--prefix", "e/", "--form", form])
            .await;
        assert_exit(&exported, DONE, form);
        assert_eq!(exported.stdout, b"3000 entries\n", "{form}");
        let piped = [
            "raw", "export", "--start", "e/", "--end", "f", "--form", form,
        ];
        let piped = rdbctl.run(piped).await;
        assert_exit(&piped, DONE, form);
        assert!(piped.stdout == fs::read(path).expect("written"), "{form}");

        for by_pipe in [false, true] {
            client.raw_delete_range(..).await.expect("deleted");
            let imported = if by_pipe {
                let input = &piped.stdout;
                rdbctl.run_with_input(["raw", "import"], input).await
            } else {
                rdbctl.run(["raw", "import", path, "-o", "json"]).await
            };
            assert_exit(&imported, DONE, form);
            let told = if by_pipe {
                "3000 entries\n"
            } else {
                "{\"entries\":3000}\n"
            };
            assert_eq!(imported.stdout, told.as_bytes(), "{form}");
            let again = rdbctl.run(["raw", "export", "--form", form]).await;
            assert!(again.stdout == piped.stdout, "{form}: the same entries");
        }
    }
}

#[tokio::test]
async fn a_terminal_shows_how_far_a_transfer_is_until_it_is_done() {
    const ERASES_LINE: &str = "\x1b[2K";
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    let directory = TempDir::new().expect("the temporary directory can be written");
    let file = directory.path().join("entries");
    for (direction, verb, parts) in [
        ("export", "exported ", [" entries, ", "/s"]),
        ("import", "imported ", [" of ", " left"]),
    ] {
        let arguments = format!("raw {direction} '{}'", file.display());
        let mut terminal = Terminal::open(&cluster, &directory, &arguments);
        assert_eq!(terminal.ended().await, Some(DONE), "{direction}");
        terminal.shows("1 entries\r\n").await;
        let shown = terminal.shown();
        let (before, done) = shown.rsplit_once(ERASES_LINE).expect("no line is left");
        for part in [verb].into_iter().chain(parts) {
            assert!(before.contains(part), "{direction}, {part}: {shown:?}");
        }
        assert_eq!(done, "1 entries\r\n", "{direction}: {shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_wrong_somewhere_is_imported_up_to_there_and_an_export_that_fails_leaves_none()
 {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let rdbctl = Rdbctl::of(&cluster);
    let cut = b"{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"va";
    let imported = rdbctl.run_with_input(["raw", "import"], cut).await;
    assert_exit(&imported, FAILED, "a file that was cut");
    let told = errors(&imported);
    for part in ["entry 2: ", "1 entries were imported", "again is safe"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(
        client.raw_get("a").await.expect("read").as_deref(),
        Some(&b"1"[..])
    );

    let directory = TempDir::new().expect("the temporary directory can be written");
    let export = directory.path().join("binary");
    let export = export.to_str().expect("text");
    let exported = rdbctl.run(["raw", "export", export, "--form", "binary"]);
    assert_exit(&exported.await, DONE, "export");
    let mut damaged = fs::read(export).expect("written");
    // The value of the only entry, before what ends the file.
    let place = damaged.len() - 21;
    assert_eq!(damaged[place], b'1');
    damaged[place] = b'2';
    fs::write(export, &damaged).expect("written");
    let imported = rdbctl.run(["raw", "import", export]).await;
    assert_exit(&imported, USAGE, "a damaged file");
    assert!(errors(&imported).contains("the checksum is wrong"));
    let value = client.raw_get("a").await.expect("read");
    assert_eq!(value.as_deref(), Some(&b"1"[..]), "nothing is written");
    let imported = rdbctl.run_with_input(["raw", "import"], &damaged).await;
    assert_exit(&imported, FAILED, "a damaged pipe");
    let told = errors(&imported);
    assert!(
        told.contains("the damaged ones may be among them"),
        "{told}"
    );
    let imported = rdbctl.run(["raw", "import"]).await;
    assert_exit(&imported, USAGE, "nothing to import");

    let missing = rdbctl.run(["raw", "import", "/no/such/file"]).await;
    assert_exit(&missing, USAGE, "no file");
    assert!(errors(&missing).contains("/no/such/file"));

    let directory = TempDir::new().expect("the temporary directory can be written");
    let path = directory.path().join("export");
    let unserved = Rdbctl::at("127.0.0.1:1");
    let path = path.to_str().expect("text");
    let failed = unserved.run(["raw", "export", path, "--timeout", "500ms"]);
    let failed = failed.await;
    assert_exit(&failed, FAILED, "nobody answers");
    let left = fs::read_dir(directory.path()).expect("it is there").count();
    assert_eq!(left, 0, "neither the file nor a part of it");
}

pub(super) fn begin(cluster: &Cluster, arguments: &[&str]) -> Child {
    command()
        .args(arguments)
        .env("RDBCTL_PD", cluster.pd.address())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started")
}

pub(super) async fn interrupted(process: Child) -> std::process::Output {
    kill_process(Pid::from_child(&process), Signal::INT).expect("it runs");
    let ended = tokio::task::spawn_blocking(move || {
        let output = process.wait_with_output();
        output.expect("a child can be waited for")
    });
    guarded("it ends", ended).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_interrupted_says_how_many_entries_it_wrote() {
    /// A batch, and some that wait for the rest of theirs.
    const WRITTEN: u32 = 1024;
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let mut import = begin(&cluster, &["raw", "import", "--timeout", "5m"]);
    let mut input = import.stdin.take().expect("it is piped");
    for number in 0..WRITTEN + 10 {
        writeln!(input, "{{\"key\":\"{number}\",\"value\":\"v\"}}").expect("it reads");
    }
    input.flush().expect("it reads");
    let last = (WRITTEN - 1).to_string();
    found("the batch is written", async || {
        client.raw_get(&last).await.expect("read")
    })
    .await;
    // The pipe stays open, so that there is more to come.
    let ended = interrupted(import).await;
    drop(input);
    assert_exit(&ended, FAILED, "interrupted");
    let told = errors(&ended);
    let expected = "interrupted; 1024 entries were imported";
    assert!(told.contains(expected), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_whose_store_hangs_ends_at_a_second_ctrl_c() {
    /// More than are read ahead and lie in the pipe, fewer than block the import.
    const BATCHES: u32 = 10;
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let mut import = begin(&cluster, &["raw", "import", "--timeout", "1h"]);
    let mut input = import.stdin.take().expect("it is piped");
    let mut write = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            writeln!(input, "{{\"key\":\"{number}\",\"value\":\"v\"}}").expect("it reads");
        }
    };
    write(0..1024);
    found("the first batch is written", async || {
        client.raw_get("1023").await.expect("read")
    })
    .await;
    cluster.store.pause();
    write(1024..1024 * (1 + BATCHES));
    let ended = found("it ends", async || {
        kill_process(Pid::from_child(&import), Signal::INT).expect("it was not waited for");
        import.try_wait().expect("a child can be asked")
    })
    .await;
    cluster.store.resume();
    assert_eq!(ended.code(), Some(UNDETERMINED), "a batch was under way");
}

#[tokio::test]
async fn an_export_that_is_interrupted_leaves_no_part_of_a_file() {
    let cluster = Cluster::start().await;
    cluster.store.pause();
    let directory = TempDir::new().expect("the temporary directory can be written");
    let path = directory.path().join("export");
    let line = [
        "raw",
        "export",
        path.to_str().expect("text"),
        "--timeout",
        "1h",
    ];
    let export = begin(&cluster, &line);
    let part = directory.path().join("export.part");
    found("it has begun", async || part.exists().then_some(())).await;
    let ended = interrupted(export).await;
    assert_exit(&ended, FAILED, "interrupted");
    let left = fs::read_dir(directory.path()).expect("it is there").count();
    assert_eq!(left, 0, "neither the file nor a part of it");
    cluster.store.resume();
}
