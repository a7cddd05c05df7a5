use std::fs;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;

use bytes::Bytes;
use futures::future::poll_immediate;
use rdb_proto::authpb::{self, Grant, User};
use rdb_proto::transport::Connector;
use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};
use tokio::runtime::Builder;
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::timeout;
use tonic::codegen::http::{HeaderMap, HeaderValue, Response};

use super::*;

fn directory() -> TempDir {
    TempDir::new().expect("the temporary directory can be written")
}

/// One that is asked now, by a store that knows nothing.
fn question() -> Question {
    Question {
        asked: 0,
        at: Moment::now(),
        known_version: 0,
    }
}

fn enforced(rights: Option<authpb::Rights>) -> GetRightsResponse {
    GetRightsResponse {
        enforced: true,
        rights,
    }
}

fn rights(users: Vec<User>) -> authpb::Rights {
    authpb::Rights { version: 1, users }
}

fn keeper(directory: &TempDir, asks_first: bool, stale_max: Duration) -> RightsKeeper {
    let drivers = PlacementDrivers::new(&[], Connector::default(), None).expect("there are none");
    let mark = Mark::open(directory.path());
    let copy = RightsCopy::new(mark.may_be_there(), asks_first, stale_max);
    RightsKeeper::new(drivers, Arc::new(copy), mark)
}

/// Rights that can be used.
fn usable() -> GetRightsResponse {
    enforced(Some(rights(Vec::new())))
}

async fn take_usable(keeper: &mut RightsKeeper) {
    let taken = keeper.take(question(), usable()).await;
    taken.expect("they can be used");
}

/// The rows of the table of [`rights`](crate::rights), from the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    New,
    Open,
    Holding,
    Closed,
}

impl Row {
    const ALL: [Self; 4] = [Self::New, Self::Open, Self::Holding, Self::Closed];

    fn has_mark(self) -> bool {
        matches!(self, Self::Holding | Self::Closed)
    }

    async fn keeper(self, directory: &TempDir) -> RightsKeeper {
        if self.has_mark() {
            let written = fs::write(directory.path().join(Mark::FILE), "");
            written.expect("it can be written");
        }
        let mut keeper = keeper(directory, self == Self::New, Duration::from_secs(3600));
        if self == Self::Holding {
            take_usable(&mut keeper).await;
        }
        keeper
    }

    /// That of a store. What it serves, and what it has on its disk, are what the table says.
    fn of(keeper: &RightsKeeper, directory: &TempDir) -> Self {
        let copy = &keeper.copy;
        let row = match copy.guard().state() {
            _ if !copy.is_told() => Self::New,
            GuardState::Off => Self::Open,
            GuardState::Good(_) => Self::Holding,
            GuardState::Missing | GuardState::Stale => Self::Closed,
        };
        let is_there = directory.path().join(Mark::FILE).exists();
        assert_eq!(is_there, row.has_mark(), "{row:?}");
        assert_eq!(copy.refuses(), matches!(row, Self::New | Self::Closed));
        row
    }
}

