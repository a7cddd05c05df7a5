//! Tokens that are guessed, damaged, hidden elsewhere, or given twice.

use prost::Message;
use rdb_proto::auth::Token;
use rdb_proto::kvrpc::{RawGetRequest, RawPutRequest};
use tonic::Code;

use super::Fuzz;
use crate::bare::{Bare, Ended, Field};
use crate::cluster::Enforcing;
use crate::harness::Node;
use crate::wire::bearer;

/// The name of the field that has a token.
const AUTHORIZATION: &[u8] = b"authorization";

/// A place where a token lets the caller in, and what is answered there then.
struct Door {
    address: String,
    path: &'static str,
    message: Vec<u8>,
    /// `None`: it is connected to with the next call.
    connection: Option<Bare>,
}

impl Door {
    fn of(node: &Node, path: &'static str, message: Vec<u8>) -> Self {
        Self {
            address: node.address(),
            path,
            message,
            connection: None,
        }
    }

    async fn try_with(&mut self, fields: &[Field]) -> Ended {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let connected = Bare::connect(&self.address).await;
                none.insert(connected.expect("it listens"))
            }
        };
        let ended = connection.call(self.path, fields, &self.message).await;
        if ended == Ended::Closed {
            self.connection = None;
        }
        ended
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_header_but_the_right_one_lets_anybody_in() {
    let mut cluster = Enforcing::of_one_store().await;
    cluster.settle().await;
    let authorization = cluster.admin.authorization();
    let put = RawPutRequest {
        context: None,
        key: "secret".into(),
        value: "found".into(),
    };
    let path = "/kvrpc.KvRaw/RawPut";
    let written = cluster.at_leader(path, &authorization, &put).await;
    assert_eq!(written.code, Code::Ok, "{written:?}");
    let get = RawGetRequest {
        context: None,
        key: "secret".into(),
    };
    let store = &cluster.stores[0];
    let mut doors = [
        Door::of(store, "/kvrpc.KvRaw/RawGet", get.encode_to_vec()),
        Door::of(&cluster.pd, "/authpb.Auth/GetUsers", Vec::new()),
    ];
    let right = [(AUTHORIZATION.to_vec(), authorization.into_bytes())];
    let mut fuzz = Fuzz::of("headers");
    while fuzz.goes_on() {
        for door in &mut doors {
            let fields = fields(&mut fuzz, &cluster.admin.token);
            let ended = door.try_with(&fields).await;
            let is_right = shows(&fields, &cluster.admin.token);
            assert!(
                is_right || ended != Ended::Served,
                "{}: {} is served to {fields:?}",
                fuzz.try_number(),
                door.path,
            );
        }
    }
    for door in &mut doors {
        // A connection may have been closed for what was sent before.
        let served = door.try_with(&right).await;
        let served = match served {
            Ended::Closed => door.try_with(&right).await,
            other => other,
        };
        assert_eq!(served, Ended::Served, "{}", door.path);
    }
    cluster.assert_sound();
}

/// Whether there is one field for tokens, and the digits of this one are in it. How the rest of it is written does not matter here: whoever
/// has sent this knows the token.
fn shows(fields: &[Field], token: &str) -> bool {
    let digits = token.trim_start_matches("flaredb_").as_bytes();
    let mut values = fields.iter().filter(|(name, _)| name == AUTHORIZATION);
    match (values.next(), values.next()) {
        (Some((_, value)), None) => {
            let value = value.to_ascii_lowercase();
            value.windows(digits.len()).any(|part| part == digits)
        }
        _ => false,
    }
}

fn fields(fuzz: &mut Fuzz, token: &str) -> Vec<Field> {
    let right = bearer(token).into_bytes();
    let field = |value: Vec<u8>| (AUTHORIZATION.to_vec(), value);
    match fuzz.rng.u8(..12) {
        0 => vec![field(fuzz.bytes(200))],
        1 => vec![field([b"Bearer ", &*fuzz.bytes(100)].concat())],
        2 => vec![field(bearer(&digits(fuzz, 64)).into_bytes())],
        3 => {
            let length = fuzz.rng.usize(..=200);
            vec![field(bearer(&digits(fuzz, length)).into_bytes())]
        }
        4 | 5 => vec![field(fuzz.mutate(&right))],
        6 => {
            // A copy of the placement driver's disk has hashes.
            let token: Token = token.parse().expect("a token");
            let hash = token.hash().map(|byte| format!("{byte:02x}")).concat();
            vec![field(bearer(&format!("flaredb_{hash}")).into_bytes())]
        }
        7 => {
            let mut fields = vec![field(right.clone())];
            let other = match fuzz.rng.u8(..3) {
                0 => right,
                1 => bearer(&digits(fuzz, 64)).into_bytes(),
                _ => fuzz.bytes(100),
            };
            let at = fuzz.rng.usize(..=1);
            fields.insert(at, field(other));
            fields
        }
        8 => {
            const NAMES: [&[u8]; 9] = [
                b"Authorization",
                b"authorization-bin",
                b"authorization ",
                b"proxy-authorization",
                b"x-authorization",
                b"grpc-authorization",
                b"cookie",
                b":authorization",
                b"",
            ];
            let name = NAMES[fuzz.rng.usize(..NAMES.len())];
            vec![(name.to_vec(), right)]
        }
        9 => {
            let digits = token.trim_start_matches("flaredb_");
            let strange = ['\u{ff10}', '\u{0}', '\u{202e}', '\u{fffd}', '\u{1f511}'];
            let strange = strange[fuzz.rng.usize(..strange.len())];
            let at = fuzz.rng.usize(..digits.len());
            let mut damaged = bearer(token);
            damaged.insert(damaged.len() - digits.len() + at.max(1), strange);
            vec![field(damaged.into_bytes())]
        }
        10 => {
            let length = 1 << fuzz.rng.usize(10..=16);
            let mut value = b"Bearer flaredb_".to_vec();
            value.resize(length, fuzz.rng.u8(..));
            vec![field(value)]
        }
        _ => {
            let count = fuzz.rng.usize(..=300);
            let mut fields = Vec::new();
            for _ in 0..count {
                let value = fuzz.bytes(20);
                fields.push(field(value));
            }
            fields
        }
    }
}

fn digits(fuzz: &mut Fuzz, length: usize) -> String {
    let digits = std::iter::repeat_with(|| fuzz.rng.digit(16)).take(length);
    format!("flaredb_{}", digits.collect::<String>())
}
