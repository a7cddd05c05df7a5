//! Users and rights, as an administrator makes them and as those who lack one are told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use rdb_client::{Client, Config, Error, Token};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{DONE, FAILED, NOT_FOUND, Rdbctl, USAGE, assert_exit, errors, objects};
use crate::harness::{HANG_GUARD, Node, found, guarded};

/// How long a client may go on with the token that was in a file before.
const FILE_LOOK: Duration = Duration::from_secs(6);

/// A placement driver that enforces rights, and a store with a token.
struct Enforcing {
    pd: Node,
    store: Node,
    directory: TempDir,
}

impl Enforcing {
    async fn start() -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let mut pd = Node::placement_driver(directory.path().join("pd"));
        pd.set_environment("RDB_PD_AUTH", "true");
        pd.start_serving().await;
        let token = directory.path().join("stores.token");
        let store = Node::store(directory.path().join("store"), &pd.address());
        let store = store.with_flag("--auth-token-file", &token.display().to_string());
        let mut cluster = Self {
            pd,
            store,
            directory,
        };
        let admin = cluster.file("admin");
        let enabled = ["auth", "enable", "--token-out", &admin];
        assert_exit(&cluster.run(None, &enabled).await, DONE, "enable");
        let token = cluster.file("stores");
        for arguments in [
            &["auth", "user", "add", "stores", "--token-out", &token][..],
            &["auth", "grant", "stores", "store"],
        ] {
            assert_exit(&cluster.admin(arguments).await, DONE, arguments);
        }
        cluster.store.start_serving().await;
        cluster
    }

    fn path(&self, user: &str) -> PathBuf {
        self.directory.path().join(format!("{user}.token"))
    }

    /// Where the token of a user is.
    fn file(&self, user: &str) -> String {
        self.path(user).display().to_string()
    }

    /// Runs a command as this user.
    async fn run(&self, user: Option<&str>, arguments: &[&str]) -> Output {
        let file = user.map(|user| self.file(user));
        let file = file.iter().flat_map(|file| ["--token-file", file.as_str()]);
        let arguments = arguments.iter().copied().chain(file);
        Rdbctl::at(self.pd.address()).run(arguments).await
    }

    async fn admin(&self, arguments: &[&str]) -> Output {
        self.run(Some("admin"), arguments).await
    }

    /// Adds a user, and keeps the token that is printed.
    async fn add(&self, user: &str) {
        let added = self.admin(&["auth", "user", "add", user]).await;
        assert_exit(&added, DONE, user);
        let printed = String::from_utf8(added.stdout).expect("text");
        let token = printed.strip_suffix('\n').expect("a line");
        token.parse::<Token>().expect("it stands alone");
        fs::write(self.path(user), printed).expect("it can be written");
    }

    /// Runs a command as this user until it ends so: a store may have to hear of a change first.
    async fn becomes(&self, user: &str, arguments: &[&str], expected: i32) -> Output {
        found("a change counts", async || {
            let output = self.run(Some(user), arguments).await;
            (output.status.code() == Some(expected)).then_some(output)
        })
        .await
    }

    /// A command fails, and its object is of this kind.
    async fn refused(&self, user: Option<&str>, arguments: &[&str], kind: &str) -> String {
        let as_object = [arguments, &["-o", "json"]].concat();
        let output = self.run(user, &as_object).await;
        assert_exit(&output, FAILED, arguments);
        assert_eq!(objects(&output)[0]["error"]["kind"], kind, "{arguments:?}");
        errors(&output)
    }

    fn config_of(&self, user: &str) -> Config {
        Config::default()
            .with_timeout(HANG_GUARD)
            .with_token_file(self.path(user))
    }

    async fn client_of(&self, user: &str) -> Client {
        let connected = Client::connect_with([self.pd.address()], self.config_of(user));
        connected.await.expect("it is a user")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_does_what_was_granted_and_is_told_what_was_not() {
    let cluster = Enforcing::start().await;
    let mode = fs::metadata(cluster.path("admin")).expect("it was made");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    cluster.add("ada").await;
    let ada = Some("ada");
    let told = cluster
        .refused(ada, &["raw", "get", "k"], "permission_denied")
        .await;
    assert!(told.contains("user ada lacks the right"), "{told}");

    let grant = [
        "auth",
        "grant",
        "ada",
        "writer",
        "--keyspace",
        "raw",
        "--prefix",
        "app/",
    ];
    for told in ["OK\n", "OK: user ada had it before\n"] {
        let granted = cluster.admin(&grant).await;
        assert_exit(&granted, DONE, grant);
        assert_eq!(String::from_utf8_lossy(&granted.stdout), told);
    }
    cluster
        .becomes("ada", &["raw", "put", "app/k", "v"], DONE)
        .await;
    let scan = ["raw", "scan", "--prefix", "app/"];
    let scanned = cluster.run(ada, &scan).await;
    assert_eq!(scanned.stdout, b"app/k\tv\n");
    for (arguments, right) in [
        (&["raw", "put", "k", "v"][..], "writer over this key"),
        (&["raw", "get", "k"], "reader over this key"),
        (&["raw", "scan"], "reader over all of this range"),
        (&["raw", "delete-range", "app", "b"], "writer over all"),
        (&["cas", "put", "app/k", "v", "--expect", "0"], "versioned"),
        (&["auth", "user", "list"], "admin"),
        (&["auth", "check", "read", "--user", "stores"], "admin"),
        (&["store", "remove", "1"], "admin"),
    ] {
        let told = cluster.refused(ada, arguments, "permission_denied").await;
        assert!(told.contains(right), "{arguments:?}: {told}");
    }
    for (arguments, expected) in [
        (&["tso"][..], DONE),
        (&["region", "list"], DONE),
        (&["health"], DONE),
        (&["status", "--wait", "1m"], DONE),
        (
            &["auth", "check", "write", "app/k", "--keyspace", "raw"],
            DONE,
        ),
        (&["auth", "check", "write", "app/k"], FAILED),
        (&["auth", "check", "admin"], FAILED),
    ] {
        let output = cluster.run(ada, arguments).await;
        assert_exit(&output, expected, arguments);
    }
    let check = ["auth", "check", "write", "k", "--user", "ada", "-o", "json"];
    let checked = cluster.admin(&check).await;
    assert_exit(&checked, FAILED, check);
    let verdict = &objects(&checked)[0];
    assert_eq!(
        (&verdict["user"], &verdict["allowed"]),
        (&json!("ada"), &json!(false))
    );

    let list = cluster.admin(&["auth", "user", "list", "-o", "json"]).await;
    let granted = json!([{ "role": "writer", "keyspace": "raw", "prefix": "app/" }]);
    let known = objects(&list)
        .into_iter()
        .find(|user| user["name"] == "ada");
    let expected = json!({ "name": "ada", "token_count": 1, "subject": null, "grants": granted });
    assert_eq!(known, Some(expected));

    let revoke = [&["auth", "revoke"][..], &grant[2..]].concat();
    assert_exit(&cluster.admin(&revoke).await, DONE, &revoke);
    assert_exit(&cluster.admin(&revoke).await, NOT_FOUND, &revoke);
    let put = ["raw", "put", "app/k", "w"];
    cluster.becomes("ada", &put, FAILED).await;
    let remove = ["auth", "user", "remove", "ada"];
    assert_exit(&cluster.admin(&remove).await, DONE, remove);
    cluster.refused(ada, &["tso"], "unauthenticated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_no_token_or_a_wrong_one_is_told_so_at_once() {
    let cluster = Enforcing::start().await;
    // Whoever tried until the deadline would hang.
    let get = ["raw", "get", "k", "--timeout", "24h"];
    let told = cluster.refused(None, &get, "unauthenticated").await;
    assert!(told.contains("--token-file"), "{told}");
    let wrong = format!("flaredb_{}\n", "0".repeat(64));
    fs::write(cluster.path("nobody"), wrong).expect("it can be written");
    let told = cluster
        .refused(Some("nobody"), &get, "unauthenticated")
        .await;
    assert!(told.contains("the token is no user's"), "{told}");
    fs::write(cluster.path("broken"), "hunter2\n").expect("it can be written");
    for user in ["broken", "missing"] {
        let output = cluster.run(Some(user), &get).await;
        assert_exit(&output, USAGE, user);
        let told = errors(&output);
        assert!(told.contains("--token-file"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
    let health = cluster.run(None, &["health"]).await;
    assert_exit(&health, FAILED, "no store is known");
    let shown = String::from_utf8_lossy(&health.stdout).into_owned();
    assert!(
        shown.contains("serving") && shown.contains("not signed in"),
        "{shown}"
    );

    let again = ["auth", "enable", "--user", "eve"];
    let told = cluster.refused(None, &again, "failed").await;
    assert!(told.contains("refused"), "{told}");
    for last in [
        &["auth", "user", "remove", "admin"][..],
        &["auth", "revoke", "admin", "admin"],
        &["auth", "user", "token", "admin", "--drop-old"],
    ] {
        assert_exit(&cluster.admin(last).await, FAILED, last);
    }
    let admin = cluster.file("admin");
    let exists = ["auth", "user", "add", "ada", "--token-out", &admin];
    let output = cluster.admin(&exists).await;
    assert_exit(&output, FAILED, exists);
    let remove = ["auth", "user", "remove", "ada"];
    let removed = cluster.admin(&remove).await;
    assert_exit(
        &removed,
        NOT_FOUND,
        "no user was made without a place for its token",
    );
}

/// Writes and takes timestamps until the first failure, and counts how often it has.
async fn work(client: Client, rounds: watch::Sender<u64>) -> Error {
    loop {
        let worked = async {
            client.raw_put("app/k", "v").await?;
            client.tso().await
        };
        match worked.await {
            Ok(_) => rounds.send_modify(|rounds| *rounds += 1),
            Err(error) => return error,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_replaced_as_the_docs_say_without_a_failed_call() {
    let cluster = Enforcing::start().await;
    cluster.add("ada").await;
    let grant = ["auth", "grant", "ada", "writer", "--prefix", "app/"];
    assert_exit(&cluster.admin(&grant).await, DONE, grant);
    let get = ["raw", "get", "app/k"];
    cluster.becomes("ada", &get, NOT_FOUND).await;
    let old = fs::read_to_string(cluster.path("ada")).expect("it was written");
    let old = old.trim_end().parse().expect("it is a token");
    let config = Config::default().with_timeout(HANG_GUARD).with_token(old);
    let with_old = Client::connect_with([cluster.pd.address()], config).await;
    let with_old = with_old.expect("it is good yet");
    let (rounds, mut worked) = watch::channel(0);
    let mut working = tokio::spawn(work(cluster.client_of("ada").await, rounds));

    // The answer of the first try is lost: nobody has that token, and the one in use stays good.
    let lost = cluster.file("lost");
    for change in [&["--add", "--token-out", &lost][..], &["--drop-new"]] {
        let change = [&["auth", "user", "token", "ada"][..], change].concat();
        assert_exit(&cluster.admin(&change).await, DONE, &change);
    }
    let who = ["auth", "check", "read"];
    cluster.refused(Some("lost"), &who, "unauthenticated").await;
    let new = cluster.file("new");
    let add = ["auth", "user", "token", "ada", "--add", "--token-out", &new];
    assert_exit(&cluster.admin(&add).await, DONE, add);
    let put = ["raw", "put", "app/new", "v"];
    cluster.becomes("new", &put, DONE).await;
    fs::rename(cluster.path("new"), cluster.path("ada")).expect("it can be renamed");
    // The client looks at its file by the clock.
    let renamed = Instant::now();
    guarded("the client has looked", async {
        while renamed.elapsed() < FILE_LOOK {
            with_old.raw_get("app/k").await.expect("it is good yet");
        }
    })
    .await;
    let drop_old = ["auth", "user", "token", "ada", "--drop-old"];
    assert_exit(&cluster.admin(&drop_old).await, DONE, drop_old);
    found(
        "the store refuses the old one, on its stream",
        async || match with_old.raw_get("app/k").await {
            Ok(_) => None,
            Err(Error::Unauthenticated { .. }) => Some(()),
            Err(other) => panic!("{other:?}"),
        },
    )
    .await;
    let after = *worked.borrow() + 10;
    tokio::select! {
        failed = &mut working => panic!("{failed:?}"),
        went_on = guarded("calls go on", worked.wait_for(|rounds| *rounds >= after)) => {
            went_on.expect("it works");
        }
    }
    working.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_token_of_the_administrator_is_replaced_as_the_docs_say() {
    let mut cluster = Enforcing::start().await;
    fs::remove_file(cluster.path("admin")).expect("it was made");
    cluster.pd.terminate();
    assert!(cluster.pd.exited().await.success());
    // At another address, where the store does not find it.
    let mut apart = Node::placement_driver(cluster.pd.data_dir());
    apart.start_serving().await;
    let admin = cluster.file("admin");
    let replace = [
        "auth",
        "user",
        "token",
        "admin",
        "--replace",
        "--token-out",
        &admin,
    ];
    let replaced = Rdbctl::at(apart.address()).run(replace).await;
    assert_exit(&replaced, DONE, replace);
    apart.terminate();
    assert!(apart.exited().await.success());
    cluster.pd.start_serving().await;
    let list = ["auth", "user", "list"];
    assert_exit(&cluster.admin(&list).await, DONE, list);
    cluster.refused(None, &list, "unauthenticated").await;
    let put = ["raw", "put", "k", "v"];
    cluster.becomes("admin", &put, DONE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_they_are_enforced_users_are_made_and_the_shell_keeps_who_it_is() {
    let mut cluster = crate::harness::Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    let enabled = rdbctl.run(["auth", "enable"]).await;
    assert_eq!(enabled.status.code(), Some(DONE), "{enabled:?}");
    let told = errors(&enabled);
    assert!(
        told.contains("NOT enforced") && told.contains("--auth"),
        "{told}"
    );
    let token = cluster.directory.path().join("admin.token");
    fs::write(&token, &enabled.stdout).expect("it can be written");
    let check = rdbctl.run(["auth", "check", "admin"]).await;
    assert_exit(&check, DONE, "everybody may");
    let status = ["status", "--wait", "1m", "-o", "json"];
    let looked = rdbctl.run(status).await;
    assert_exit(&looked, DONE, status);
    let notices = objects(&looked)[0]["findings"].to_string();
    assert!(notices.contains("rights are not enforced"), "{notices}");

    cluster.pd.terminate();
    assert!(cluster.pd.exited().await.success());
    cluster.pd.set_environment("RDB_PD_AUTH", "true");
    cluster.pd.start_serving().await;
    let script = b"auth user list -o json\nauth check admin -o json\nauth role list\n";
    let file = token.as_os_str();
    let arguments = ["--token-file".as_ref(), file, "shell".as_ref()];
    let shell = rdbctl.run_with_input(arguments, script).await;
    assert_exit(&shell, DONE, "a shell of the administrator");
    let told = String::from_utf8_lossy(&shell.stdout).into_owned();
    assert!(
        told.contains("\"allowed\":true") && told.contains("writer"),
        "{told}"
    );
    let arguments = ["shell".as_ref() as &std::ffi::OsStr];
    let shell = rdbctl.run_with_input(arguments, script).await;
    assert_eq!(shell.status.code(), Some(FAILED), "{shell:?}");
}
