//! Messages to the methods that are about users: bytes that mean nothing, and such that mean something strange.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use prost_types::FileDescriptorSet;
use rdb_proto::authpb::{
    AddUserRequest, ChangeTokenRequest, CheckRequest, EnableRequest, GetRightsRequest, Grant,
    GrantRequest, Keyspace, RemoveUserRequest, RevokeRequest, Role,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Fuzz;
use crate::administrator::over;
use crate::cluster::Enforcing;
use crate::wire::{Answer, bearer, try_call};

/// The paths of all methods that are about users.
fn paths() -> Vec<String> {
    let set = FileDescriptorSet::decode(rdb_proto::FILE_DESCRIPTOR_SET).expect("compiled in");
    let mut services = set.file.iter().flat_map(|file| &file.service);
    let service = services.find(|service| service.name() == "Auth");
    let methods = service.expect("there is one").method.iter();
    methods
        .map(|method| format!("/authpb.Auth/{}", method.name()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_changes_nothing_unless_it_is_an_admins_and_harms_nobody_then() {
    let mut cluster = Enforcing::of_one_store().await;
    let writer = bearer(&cluster.admin.add("writer").await);
    let granted = over(Role::Writer, Keyspace::All, "in/");
    cluster.admin.grant("writer", &granted).await;
    let pd = cluster.to_pd().await;
    let before = cluster.admin.users().await.expect("an admin");
    let paths = paths();
    let mut fuzz = Fuzz::of("messages of those who may not");
    // A connection whose calls are refused again and again is closed now and then.
    let mut closed = 0;
    while fuzz.goes_on() {
        let path = &paths[fuzz.rng.usize(..paths.len())];
        let message = message(&mut fuzz);
        let is_user = fuzz.rng.bool();
        let authorization = is_user.then_some(&*writer);
        let Ok(answer) = sent(&pd, path, authorization, &message).await else {
            closed += 1;
            continue;
        };
        let refused = [Code::Unauthenticated, Code::PermissionDenied];
        // Everybody may ask for the first admin, and users what they may do.
        let is_refused = match (&**path, is_user) {
            ("/authpb.Auth/Enable", _) | ("/authpb.Auth/Check", false) => answer.code != Code::Ok,
            ("/authpb.Auth/Check", true) => true,
            (_, true) => answer.code == Code::PermissionDenied,
            (_, false) => refused.contains(&answer.code),
        };
        assert!(
            is_refused,
            "{}: {path}: {answer:?} to {message:?}",
            fuzz.try_number()
        );
    }
    println!("{closed} times the connection was closed");
    assert!(closed <= fuzz.tries / 100, "{closed} of {}", fuzz.tries);
    drop(fuzz);
    assert_eq!(cluster.admin.users().await.expect("an admin"), before);

    let pd = cluster.to_pd().await;
    let mut fuzz = Fuzz::of("messages of an admin");
    let authorization = cluster.admin.authorization();
    let mut codes = BTreeSet::new();
    while fuzz.goes_on() {
        let path = &paths[fuzz.rng.usize(..paths.len())];
        let message = message(&mut fuzz);
        let answer = sent(&pd, path, Some(&authorization), &message).await;
        let answer = answer.unwrap_or_else(|status| panic!("{path}: {status}: {message:?}"));
        assert!(
            !answer.is_refusal(),
            "{}: {path}: {answer:?}",
            fuzz.try_number()
        );
        codes.insert(answer.code.description());
    }
    println!("answers: {codes:?}");
    // What has come of it can be read again, here and by stores. It may be as much as there can be.
    let before = cluster.admin.users().await.expect("still an admin");
    println!("{} users", before.users.len());
    cluster.pd.kill();
    cluster.pd.start_serving().await;
    cluster.admin = cluster.admin.over(cluster.to_pd().await);
    let after = cluster.admin.users().await.expect("still an admin");
    assert_eq!(after, before);
    let names = after.users.iter().map(|user| &*user.name);
    let made_up = names.filter(|name| !["admin", "store-1", "writer"].contains(name));
    for name in made_up.take(3) {
        cluster.admin.remove(name).await;
    }
    cluster.settle().await;
    cluster.assert_sound();
}

/// What the placement driver answers. An error: it has closed the connection.
async fn sent(
    pd: &Channel,
    path: &str,
    authorization: Option<&str>,
    message: &[u8],
) -> Result<Answer, Status> {
    let messages = vec![Bytes::copy_from_slice(message)];
    try_call(pd, path, authorization, messages).await
}

fn message(fuzz: &mut Fuzz) -> Vec<u8> {
    let message = match fuzz.rng.u8(..9) {
        0 => return fuzz.bytes(300),
        1 => EnableRequest { name: name(fuzz) }.encode_to_vec(),
        2 => AddUserRequest {
            name: name(fuzz),
            subject: subject(fuzz),
            without_token: fuzz.rng.bool(),
        }
        .encode_to_vec(),
        3 => RemoveUserRequest { name: name(fuzz) }.encode_to_vec(),
        4 => ChangeTokenRequest {
            name: name(fuzz),
            change: fuzz.rng.i32(-1..6),
        }
        .encode_to_vec(),
        5 => GrantRequest {
            name: name(fuzz),
            grant: grant(fuzz),
        }
        .encode_to_vec(),
        6 => RevokeRequest {
            name: name(fuzz),
            grant: grant(fuzz),
        }
        .encode_to_vec(),
        7 => CheckRequest {
            name: name(fuzz),
            role: fuzz.rng.i32(-1..7),
            keyspace: fuzz.rng.i32(-1..5),
            start_key: key(fuzz),
            end_key: key(fuzz),
        }
        .encode_to_vec(),
        _ => GetRightsRequest {
            known_version: fuzz.rng.u64(..),
        }
        .encode_to_vec(),
    };
    if fuzz.rng.u8(..4) == 0 {
        return fuzz.mutate(&message);
    }
    message
}

/// Few, so that requests meet. None is that of an admin who is needed later, nor one change of a letter away.
fn name(fuzz: &mut Fuzz) -> String {
    match fuzz.rng.u8(..10) {
        0..7 => format!("user-{}", fuzz.rng.u8(..6)),
        7 => "n".repeat(fuzz.rng.usize(..70)),
        8 => String::from_utf8_lossy(&fuzz.bytes(20)).into_owned(),
        _ => String::new(),
    }
}

fn subject(fuzz: &mut Fuzz) -> String {
    const NAME: &[u8] = b"CN=a\\, b+OU=\\#c\\20,1.2.840.113549.1.9.1=#0c03616461,O=Example\\\\";
    match fuzz.rng.u8(..8) {
        0..3 => String::new(),
        3 => format!("CN=user-{}", fuzz.rng.u8(..6)),
        6 => String::from_utf8_lossy(&fuzz.mutate(NAME)).into_owned(),
        7 => format!("{}={}", fuzz.rng.u128(..), fuzz.rng.u64(..)),
        4 => "CN=".to_owned() + &"s".repeat(fuzz.rng.usize(..1100)),
        _ => String::from_utf8_lossy(&fuzz.bytes(40)).into_owned(),
    }
}

fn grant(fuzz: &mut Fuzz) -> Option<Grant> {
    (fuzz.rng.u8(..8) > 0).then(|| Grant {
        role: fuzz.rng.i32(-1..7),
        keyspace: fuzz.rng.i32(-1..5),
        prefix: key(fuzz),
    })
}

fn key(fuzz: &mut Fuzz) -> Bytes {
    let key = match fuzz.rng.u8(..6) {
        0..3 => Vec::new(),
        3 => vec![u8::MAX; fuzz.rng.usize(..4)],
        4 => vec![b'k'; fuzz.rng.usize(8190..8200)],
        _ => fuzz.bytes(6),
    };
    key.into()
}
