//! Changes of users: when they take effect, which are refused, and what is counted of them.

use rdb_proto::authpb::RevokeRequest;

use super::*;
use crate::status::metrics;

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
    assert_eq!(tso_code(&mut pd, &new).await, Code::Ok);
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
    for token in [&old, &new] {
        assert_eq!(tso_code(&mut pd, token).await, Code::Ok);
    }
    let dropped = users.change_token(&root, "ada", TokenChange::DropOld).await;
    assert_eq!(dropped.unwrap(), "");
    assert_eq!(tso_code(&mut pd, &old).await, Code::Unauthenticated);
    assert_eq!(tso_code(&mut pd, &new).await, Code::Ok);
    for change in [TokenChange::DropOld, TokenChange::DropNew] {
        let none = users.change_token(&root, "ada", change).await;
        assert_eq!(none.unwrap_err().code(), Code::FailedPrecondition);
    }
    // As if the answer got lost: nobody has the second one.
    let lost = users.change_token(&root, "ada", TokenChange::Add);
    let lost = lost.await.unwrap();
    let dropped = users.change_token(&root, "ada", TokenChange::DropNew).await;
    assert_eq!(dropped.unwrap(), "");
    assert_eq!(tso_code(&mut pd, &lost).await, Code::Unauthenticated);
    assert_eq!(tso_code(&mut pd, &new).await, Code::Ok);
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
async fn refusals_and_users_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (pd, mut users) = start_enforced(directory.path()).await;
    let root = users.enable("root").await.unwrap();
    let reader = users.add_with(&root, "reader", Role::Reader).await;
    for token in ["", &reader, &reader] {
        users.list(token).await.unwrap_err();
    }
    let metrics = metrics(&pd).await;
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
