//! What a store makes of the answer of a placement driver: the ways from row to row of the table of [`rights`](crate::rights).

use std::sync::Arc;

use rdb_proto::auth::Rights;
use rdb_proto::authpb::GetRightsResponse;
use tonic::{Code, Status};

use super::super::Mark;
use super::super::copy::TroubleKind;
use super::{NotRenewed, Question, RightsKeeper};
use crate::placement_drivers::refuses_identity;

impl RightsKeeper {
    /// Takes the store from one row of the table to another, as the answer of a placement driver says, or leaves it in its row.
    pub(super) async fn learn(
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

    /// Rights are enforced, and these are the present ones. If those cannot be used, the store is closed nevertheless.
    pub(super) async fn take(
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
    pub(super) async fn open(&mut self) {
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
}
