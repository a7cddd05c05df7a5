//! `authpb.Auth`: decode, check, delegate, answer. The transport has already refused callers that may not call the method; only `Enable`
//! and `Check` check their callers themselves.

mod asked;
mod fault;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rdb_proto::auth::{Pass, Token, is_user_name};
use rdb_proto::authpb::auth_server::Auth;
use rdb_proto::authpb::{
    self, AddUserRequest, AddUserResponse, ChangeTokenRequest, ChangeTokenResponse, CheckRequest,
    CheckResponse, EnableRequest, EnableResponse, GetRightsRequest, GetRightsResponse,
    GetUsersRequest, GetUsersResponse, GrantRequest, GrantResponse, RemoveUserRequest,
    RemoveUserResponse, RevokeRequest, RevokeResponse, TokenChange,
};
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::rare_line::RareLine;
use rdb_proto::transport::Call;
use tonic::{Code, Request, Response, Status};

use self::asked::Asked;
use self::fault::{auth_fault, is_denial};
use super::answer_with_room;
use super::timed::Timed;
use crate::auth::{AuthError, Authority, Change, Refusal};
use crate::metrics::Figures;

/// The size of an answer without its users, in bytes.
const ANSWER_BYTES: usize = 64;

/// Serves users and what they are granted.
pub(crate) struct AuthService {
    authority: Authority,
    figures: Arc<Figures>,
    newer_copy: Mutex<RareLine>,
}

impl AuthService {
    pub(crate) fn new(authority: Authority, figures: Arc<Figures>) -> Self {
        Self {
            authority,
            figures,
            newer_copy: Mutex::default(),
        }
    }

    async fn ask(&self, call: &Arc<Call>, change: Change) -> Result<bool, Status> {
        self.change(call, change).await.map_err(auth_fault)
    }

    async fn change(&self, call: &Arc<Call>, change: Change) -> Result<bool, AuthError> {
        call.note_asked_of(change.prefix(), || change.asked());
        self.authority.change(change, Arc::clone(call)).await
    }

