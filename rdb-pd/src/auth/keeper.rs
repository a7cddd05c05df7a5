//! Shows the users, and makes changes durable before they are answered.
//!
//! Like a registration, a change has three steps: decide, persist, show. One task takes them for all changes, so that each is
//! decided on the result of the one before. A caller that hangs up does not interrupt the steps; if they have not begun, its change
//! is dropped.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use bytes::Bytes;
use rdb_proto::auth::limits::RIGHTS_BYTES_MAX;
use rdb_proto::auth::{BadRights, Guard, Rights};
use rdb_proto::error::Fault;
use rdb_proto::transport::{Call, HealthHandle, WarningAbout};
use rdb_storage::limits::{EMBEDDED_REGION_ID, VALUE_BYTES_MAX};
use rdb_storage::{Command, Storage, Submission};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Change, Damage, Refusal, Users};
use crate::error::PdError;
use crate::keys;

/// Most changes in the queue. The caller of one more is told to ask again.
const QUESTIONS_MAX: usize = 64;

const _: () = assert!(
    RIGHTS_BYTES_MAX < VALUE_BYTES_MAX,
    "the record is one value"
);

/// What is wrong as long as nobody can do anything.
const NO_USER: &str = "rights are enforced (--auth), and there are no users: all calls are refused. Run `rdbctl auth enable` on this \
                       machine, or with a client certificate, to make the first admin";

/// What is wrong as long as nobody can change what others may do.
const NO_ADMIN: &str = "rights are enforced (--auth), and no user has the role admin: nobody can change users and rights. Run `rdbctl \
                        auth enable` on this machine, or with a client certificate, to make the first admin";

/// What is wrong when rights are kept, and the setting that enforces them is missing.
const NOT_ENFORCED: &str = "there is an admin, and rights are not enforced (no --auth): whoever reaches this process may do everything, \
                            and change users, whose tokens and grants stay when rights are enforced";

/// What is wrong after the start on a copy.
const RESTORED: &str = "the data directory may be an older copy (--tso-advance-ms): users, tokens and grants are those of the copy, so \
                        what was revoked since is back. Look at `rdbctl auth user list`, and start without that setting from now on";

/// Users as they are now. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Authority {
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
    /// The one place in the queue for callers that want to make the first admin. They need no right to ask, and must not take the places
    /// of others.
    enabling: Arc<Semaphore>,
}

struct Shared {
    storage: Storage,
    is_enforced: bool,
    /// What calls to this process are checked by. Off where rights are not enforced.
    guard: Arc<Guard>,
    /// Only the keeper replaces it, once what replaces it is durable.
    present: RwLock<Present>,
}

/// Users at one moment.
#[derive(Clone)]
pub(crate) struct Present {
    pub(crate) users: Arc<Users>,
    /// The same, for checks.
    pub(crate) rights: Arc<Rights>,
}

struct Question {
    change: Change,
    call: Arc<Call>,
    answer: oneshot::Sender<Result<bool, AuthError>>,
    /// The place of [`Authority::enabling`].
    _turn: Option<OwnedSemaphorePermit>,
}

/// A change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    /// It is refused, and nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The caller no longer has the right.
    #[error("{}", .0.cause)]
    Denied(Fault),
    /// What would come of it cannot be used. It is not written.
    #[error("nothing has changed, since what would come of it cannot be used: {0}")]
    Unusable(#[from] BadRights),
    /// It could not be made durable. It does not hold now. Whether it may hold from the next start on is up to the error's fate.
    #[error("the placement driver cannot write its data: {0}")]
    Storage(#[from] rdb_storage::Error),
    /// Too many changes wait.
    #[error(
        "{QUESTIONS_MAX} changes of users and rights wait for the placement driver's disk; ask again"
    )]
    Busy,
    /// The process stops, and has not begun with it.
    #[error("the placement driver stops")]
    Stopping,
    /// The process stops while it is made. It may hold from the next start on.
    #[error("the placement driver stops, and the change may have been made")]
    Interrupted,
}

impl Authority {
    /// Loads users from `storage`. The [`Keeper`] has to run beside it. Blocks.
    ///
    /// `restored` means that the storage may be an older copy: versions that stores may have seen since are skipped, and a warning says
    /// that users and rights that were removed since are back.
    ///
    /// # Errors
    ///
    /// When the storage cannot be read or written, or the record in it is damaged.
    pub(crate) fn open(
        storage: Storage,
        restored: bool,
        is_enforced: bool,
    ) -> Result<(Self, Keeper), PdError> {
        let mut users = load(&storage)?;
        let is_restored = restored && users.count() > 0;
        if restored {
            // Also without a record: the copy may be from before the first user.
            users = users.restored(SystemTime::now());
            storage.submit(submission(&users))?.wait()?;
        }
        let present = Present::of(users).map_err(Damage::from)?;
        let guard = if is_enforced {
            Guard::without_limit(Arc::clone(&present.rights))
        } else {
            Guard::off()
        };
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let shared = Arc::new(Shared {
            storage,
            is_enforced,
            guard: Arc::new(guard),
            present: RwLock::new(present),
        });
        let keeper = Keeper {
            shared: Arc::clone(&shared),
            questions: asked,
            is_restored,
        };
        let authority = Self {
            shared,
            questions,
            enabling: Arc::new(Semaphore::new(1)),
        };
        Ok((authority, keeper))
    }

