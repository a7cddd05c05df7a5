//! Renews the copy of the rights.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdb_proto::auth::Rights;
use rdb_proto::authpb::auth_client::AuthClient;
use rdb_proto::authpb::{GetRightsRequest, GetRightsResponse};
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::copy::Trouble;
use super::{Mark, RightsCopy};
use crate::placement_drivers::{PlacementDrivers, refuses_identity};

/// How often the copy is renewed.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long a placement driver may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pause between two tries. It doubles after each failure, up to [`INTERVAL`], with jitter. So what was revoked while a placement driver
/// was away for a moment counts within 10 s, too.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// How often a lasting failure is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Asks placement drivers for the rights, and keeps the copy and the mark. The module says what is believed of whom.
pub(crate) struct RightsKeeper {
    placement_drivers: PlacementDrivers,
    /// The position of the one that is asked next, while none has taken this store in. A failure moves on.
    next: usize,
    /// The one that has given the copy, if nothing has failed since. Versions of another one say nothing, and neither do those of one that
    /// was started again, maybe from a backup.
    copied_from: Option<usize>,
    copy: Arc<RightsCopy>,
    mark: Mark,
    /// Whether the last try has failed, and when a failure was last logged.
    is_failing: bool,
    logged_at: Option<Instant>,
}

impl RightsKeeper {
    pub(crate) fn new(
        placement_drivers: PlacementDrivers,
        copy: Arc<RightsCopy>,
        mark: Mark,
    ) -> Self {
        Self {
            placement_drivers,
            next: 0,
            copied_from: None,
            copy,
            mark,
            is_failing: false,
            logged_at: None,
        }
    }

    /// Does so for as long as the store runs.
    pub(crate) async fn run(mut self) {
        let mut retry = RETRY_MIN;
        loop {
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
            sleep(pause).await;
        }
    }

    /// Asks a placement driver once.
    async fn renew(&mut self) -> Result<(), Trouble> {
        let taken_in_by = self.placement_drivers.taken_in_by();
        let asked = taken_in_by.unwrap_or(self.next);
        let known_version = match self.copied_from {
            Some(position) if position == asked => self.copy.guard().version().unwrap_or(0),
            _ => 0,
        };
        let renewed = match self.ask(asked, known_version).await {
            Ok(response) if response.enforced => self.take(asked, known_version, response).await,
            Ok(_) => self.lift(taken_in_by == Some(asked)).await,
            Err(status) => self.judge(&status).await,
        };
        match &renewed {
            Ok(())
            | Err(Trouble {
                is_refusal: true, ..
            }) => self.copy.note_told(),
            Err(_) => {}
        }
        if renewed.is_err() {
            self.copied_from = None;
            self.next = self.placement_drivers.after(asked);
        }
        renewed
    }

    async fn ask(&self, position: usize, known_version: u64) -> Result<GetRightsResponse, Status> {
        let request = GetRightsRequest { known_version };
        let request = self.placement_drivers.request(request);
        let call = |channel: Channel| async move {
            let client = AuthClient::new(channel);
            let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
            client.get_rights(request).await
        };
        self.placement_drivers.call(position, PATIENCE, call).await
    }

    /// Rights are enforced, and these are the present ones.
    async fn take(
        &mut self,
        asked: usize,
        known_version: u64,
        response: GetRightsResponse,
    ) -> Result<(), Trouble> {
        let guard = self.copy.guard();
        match response.rights {
            Some(message) => {
                let rights = Rights::of(&message);
                let rights = rights.map_err(|error| Trouble {
                    cause: format!(
                        "the placement driver has sent rights that cannot be used: {error}"
                    ),
                    is_refusal: false,
                })?;
                let version = rights.version();
                if guard.version() != Some(version) {
                    tracing::info!(version, "the rights of this version hold here now");
                }
                guard.set(Some(Arc::new(rights)));
                self.copied_from = Some(asked);
            }
            None if known_version > 0 => guard.renew(),
            None => {
                return Err(Trouble {
                    cause: "the placement driver enforces rights, and has sent none".to_owned(),
                    is_refusal: false,
                });
            }
        }
        self.keep_mark(true).await;
        Ok(())
    }

    /// A placement driver says that rights are not enforced.
    async fn lift(&mut self, has_taken_in: bool) -> Result<(), Trouble> {
        let guard = self.copy.guard();
        if !guard.is_enforced() && !self.mark.may_be_there() {
            return Ok(());
        }
        if !has_taken_in {
            return Err(Trouble {
                cause: "a placement driver says that rights are not enforced, which this store believes once that one has taken its \
                        registration"
                    .to_owned(),
                is_refusal: false,
            });
        }
        if guard.is_enforced() {
            tracing::warn!("rights are not enforced any more: everybody may do everything");
        }
        guard.set(None);
        self.copied_from = None;
        self.keep_mark(false).await;
        Ok(())
    }

    /// There was no answer, or a refusal.
    async fn judge(&mut self, status: &Status) -> Result<(), Trouble> {
        let is_refusal = refuses_identity(status);
        let mut cause = status.message().to_owned();
        if is_refusal {
            self.close().await;
        } else if status.code() == Code::Unimplemented {
            if !self.copy.guard().is_enforced() && !self.mark.may_be_there() {
                return Ok(());
            }
            let file = self.mark.file().display();
            cause.push_str(&format!(
                "; or its release knows no rights, and this store was told that they are enforced. To serve everybody nevertheless, \
                 stop it and remove {file}"
            ));
        }
        Err(Trouble { cause, is_refusal })
    }

    /// Rights are enforced, as it seems, but they are not for this store. What it was given before holds until it is too old.
    async fn close(&mut self) {
        let guard = self.copy.guard();
        if !guard.is_enforced() {
            tracing::warn!(
                "rights are enforced, and the placement driver does not hand them out to this store: calls are refused"
            );
            guard.refuse();
        }
        self.keep_mark(true).await;
    }

    /// The guard is right already: a mark that cannot be changed holds nothing up.
    async fn keep_mark(&mut self, is_enforced: bool) {
        let kept = self.mark.set(is_enforced).await;
        self.copy.note_mark(kept.err());
    }

    /// Says how it went: in the log when that is new, or has lasted, and in the health.
    fn tell(&mut self, trouble: Option<Trouble>) {
        let is_enforced = self.copy.guard().is_enforced();
        if let Some(Trouble { cause, .. }) = &trouble {
            let is_due = |at: Instant| at.elapsed() >= LOG_INTERVAL;
            // Else a placement driver that is away is told of by who sends it heartbeats.
            if is_enforced && self.logged_at.is_none_or(is_due) {
                self.logged_at = Some(Instant::now());
                let age_s = self.copy.guard().age().map(|age| age.as_secs());
                tracing::warn!(cause, age_s, "the copy of the rights is not renewed");
            }
        } else if self.is_failing && is_enforced {
            tracing::info!("the copy of the rights is renewed again");
            self.logged_at = None;
        }
        self.is_failing = trouble.is_some();
        self.copy.note_renewal(trouble);
    }
}
