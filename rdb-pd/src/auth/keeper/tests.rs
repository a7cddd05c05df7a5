use std::path::Path;

use rdb_proto::auth::{Caller, Token};
use rdb_proto::transport::{CallBudget, health};
use rdb_storage::{Role, StorageOptions};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::*;

/// Users of a data directory, and what keeps them.
struct Opened {
    storage: Storage,
    authority: Authority,
    health: HealthHandle,
    keeping: JoinHandle<()>,
}

impl Opened {
    async fn of(directory: &Path, restored: bool, is_enforced: bool) -> Result<Self, PdError> {
        let directory = directory.to_owned();
        let opened = spawn_blocking(move || {
            let storage = Storage::open(directory, StorageOptions::new(Role::Pd))?;
            let opened = Authority::open(storage.clone(), restored, is_enforced);
            if opened.is_err() {
                storage.close()?;
            }
            let (authority, keeper) = opened?;
            Ok::<_, PdError>((storage, authority, keeper))
        });
        let (storage, authority, keeper) = opened.await.expect("no panic")?;
        let (health, _) = health(&[], CancellationToken::new());
        keeper.tell(&health);
        let keeping = tokio::spawn(keeper.run(health.clone()));
        Ok(Self {
            storage,
            authority,
            health,
            keeping,
        })
    }

    async fn enforced(directory: &Path) -> Self {
        Self::of(directory, false, true).await.expect("it opens")
    }

    /// Unlocks the directory.
    async fn close(self) {
        drop(self.authority);
        self.keeping.await.expect("it ends when nobody asks");
        let closed = spawn_blocking(move || self.storage.close());
        closed.await.expect("no panic").expect("in good order");
    }

    async fn change(&self, change: Change) -> Result<bool, AuthError> {
        let author = Author(CallBudget::of(&Request::new(())));
        self.authority.change(change, author).await
    }

    async fn enable(&self, name: &str) -> Result<Token, AuthError> {
        let token = Token::random();
        let change = Change::Enable {
            name: name.to_owned(),
            token_hash: token.hash(),
        };
        self.change(change).await.map(|_| token)
    }

    /// Who has shown this token, or how it is refused.
    fn user(&self, token: &Token) -> Result<Option<String>, Code> {
        let caller = Caller::with_token(Arc::clone(self.authority.guard()), token);
        let pass = caller.pass().map_err(|fault| fault.code)?;
        Ok(pass.user().map(str::to_owned))
    }
}

fn add(name: &str, token: &Token) -> Change {
    Change::AddUser {
        name: name.to_owned(),
        subject: String::new(),
        token_hash: Some(token.hash()),
    }
}

fn remove(name: &str) -> Change {
    Change::RemoveUser {
        name: name.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_answered_holds_at_once_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::enforced(directory.path()).await;
    let ada = opened.enable("ada").await.unwrap();
    assert_eq!(opened.user(&ada), Ok(Some("ada".to_owned())));
    let bob = Token::random();
    assert_eq!(opened.user(&bob), Err(Code::Unauthenticated));
    assert!(opened.change(add("bob", &bob)).await.unwrap());
    assert_eq!(opened.user(&bob), Ok(Some("bob".to_owned())));
    let version = opened.authority.present().users.version();
    assert_eq!(opened.authority.guard().version(), Some(version));
    opened.close().await;

    let opened = Opened::enforced(directory.path()).await;
    assert_eq!(opened.authority.present().users.version(), version);
    assert_eq!(opened.user(&bob), Ok(Some("bob".to_owned())));
    assert!(opened.change(remove("bob")).await.unwrap());
    assert_eq!(opened.user(&bob), Err(Code::Unauthenticated));
    let again = opened.enable("root").await;
    assert!(
        matches!(again, Err(AuthError::Refused(Refusal::AdminExists))),
        "{again:?}"
    );
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_written_is_neither_answered_as_made_nor_shown() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::enforced(directory.path()).await;
    opened.enable("ada").await.unwrap();
    let before = opened.authority.present().users;
    let storage = opened.storage.clone();
    spawn_blocking(move || storage.close())
        .await
        .unwrap()
        .unwrap();
    let bob = Token::random();
    let failed = opened.change(add("bob", &bob)).await;
    assert!(matches!(failed, Err(AuthError::Storage(_))), "{failed:?}");
    assert_eq!(*opened.authority.present().users, *before);
    assert_eq!(opened.user(&bob), Err(Code::Unauthenticated));
    assert_eq!(opened.authority.guard().version(), Some(before.version()));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_first_admins_at_once_make_one() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::enforced(directory.path()).await;
    let names: Vec<_> = (0..16).map(|number| format!("u{number}")).collect();
    let asked = names.iter().map(|name| opened.enable(name));
    let answers = futures::future::join_all(asked).await;
    let made = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!((made, opened.authority.present().users.count()), (1, 1));
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_warned_of_until_there_is_an_admin() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::enforced(directory.path()).await;
    let warning = opened.health.warning().expect("nobody can do anything");
    assert!(warning.contains("`rdbctl auth enable`"), "{warning}");
    opened.change(add("bob", &Token::random())).await.unwrap();
    assert!(opened.health.warning().is_some(), "bob is no admin");
    opened.enable("ada").await.unwrap();
    assert_eq!(opened.health.warning(), None);
    opened.close().await;

    let other = tempfile::tempdir().unwrap();
    let open = Opened::of(other.path(), false, false).await.unwrap();
    assert_eq!(open.health.warning(), None, "rights are not enforced");
    assert!(!open.authority.guard().is_enforced());
    open.enable("ada").await.unwrap();
    assert!(!open.authority.guard().is_enforced());
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_skipped_in_a_directory_that_may_be_an_older_copy() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::of(directory.path(), true, false).await.unwrap();
    assert_eq!(opened.authority.present().users.version(), 1);
    opened.enable("ada").await.unwrap();
    opened.close().await;
    let restored = Opened::of(directory.path(), true, false).await.unwrap();
    let version = restored.authority.present().users.version();
    assert!(version > 1000, "{version}");
    restored.close().await;
    let later = Opened::of(directory.path(), false, false).await.unwrap();
    assert_eq!(later.authority.present().users.version(), version);
    later.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_ends_the_start_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::enforced(directory.path()).await;
    let storage = opened.storage.clone();
    let written = spawn_blocking(move || storage.put_raw(keys::RIGHTS, &b"\x08\x00"[..]));
    written.await.unwrap().unwrap();
    opened.close().await;
    let refused = Opened::of(directory.path(), false, false).await;
    let refused = refused.err().expect("it is damaged");
    assert!(
        matches!(refused, PdError::DamagedRights { .. }),
        "{refused}"
    );
    let told = refused.to_string();
    assert!(told.contains("Restore a copy"), "{told}");
}
