//! Renews the copy of the rights.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdb_proto::auth::{GuardState, Moment, Rights, TokenFile};
use rdb_proto::authpb::auth_client::AuthClient;
use rdb_proto::authpb::{GetRightsRequest, GetRightsResponse};
use rdb_proto::rare_line::RareLine;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::copy::{Trouble, TroubleKind};
use super::{Mark, RightsCopy};
use crate::config::AUTH_STALE_MIN_S;
use crate::placement_drivers::{PlacementDrivers, refuses_identity};

/// How often the copy is renewed.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long a placement driver may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pause between two tries. It doubles after each failure, up to [`INTERVAL`], with jitter. So what was revoked while a placement driver
/// was away for a moment counts within 10 s, too.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// How late a change may take effect here, as docs/security.md promises. It is enough for an answer that was made right before the change, a
/// question that is lost, and another one.
const TAKES_EFFECT_MAX: Duration = Duration::from_secs(10);

const _: () =
    assert!(3 * PATIENCE.as_millis() + 2 * INTERVAL.as_millis() <= TAKES_EFFECT_MAX.as_millis());

/// The copy of a healthy store is never too old: it is renewed by two questions with a pause between them, and each may be asked twice, at
/// first with a token that is not accepted.
const _: () = assert!(4 * PATIENCE.as_secs() + INTERVAL.as_secs() < AUTH_STALE_MIN_S);

/// Each so many times, all rights are asked for, whatever version is known: a placement driver may be another one than before without having
/// been away for long, one with the data of a backup, and count other changes with the same numbers.
const ASKS_PER_FULL: u32 = 30;

/// How often a lasting failure is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Asks placement drivers for the rights, and keeps the copy and the mark. The module says what is believed of whom.
pub(crate) struct RightsKeeper {
    placement_drivers: PlacementDrivers,
    /// Who has taken this store in, if anybody has. When that changes, it is asked at once.
    taken_in_by: watch::Receiver<Option<usize>>,
    /// The position of the one that is asked next, while none has taken this store in. A failure moves on.
    next: usize,
    /// The one that has given the copy, if nothing has failed since. Versions of another one say nothing.
    copied_from: Option<usize>,
    /// How often somebody was asked.
    ask_count: u32,
    copy: Arc<RightsCopy>,
    mark: Mark,
    /// Whether the last try has failed, and the line of the log about that.
    is_failing: bool,
    failure_line: RareLine,
    /// Whether the copy was too old after the last try.
    is_stale: bool,
}

/// What a placement driver was asked.
#[derive(Debug, Clone, Copy)]
struct Question {
    /// The position of the one that was asked.
    asked: usize,
    /// When. The answer says what held then, or later.
    at: Moment,
    /// The version that need not be sent again. 0: all are to be sent.
    known_version: u64,
}

/// Why a try has failed: what the placement driver has said, and that in words.
#[derive(Debug)]
struct NotRenewed(TroubleKind, String);

impl RightsKeeper {
    pub(crate) fn new(
        placement_drivers: PlacementDrivers,
        copy: Arc<RightsCopy>,
        mark: Mark,
    ) -> Self {
        Self {
            taken_in_by: placement_drivers.taken_in_by(),
            placement_drivers,
            next: 0,
            copied_from: None,
            ask_count: 0,
            copy,
            mark,
            is_failing: false,
            failure_line: RareLine::every(LOG_INTERVAL),
            is_stale: false,
        }
    }

    /// Does so for as long as the store runs.
    pub(crate) async fn run(mut self) {
        let mut retry = RETRY_MIN;
        loop {
            // The process may have stood still.
            self.tell_stale();
            let renewed = self.renew().await;
            let pause = if renewed.is_ok() {
                retry = RETRY_MIN;
                INTERVAL
            } else {
                let pause = retry.mul_f64(0.5 + 0.5 * fastrand::f64());
                retry = (retry * 2).min(INTERVAL);
                pause
            };
            self.tell(renewed.err());
            tokio::select! {
                () = sleep(pause) => {}
                Ok(()) = self.taken_in_by.changed() => {}
            }
        }
    }

    /// Asks a placement driver once.
    async fn renew(&mut self) -> Result<(), Trouble> {
        let taken_in_by = *self.taken_in_by.borrow_and_update();
        let (asked, has_taken_in) = (taken_in_by.unwrap_or(self.next), taken_in_by.is_some());
        let question = Question {
            asked,
            at: Moment::now(),
            known_version: self.known_version(asked),
        };
        let answer = self.ask(question).await;
        let learned = self.learn(answer, question, has_taken_in).await;
        learned.map_err(|NotRenewed(kind, cause)| {
            self.copied_from = None;
            self.next = self.placement_drivers.after(asked);
            Trouble {
                cause,
                asked,
                has_taken_in,
                kind,
            }
        })
    }