    fn count_denied(&self) {
        self.authority.guard().refusals().count_denied();
    }
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn enable(
        &self,
        request: Request<EnableRequest>,
    ) -> Result<Response<EnableResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "Enable");
        let answering = async {
            check_may_enable(call.peer(), call.peer_identity().is_some())
                .inspect_err(|_| self.count_denied())?;
            let EnableRequest { name } = request.into_inner();
            let token = Token::random();
            let token_hash = token.hash();
            let changed = self.change(&call, Change::Enable { name, token_hash });
            changed.await.map_err(|error| {
                if is_denial(&error) {
                    self.count_denied();
                }
                auth_fault(error)
            })?;
            Ok(Response::new(EnableResponse {
                token: token.to_string(),
                enforced: self.authority.is_enforced(),
            }))
        };
        timed.end(answering.await)
    }

    async fn add_user(
        &self,
        request: Request<AddUserRequest>,
    ) -> Result<Response<AddUserResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "AddUser");
        let answering = async {
            let AddUserRequest {
                name,
                subject,
                without_token,
            } = request.into_inner();
            let token = (!without_token).then(Token::random);
            let change = Change::AddUser {
                name,
                subject,
                token_hash: token.as_ref().map(Token::hash),
            };
            self.ask(&call, change).await?;
            Ok(Response::new(AddUserResponse {
                token: shown(token.as_ref()),
            }))
        };
        timed.end(answering.await)
    }

    async fn remove_user(
        &self,
        request: Request<RemoveUserRequest>,
    ) -> Result<Response<RemoveUserResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "RemoveUser");
        let answering = async {
            let RemoveUserRequest { name } = request.into_inner();
            self.ask(&call, Change::RemoveUser { name }).await?;
            Ok(Response::new(RemoveUserResponse {}))
        };
        timed.end(answering.await)
    }

    async fn change_token(
        &self,
        request: Request<ChangeTokenRequest>,
    ) -> Result<Response<ChangeTokenResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "ChangeToken");
        let answering = async {
            let ChangeTokenRequest { name, change } = request.into_inner();
            let asked = TokenChange::try_from(change).unwrap_or_default();
            let token = Token::random();
            let token_hash = token.hash();
            let (change, is_given) = match asked {
                TokenChange::Add => (Change::AddToken { name, token_hash }, true),
                TokenChange::DropOld => (Change::DropOldToken { name }, false),
                TokenChange::DropNew => (Change::DropNewToken { name }, false),
                TokenChange::Replace => (Change::ReplaceTokens { name, token_hash }, true),
                TokenChange::Unspecified => {
                    let cause = "that is no change of a token; there are add, drop_old, drop_new and replace";
                    return Err(Fault::invalid_argument("change", None, cause).into());
                }
            };
            self.ask(&call, change).await?;
            Ok(Response::new(ChangeTokenResponse {
                token: shown(is_given.then_some(&token)),
            }))
        };
        timed.end(answering.await)
    }

    async fn get_users(
        &self,
        request: Request<GetUsersRequest>,
    ) -> Result<Response<GetUsersResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "GetUsers");
        let answering = async {
            let users = self.authority.present().users;
            // The answer about a user is no longer than its record.
            let bytes_max = users.answer_bytes_max() + ANSWER_BYTES;
            let list = || GetUsersResponse {
                users: users.infos(),
                enforced: self.authority.is_enforced(),
                version: users.version(),
            };
            answer_with_room(&call, bytes_max, list).await
        };
        timed.end(answering.await)
    }

    async fn grant(
        &self,
        request: Request<GrantRequest>,
    ) -> Result<Response<GrantResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "Grant");
        let answering = async {
            let GrantRequest { name, grant } = request.into_inner();
            let grant = named_grant(grant)?;
            let changed = self.ask(&call, Change::Grant { name, grant }).await?;
            Ok(Response::new(GrantResponse { changed }))
        };
        timed.end(answering.await)
    }

    async fn revoke(
        &self,
        request: Request<RevokeRequest>,
    ) -> Result<Response<RevokeResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "Revoke");
        let answering = async {
            let RevokeRequest { name, grant } = request.into_inner();
            let grant = named_grant(grant)?;
            self.ask(&call, Change::Revoke { name, grant }).await?;
            Ok(Response::new(RevokeResponse {}))
        };
        timed.end(answering.await)
    }

    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "Check");
        let answering = async {
            let CheckRequest {
                name,
                role,
                keyspace,
                start_key,
                end_key,
            } = request.into_inner();
            let asked = Asked::checked(role, keyspace, start_key, end_key)?;
            let enforced = self.authority.is_enforced();
            let answer = match self.pass_of(&call, &name)? {
                Some(pass) => {
                    let missing = asked.missing(&pass);
                    CheckResponse {
                        allowed: missing.is_none(),
                        name: pass.user().unwrap_or_default().to_owned(),
                        missing: missing.unwrap_or_default(),
                        enforced,
                    }
                }
                None => CheckResponse {
                    allowed: true,
                    name: String::new(),
                    missing: String::new(),
                    enforced,
                },
            };
            Ok(Response::new(answer))
        };
        timed.end(answering.await)
    }

    async fn get_rights(
        &self,
        request: Request<GetRightsRequest>,
    ) -> Result<Response<GetRightsResponse>, Status> {
        let call = Call::of(&request);
        let timed = Timed::begin(&self.figures, &call, "GetRights");
        let answering = async {
            let GetRightsRequest { known_version } = request.into_inner();
            if !self.authority.is_enforced() {
                return Ok(Response::new(GetRightsResponse {
                    enforced: false,
                    rights: None,
                }));
            }
            let users = self.authority.present().users;
            if users.version() == known_version {
                return Ok(Response::new(GetRightsResponse {
                    enforced: true,
                    rights: None,
                }));
            }
            if known_version > users.version() {
                self.tell_of_newer_copy(&call, known_version, users.version());
            }
            let copy = || GetRightsResponse {
                enforced: true,
                rights: Some(users.message().clone()),
            };
            answer_with_room(&call, users.answer_bytes_max() + ANSWER_BYTES, copy).await
        };
        timed.end(answering.await)
    }
}

