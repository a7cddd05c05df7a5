//! Questions about users, and changes of them. A change makes tokens that are told only once, so it is repeated only if it certainly was
//! not made.

use rdb_proto::authpb::auth_client::AuthClient;
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tonic::{Code, Response, Status};

use super::{PlacementDriver, unanswered, wrong_address};
use crate::connection::{Channel, Connection};
use crate::figures::CallKind;
use crate::retry::{Deadline, Failure, Retry};
use crate::rpc::Access;
use crate::{Error, fate};

const KNOWS_NO_USERS: &str =
    "it knows no users: it is no placement driver, or of an earlier release";

impl PlacementDriver {
    /// Asks about users until an answer comes or the deadline. A change, which is a write, is asked for until one try may have been
    /// taken.
    pub(crate) async fn ask_of_users<A, F>(
        &self,
        access: Access,
        deadline: Deadline,
        question: impl Fn(AuthClient<Channel>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let question = &|channel| {
            let answer = question(auth_client(channel));
            async move { answer.await.map_err(knows_no_users) }
        };
        let mut retry = Retry::until(deadline, CallKind::Control, &self.counters);
        loop {
            let asked = self.ask_members(&self.connections, access, deadline, question);
            match asked.await {
                Ok(held) => return retry.end(Ok(held.answers)),
                Err(failure) => retry.next_attempt(failure).await?,
            }
        }
    }

    /// Asks each member in turn for a change until one may have made it. Cluster ids are not compared, and the caller need not be a user.
    pub(crate) async fn ask_as_nobody<A, F>(
        &self,
        deadline: Deadline,
        question: impl Fn(AuthClient<Channel>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut retry = Retry::until(deadline, CallKind::Control, &self.counters);
        loop {
            let (mut unfit, mut causes) = (0, Vec::new());
            for (position, member) in self.members.iter().enumerate() {
                let share = self.share(deadline, self.members.len() - position);
                let connecting = self.connections.connection(&member.address);
                let connected = share.limit(connecting).await;
                let connected = connected
                    .unwrap_or_else(|| Err(format!("no connection to {} in time", member.place())));
                let Connection { channel, id, .. } = match connected {
                    Ok(connection) => connection,
                    Err(cause) => {
                        causes.push(cause);
                        continue;
                    }
                };
                match deadline.limit(question(auth_client(channel))).await {
                    None => return retry.end(Err(unanswered(member))),
                    Some(Ok(answer)) => return retry.end(Ok(answer.into_inner())),
                    Some(Err(status)) if status.code() == Code::Unimplemented => {
                        unfit += 1;
                        causes.push(format!("{}: {KNOWS_NO_USERS}", member.address));
                    }
                    Some(Err(status)) => {
                        self.connections.forget_broken(&member.address, id, &status);
                        match fate::failure(Access::Write, &status, &member.place()) {
                            Failure::Final(error) => return retry.end(Err(error)),
                            Failure::Again { error, .. } => causes.push(error.reason()),
                        }
                    }
                }
            }
            let causes = causes.join("; ");
            let failure = if unfit == self.members.len() {
                wrong_address(causes).into()
            } else {
                Failure::again(Error::unavailable(causes))
            };
            retry.next_attempt(failure).await?;
        }
    }
}

fn auth_client(channel: Channel) -> AuthClient<Channel> {
    AuthClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// What answers has no such service.
fn knows_no_users(status: Status) -> Status {
    if status.code() != Code::Unimplemented || fate::is_local(&status) {
        return status;
    }
    let fault = Fault::new(Code::FailedPrecondition, KNOWS_NO_USERS);
    fault.with_fate(Fate::NotApplied).into()
}