    /// Checks that [`open`](Self::open) can use the record in `storage`. Writes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// When the storage cannot be read, or the record in it is damaged.
    pub(crate) fn check(storage: &Storage) -> Result<(), PdError> {
        load(storage).map(drop)
    }

    /// Whether calls to this process are checked.
    pub(crate) fn is_enforced(&self) -> bool {
        self.shared.is_enforced
    }

    /// What calls to this process are checked by.
    pub(crate) fn guard(&self) -> &Arc<Guard> {
        &self.shared.guard
    }

    /// All users now.
    pub(crate) fn present(&self) -> Present {
        self.shared.present()
    }

    /// Makes a change that `call` asks for. Returns whether it changed anything. An answered change is durable, and holds in this process.
    ///
    /// # Errors
    ///
    /// [`AuthError::Refused`] says why it is not made.
    pub(crate) async fn change(&self, change: Change, call: Arc<Call>) -> Result<bool, AuthError> {
        let turn = match change {
            Change::Enable { .. } => Some(self.turn_to_enable().await?),
            _ => None,
        };
        let (answer, answered) = oneshot::channel();
        let question = Question {
            change,
            call,
            answer,
            _turn: turn,
        };
        self.questions
            .try_send(question)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AuthError::Busy,
                mpsc::error::TrySendError::Closed(_) => AuthError::Stopping,
            })?;
        answered.await.map_err(|_| AuthError::Interrupted)?
    }

    /// Waits for the turn to make the first admin. As soon as there is one, nobody waits.
    async fn turn_to_enable(&self) -> Result<OwnedSemaphorePermit, AuthError> {
        self.present().users.check_no_admin()?;
        let turn = Arc::clone(&self.enabling).acquire_owned().await;
        self.present().users.check_no_admin()?;
        turn.map_err(|_| AuthError::Stopping)
    }
}

/// Makes changes, one after the other. [`run`](Self::run) has to be driven for as long as the process serves.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    questions: mpsc::Receiver<Question>,
    /// The storage may be an older copy, and there were users in it.
    is_restored: bool,
}

impl Keeper {
    /// Runs until the future is dropped. Callers that still wait are then told that the process stops. A change that was
    /// being persisted may be durable; the next process loads it. The others are not made.
    pub(crate) async fn run(mut self, health: HealthHandle) {
        while let Some(question) = self.questions.recv().await {
            let Question {
                change,
                call,
                answer,
                _turn,
            } = question;
            // The caller may hang up after this. The decision holds.
            if answer.is_closed() {
                continue;
            }
            let changed = self.make(&change, &call).await;
            self.tell(&health);
            let _ = answer.send(changed);
        }
    }

    /// Says in the health what an operator has to look at, as long as that is so.
    pub(crate) fn tell(&self, health: &HealthHandle) {
        health.warn(WarningAbout::Rights, self.warning());
    }

    /// Says it in the log.
    pub(crate) fn log(&self) {
        if let Some(warning) = self.warning() {
            tracing::warn!("{warning}");
        }
    }

    fn warning(&self) -> Option<String> {
        let users = self.shared.present().users;
        let of_present = match (self.shared.is_enforced, users.has_admin()) {
            (true, false) if users.count() == 0 => Some(NO_USER),
            (true, false) => Some(NO_ADMIN),
            (false, true) => Some(NOT_ENFORCED),
            (true, true) | (false, false) => None,
        };
        let of_copy = self.is_restored.then_some(RESTORED);
        let warnings: Vec<_> = of_present.into_iter().chain(of_copy).collect();
        (!warnings.is_empty()).then(|| warnings.join("; "))
    }

    async fn make(&self, change: &Change, call: &Call) -> Result<bool, AuthError> {
        let shared = &self.shared;
        change.check(call.caller()).map_err(AuthError::Denied)?;
        let Some(users) = shared.present().users.changed(change)? else {
            return Ok(false);
        };
        let next = Present::of(users)?;
        let version = next.users.version();
        shared.storage.submit(submission(&next.users))?.await?;
        shared.show(next);
        change.log(call, version);
        Ok(true)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.questions.close();
        while let Ok(question) = self.questions.try_recv() {
            // The caller may have hung up.
            let _ = question.answer.send(Err(AuthError::Stopping));
        }
    }
}

impl Present {
    fn of(users: Users) -> Result<Self, BadRights> {
        let rights = Arc::new(users.compile()?);
        let users = Arc::new(users);
        Ok(Self { users, rights })
    }
}

impl Shared {
    fn present(&self) -> Present {
        let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
        present.clone()
    }

    /// Shows what is durable.
    fn show(&self, next: Present) {
        if self.is_enforced {
            self.guard.set(Some(Arc::clone(&next.rights)));
        }
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

fn load(storage: &Storage) -> Result<Users, PdError> {
    let record = storage.get_raw(keys::RIGHTS)?;
    let users = record.map_or_else(|| Ok(Users::none()), |record| Users::decode(&record));
    Ok(users?)
}

/// The whole record as one write.
fn submission(users: &Users) -> Submission {
    let command = Command::PutRaw {
        key: Bytes::from_static(keys::RIGHTS),
        value: users.encode(),
    };
    Submission::new(EMBEDDED_REGION_ID, vec![command])
}

#[cfg(test)]
mod tests;
