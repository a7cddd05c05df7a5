use std::path::Path;
use std::pin::pin;

use futures::{FutureExt, poll};
use prost::Message;
use rdb_proto::auth::{Caller, Token};
use rdb_proto::authpb::{self, Grant, Role as GrantedRole};
use rdb_proto::errorpb::Fate;
use rdb_proto::transport::health;
use rdb_storage::{Role, StorageOptions};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tonic::Code;

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
        let (storage, authority, keeper) = undriven(directory, restored, is_enforced).await?;
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
        self.authority.change(change, anybody()).await
    }

    async fn enable(&self, name: &str) -> Result<Token, AuthError> {
        let token = Token::random();
        self.change(enable(name, &token)).await.map(|_| token)
    }

    /// Who has shown this token, or how it is refused.
    fn user(&self, token: &Token) -> Result<Option<String>, Code> {
        let caller = Caller::with_token(Arc::clone(self.authority.guard()), token);
        let pass = caller.pass().map_err(|fault| fault.code)?;
        Ok(pass.user().map(str::to_owned))
    }
}

/// Users of a data directory, with a keeper that does nothing yet.
async fn undriven(
    directory: &Path,
    restored: bool,
    is_enforced: bool,
) -> Result<(Storage, Authority, Keeper), PdError> {
    let directory = directory.to_owned();
    let opened = spawn_blocking(move || {
        let storage = Storage::open(directory, StorageOptions::new(Role::Pd))?;
        let opened = Authority::open(storage.clone(), restored, is_enforced);
        if opened.is_err() {
            storage.close()?;
        }
        let (authority, keeper) = opened?;
        Ok((storage, authority, keeper))
    });
    opened.await.expect("no panic")
}

async fn close(storage: Storage) {
    let closed = spawn_blocking(move || storage.close());
    closed.await.expect("no panic").expect("in good order");
}

/// A caller of a process without a guard.
fn anybody() -> Arc<Call> {
    Call::unserved(Caller::anyone())
}

fn enable(name: &str, token: &Token) -> Change {
    Change::Enable {
        name: name.to_owned(),
        token_hash: token.hash(),
    }
}

fn grant_admin(name: &str) -> Change {
    Change::Grant {
        name: name.to_owned(),
        grant: Grant {
            role: GrantedRole::Admin.into(),
            ..Grant::default()
        },
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

/// Whether the write is still on its way when it is looked at is up to the disk; what is shown then is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_not_shown_before_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, authority, keeper) = undriven(directory.path(), false, true).await.unwrap();
    for number in 0..16 {
        let before = authority.present().users;
        let change = add(&format!("u{number}"), &Token::random());
        let call = anybody();
        let mut changing = pin!(keeper.make(&change, &call));
        if poll!(changing.as_mut()).is_pending() {
            assert_eq!(*authority.present().users, *before);
            assert_eq!(authority.guard().version(), Some(before.version()));
            changing.await.unwrap();
        }
        assert_eq!(authority.present().users.version(), before.version() + 1);
    }
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_right_to_enable_takes_no_places_of_administrators() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, authority, mut keeper) = undriven(directory.path(), false, false).await.unwrap();
    let enabling = || authority.change(enable("ada", &Token::random()), anybody());
    let mut flood: Vec<_> = (0..2 * QUESTIONS_MAX)
        .map(|_| Box::pin(enabling()))
        .collect();
    for asking in &mut flood {
        assert!(poll!(asking).is_pending());
    }
    assert_eq!(keeper.questions.len(), 1);
    let mut adding = pin!(authority.change(add("bob", &Token::random()), anybody()));
    assert!(poll!(adding.as_mut()).is_pending(), "it waits for its turn");
    drop(flood);
    keeper.questions.recv().await.unwrap();
    let bob = keeper.questions.recv().await.unwrap();
    assert_eq!(bob.change.name(), "bob");

    let first = enable("root", &Token::random());
    keeper.make(&first, &anybody()).await.unwrap();
    let refused = enabling().now_or_never();
    assert!(
        matches!(refused, Some(Err(AuthError::Refused(Refusal::AdminExists)))),
        "{refused:?}"
    );
    assert!(keeper.questions.is_empty());
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_changes_are_refused_and_those_that_have_not_begun_at_the_end_are_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, authority, keeper) = undriven(directory.path(), false, false).await.unwrap();
    let adding =
        |number: usize| authority.change(add(&format!("u{number}"), &Token::random()), anybody());
    let mut waiting: Vec<_> = (0..QUESTIONS_MAX)
        .map(|number| Box::pin(adding(number)))
        .collect();
    for asking in &mut waiting {
        assert!(poll!(asking).is_pending());
    }
    let refused = adding(QUESTIONS_MAX).now_or_never();
    assert!(matches!(refused, Some(Err(AuthError::Busy))), "{refused:?}");
    drop(keeper);
    for asking in waiting {
        let ended = asking.await;
        assert!(matches!(ended, Err(AuthError::Stopping)), "{ended:?}");
    }
    let later = adding(0).await;
    assert!(matches!(later, Err(AuthError::Stopping)), "{later:?}");
    assert_eq!(authority.present().users.count(), 0);
    close(storage).await;
}

