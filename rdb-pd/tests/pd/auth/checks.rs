//! Who learns what of rights: answers to who asks what somebody may do, and rights that are not enforced.

use rdb_proto::authpb::Keyspace;

use super::*;
use crate::http::http_get;

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
    assert_eq!(tso_code(&mut pd, "").await, Code::Unauthenticated);
    assert_eq!(tso_code(&mut pd, &ada).await, Code::Ok);
    stop(pd, users).await;
}