    /// Takes the store from one row of the module's table to another, as the answer of a placement driver says, or leaves it in its row.
    async fn learn(
        &mut self,
        answer: Result<GetRightsResponse, Status>,
        question: Question,
        has_taken_in: bool,
    ) -> Result<(), NotRenewed> {
        let status = match answer {
            Ok(response) if response.enforced => {
                return self.take(question, response).await;
            }
            Ok(_) => return self.lift(has_taken_in).await,
            Err(status) => status,
        };
        let cause = status.message().to_owned();
        let kind = if refuses_identity(&status) {
            self.close().await;
            TroubleKind::Refusal
        } else if status.code() == Code::Unimplemented {
            return self.do_without(cause, has_taken_in).await;
        } else {
            TroubleKind::NoAnswer
        };
        Err(NotRenewed(kind, cause))
    }

    /// See [`Question`].
    fn known_version(&mut self, asked: usize) -> u64 {
        self.ask_count = self.ask_count.wrapping_add(1);
        if self.copied_from != Some(asked) || self.ask_count.is_multiple_of(ASKS_PER_FULL) {
            return 0;
        }
        self.copy.guard().version().unwrap_or(0)
    }

    /// A token that is new in this store's file is tried first, and used from then on if it is taken. If it is refused, the one from before
    /// asks. What nobody has checked stays untried: a placement driver that enforces no rights takes any.
    async fn ask(&self, question: Question) -> Result<GetRightsResponse, Status> {
        let position = question.asked;
        let message = GetRightsRequest {
            known_version: question.known_version,
        };
        let file = self.placement_drivers.token();
        if let Some((file, token)) = file.and_then(|file| Some((file, file.untried()?))) {
            let request = token.request(message);
            match self.ask_with(position, request).await {
                Err(status) if refuses_identity(&status) => {
                    file.note_refused(&token, status.message());
                }
                answer => {
                    if answer.as_ref().is_ok_and(|response| response.enforced) {
                        tracing::info!("the token that is new in the file is in use now");
                        file.note_taken(token);
                    }
                    return answer;
                }
            }
        }
        let request = self.placement_drivers.request(message);
        self.ask_with(position, request).await
    }

    async fn ask_with(
        &self,
        position: usize,
        request: Request<GetRightsRequest>,
    ) -> Result<GetRightsResponse, Status> {
        let call = |channel: Channel| async move {
            let client = AuthClient::new(channel);
            let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
            client.get_rights(request).await
        };
        self.placement_drivers.call(position, PATIENCE, call).await
    }

    /// Rights are enforced, and these are the present ones. If those cannot be used, the store is closed nevertheless.
    async fn take(
        &mut self,
        question: Question,
        response: GetRightsResponse,
    ) -> Result<(), NotRenewed> {
        let rights = match response.rights {
            Some(message) => Rights::of(&message).map(Some).map_err(|error| {
                format!("the placement driver enforces rights, and those that it has sent cannot be used: {error}")
            }),
            None if question.known_version > 0 => Ok(None),
            None => Err("the placement driver enforces rights, and has sent none".to_owned()),
        };
        let rights = match rights {
            Ok(rights) => rights,
            Err(cause) => {
                self.close().await;
                return Err(NotRenewed(TroubleKind::Answer, cause));
            }
        };
        self.mark_open_store().await;
        let guard = self.copy.guard();
        match rights {
            Some(rights) => {
                let version = rights.version();
                if guard.version() != Some(version) {
                    tracing::info!(version, "the rights of this version hold here now");
                }
                guard.set_asked_at(question.at, Arc::new(rights));
                self.copied_from = Some(question.asked);
            }
            None => guard.renew(question.at),
        }
        self.keep_mark(true).await;
        self.copy.note_told();
        Ok(())
    }

    /// A placement driver says that rights are not enforced.
    async fn lift(&mut self, has_taken_in: bool) -> Result<(), NotRenewed> {
        if self.serves_everybody() {
            return Ok(());
        }
        if !has_taken_in {
            let cause = "a placement driver says that rights are not enforced, which this store believes once that one has taken its \
                         registration";
            return Err(NotRenewed(TroubleKind::Answer, cause.to_owned()));
        }
        if self.copy.guard().is_enforced() && self.mark.may_be_there() {
            tracing::warn!("rights are not enforced any more: everybody may do everything");
        }
        self.open().await;
        Ok(())
    }

    /// A placement driver knows no rights. A store that was told nothing serves everybody once such a one has taken it in. Nothing else changes.
    async fn do_without(
        &mut self,
        mut cause: String,
        has_taken_in: bool,
    ) -> Result<(), NotRenewed> {
        if self.serves_everybody() {
            return Ok(());
        }
        if self.copy.is_told() {
            let file = Mark::FILE;
            cause.push_str(&format!(
                "; or its release knows no rights, and this store was told that they are enforced. To serve everybody nevertheless, \
                 stop it and remove the file {file} in its data directory"
            ));
        } else if has_taken_in {
            self.open().await;
            return Ok(());
        }
        Err(NotRenewed(TroubleKind::Answer, cause))
    }