/// What it has asked for waits while another admin removes it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_removed_admin_has_asked_for_is_refused_when_its_turn_comes() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::enforced(directory.path()).await;
    opened.enable("root").await.unwrap();
    let ada = Token::random();
    opened.change(add("ada", &ada)).await.unwrap();
    opened.change(grant_admin("ada")).await.unwrap();
    let caller = || Caller::with_token(Arc::clone(opened.authority.guard()), &ada);
    let (early, late) = (caller(), caller());
    let asked = |name, caller| {
        let change = add(name, &Token::random());
        let call = Call::unserved(caller);
        opened.authority.change(change, call)
    };
    asked("bob", early).await.unwrap();
    late.pass().unwrap().check_admin().unwrap();
    opened.change(remove("ada")).await.unwrap();
    let before = opened.authority.present().users;
    let refused = asked("cy", late).await;
    let Err(AuthError::Denied(fault)) = &refused else {
        panic!("{refused:?}");
    };
    let (code, fate) = (fault.code, fault.fate);
    assert_eq!((code, fate), (Code::Unauthenticated, Fate::NotApplied));
    assert_eq!(*opened.authority.present().users, *before);
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_warned_of_until_there_is_an_admin() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::enforced(directory.path()).await;
    let warning = opened.health.warning().expect("nobody can do anything");
    assert!(warning.contains("`rdbctl auth enable`"), "{warning}");
    assert!(warning.contains("all calls are refused"), "{warning}");
    opened.change(add("bob", &Token::random())).await.unwrap();
    let warning = opened.health.warning().expect("bob is no admin");
    assert!(warning.contains("nobody can change users"), "{warning}");
    assert!(!warning.contains("all calls"), "{warning}");
    opened.enable("ada").await.unwrap();
    assert_eq!(opened.health.warning(), None);
    opened.close().await;

    let other = tempfile::tempdir().unwrap();
    let open = Opened::of(other.path(), false, false).await.unwrap();
    assert_eq!(open.health.warning(), None, "rights are not enforced");
    assert!(!open.authority.guard().is_enforced());
    open.enable("ada").await.unwrap();
    assert!(!open.authority.guard().is_enforced());
    let warning = open.health.warning().expect("there is an admin");
    assert!(warning.contains("no --auth"), "{warning}");
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_warned_of_users_that_a_restored_copy_may_have_brought_back() {
    let directory = tempfile::tempdir().unwrap();
    let new = Opened::of(directory.path(), true, true).await.unwrap();
    new.enable("ada").await.unwrap();
    assert_eq!(new.health.warning(), None, "there were no users");
    new.close().await;
    let restored = Opened::of(directory.path(), true, true).await.unwrap();
    let warning = restored.health.warning().expect("it may be a copy");
    assert!(
        warning.contains("what was revoked since is back"),
        "{warning}"
    );
    restored.change(add("bob", &Token::random())).await.unwrap();
    assert_eq!(restored.health.warning(), Some(warning));
    restored.close().await;
    let later = Opened::enforced(directory.path()).await;
    assert_eq!(later.health.warning(), None);
    later.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_skipped_in_a_directory_that_may_be_an_older_copy() {
    // The copy is from before the first user, or from after it. Each is restored twice.
    for has_user in [false, true] {
        let copy = tempfile::tempdir().unwrap();
        let opened = Opened::enforced(copy.path()).await;
        if has_user {
            opened.enable("ada").await.unwrap();
        }
        let copied = opened.authority.present().users.version();
        opened.close().await;
        let mut used = copied;
        for _ in 0..2 {
            let directory = tempfile::tempdir().unwrap();
            copy_files(copy.path(), directory.path());
            let restored = Opened::of(directory.path(), true, false).await.unwrap();
            let version = restored.authority.present().users.version();
            assert!(version > used && version > copied + 1000, "{version}");
            for name in ["bob", "cy"] {
                restored.change(add(name, &Token::random())).await.unwrap();
            }
            used = restored.authority.present().users.version();
            assert_eq!(used, version + 2);
            restored.close().await;
            let later = Opened::of(directory.path(), false, false).await.unwrap();
            assert_eq!(later.authority.present().users.version(), used);
            later.close().await;
        }
    }
}

/// Copies the data directory of a process that has ended.
fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_files(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_release_ends_the_start_and_stays() {
    // A field that there is not, and a role that there is not.
    let unknown_field = |mut record: Vec<u8>| {
        record.extend(b"\x78\x01");
        record
    };
    let unknown_role = |record: Vec<u8>| {
        let mut rights = authpb::Rights::decode(&*record).unwrap();
        rights.users[0].grants[0].role = 99;
        rights.encode_to_vec()
    };
    for newer in [&unknown_field as &dyn Fn(Vec<u8>) -> Vec<u8>, &unknown_role] {
        let directory = tempfile::tempdir().unwrap();
        let opened = Opened::enforced(directory.path()).await;
        opened.enable("ada").await.unwrap();
        let record = newer(opened.authority.present().users.encode().to_vec());
        let (storage, written) = (opened.storage.clone(), record.clone());
        let written = spawn_blocking(move || storage.put_raw(keys::RIGHTS, written));
        written.await.unwrap().unwrap();
        opened.close().await;
        for restored in [false, true] {
            let refused = Opened::of(directory.path(), restored, true).await;
            let refused = refused.err().expect("it is of a newer release");
            assert!(matches!(refused, PdError::NewerRights), "{refused}");
        }
        let directory = directory.path().to_owned();
        let found = spawn_blocking(move || {
            let storage = Storage::open(directory, StorageOptions::new(Role::Pd)).unwrap();
            let found = storage.get_raw(keys::RIGHTS).unwrap();
            storage.close().unwrap();
            found
        });
        assert_eq!(found.await.unwrap().as_deref(), Some(&*record));
    }
}

#[test]
fn whoever_shows_a_warning_knows_that_it_is_about_rights() {
    use rdb_proto::findings::About;

    for warning in [NO_USER, NO_ADMIN, NOT_ENFORCED, RESTORED] {
        assert_eq!(About::of(warning), About::Rights, "{warning}");
    }
}
