//! Users and what they may do, over the wire: what is refused, what is kept, and what takes effect when.

mod changes;
mod checks;
mod first_admin;
mod kept;
mod stores;

use rdb_proto::authpb::auth_client::AuthClient;
use rdb_proto::authpb::{
    AddUserRequest, ChangeTokenRequest, CheckRequest, CheckResponse, EnableRequest,
    GetRightsRequest, GetRightsResponse, GetUsersRequest, GetUsersResponse, Grant, GrantRequest,
    RemoveUserRequest, Role, TokenChange,
};
use tonic::{Request, Response};

use super::*;

/// A call of whoever has this token. An empty one is none.
fn signed<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn grant_of(role: Role) -> Option<Grant> {
    Some(Grant {
        role: role.into(),
        ..Grant::default()
    })
}

fn code<T>(answer: Result<Response<T>, Status>) -> Code {
    match answer {
        Ok(_) => Code::Ok,
        Err(status) => {
            if [Code::Unauthenticated, Code::PermissionDenied].contains(&status.code()) {
                assert_eq!(details(&status).unwrap().fate(), Fate::NotApplied);
            }
            status.code()
        }
    }
}

/// How a timestamp is answered to whoever has this token.
async fn tso_code(pd: &mut Running, token: &str) -> Code {
    let request = GetTsoRequest { count: None };
    code(pd.client.get_tso(signed(token, request)).await)
}

/// What an administrator asks for.
#[derive(Clone)]
struct Users(AuthClient<Channel>);

impl Users {
    async fn at(address: &str) -> Self {
        let channel = endpoint(address, GUARD).unwrap().connect().await.unwrap();
        Self(AuthClient::new(channel))
    }

    /// Makes the first admin, and returns its token.
    async fn enable(&mut self, name: &str) -> Result<String, Status> {
        let request = EnableRequest {
            name: name.to_owned(),
        };
        Ok(self.0.enable(request).await?.into_inner().token)
    }

    /// Adds a user, and returns its token.
    async fn add(&mut self, admin: &str, name: &str) -> Result<String, Status> {
        let request = AddUserRequest {
            name: name.to_owned(),
            ..AddUserRequest::default()
        };
        let added = self.0.add_user(signed(admin, request)).await?;
        Ok(added.into_inner().token)
    }

    async fn grant(&mut self, admin: &str, name: &str, role: Role) -> Result<bool, Status> {
        let request = GrantRequest {
            name: name.to_owned(),
            grant: grant_of(role),
        };
        let granted = self.0.grant(signed(admin, request)).await?;
        Ok(granted.into_inner().changed)
    }

    /// Adds a user with a role over everything, and returns its token.
    async fn add_with(&mut self, admin: &str, name: &str, role: Role) -> String {
        let token = self.add(admin, name).await.unwrap();
        assert!(self.grant(admin, name, role).await.unwrap());
        token
    }

    async fn remove(&mut self, admin: &str, name: &str) -> Result<(), Status> {
        let request = RemoveUserRequest {
            name: name.to_owned(),
        };
        self.0.remove_user(signed(admin, request)).await.map(drop)
    }

    async fn change_token(
        &mut self,
        admin: &str,
        name: &str,
        change: TokenChange,
    ) -> Result<String, Status> {
        let request = ChangeTokenRequest {
            name: name.to_owned(),
            change: change.into(),
        };
        let changed = self.0.change_token(signed(admin, request)).await?;
        Ok(changed.into_inner().token)
    }

    async fn list(&mut self, admin: &str) -> Result<GetUsersResponse, Status> {
        let listed = self.0.get_users(signed(admin, GetUsersRequest {})).await?;
        Ok(listed.into_inner())
    }

    async fn names(&mut self, admin: &str) -> Vec<String> {
        let listed = self.list(admin).await.unwrap();
        listed.users.into_iter().map(|user| user.name).collect()
    }

    async fn check(
        &mut self,
        token: &str,
        name: &str,
        role: Role,
    ) -> Result<CheckResponse, Status> {
        let request = CheckRequest {
            name: name.to_owned(),
            role: role.into(),
            ..CheckRequest::default()
        };
        Ok(self.0.check(signed(token, request)).await?.into_inner())
    }

    /// What a store gets that has the rights of this version.
    async fn copy(&mut self, store: &str, known_version: u64) -> Result<GetRightsResponse, Status> {
        let request = GetRightsRequest { known_version };
        Ok(self
            .0
            .get_rights(signed(store, request))
            .await?
            .into_inner())
    }
}

async fn start_enforced(directory: &Path) -> (Running, Users) {
    let enforced = |config: &mut Config| config.auth = true;
    let pd = start_with(directory, enforced).await.unwrap();
    let users = Users::at(&pd.pd.local_addr().to_string()).await;
    (pd, users)
}

async fn stop(pd: Running, users: Users) {
    drop(users);
    pd.stop().await;
}
