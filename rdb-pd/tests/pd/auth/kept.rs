//! What of users and rights is kept over a restart, a kill and damage.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use futures::StreamExt;
use tokio::task::spawn_blocking;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn users_outlive_a_restart_and_the_first_admin_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let (pd, mut users) = start_enforced(directory.path()).await;
    let root = users.enable("root").await.unwrap();
    let ada = users.add_with(&root, "ada", Role::Reader).await;
    let before = users.list(&root).await.unwrap();
    stop(pd, users).await;

    let (mut pd, mut users) = start_enforced(directory.path()).await;
    assert_eq!(users.list(&root).await.unwrap(), before);
    assert!(before.enforced);
    let again = users.enable("other").await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(again.message().contains("admin already"), "{again}");
    assert_eq!(tso_code(&mut pd, &ada).await, Code::Ok);
    stop(pd, users).await;
}

/// A process of its own. Dropping it kills it.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    /// Starts one, and waits until it serves.
    async fn start(directory: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdb-pd"));
        command
            .args([
                "--addr",
                "127.0.0.1:0",
                "--status-addr",
                "none",
                "--auth",
                "--data-dir",
            ])
            .arg(directory)
            .env("NO_COLOR", "1")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Settings of whoever runs the tests must not become the process's.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"RDB_") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let serving = spawn_blocking(move || {
            let mut lines = log.lines();
            let address = lines.by_ref().map(Result::unwrap).find_map(|line| {
                let (_, rest) = line.split_once("serving Pd")?;
                let (_, rest) = rest.split_once(" addr=")?;
                let (address, _) = rest.split_once(' ')?;
                Some(address.to_owned())
            });
            // It must not wait for a reader of its log.
            std::thread::spawn(move || lines.for_each(drop));
            address
        });
        let address = serving.await.unwrap().expect("it serves");
        Self { child, address }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// It is killed while changes are made: what was answered is there, and nothing else but what was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_outlives_a_kill() {
    const TASKS: usize = 4;
    const ANSWERS_BEFORE_KILL: usize = 24;
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path()).await;
    let mut users = Users::at(&process.address).await;
    let root = users.enable("root").await.unwrap();
    let (answers, mut answered) = mpsc::unbounded();
    let asking = (0..TASKS).map(|task| {
        let (mut users, root, answers) = (users.clone(), root.clone(), answers.clone());
        tokio::spawn(async move {
            for number in 0.. {
                let name = format!("u{task}-{number}");
                if users.add(&root, &name).await.is_err() {
                    // The only one of this task whose fate is open.
                    return name;
                }
                answers.unbounded_send(name).unwrap();
            }
            unreachable!("there are not so many users")
        })
    });
    let asking: Vec<_> = asking.collect();
    drop(answers);
    let mut names: Vec<_> = answered.by_ref().take(ANSWERS_BEFORE_KILL).collect().await;
    assert_eq!(names.len(), ANSWERS_BEFORE_KILL, "all tasks have failed");
    drop(process);
    let mut open = Vec::new();
    for asking in asking {
        open.push(asking.await.unwrap());
    }
    names.extend(answered.collect::<Vec<_>>().await);
    names.push("root".to_owned());

    let process = Process::start(directory.path()).await;
    let mut users = Users::at(&process.address).await;
    let found = users.names(&root).await;
    for name in &names {
        assert!(found.contains(name), "{name} was answered");
    }
    for name in &found {
        assert!(names.contains(name) || open.contains(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_of_rights_ends_the_start_before_anything_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    start(directory.path()).await.stop().await;
    let in_storage = |change: fn(&Storage)| {
        let directory = directory.path().to_owned();
        spawn_blocking(move || {
            let storage = Storage::open(directory, StorageOptions::new(rdb_storage::Role::Pd));
            let storage = storage.unwrap();
            change(&storage);
            let kept = [
                keys::RIGHTS,
                keys::COUNTERS,
                keys::CLUSTER_ID,
                keys::TSO_BOUND,
            ];
            let kept = kept.map(|key| storage.get_raw(key).unwrap());
            storage.close().unwrap();
            kept
        })
    };
    let damage = |storage: &Storage| storage.put_raw(keys::RIGHTS, &b"\xff"[..]).unwrap();
    let before = in_storage(damage).await.unwrap();
    assert!(before[0].is_some());
    for advance_ms in [0, 86_400_000] {
        let restored = |config: &mut Config| config.tso_advance_ms = advance_ms;
        let refused = start_with(directory.path(), restored).await.err().unwrap();
        assert!(
            matches!(refused, PdError::DamagedRights { .. }),
            "{refused}"
        );
        let told = refused.to_string();
        for advice in [
            "Nothing was changed",
            "Restore a copy",
            "what was revoked since is back",
        ] {
            assert!(told.contains(advice), "{told}");
        }
        assert_eq!(in_storage(|_| {}).await.unwrap(), before);
    }
}