    /// Whether everybody is served, and will be after a restart.
    fn serves_everybody(&self) -> bool {
        !self.copy.guard().is_enforced() && !self.mark.may_be_there()
    }

    /// Rights are enforced, and this store has got none that it can use. What it was given before holds until it is too old.
    async fn close(&mut self) {
        self.mark_open_store().await;
        let guard = self.copy.guard();
        if !guard.is_enforced() {
            tracing::warn!("rights are enforced, and this store has none: calls are refused");
            guard.refuse();
        }
        self.keep_mark(true).await;
        self.copy.note_told();
    }

    /// Rights are not enforced. The mark goes last: a crash before that leaves a store that asks first when it is started again.
    async fn open(&mut self) {
        self.copy.guard().set(None);
        self.copied_from = None;
        self.keep_mark(false).await;
        self.copy.note_told();
    }

    /// Marks a store that serves everybody, before it refuses anybody: whoever was refused can count on that after a crash. A mark that cannot
    /// be made holds that up once, for a moment; then refusing without it is the better of the two.
    async fn mark_open_store(&mut self) {
        if !self.copy.guard().is_enforced() {
            self.keep_mark(true).await;
        }
    }

    /// A mark that cannot be changed holds nothing up for long. It is tried again with each answer.
    async fn keep_mark(&mut self, is_enforced: bool) {
        let kept = self.mark.set(is_enforced).await;
        self.copy.note_mark(kept.err());
    }

    /// Says how it went: in the log when that is new, or has lasted, and in the health.
    fn tell(&mut self, trouble: Option<Trouble>) {
        // A store that was told nothing and waits for its registration says so itself.
        let has_begun = self.copy.is_told() || self.taken_in_by.borrow().is_some();
        let is_enforced = self.copy.guard().is_enforced() && has_begun;
        if let Some(Trouble { cause, .. }) = &trouble {
            // Else a placement driver that is away is told of by who sends it heartbeats.
            if is_enforced && self.failure_line.take_turn(Instant::now()).is_some() {
                let age_s = self.copy.guard().age().map(|age| age.as_secs());
                tracing::warn!(cause, age_s, "the copy of the rights is not renewed");
            }
        } else if (self.is_failing || self.is_stale) && is_enforced {
            tracing::info!("the copy of the rights is renewed again");
            self.failure_line.start_over();
        }
        self.is_failing = trouble.is_some();
        self.copy.note_renewal(trouble);
        self.tell_stale();
        let token = self.placement_drivers.token();
        self.copy.note_token(token.and_then(TokenFile::warning));
    }

    fn tell_stale(&mut self) {
        if self.has_become_stale() {
            tracing::warn!(
                "the copy of the rights is older than --auth-stale-max-s: all calls are refused until it is renewed"
            );
        }
    }

    /// Whether the copy is too old now, and was not when this was asked before.
    fn has_become_stale(&mut self) -> bool {
        let is_stale = self.copy.guard().state() == GuardState::Stale;
        let was_stale = mem::replace(&mut self.is_stale, is_stale);
        is_stale && !was_stale
    }
}

#[cfg(test)]
mod tests {
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
        let drivers =
            PlacementDrivers::new(&[], Connector::default(), None).expect("there are none");
        let mark = Mark::open(directory.path());
        let copy = RightsCopy::new(mark.may_be_there(), asks_first, stale_max);
        RightsKeeper::new(drivers, Arc::new(copy), mark)
    }

    /// The rows of the module's table, from the top.
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
                let taken = keeper
                    .take(question(), enforced(Some(rights(Vec::new()))))
                    .await;
                taken.expect("they can be used");
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
        let usable = enforced(Some(rights(Vec::new())));
        for (answer, of_rows) in [
            (Ok(usable), [[Holding; 2]; 4]),
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
        let taken = keeper
            .take(question(), enforced(Some(rights(Vec::new()))))
            .await;
        taken.expect("they can be used");
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
            let taken = keeper
                .take(question(), enforced(Some(rights(Vec::new()))))
                .await;
            taken.expect("they can be used");
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
            let mut taking = pin!(keeper.take(question(), enforced(Some(rights(Vec::new())))));
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
        let taken = keeper
            .take(question(), enforced(Some(rights(Vec::new()))))
            .await;
        taken.expect("they can be used");
        assert_eq!(keeper.known_version(1), 0, "of another one");
        let asked = (0..ASKS_PER_FULL).filter(|_| keeper.known_version(0) == 0);
        assert_eq!(asked.count(), 1);
        keeper.copied_from = None;
        assert_eq!(keeper.known_version(0), 0, "after a failure");
    }
}
