//! Rights that were damaged on their way, or made up: those that are taken allow what they say, and nothing else.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use rdb_proto::auth::{Caller, Guard, Keyspace, Permission, Rights, Token};
use rdb_proto::authpb::{self, Grant, Role, User};
use tonic::Code;

use super::Fuzz;

/// The tokens of users, and one that is nobody's.
const TOKENS: usize = 4;

#[test]
fn rights_of_any_bytes_allow_what_they_say_and_nothing_else() {
    let tokens = [0; TOKENS].map(|_| Token::random());
    let mut fuzz = Fuzz::of("rights");
    let (mut tries, mut taken) = (0_u64, 0_u64);
    while fuzz.goes_on() {
        let made_up = made_up(&mut fuzz, &tokens);
        let mut message = made_up.encode_to_vec();
        if fuzz.rng.bool() {
            message = fuzz.mutate(&message);
        }
        let Ok(message) = authpb::Rights::decode(&*message) else {
            continue;
        };
        tries += 1;
        let Ok(rights) = Rights::of(&message) else {
            continue;
        };
        taken += 1;
        let has_admin = message.users.iter().any(is_admin);
        assert_eq!(rights.has_admin(), has_admin, "{}", fuzz.try_number());
        assert_eq!(rights.version(), message.version);
        let guard = Arc::new(Guard::without_limit(Arc::new(rights)));
        for token in &tokens {
            check(&mut fuzz, &message, &guard, token);
        }
    }
    println!("{taken} of {tries} were taken");
    assert!(taken > 0, "nothing was tried");
}

fn check(fuzz: &mut Fuzz, message: &authpb::Rights, guard: &Arc<Guard>, token: &Token) {
    let hash = token.hash();
    let mut users = message.users.iter();
    let user = users.find(|user| user.token_hashes.iter().any(|other| **other == hash));
    let caller = Caller::with_token(Arc::clone(guard), token);
    let pass = match (caller.pass(), user) {
        (Ok(pass), Some(_)) => pass,
        (Err(fault), None) => {
            assert_eq!(fault.code, Code::Unauthenticated);
            return;
        }
        (pass, user) => panic!("{}: {pass:?} for {user:?}", fuzz.try_number()),
    };
    let user = user.expect("there is one");
    assert_eq!(pass.user(), Some(&*user.name));
    assert_eq!(pass.check_admin().is_ok(), is_admin(user), "{user:?}");
    for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
        for permission in [Permission::Read, Permission::Write] {
            let key = key(fuzz);
            let expected = user
                .grants
                .iter()
                .any(|grant| allows(grant, permission, keyspace) && key.starts_with(&grant.prefix));
            let allowed = pass.check_key(permission, keyspace, &key);
            let what = format!("{}: {permission:?} {keyspace:?} {key:?}", fuzz.try_number());
            assert_eq!(allowed.is_ok(), expected, "{what} for {user:?}");
            // A range that is allowed has no key that is not.
            let end = [&*key, &[fuzz.rng.u8(..)]].concat();
            let range = pass.check_range(permission, keyspace, &key, &end);
            assert!(range.is_err() || expected, "{what} to {end:?} for {user:?}");
            let all = pass.check_range(permission, keyspace, b"", b"");
            let is_over_all = user
                .grants
                .iter()
                .any(|grant| allows(grant, permission, keyspace) && grant.prefix.is_empty());
            // One grant over everything has no prefix; several cannot be, since no prefix begins the empty key.
            assert_eq!(all.is_ok(), is_over_all, "{what} for {user:?}");
        }
    }
}

fn is_admin(user: &User) -> bool {
    user.grants.iter().any(|grant| grant.role() == Role::Admin)
}

fn allows(grant: &Grant, permission: Permission, keyspace: Keyspace) -> bool {
    let is_over = match grant.keyspace() {
        authpb::Keyspace::All => true,
        authpb::Keyspace::Raw => keyspace == Keyspace::Raw,
        authpb::Keyspace::Versioned => keyspace == Keyspace::Versioned,
    };
    let allows = match grant.role() {
        Role::Admin | Role::Writer => true,
        Role::Reader => permission == Permission::Read,
        Role::Store | Role::Unspecified => false,
    };
    is_over && allows
}

/// Mostly such as a placement driver might send.
fn made_up(fuzz: &mut Fuzz, tokens: &[Token; TOKENS]) -> authpb::Rights {
    let names = ["ada", "bob", "c.d", "eve-1", "x_y"];
    let mut users = Vec::new();
    let mut left: Vec<&Token> = tokens.iter().skip(1).collect();
    for name in names.iter().take(fuzz.rng.usize(..=names.len())) {
        let mut token_hashes = Vec::new();
        for _ in 0..fuzz.rng.usize(..=2) {
            let hash = match left.pop() {
                Some(token) if fuzz.rng.u8(..8) > 0 => token.hash().to_vec(),
                _ => fuzz.bytes(33),
            };
            token_hashes.push(Bytes::from(hash));
        }
        let grants = (0..fuzz.rng.usize(..4)).map(|_| grant(fuzz)).collect();
        let subject = match fuzz.rng.u8(..4) {
            0 => format!("CN={name}"),
            _ => String::new(),
        };
        users.push(User {
            name: (*name).to_owned(),
            token_hashes,
            subject,
            grants,
        });
    }
    if fuzz.rng.u8(..8) == 0 {
        fuzz.rng.shuffle(&mut users);
    }
    authpb::Rights {
        version: fuzz.rng.u64(..3),
        users,
    }
}

fn grant(fuzz: &mut Fuzz) -> Grant {
    let role = match fuzz.rng.u8(..12) {
        0 => -1,
        1 => 5,
        other => i32::from(other % 5),
    };
    let is_over_everything = role > 2 && fuzz.rng.u8(..8) > 0;
    Grant {
        role,
        keyspace: if is_over_everything {
            0
        } else {
            fuzz.rng.i32(0..4)
        },
        prefix: if is_over_everything {
            Bytes::new()
        } else {
            key(fuzz).into()
        },
    }
}

/// Of few bytes, so that keys and prefixes meet.
fn key(fuzz: &mut Fuzz) -> Vec<u8> {
    let bytes = [0, b'a', b'b', u8::MAX];
    let length = fuzz.rng.usize(..4);
    let choose = || bytes[fuzz.rng.usize(..bytes.len())];
    std::iter::repeat_with(choose).take(length).collect()
}
