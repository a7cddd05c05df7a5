//! Renews the copy of the rights: asks for it, and says how that goes. `learning` is what becomes of the store by each answer.

mod learning;
#[cfg(test)]
mod tests;

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdb_proto::auth::{GuardState, Moment, TokenFile};
use rdb_proto::authpb::auth_client::AuthClient;
use rdb_proto::authpb::{GetRightsRequest, GetRightsResponse};
use rdb_proto::rare_line::RareLine;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Request, Status};

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