/// For each answer and each row the row that a store is in afterwards: told by one that has not taken it in, and by one that has.
#[tokio::test]
async fn each_answer_takes_a_store_from_row_to_row_as_the_table_says() {
    use Row::{Closed, Holding, New, Open};
    let closing = [[Closed; 2], [Closed; 2], [Holding; 2], [Closed; 2]];
    let staying = Row::ALL.map(|row| [row; 2]);
    let opening = [[New, Open], [Open; 2], [Holding, Open], [Closed, Open]];
    let opening_new = [[New, Open], [Open; 2], [Holding; 2], [Closed; 2]];
    for (answer, of_rows) in [
        (Ok(usable()), [[Holding; 2]; 4]),
        (Ok(enforced(None)), closing),
        (Err(Status::unauthenticated("no token")), closing),
        (Err(Status::permission_denied("no store")), closing),
        (Ok(GetRightsResponse::default()), opening),
        (Err(Status::unimplemented("no rights")), opening_new),
        (Err(Status::unavailable("away")), staying),
    ] {
        for (from, of_row) in Row::ALL.into_iter().zip(of_rows) {
            for (has_taken_in, expected) in [false, true].into_iter().zip(of_row) {
                let directory = directory();
                let mut keeper = from.keeper(&directory).await;
                let mut learned = keeper.learn(answer.clone(), question(), has_taken_in).await;
                // A mark that takes the disk long is tried again with each answer.
                while keeper.copy.warning().is_some() {
                    learned = keeper.learn(answer.clone(), question(), has_taken_in).await;
                }
                let to = Row::of(&keeper, &directory);
                assert_eq!(to, expected, "{from:?}, {answer:?}: {learned:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_store_is_closed_by_rights_that_it_cannot_use() {
    let unknown_role = Grant {
        role: 99,
        ..Grant::default()
    };
    let user = User {
        name: "ada".to_owned(),
        grants: vec![unknown_role],
        ..User::default()
    };
    for sent in [Some(rights(vec![user])), None] {
        let directory = directory();
        let mut keeper = Row::Open.keeper(&directory).await;
        let trouble = keeper.take(question(), enforced(sent)).await;
        trouble.expect_err("they cannot be used");
        assert!(keeper.copy.refuses());
        assert!(directory.path().join(Mark::FILE).exists());
    }
}

#[tokio::test]
async fn rights_that_cannot_be_used_leave_those_that_hold() {
    let directory = directory();
    let mut keeper = Row::Open.keeper(&directory).await;
    take_usable(&mut keeper).await;
    let trouble = keeper.take(question(), enforced(None)).await;
    trouble.expect_err("there are none");
    assert_eq!(keeper.copy.guard().version(), Some(1));
    assert!(!keeper.copy.refuses());
}

#[tokio::test]
async fn a_copy_that_becomes_too_old_is_told_of_once() {
    let directory = directory();
    let mut keeper = keeper(&directory, false, Duration::ZERO);
    for _ in 0..2 {
        assert!(!keeper.has_become_stale(), "nothing is enforced");
        take_usable(&mut keeper).await;
        // Once a millisecond is over.
        while !keeper.has_become_stale() {
            yield_now().await;
        }
        assert!(!keeper.has_become_stale(), "it was told of");
        keeper.open().await;
    }
}

#[test]
fn the_mark_is_made_before_anybody_is_refused() {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(1)
        .build();
    runtime.expect("a runtime").block_on(async {
        // The only thread that could make the mark.
        let (release, released) = mpsc::channel::<()>();
        let occupied = spawn_blocking(move || released.recv());
        let directory = directory();
        let mut keeper = Row::Open.keeper(&directory).await;
        let copy = Arc::clone(&keeper.copy);
        let mut taking = pin!(keeper.take(question(), usable()));
        assert!(poll_immediate(taking.as_mut()).await.is_none());
        assert!(!copy.guard().is_enforced());
        drop(release);
        taking.await.expect("they can be used");
        assert!(copy.guard().is_enforced());
        assert!(directory.path().join(Mark::FILE).exists());
        let _ = occupied.await.expect("it ends");
    });
}

/// A connection to a placement driver that says that rights are not enforced. It counts the questions.
fn answering(asked: Arc<AtomicU64>) -> DuplexStream {
    let (client, server) = duplex(64 << 10);
    tokio::spawn(async move {
        let connection = h2::server::handshake(server).await;
        let mut connection = connection.expect("a client");
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            asked.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let mut question = request.into_body();
                while question.data().await.is_some() {}
                let answer = respond.send_response(Response::new(()), false);
                let mut answer = answer.expect("it is waited for");
                // A message without fields.
                let sent = answer.send_data(Bytes::from_static(&[0; 5]), false);
                sent.expect("it is waited for");
                let mut ok = HeaderMap::new();
                ok.insert("grpc-status", HeaderValue::from_static("0"));
                answer.send_trailers(ok).expect("it is waited for");
            });
        }
    });
    client
}

/// What is promised of a change depends on it, see [`TAKES_EFFECT_MAX`].
#[tokio::test(start_paused = true)]
async fn a_placement_driver_is_asked_every_two_seconds_whether_it_answers_or_not() {
    const MINUTE: Duration = Duration::from_secs(60);
    for answers in [true, false] {
        let asked = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&asked);
        let connector = Connector::new(move |_| {
            let counted = Arc::clone(&counted);
            async move {
                if answers {
                    return Ok(answering(counted));
                }
                counted.fetch_add(1, Relaxed);
                Err(io::Error::from(ErrorKind::ConnectionRefused))
            }
        });
        let drivers = PlacementDrivers::new(&["pd:1".to_owned()], connector, None);
        let drivers = drivers.expect("an address");
        drivers.note_taken_in(0);
        let directory = directory();
        let mark = Mark::open(directory.path());
        let copy = RightsCopy::new(false, false, 60 * MINUTE);
        let keeper = RightsKeeper::new(drivers, Arc::new(copy), mark);
        assert!(timeout(MINUTE, keeper.run()).await.is_err(), "it goes on");
        let asked = asked.load(Relaxed);
        // Tries that fail are repeated sooner.
        let most = if answers { 31 } else { u64::MAX };
        assert!((30..=most).contains(&asked), "{answers}: {asked}");
    }
}

#[tokio::test]
async fn all_rights_are_asked_for_of_another_and_now_and_then() {
    let directory = directory();
    let mut keeper = Row::Open.keeper(&directory).await;
    take_usable(&mut keeper).await;
    assert_eq!(keeper.known_version(1), 0, "of another one");
    let asked = (0..ASKS_PER_FULL).filter(|_| keeper.known_version(0) == 0);
    assert_eq!(asked.count(), 1);
    keeper.copied_from = None;
    assert_eq!(keeper.known_version(0), 0, "after a failure");
}
