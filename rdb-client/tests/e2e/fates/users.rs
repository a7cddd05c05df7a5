//! Changes of users, and clients that are not let in.

use rdb_client::auth::{Grant, Identity, Role};
use rdb_client::{Client, Config, Error};
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use tonic::{Code, Status};

use crate::fates::cluster::{CLUSTER_ID, Cluster, PATIENT, PdNode, SHORT, region};
use crate::fates::placement_driver::TOKEN;
use crate::fates::proxy::Mode;

fn fault(code: Code, fate: Fate) -> Status {
    Fault::new(code, "because").with_fate(fate).into()
}

fn refusal() -> Status {
    fault(Code::Unauthenticated, Fate::NotApplied)
}

#[tokio::test]
async fn connecting_without_a_token_where_one_is_wanted_ends_at_once_with_what_to_do() {
    let pd = PdNode::start(CLUSTER_ID).await;
    pd.pd.refuse(Some(refusal()));
    let addresses = || [pd.proxy.address.to_string()];
    let config = Config::default().with_timeout(PATIENT);
    let token = TOKEN.parse().expect("it is one");
    for (config, says_what_to_do) in [(config.clone(), true), (config.with_token(token), false)] {
        let error = Client::connect_with(addresses(), config).await;
        let error = error.expect_err("it is not let in");
        assert!(matches!(error, Error::Unauthenticated { .. }), "{error:?}");
        let told = error.to_string();
        assert!(told.starts_with("not signed in: because"), "{told}");
        assert_eq!(told.contains("--token-file"), says_what_to_do, "{told}");
    }
}

#[tokio::test]
async fn a_lookup_that_the_placement_driver_refuses_is_not_tried_again() {
    let regions = vec![region(1, 1, "", "m"), region(2, 1, "m", "")];
    let cluster = Cluster::with_regions(regions).await;
    let client = cluster.client().await;
    client.raw_put("a", "1").await.unwrap();
    cluster.pd.pd.refuse(Some(refusal()));
    let written = client.raw_put("z", "1").await;
    assert!(
        matches!(written, Err(Error::Unauthenticated { .. })),
        "{written:?}"
    );
    assert_eq!(cluster.pd.pd.region_lookups(), 2);
    client.raw_put("a", "2").await.unwrap();
}

#[tokio::test]
async fn the_first_administrator_is_made_for_a_client_that_is_not_let_in() {
    let pd = PdNode::start(CLUSTER_ID).await;
    pd.pd.refuse(Some(refusal()));
    pd.pd
        .fail_users([fault(Code::Unavailable, Fate::NotApplied)]);
    let config = || Config::default().with_timeout(PATIENT);
    let enable = || Client::enable_auth_at([pd.proxy.address.to_string()], config(), "admin");
    let enabled = enable().await.expect("it is tried again");
    assert_eq!(enabled.token.to_string(), TOKEN);
    assert_eq!(pd.pd.user_changes(), 2);

    pd.pd
        .fail_users([fault(Code::FailedPrecondition, Fate::NotApplied)]);
    let again = enable().await;
    assert!(matches!(again, Err(Error::Refused { .. })), "{again:?}");
    let cluster = Cluster::start().await;
    let store = cluster.node.proxy.address.to_string();
    let wrong = Client::enable_auth_at([store], config(), "admin").await;
    assert!(
        matches!(&wrong, Err(Error::InvalidArgument { field, .. }) if field == "pd_addresses"),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn a_change_of_users_whose_answer_got_lost_is_undetermined_and_not_made_again() {
    let cluster = Cluster::start().await;
    let pd = &cluster.pd.pd;
    let client = cluster.client().await;
    let grant = Grant::new(Role::Reader);
    pd.fail_users([fault(Code::Unavailable, Fate::NotApplied)]);
    assert_eq!(client.grant("ada", &grant).await, Ok(true));
    assert_eq!(pd.user_changes(), 2, "it was certainly not made");
    for lost in [
        fault(Code::Unavailable, Fate::Unknown),
        Status::unavailable("bare"),
    ] {
        let before = pd.user_changes();
        pd.fail_users([lost]);
        let added = client.add_user("ada", Identity::Token).await;
        assert!(
            matches!(added, Err(Error::Undetermined { .. })),
            "{added:?}"
        );
        assert_eq!(pd.user_changes(), before + 1);
    }
    pd.fail_users([fault(Code::AlreadyExists, Fate::NotApplied)]);
    let added = client.add_user("ada", Identity::Token).await;
    assert!(matches!(added, Err(Error::Refused { .. })), "{added:?}");

    let hurried = client.with_timeout(SHORT);
    cluster.pd.proxy.set_mode(Mode::HoldAnswers);
    for change in [
        hurried.replace_tokens("ada").await.map(drop),
        hurried.revoke("ada", &grant).await,
    ] {
        let lost = matches!(&change, Err(Error::Undetermined { .. }));
        assert!(lost, "{change:?}");
    }
    let read = hurried.users().await.expect_err("no answer");
    assert!(read.is_retryable(), "{read}");
}
