//! Users and their rights, as the placement driver keeps them.
//!
//! - `user`: users and their grants.
//! - `enabling`: the first administrator.

mod enabling;
mod user;

use rdb_proto::auth::{Keyspace, Role, Token};
use rdb_proto::authpb::auth_client::AuthClient;
use rdb_proto::authpb::{
    AddUserRequest, ChangeTokenRequest, CheckRequest, GetUsersRequest, GrantRequest,
    RemoveUserRequest, RevokeRequest, TokenChange,
};
use tonic::{Response, Status};

pub use enabling::Enabled;
pub use user::{Grant, Identity, User, Users, Verdict};

use crate::connection::Channel;
use crate::rpc::Access;
use crate::{Client, Error, KeyRange};

/// A question to the placement driver, which makes the call anew each time.
macro_rules! call {
    ($method:ident($request:ident)) => {
        |mut client: AuthClient<Channel>| {
            let request = $request.clone();
            async move { client.$method(request).await }
        }
    };
}

/// Administration of users. Once rights are enforced it is for administrators alone, except that everybody may
/// [check](Client::check_right) what they may do themselves. Changes are kept even if rights are not enforced.
///
/// A change whose answer gets lost ends in [`Error::Undetermined`], and is not repeated, since a token is told only once. Look at the
/// [`users`](Client::users). If a token was made whose answer got lost, [`drop_new_token`](Client::drop_new_token) makes it invalid and
/// leaves the user the one before. A user that had none before gets one by [`replace_tokens`](Client::replace_tokens).
///
/// On stores that reach the placement driver, a change takes effect some seconds later, also for open streams.
///
/// Each call can end in [`Error::InvalidArgument`] when the placement driver does not accept a name, a subject or a grant, in
/// [`Error::NotFound`] when there is no such user or grant, in [`Error::Refused`] when the present state does not allow it, or in one of
/// the errors of any call to the placement driver.
impl Client {
    /// Adds a user, who may do nothing yet. Returns its token, if it has one.
    ///
    /// # Errors
    ///
    /// When there is a user of that name, or one with that certificate.
    pub async fn add_user(&self, name: &str, identity: Identity) -> Result<Option<Token>, Error> {
        let without_token = matches!(identity, Identity::Certificate { .. });
        let request = AddUserRequest {
            name: name.to_owned(),
            subject: identity.into_subject().unwrap_or_default(),
            without_token,
        };
        let token = self.change_users(call!(add_user(request))).await?.token;
        if without_token {
            return Ok(None);
        }
        made(&token).map(Some)
    }

    /// Removes a user, with its tokens and grants.
    ///
    /// # Errors
    ///
    /// When there is no such user, or it is the last administrator.
    pub async fn remove_user(&self, name: &str) -> Result<(), Error> {
        let request = RemoveUserRequest {
            name: name.to_owned(),
        };
        let removed = self.change_users(call!(remove_user(request))).await;
        removed.map(drop)
    }

    /// Makes a second token for a user. The one that it has stays good.
    ///
    /// # Errors
    ///
    /// When there is no such user, or it has two.
    pub async fn add_token(&self, name: &str) -> Result<Token, Error> {
        made(&self.change_token(name, TokenChange::Add).await?)
    }

    /// Makes the older one of a user's two tokens invalid.
    ///
    /// # Errors
    ///
    /// When there is no such user, or it does not have two.
    pub async fn drop_old_token(&self, name: &str) -> Result<(), Error> {
        self.change_token(name, TokenChange::DropOld)
            .await
            .map(drop)
    }

    /// Makes the newer one of a user's two tokens invalid, e.g. one that nobody has since the answer of [`add_token`](Self::add_token)
    /// got lost.
    ///
    /// # Errors
    ///
    /// When there is no such user, or it does not have two.
    pub async fn drop_new_token(&self, name: &str) -> Result<(), Error> {
        self.change_token(name, TokenChange::DropNew)
            .await
            .map(drop)
    }

    /// Makes all tokens of a user invalid, and a new one.
    ///
    /// # Errors
    ///
    /// When there is no such user.
    pub async fn replace_tokens(&self, name: &str) -> Result<Token, Error> {
        made(&self.change_token(name, TokenChange::Replace).await?)
    }

    /// All users, in the order of their names.
    ///
    /// # Errors
    ///
    /// When the placement driver does not answer in time.
    pub async fn users(&self) -> Result<Users, Error> {
        let placement_driver = self.router().placement_driver();
        let question = |mut client: AuthClient<Channel>| async move {
            client.get_users(GetUsersRequest {}).await
        };
        let asked = placement_driver.ask_of_users(Access::Read, self.deadline(), question);
        asked.await?.try_into()
    }

    /// Grants a user something. Returns false if the user already has exactly this grant.
    ///
    /// # Errors
    ///
    /// When there is no such user, or it has as many grants as one can have.
    pub async fn grant(&self, name: &str, grant: &Grant) -> Result<bool, Error> {
        let request = GrantRequest {
            name: name.to_owned(),
            grant: Some(grant.into()),
        };
        Ok(self.change_users(call!(grant(request))).await?.changed)
    }

    /// Revokes a grant. Role, keyspace and prefix have to be those of the grant: a part of it cannot be revoked.
    ///
    /// # Errors
    ///
    /// When there is no such user or grant, or it makes somebody the last administrator.
    pub async fn revoke(&self, name: &str, grant: &Grant) -> Result<(), Error> {
        let request = RevokeRequest {
            name: name.to_owned(),
            grant: Some(grant.into()),
        };
        self.change_users(call!(revoke(request))).await.map(drop)
    }

    /// Whether a user may do what `role` allows, over all keys of `range`. `user`: `None` is this client itself; `keyspace`: `None` is
    /// both. [`Role::Admin`] and [`Role::Store`] always cover everything: the keyspace and the range do not matter for them.
    ///
    /// # Errors
    ///
    /// When there is no such user, or the range is empty.
    pub async fn check_right(
        &self,
        user: Option<&str>,
        role: Role,
        keyspace: Option<Keyspace>,
        range: impl Into<KeyRange>,
    ) -> Result<Verdict, Error> {
        let range = range.into().checked(&self.limits())?;
        if range.is_empty() {
            let cause = "it is not above the start, so there is no key in the range";
            return Err(Error::invalid_argument("end_key", None, cause));
        }
        let mut request = CheckRequest {
            name: user.unwrap_or_default().to_owned(),
            start_key: range.start.clone(),
            end_key: range.wire_end(),
            ..CheckRequest::default()
        };
        request.set_role(role.into());
        request.set_keyspace(user::wire_keyspace(keyspace));
        let placement_driver = self.router().placement_driver();
        let question = call!(check(request));
        let asked = placement_driver.ask_of_users(Access::Read, self.deadline(), question);
        Ok(asked.await?.into())
    }

    async fn change_token(&self, name: &str, change: TokenChange) -> Result<String, Error> {
        let request = ChangeTokenRequest {
            name: name.to_owned(),
            change: change.into(),
        };
        Ok(self.change_users(call!(change_token(request))).await?.token)
    }

    async fn change_users<A, F>(
        &self,
        question: impl Fn(AuthClient<Channel>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let placement_driver = self.router().placement_driver();
        placement_driver
            .ask_of_users(Access::Write, self.deadline(), question)
            .await
    }
}

/// The token in an answer.
fn made(token: &str) -> Result<Token, Error> {
    let token = token.parse::<Token>();
    token.map_err(|_| Error::internal("the placement driver did not tell the token that it made"))
}
