//! Everybody who may call.

use rdb_proto::authpb::{Keyspace, Role, TokenChange};
use tonic::transport::Channel;

use crate::administrator::{ADMIN_NAME, over, over_all};
use crate::certificates::Issued;
use crate::cluster::{Enforcing, certificate};
use crate::harness::Node;
use crate::wire::bearer;

/// What the keys begin with that readers and writers have a grant over.
pub(crate) const INSIDE: &str = "in/";

/// Somebody, with what a call of theirs shows.
pub(crate) struct Identity {
    pub(crate) name: &'static str,
    pub(crate) authorization: Option<String>,
    /// `None`: that of nobody, if there are certificates.
    certificate: Option<Issued>,
}

impl Identity {
    fn with(name: &'static str, authorization: Option<String>) -> Self {
        Self {
            name,
            authorization,
            certificate: None,
        }
    }

    pub(crate) async fn channel(&self, cluster: &Enforcing, node: &Node) -> Channel {
        match &self.certificate {
            Some(issued) => cluster.channel_of(node, issued).await,
            None => cluster.channel(node).await,
        }
    }
}

/// A token as it might be, which nobody has.
pub(crate) fn unknown_token() -> String {
    format!("flaredb_{}", "5e".repeat(32))
}

/// All of those that need no certificate, in the order of the table's columns.
pub(crate) async fn with_tokens(cluster: &Enforcing) -> Vec<Identity> {
    let admin = &cluster.admin;
    let removed = admin.add("removed").await;
    admin.grant("removed", &over_all(Role::Admin)).await;
    admin.remove("removed").await;
    let dropped = admin.add("rotated").await;
    admin.grant("rotated", &over_all(Role::Admin)).await;
    admin.change_token("rotated", TokenChange::Add).await;
    let none = admin.change_token("rotated", TokenChange::DropOld).await;
    assert_eq!(none, "", "dropping makes no token");
    let without_grants = admin.add("without-grants").await;
    let mut identities = vec![
        Identity::with("without a token", None),
        Identity::with("with a wrong token", Some(bearer(&unknown_token()))),
        Identity::with("with a malformed token", Some(bearer("flaredb_5e"))),
        Identity::with("removed", Some(bearer(&removed))),
        Identity::with("with a dropped token", Some(bearer(&dropped))),
        Identity::with("without grants", Some(bearer(&without_grants))),
    ];
    for (name, role, keyspace) in [
        ("raw-reader", Role::Reader, Keyspace::Raw),
        ("raw-writer", Role::Writer, Keyspace::Raw),
        ("versioned-reader", Role::Reader, Keyspace::Versioned),
        ("versioned-writer", Role::Writer, Keyspace::Versioned),
    ] {
        let token = admin.add(name).await;
        admin.grant(name, &over(role, keyspace, INSIDE)).await;
        identities.push(Identity::with(name, Some(bearer(&token))));
    }
    let store = admin.add("another-store").await;
    admin.grant("another-store", &over_all(Role::Store)).await;
    identities.push(Identity::with("another-store", Some(bearer(&store))));
    identities.push(Identity::with(ADMIN_NAME, Some(admin.authorization())));
    identities
}

/// Those that have certificates, in the order of the table's columns behind the others.
pub(crate) async fn with_certificates(cluster: &Enforcing) -> Vec<Identity> {
    let admin = &cluster.admin;
    admin.add_certificate("ada", "CN=ada").await;
    let granted = over(Role::Reader, Keyspace::All, INSIDE);
    admin.grant("ada", &granted).await;
    let adas = certificate(cluster.ca(), "ada");
    let wrong = Some(bearer(&unknown_token()));
    vec![
        Identity {
            certificate: Some(adas.clone()),
            ..Identity::with("ada", None)
        },
        Identity {
            certificate: Some(adas),
            ..Identity::with("ada with a wrong token", wrong)
        },
        Identity {
            certificate: Some(cluster.ca().server()),
            ..Identity::with("with the certificate of stores", None)
        },
    ]
}
