//! How the first admin is made, and what is answered before there is one.

use std::net::{IpAddr, UdpSocket};

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::http::http_get;
use crate::skipped::skipped;
use crate::status::metrics;

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
    let metrics = metrics(&pd).await;
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
    let somebody = format!("flaredb_{}", "0a".repeat(32));
    for token in ["", &somebody, "flaredb_"] {
        assert_eq!(
            tso_code(&mut pd, token).await,
            Code::Unauthenticated,
            "{token}"
        );
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
    assert_eq!(tso_code(&mut pd, &root).await, Code::Ok);
    stop(pd, users).await;
}