impl AuthService {
    /// The rights of the user of this name, or of the caller if there is no name. `None`: rights are not enforced, and the caller is
    /// no user. Only an admin may ask about others.
    fn pass_of(&self, call: &Call, name: &str) -> Result<Option<Pass>, Status> {
        let is_enforced = self.authority.is_enforced();
        let own = if is_enforced {
            Some(call.caller().pass()?)
        } else {
            let rights = self.authority.present().rights;
            call.caller().pass_in(&rights).ok()
        };
        let own_name = own.as_ref().and_then(Pass::user);
        let name = match (name, own_name) {
            ("", Some(own_name)) => own_name,
            ("", None) => return Ok(None),
            _ => name,
        };
        if is_enforced && own_name != Some(name) {
            own.as_ref().map_or(Ok(()), Pass::check_admin)?;
        }
        if !is_user_name(name) {
            return Err(auth_fault(Refusal::BadName.into()));
        }
        // A pass of the present rights, which counts no refusals.
        let pass = self.authority.present().rights.pass_of(name);
        let no_user = || Refusal::NoUser {
            name: name.to_owned(),
        };
        Ok(Some(pass.ok_or_else(|| auth_fault(no_user().into()))?))
    }

    /// A store can have a greater version only of rights that this process has lost.
    fn tell_of_newer_copy(&self, call: &Call, known_version: u64, version: u64) {
        let line = self.newer_copy.lock();
        let turn = line
            .unwrap_or_else(PoisonError::into_inner)
            .take_turn(Instant::now());
        if let Some(left_out) = turn {
            tracing::warn!(
                peer = call.peer().map(tracing::field::display),
                known_version,
                version,
                left_out,
                "a store has newer rights than these: if the data directory is an older copy, start once with --tso-advance-ms"
            );
        }
    }
}

/// The first admin can be made only from this machine, or with a client certificate.
fn check_may_enable(peer: Option<SocketAddr>, has_certificate: bool) -> Result<(), Status> {
    if is_here(peer) || has_certificate {
        return Ok(());
    }
    let cause = "the first admin is made from the placement driver's own machine, over a loopback address, or over TLS with a client \
                 certificate that its --tls-client-ca has signed. Run `rdbctl auth enable --pd 127.0.0.1:PORT` there; a placement \
                 driver that listens on neither a loopback address nor 0.0.0.0 has to be started with one for that";
    let fault = Fault::new(Code::PermissionDenied, cause);
    Err(fault.with_fate(Fate::NotApplied).into())
}

/// Whether a connection from there comes from this machine. An IPv4 address may be written as an IPv6 one.
fn is_here(peer: Option<SocketAddr>) -> bool {
    peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

fn named_grant(grant: Option<authpb::Grant>) -> Result<authpb::Grant, Status> {
    let missing = || Fault::invalid_argument("grant", None, "grant is missing").into();
    grant.ok_or_else(missing)
}

fn shown(token: Option<&Token>) -> String {
    token.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_address_is_here() {
        for here in [
            "127.0.0.1:1",
            "127.255.0.3:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_here(here.parse().ok()), "{here}");
        }
        for elsewhere in [
            "10.0.0.1:1",
            "0.0.0.0:1",
            "[::]:1",
            "[fe80::1]:1",
            "[::ffff:10.0.0.1]:1",
            "[::127.0.0.1]:1",
        ] {
            assert!(!is_here(elsewhere.parse().ok()), "{elsewhere}");
        }
        assert!(!is_here(None));
    }

    #[test]
    fn who_is_elsewhere_needs_a_certificate_or_is_told_where_the_first_admin_is_made() {
        let elsewhere = "10.0.0.1:1".parse().ok();
        assert!(check_may_enable(elsewhere, true).is_ok());
        assert!(check_may_enable("127.0.0.1:1".parse().ok(), false).is_ok());
        let refused = check_may_enable(elsewhere, false).expect_err("it has no certificate");
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(
            refused.message().contains("rdbctl auth enable"),
            "{refused}"
        );
    }
}
