//! Users and what they may do, over the wire: what is refused, what is kept, and what takes effect when.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use futures::StreamExt;
use rdb_proto::authpb::auth_client::AuthClient;
use rdb_proto::authpb::{
    AddUserRequest, ChangeTokenRequest, CheckRequest, CheckResponse, EnableRequest,
    GetRightsRequest, GetRightsResponse, GetUsersRequest, GetUsersResponse, Grant, GrantRequest,
    Keyspace, RemoveUserRequest, RevokeRequest, Role, TokenChange,
};
use tokio::task::spawn_blocking;
use tonic::{Request, Response};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::http::{Metrics, http_get};
use super::skipped::skipped;
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

#[tokio::test(flavor = "multi_thread")]
async fn users_outlive_a_restart_and_the_first_admin_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let (pd, mut users) = start_enforced(directory.path()).await;
    let root = users.enable("root").await.unwrap();
    let ada = users.add_with(&root, "ada", Role::Reader).await;
    let before = users.list(&root).await.unwrap();
    stop(pd, users).await;

    let (mut pd, mut users) = start_enforced(directory.path()).await;
    assert_eq!(users.list(&root).await.unwrap(), before);
    assert!(before.enforced);
    let again = users.enable("other").await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(again.message().contains("admin already"), "{again}");
    let request = GetTsoRequest { count: None };
    let got = pd.client.get_tso(signed(&ada, request)).await;
    assert_eq!(code(got), Code::Ok);
    stop(pd, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_admins_that_are_asked_for_at_once_are_one() {
    let directory = tempfile::tempdir().unwrap();
    let (pd, users) = start_enforced(directory.path()).await;
    let asked = (0..16).map(|number| {
        let mut users = users.clone();
        async move { users.enable(&format!("u{number}")).await }
    });
    let answers = futures::future::join_all(asked).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (1, 15));
    for refused in refused {
        assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
    }
    let address = pd.pd.status_addr().unwrap().to_string();
    let metrics = Metrics::of(&address).await;
    let counted = metrics.get("flaredb_auth_refusals_total{reason=\"denied\"}");
    assert_eq!(counted, 15.0, "{}", metrics.text);
    let mut users = users;
    let root = made.into_iter().next().unwrap().unwrap();
    assert_eq!(users.names(&root).await.len(), 1);
    stop(pd, users).await;
}

