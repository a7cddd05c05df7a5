//! Whoever gives rights, and takes them.

use rdb_proto::authpb::auth_client::AuthClient;
use rdb_proto::authpb::{
    AddUserRequest, ChangeTokenRequest, EnableRequest, EnableResponse, GetUsersRequest,
    GetUsersResponse, Grant, GrantRequest, Keyspace, RemoveUserRequest, RevokeRequest, Role,
    TokenChange,
};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::harness::guarded;
use crate::wire::{bearer, with_authorization};

/// The name of the first admin.
pub(crate) const ADMIN_NAME: &str = "admin";

/// A caller of the placement driver with one token.
#[derive(Clone)]
pub(crate) struct Administrator {
    auth: AuthClient<Channel>,
    pub(crate) token: String,
}

impl Administrator {
    /// Makes the first admin of a cluster.
    pub(crate) async fn first(pd: Channel) -> (Self, EnableResponse) {
        let mut auth = AuthClient::new(pd);
        let request = EnableRequest {
            name: ADMIN_NAME.to_owned(),
        };
        let enabled = guarded("the first admin", auth.enable(request)).await;
        let enabled = enabled.expect("there was none").into_inner();
        let token = enabled.token.clone();
        (Self { auth, token }, enabled)
    }

    /// The same caller over another connection.
    pub(crate) fn over(&self, pd: Channel) -> Self {
        Self {
            auth: AuthClient::new(pd),
            token: self.token.clone(),
        }
    }

    /// Adds a user who gets a token, and returns it.
    pub(crate) async fn add(&self, name: &str) -> String {
        let added = self.add_user(name, "", false).await;
        let token = added.expect("there is no such user");
        assert!(token.starts_with("flaredb_"), "it is no token");
        token
    }

    /// Adds a user who has nothing but a certificate.
    pub(crate) async fn add_certificate(&self, name: &str, subject: &str) {
        let added = self.add_user(name, subject, true).await;
        assert_eq!(added.expect("there is no such user"), "");
    }

    async fn add_user(
        &self,
        name: &str,
        subject: &str,
        without_token: bool,
    ) -> Result<String, Status> {
        let request = self.request(AddUserRequest {
            name: name.to_owned(),
            subject: subject.to_owned(),
            without_token,
        });
        let added = guarded("a user", self.auth.clone().add_user(request)).await;
        added.map(|added| added.into_inner().token)
    }

    pub(crate) async fn remove(&self, name: &str) {
        let request = self.request(RemoveUserRequest {
            name: name.to_owned(),
        });
        let mut auth = self.auth.clone();
        let removed = guarded("a user is removed", auth.remove_user(request)).await;
        removed.expect("there is one");
    }

    /// Changes the tokens of a user; returns the new one, or nothing.
    pub(crate) async fn change_token(&self, name: &str, change: TokenChange) -> String {
        let request = self.request(ChangeTokenRequest {
            name: name.to_owned(),
            change: change.into(),
        });
        let mut auth = self.auth.clone();
        let changed = guarded("a token is changed", auth.change_token(request)).await;
        changed.expect("it can be").into_inner().token
    }

    pub(crate) async fn grant(&self, name: &str, grant: &Grant) {
        let request = self.request(GrantRequest {
            name: name.to_owned(),
            grant: Some(grant.clone()),
        });
        let granted = guarded("a grant", self.auth.clone().grant(request)).await;
        granted.expect("it can be granted");
    }

    pub(crate) async fn revoke(&self, name: &str, grant: &Grant) {
        let request = self.request(RevokeRequest {
            name: name.to_owned(),
            grant: Some(grant.clone()),
        });
        let revoked = guarded("a grant is revoked", self.auth.clone().revoke(request)).await;
        revoked.expect("it was granted");
    }

    /// Whether it still is an admin, and what there is.
    pub(crate) async fn users(&self) -> Result<GetUsersResponse, Status> {
        let request = self.request(GetUsersRequest {});
        let users = guarded("users", self.auth.clone().get_users(request)).await;
        users.map(Response::into_inner)
    }

    /// Its token without what all tokens begin with.
    pub(crate) fn token_digits(&self) -> &str {
        self.token.trim_start_matches("flaredb_")
    }

    /// What its calls show.
    pub(crate) fn authorization(&self) -> String {
        bearer(&self.token)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        with_authorization(Request::new(message), Some(&self.authorization()))
    }
}

/// A grant over the keys with a prefix.
pub(crate) fn over(role: Role, keyspace: Keyspace, prefix: &str) -> Grant {
    Grant {
        role: role.into(),
        keyspace: keyspace.into(),
        prefix: prefix.to_owned().into(),
    }
}

/// A grant over everything.
pub(crate) fn over_all(role: Role) -> Grant {
    over(role, Keyspace::All, "")
}
