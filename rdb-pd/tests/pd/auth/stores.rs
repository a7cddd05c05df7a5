//! Stores as users: what their role lets them do, and the copy of the rights that they get.

use super::*;

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