/// The address that this machine has where its default route leads, if it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: only the way to an address for documentation is looked up.
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then_some(own)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_admin_is_made_over_a_loopback_address_and_no_other() {
    let Some(own_address) = own_address() else {
        return skipped("no default route leads out of this machine");
    };
    let directory = tempfile::tempdir().unwrap();
    let everywhere = |config: &mut Config| {
        config.addr = "0.0.0.0:0".parse().unwrap();
        config.auth = true;
    };
    let pd = start_with(directory.path(), everywhere).await.unwrap();
    let port = pd.pd.local_addr().port();
    let mut elsewhere = Users::at(&format!("{own_address}:{port}")).await;
    let refused = elsewhere.enable("eve").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(details(&refused).unwrap().fate(), Fate::NotApplied);
    drop(elsewhere);
    let mut users = Users::at(&format!("127.0.0.1:{port}")).await;
    users.enable("root").await.unwrap();
    stop(pd, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_users_everything_is_refused_but_health_and_the_first_admin() {
    let directory = tempfile::tempdir().unwrap();
    let (mut pd, mut users) = start_enforced(directory.path()).await;
    let request = GetTsoRequest { count: None };
    let somebody = format!("flaredb_{}", "0a".repeat(32));
    for token in ["", &somebody, "flaredb_"] {
        let got = pd.client.get_tso(signed(token, request)).await;
        assert_eq!(code(got), Code::Unauthenticated, "{token}");
    }
    let registering = pd.client.register_store(RegisterStoreRequest::default());
    assert_eq!(code(registering.await), Code::Unauthenticated);
    let listed = users.list("").await.unwrap_err();
    assert_eq!(listed.code(), Code::Unauthenticated);
    let checked = users.check("", "", Role::Reader).await.unwrap_err();
    assert_eq!(checked.code(), Code::Unauthenticated);
    let copied = users.copy("", 0).await.unwrap_err();
    assert_eq!(copied.code(), Code::Unauthenticated);

    let address = pd.pd.local_addr().to_string();
    let channel = endpoint(&address, GUARD).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    let health = health.check(HealthCheckRequest::default()).await.unwrap();
    let warning = health.metadata().get(rdb_proto::transport::WARNING);
    let warning = warning.unwrap().to_str().unwrap();
    assert!(warning.contains("rdbctl auth enable"), "{warning}");
    let status = pd.pd.status_addr().unwrap().to_string();
    let told = http_get(&status, "/health").await;
    assert_eq!(told.status, 200);
    assert!(told.body.contains("rdbctl auth enable"), "{}", told.body);

    let root = users.enable("root").await.unwrap();
    let told = http_get(&status, "/health").await;
    assert_eq!(told.body, "serving\n");
    let status = http_get(&status, "/status").await.body;
    assert!(status.contains("\"has_admin\": true"), "{status}");
    assert_eq!(users.names(&root).await, ["root"]);
    let got = pd.client.get_tso(signed(&root, request)).await;
    assert_eq!(code(got), Code::Ok);
    stop(pd, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_users_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (pd, mut users) = start_enforced(directory.path()).await;
    let root = users.enable("root").await.unwrap();
    let reader = users.add_with(&root, "reader", Role::Reader).await;
    for token in ["", &reader, &reader] {
        users.list(token).await.unwrap_err();
    }
    let address = pd.pd.status_addr().unwrap().to_string();
    let metrics = Metrics::of(&address).await;
    let refusals = |reason| {
        metrics.get(&format!(
            "flaredb_auth_refusals_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!(refusals("unauthenticated"), 1.0, "{}", metrics.text);
    assert_eq!(refusals("denied"), 2.0, "{}", metrics.text);
    assert_eq!(metrics.get("flaredb_auth_enforced"), 1.0);
    assert_eq!(metrics.get("flaredb_auth_users"), 2.0);
    let version = users.list(&root).await.unwrap().version;
    assert_eq!(metrics.get("flaredb_auth_rights_version"), version as f64);
    stop(pd, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_registers_sends_heartbeats_and_gets_the_rights() {
    const ADDRESS: &str = "127.0.0.1:1001";
    let directory = tempfile::tempdir().unwrap();
    let (mut pd, mut users) = start_enforced(directory.path()).await;
    let root = users.enable("root").await.unwrap();
    let store = users.add_with(&root, "store-1", Role::Store).await;
    let reader = users.add_with(&root, "ada", Role::Reader).await;
    let mut registration = RegisterStoreRequest {
        address: ADDRESS.to_owned(),
        incarnation: incarnation_at(ADDRESS),
        ..RegisterStoreRequest::default()
    };
    let refused = pd
        .client
        .register_store(signed(&reader, registration.clone()))
        .await;
    assert_eq!(code(refused), Code::PermissionDenied);
    let accepted = pd
        .client
        .register_store(signed(&store, registration.clone()))
        .await;
    let accepted = accepted.unwrap().into_inner();
    registration.store_id = accepted.store_id;
    registration.cluster_id = accepted.cluster_id;
    registration.kept_incarnation = registration.incarnation;
    let kept = pd.client.register_store(signed(&store, registration)).await;
    assert_eq!(code(kept), Code::Ok);
    let heartbeat = StoreHeartbeatRequest {
        cluster_id: accepted.cluster_id,
        store_id: accepted.store_id,
        address: ADDRESS.to_owned(),
        incarnation: incarnation_at(ADDRESS),
        ..StoreHeartbeatRequest::default()
    };
    let refused = pd
        .client
        .store_heartbeat(signed(&reader, heartbeat.clone()))
        .await;
    assert_eq!(code(refused), Code::PermissionDenied);
    let heard = pd.client.store_heartbeat(signed(&store, heartbeat)).await;
    assert_eq!(code(heard), Code::Ok);

    let refused = users.copy(&reader, 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let copy = users.copy(&store, 0).await.unwrap();
    assert!(copy.enforced);
    let rights = copy.rights.unwrap();
    let names: Vec<_> = rights.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["ada", "root", "store-1"]);
    let same = users.copy(&store, rights.version).await.unwrap();
    assert_eq!((same.enforced, same.rights), (true, None));
    users.remove(&root, "ada").await.unwrap();
    let newer = users
        .copy(&store, rights.version)
        .await
        .unwrap()
        .rights
        .unwrap();
    assert_eq!((newer.version, newer.users.len()), (rights.version + 1, 2));
    // A store with a copy of another time gets that of now, also when its version is greater.
    let older = users.copy(&store, newer.version + 1000).await.unwrap();
    assert_eq!(older.rights, Some(newer));
    stop(pd, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_an_unknown_token_is_told_of_to_who_asks() {
    let directory = tempfile::tempdir().unwrap();
    let (mut pd, mut users) = start_enforced(directory.path()).await;
    let root = users.enable("root").await.unwrap();
    let store = users.add_with(&root, "store-1", Role::Store).await;
    users.copy(&store, 0).await.unwrap();
    for is_refused in [false, true] {
        if is_refused {
            users.remove(&root, "store-1").await.unwrap();
            users.copy(&store, 0).await.unwrap_err();
        }
        let request = signed(&root, GetClusterInfoRequest::default());
        let asked = pd.client.get_cluster_info(request).await.unwrap();
        let mut findings = asked.into_inner().findings.into_iter();
        let told = "the last one from 127.0.0.1: the token is no user's";
        let found = findings.find(|finding| finding.what.ends_with(told));
        let is_alarm = found.map(|finding| finding.is_alarm);
        assert_eq!(is_alarm, is_refused.then_some(false));
    }
    stop(pd, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_refused_on_open_streams() {
    let directory = tempfile::tempdir().unwrap();
    let (mut pd, mut users) = start_enforced(directory.path()).await;
    let root = users.enable("root").await.unwrap();
    let removed = users.add_with(&root, "removed", Role::Reader).await;
    let replaced = users.add_with(&root, "replaced", Role::Reader).await;
    let revoked = users.add_with(&root, "revoked", Role::Reader).await;
    let untouched = users.add_with(&root, "untouched", Role::Reader).await;
    let one = GetTsoRequest { count: Some(1) };
    let mut streams = Vec::new();
    for (token, ends_with) in [
        (&removed, Some(Code::Unauthenticated)),
        (&replaced, Some(Code::Unauthenticated)),
        (&revoked, Some(Code::PermissionDenied)),
        (&untouched, None),
    ] {
        let (requests, receiver) = mpsc::unbounded();
        let answers = pd.client.tso(signed(token, receiver)).await.unwrap();
        let mut answers = answers.into_inner();
        requests.unbounded_send(one).unwrap();
        assert!(answers.message().await.unwrap().is_some());
        streams.push((requests, answers, ends_with));
    }
    users.remove(&root, "removed").await.unwrap();
    let replacing = users.change_token(&root, "replaced", TokenChange::Replace);
    let new = replacing.await.unwrap();
    let request = RevokeRequest {
        name: "revoked".to_owned(),
        grant: grant_of(Role::Reader),
    };
    users.0.revoke(signed(&root, request)).await.unwrap();
    for (requests, mut answers, ends_with) in streams {
        requests.unbounded_send(one).unwrap();
        let answer = answers.message().await;
        let ended = answer.as_ref().err().map(Status::code);
        assert_eq!(ended, ends_with, "{answer:?}");
    }
    let got = pd.client.get_tso(signed(&new, one)).await;
    assert_eq!(code(got), Code::Ok);
    stop(pd, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_two_tokens_while_it_changes_them() {
    let directory = tempfile::tempdir().unwrap();
    let (mut pd, mut users) = start_enforced(directory.path()).await;
    let root = users.enable("root").await.unwrap();
    let old = users.add_with(&root, "ada", Role::Reader).await;
    let new = users
        .change_token(&root, "ada", TokenChange::Add)
        .await
        .unwrap();
    assert_ne!(old, new);
    let full = users.change_token(&root, "ada", TokenChange::Add).await;
    assert_eq!(full.unwrap_err().code(), Code::FailedPrecondition);
    let one = GetTsoRequest { count: Some(1) };
    for token in [&old, &new] {
        assert_eq!(code(pd.client.get_tso(signed(token, one)).await), Code::Ok);
    }
    let dropped = users.change_token(&root, "ada", TokenChange::DropOld).await;
    assert_eq!(dropped.unwrap(), "");
    let got = pd.client.get_tso(signed(&old, one)).await;
    assert_eq!(code(got), Code::Unauthenticated);
    let got = pd.client.get_tso(signed(&new, one)).await;
    assert_eq!(code(got), Code::Ok);
    for change in [TokenChange::DropOld, TokenChange::DropNew] {
        let none = users.change_token(&root, "ada", change).await;
        assert_eq!(none.unwrap_err().code(), Code::FailedPrecondition);
    }
    // As if the answer got lost: nobody has the second one.
    let lost = users.change_token(&root, "ada", TokenChange::Add);
    let lost = lost.await.unwrap();
    let dropped = users.change_token(&root, "ada", TokenChange::DropNew).await;
    assert_eq!(dropped.unwrap(), "");
    let got = pd.client.get_tso(signed(&lost, one)).await;
    assert_eq!(code(got), Code::Unauthenticated);
    let got = pd.client.get_tso(signed(&new, one)).await;
    assert_eq!(code(got), Code::Ok);
    stop(pd, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_which_field_is_wrong_and_what_would_be_right() {
    let directory = tempfile::tempdir().unwrap();
    let (pd, mut users) = start_enforced(directory.path()).await;
    let root = users.enable("root").await.unwrap();
    let exists = users.add(&root, "root").await.unwrap_err();
    assert_eq!(exists.code(), Code::AlreadyExists);
    let request = AddUserRequest {
        name: "ada".to_owned(),
        subject: "cn=ada".to_owned(),
        without_token: true,
    };
    let subject = users.0.add_user(signed(&root, request)).await.unwrap_err();
    assert_eq!(subject.code(), Code::InvalidArgument);
    assert_eq!(details(&subject).unwrap().field, "subject");
    assert!(subject.message().ends_with("CN=ada"), "{subject}");
    let bad = users.add(&root, "Root").await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    let told = details(&bad).unwrap();
    assert_eq!((&*told.field, told.fate()), ("name", Fate::NotApplied));
    let ghost = users.grant(&root, "ghost", Role::Reader).await.unwrap_err();
    assert_eq!(ghost.code(), Code::NotFound);
    let last = users.remove(&root, "root").await.unwrap_err();
    assert_eq!(last.code(), Code::FailedPrecondition);
    assert!(last.message().contains("last admin"), "{last}");
    assert!(
        !users.grant(&root, "root", Role::Admin).await.unwrap(),
        "it is one"
    );
    let narrow = Grant {
        role: Role::Admin.into(),
        prefix: "p".into(),
        ..Grant::default()
    };
    let request = GrantRequest {
        name: "root".to_owned(),
        grant: Some(narrow),
    };
    let narrow = users.0.grant(signed(&root, request)).await.unwrap_err();
    assert_eq!(narrow.code(), Code::InvalidArgument);
    let missing = GrantRequest {
        name: "root".to_owned(),
        grant: None,
    };
    let missing = users.0.grant(signed(&root, missing)).await.unwrap_err();
    assert_eq!(details(&missing).unwrap().field, "grant");
    stop(pd, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_ask_what_it_may_do_and_admins_what_others_may() {
    let directory = tempfile::tempdir().unwrap();
    let (pd, mut users) = start_enforced(directory.path()).await;
    let root = users.enable("root").await.unwrap();
    let ada = users.add(&root, "ada").await.unwrap();
    let grants = [
        (Role::Writer, Keyspace::Raw, "a"),
        (Role::Reader, Keyspace::All, "b"),
    ];
    for (role, keyspace, prefix) in grants {
        let grant = Grant {
            role: role.into(),
            keyspace: keyspace.into(),
            prefix: prefix.into(),
        };
        let request = GrantRequest {
            name: "ada".to_owned(),
            grant: Some(grant),
        };
        users.0.grant(signed(&root, request)).await.unwrap();
    }
    for (role, keyspace, start, end, missing) in [
        (Role::Writer, Keyspace::Raw, "a", "b", None),
        (Role::Reader, Keyspace::Raw, "a", "c", None),
        (
            Role::Writer,
            Keyspace::Raw,
            "a",
            "c",
            Some("writer over all of these keys of the raw"),
        ),
        (
            Role::Writer,
            Keyspace::Raw,
            "c",
            "c\0",
            Some("writer over this key of the raw"),
        ),
        (Role::Reader, Keyspace::All, "b1", "b2", None),
        (Role::Reader, Keyspace::All, "a", "b", Some("versioned")),
        (Role::Reader, Keyspace::Raw, "a", "", Some("reader")),
        (Role::Admin, Keyspace::All, "", "", Some("admin")),
        (Role::Store, Keyspace::All, "", "", Some("store")),
    ] {
        let request = |name: &str| CheckRequest {
            name: name.to_owned(),
            role: role.into(),
            keyspace: keyspace.into(),
            start_key: start.into(),
            end_key: end.into(),
        };
        for (token, name) in [(&ada, ""), (&ada, "ada"), (&root, "ada")] {
            let checked = users.0.check(signed(token, request(name))).await;
            let checked = checked.unwrap().into_inner();
            assert_eq!(checked.name, "ada");
            assert!(checked.enforced);
            assert_eq!(checked.allowed, missing.is_none(), "{checked:?}");
            let told = missing.unwrap_or_default();
            assert!(checked.missing.contains(told), "{checked:?}");
            assert_eq!(checked.missing.is_empty(), checked.allowed);
        }
    }
    // It does not learn who there is.
    let told = |refused: Status| {
        (
            refused.code(),
            refused.message().to_owned(),
            details(&refused),
        )
    };
    let other = users.check(&ada, "root", Role::Reader).await.unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied);
    for name in ["ghost", "no name"] {
        let ghost = users.check(&ada, name, Role::Reader).await.unwrap_err();
        assert_eq!(told(ghost), told(other.clone()), "{name}");
    }
    let ghost = users.check(&root, "ghost", Role::Reader).await.unwrap_err();
    assert_eq!(ghost.code(), Code::NotFound);
    let no_role = users.check(&root, "", Role::Unspecified).await.unwrap_err();
    assert_eq!(details(&no_role).unwrap().field, "role");
    let inverted = CheckRequest {
        role: Role::Reader.into(),
        start_key: "b".into(),
        end_key: "a".into(),
        ..CheckRequest::default()
    };
    let inverted = users.0.check(signed(&root, inverted)).await.unwrap_err();
    assert_eq!(details(&inverted).unwrap().field, "end_key");
    assert!(users.check(&root, "", Role::Admin).await.unwrap().allowed);
    stop(pd, users).await;
}

/// Users can be prepared before rights are enforced.
#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_not_enforced_are_kept_and_answered_and_refuse_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let mut users = Users::at(&pd.pd.local_addr().to_string()).await;
    let anybody = users.check("", "", Role::Writer).await.unwrap();
    assert_eq!(
        (anybody.allowed, anybody.enforced, &*anybody.name),
        (true, false, "")
    );
    let ada = users.add("", "ada").await.unwrap();
    let named = users.check("", "ada", Role::Reader).await.unwrap();
    assert_eq!((named.allowed, named.enforced), (false, false));
    assert!(users.grant("", "ada", Role::Reader).await.unwrap());
    assert!(users.check("", "ada", Role::Reader).await.unwrap().allowed);
    let own = users.check(&ada, "", Role::Writer).await.unwrap();
    assert_eq!((own.allowed, &*own.name), (false, "ada"));
    let copy = users.copy("", 0).await.unwrap();
    assert_eq!((copy.enforced, copy.rights), (false, None));
    pd.tso(None).await.expect("nobody is refused");
    let status = pd.pd.status_addr().unwrap().to_string();
    let told = http_get(&status, "/health").await;
    assert_eq!(told.body, "serving\n");
    users.enable("root").await.unwrap();
    let told = http_get(&status, "/health").await;
    assert!(told.body.contains("no --auth"), "{}", told.body);
    stop(pd, users).await;

    let (mut pd, users) = start_enforced(directory.path()).await;
    let one = GetTsoRequest { count: Some(1) };
    assert_eq!(code(pd.client.get_tso(one).await), Code::Unauthenticated);
    assert_eq!(code(pd.client.get_tso(signed(&ada, one)).await), Code::Ok);
    stop(pd, users).await;
}

/// A process of its own. Dropping it kills it.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    /// Starts one, and waits until it serves.
    async fn start(directory: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdb-pd"));
        command
            .args([
                "--addr",
                "127.0.0.1:0",
                "--status-addr",
                "none",
                "--auth",
                "--data-dir",
            ])
            .arg(directory)
            .env("NO_COLOR", "1")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Settings of whoever runs the tests must not become the process's.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"RDB_") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let serving = spawn_blocking(move || {
            let mut lines = log.lines();
            let address = lines.by_ref().map(Result::unwrap).find_map(|line| {
                let (_, rest) = line.split_once("serving Pd")?;
                let (_, rest) = rest.split_once(" addr=")?;
                let (address, _) = rest.split_once(' ')?;
                Some(address.to_owned())
            });
            // It must not wait for a reader of its log.
            std::thread::spawn(move || lines.for_each(drop));
            address
        });
        let address = serving.await.unwrap().expect("it serves");
        Self { child, address }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// It is killed while changes are made: what was answered is there, and nothing else but what was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_outlives_a_kill() {
    const TASKS: usize = 4;
    const ANSWERS_BEFORE_KILL: usize = 24;
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path()).await;
    let mut users = Users::at(&process.address).await;
    let root = users.enable("root").await.unwrap();
    let (answers, mut answered) = mpsc::unbounded();
    let asking = (0..TASKS).map(|task| {
        let (mut users, root, answers) = (users.clone(), root.clone(), answers.clone());
        tokio::spawn(async move {
            for number in 0.. {
                let name = format!("u{task}-{number}");
                if users.add(&root, &name).await.is_err() {
                    // The only one of this task whose fate is open.
                    return name;
                }
                answers.unbounded_send(name).unwrap();
            }
            unreachable!("there are not so many users")
        })
    });
    let asking: Vec<_> = asking.collect();
    drop(answers);
    let mut names: Vec<_> = answered.by_ref().take(ANSWERS_BEFORE_KILL).collect().await;
    assert_eq!(names.len(), ANSWERS_BEFORE_KILL, "all tasks have failed");
    drop(process);
    let mut open = Vec::new();
    for asking in asking {
        open.push(asking.await.unwrap());
    }
    names.extend(answered.collect::<Vec<_>>().await);
    names.push("root".to_owned());

    let process = Process::start(directory.path()).await;
    let mut users = Users::at(&process.address).await;
    let found = users.names(&root).await;
    for name in &names {
        assert!(found.contains(name), "{name} was answered");
    }
    for name in &found {
        assert!(names.contains(name) || open.contains(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_of_rights_ends_the_start_before_anything_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    start(directory.path()).await.stop().await;
    let in_storage = |change: fn(&Storage)| {
        let directory = directory.path().to_owned();
        spawn_blocking(move || {
            let storage = Storage::open(directory, StorageOptions::new(rdb_storage::Role::Pd));
            let storage = storage.unwrap();
            change(&storage);
            let kept = [
                keys::RIGHTS,
                keys::COUNTERS,
                keys::CLUSTER_ID,
                keys::TSO_BOUND,
            ];
            let kept = kept.map(|key| storage.get_raw(key).unwrap());
            storage.close().unwrap();
            kept
        })
    };
    let damage = |storage: &Storage| storage.put_raw(keys::RIGHTS, &b"\xff"[..]).unwrap();
    let before = in_storage(damage).await.unwrap();
    assert!(before[0].is_some());
    for advance_ms in [0, 86_400_000] {
        let restored = |config: &mut Config| config.tso_advance_ms = advance_ms;
        let refused = start_with(directory.path(), restored).await.err().unwrap();
        assert!(
            matches!(refused, PdError::DamagedRights { .. }),
            "{refused}"
        );
        let told = refused.to_string();
        for advice in [
            "Nothing was changed",
            "Restore a copy",
            "what was revoked since is back",
        ] {
            assert!(told.contains(advice), "{told}");
        }
        assert_eq!(in_storage(|_| {}).await.unwrap(), before);
    }
}
