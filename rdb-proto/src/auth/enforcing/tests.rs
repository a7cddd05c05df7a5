//! What callers may do as the rights of a server change.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use super::role::{Keyspace, Permission, Role};
use super::token::Token;
use super::{Caller, Guard, Pass, Rights};
use crate::authpb;
use crate::error::Fault;
use crate::errorpb::Fate;

const KEY: &[u8] = b"a/1";

pub(super) fn grant(role: Role, keyspace: authpb::Keyspace, prefix: &[u8]) -> authpb::Grant {
    authpb::Grant {
        role: authpb::Role::from(role).into(),
        keyspace: keyspace.into(),
        prefix: prefix.to_vec().into(),
    }
}

pub(super) fn everywhere(role: Role) -> authpb::Grant {
    grant(role, authpb::Keyspace::All, b"")
}

pub(super) fn user(name: &str, tokens: &[&Token], grants: &[authpb::Grant]) -> authpb::User {
    let hashes = tokens.iter().map(|token| token.hash().to_vec().into());
    authpb::User {
        name: name.to_owned(),
        token_hashes: hashes.collect(),
        subject: String::new(),
        grants: grants.to_vec(),
    }
}

pub(super) fn rights(version: u64, users: &[authpb::User]) -> Arc<Rights> {
    let message = authpb::Rights {
        version,
        users: users.to_vec(),
    };
    Arc::new(Rights::of(&message).expect("good rights"))
}

fn code<T>(result: Result<T, Fault>) -> Option<Code> {
    let fault = result.err()?;
    assert_eq!(fault.fate, Fate::NotApplied, "{}", fault.cause);
    Some(fault.code)
}

fn reads(pass: &Pass) -> Result<(), Fault> {
    pass.check_key(Permission::Read, Keyspace::Raw, KEY)
}

fn reads_now(caller: &Caller) -> Result<(), Fault> {
    reads(&caller.pass()?)
}

/// Ada reads, with one of these tokens.
fn of_ada(version: u64, tokens: &[&Token]) -> Arc<Rights> {
    rights(version, &[user("ada", tokens, &[everywhere(Role::Reader)])])
}

#[test]
fn nothing_is_refused_while_rights_are_not_enforced() {
    let guard = Arc::new(Guard::off());
    assert!(!guard.is_enforced());
    assert_eq!((guard.version(), guard.age()), (None, None));
    for caller in [
        Caller::anyone(),
        Caller::with_token(Arc::clone(&guard), &Token::random()),
    ] {
        let pass = caller.pass().expect("allowed");
        let (write, versioned) = (Permission::Write, Keyspace::Versioned);
        pass.check_key(write, versioned, KEY).expect("allowed");
        pass.check_range(write, versioned, b"", b"")
            .expect("allowed");
        pass.check_admin().expect("allowed");
        pass.check_store().expect("allowed");
        pass.check_signed_in().expect("allowed");
        assert_eq!((pass.user(), caller.name()), (None, None));
    }
}

#[test]
fn nobody_is_no_user() {
    let nobody = Caller::nobody();
    assert_eq!(code(reads_now(&nobody)), Some(Code::Unauthenticated));
    assert!(!nobody.is_signed_in() && nobody.name().is_none());
}

#[test]
fn a_caller_that_was_let_in_before_is_held_to_rights_once_they_are_enforced() {
    let token = Token::random();
    let guard = Arc::new(Guard::off());
    let ada = Caller::with_token(Arc::clone(&guard), &token);
    let other = Caller::with_token(Arc::clone(&guard), &Token::random());
    guard.set(Some(of_ada(1, &[&token])));
    assert_eq!(code(reads_now(&ada)), None);
    assert_eq!(ada.pass().expect("a user").user(), Some("ada"));
    assert_eq!(ada.name().as_deref(), Some("ada"));
    assert_eq!(code(reads_now(&other)), Some(Code::Unauthenticated));
    guard.set(None);
    assert_eq!(code(reads_now(&other)), None);
}

#[test]
fn everything_is_refused_as_long_as_there_are_no_rights() {
    let token = Token::random();
    let guard = Arc::new(Guard::refusing().with_stale_max(Duration::ZERO));
    assert!(guard.is_enforced());
    assert_eq!((guard.version(), guard.age()), (None, None));
    let ada = Caller::with_token(Arc::clone(&guard), &token);
    let refused = ada.pass().expect_err("there are none");
    assert!(refused.cause.contains("no copy"), "{}", refused.cause);
    assert_eq!(code(reads_now(&ada)), Some(Code::Unavailable));
    assert_eq!(guard.refusals().unavailable(), 2);

    let guard = Arc::new(Guard::refusing());
    let ada = Caller::with_token(Arc::clone(&guard), &token);
    guard.set(Some(of_ada(7, &[&token])));
    assert_eq!(code(reads_now(&ada)), None);
    assert_eq!(guard.version(), Some(7));
    assert!(guard.age().is_some());
    guard.refuse();
    assert_eq!(code(reads_now(&ada)), Some(Code::Unavailable));
    assert_eq!((guard.version(), guard.age()), (None, None));
    guard.set(None);
    assert_eq!(code(reads_now(&ada)), None);
    guard.refuse();
    assert_eq!(code(reads_now(&ada)), Some(Code::Unavailable));
}

/// What a stream may do changes with the rights: each line is a change and its result.
#[test]
fn a_revocation_counts_from_the_next_pass_on() {
    let [old, new] = [Token::random(), Token::random()];
    let guard = Arc::new(Guard::without_limit(of_ada(1, &[&old])));
    let caller = Caller::with_token(Arc::clone(&guard), &old);
    let kept = caller.pass().expect("a user");
    assert_eq!(caller.name().as_deref(), Some("ada"));
    for (what, now, expected) in [
        ("as before", of_ada(2, &[&old]), None),
        ("a second token", of_ada(3, &[&old, &new]), None),
        (
            "the first one is dropped",
            of_ada(4, &[&new]),
            Some(Code::Unauthenticated),
        ),
        ("it is back", of_ada(5, &[&old]), None),
        (
            "the grant is revoked",
            rights(6, &[user("ada", &[&old], &[])]),
            Some(Code::PermissionDenied),
        ),
        (
            "another grant",
            rights(7, &[user("ada", &[&old], &[everywhere(Role::Store)])]),
            Some(Code::PermissionDenied),
        ),
        ("it is back", of_ada(8, &[&old]), None),
        (
            "the user is removed",
            rights(9, &[]),
            Some(Code::Unauthenticated),
        ),
        (
            "the token is another user's",
            rights(10, &[user("bob", &[&old], &[])]),
            Some(Code::PermissionDenied),
        ),
    ] {
        guard.set(Some(now));
        // Whether it is looked up or remembered.
        for _ in 0..2 {
            assert_eq!(code(reads_now(&caller)), expected, "{what}");
        }
    }
    assert_eq!(caller.name().as_deref(), Some("bob"));
    assert_eq!(code(reads(&kept)), None, "a pass is of its moment");
    assert_eq!(guard.refusals().unauthenticated(), 4);
    assert_eq!(guard.refusals().denied(), 6);
    assert_eq!(guard.refusals().unavailable(), 0);
}

/// A stream may say nothing for a day.
#[test]
fn a_caller_keeps_no_rights_alive() {
    let token = Token::random();
    let old = of_ada(1, &[&token]);
    let guard = Arc::new(Guard::without_limit(Arc::clone(&old)));
    let caller = Caller::with_token(Arc::clone(&guard), &token);
    caller.pass().expect("a user");
    guard.set(Some(of_ada(2, &[&token])));
    assert_eq!(Arc::strong_count(&old), 1);
    caller.pass().expect("a user");
    assert_eq!(caller.name().as_deref(), Some("ada"));
}

#[test]
fn whether_rights_have_changed_is_told_without_a_look_up() {
    let token = Token::random();
    let guard = Arc::new(Guard::off());
    let caller = Caller::with_token(Arc::clone(&guard), &token);
    assert!(!caller.has_other_rights() && !Caller::anyone().has_other_rights());
    for version in 1..3 {
        guard.set(Some(of_ada(version, &[&token])));
        assert!(caller.has_other_rights());
        caller.pass().expect("a user");
        assert!(!caller.has_other_rights());
    }
    guard.refuse();
    assert!(caller.has_other_rights());
}

#[test]
fn who_is_signed_in_is_told_also_by_old_rights_and_nobody_counts_that() {
    let [token, newcomer] = [Token::random(), Token::random()];
    let users = [
        user("ada", &[&token], &[everywhere(Role::Reader)]),
        user("newcomer", &[&newcomer], &[]),
    ];
    let guard = Guard::without_limit(rights(1, &users)).with_stale_max(Duration::ZERO);
    let guard = Arc::new(guard);
    let is_signed_in = |token| Caller::with_token(Arc::clone(&guard), token).is_signed_in();
    let stranger = Token::random();
    let all = || [&token, &newcomer, &stranger].map(is_signed_in);
    assert_eq!(all(), [true, false, false]);
    guard.refuse();
    assert_eq!(all(), [false; 3]);
    guard.set(None);
    assert_eq!(all(), [true; 3]);
    let refusals = guard.refusals();
    assert_eq!((refusals.unauthenticated(), refusals.denied()), (0, 0));
    assert_eq!(refusals.unavailable(), 0);
    assert!(Caller::anyone().is_signed_in());
}

#[test]
fn a_refusal_names_the_missing_right_and_never_the_key() {
    let token = Token::random();
    let guard = Guard::without_limit(rights(1, &[user("ada", &[&token], &[])]));
    let pass = Caller::with_token(Arc::new(guard), &token).pass();
    let pass = pass.expect("a user");
    let (write, read) = (Permission::Write, Permission::Read);
    let cause = |checked: Result<(), Fault>| {
        let refused = checked.expect_err("refused");
        assert_eq!(refused.code, Code::PermissionDenied);
        refused.cause
    };
    for (checked, right) in [
        (
            pass.check_key(write, Keyspace::Versioned, b"secret"),
            "writer over this key of the versioned keyspace",
        ),
        (
            pass.check_range(read, Keyspace::Raw, b"secret", b"secret2"),
            "reader over all of this range of the raw keyspace",
        ),
        (pass.check_admin(), "admin"),
        (pass.check_store(), "store"),
        (pass.check_signed_in(), "any role"),
    ] {
        let expected = format!("user ada lacks the right: {right}");
        assert_eq!(cause(checked), expected);
    }
}

#[test]
fn a_caller_can_be_looked_up_in_rights_that_are_not_enforced_and_nobody_counts_that() {
    let token = Token::random();
    let guard = Arc::new(Guard::off());
    let rights = of_ada(1, &[&token]);
    let ada = Caller::with_token(Arc::clone(&guard), &token);
    let pass = ada.pass_in(&rights).expect("a user");
    assert_eq!(pass.user(), Some("ada"));
    assert_eq!(code(pass.check_admin()), Some(Code::PermissionDenied));
    let other = Caller::with_token(Arc::clone(&guard), &Token::random());
    for nobody in [other, Caller::anyone()] {
        let refused = code(nobody.pass_in(&rights));
        assert_eq!(refused, Some(Code::Unauthenticated));
    }
    let named = rights.pass_of("ada").expect("there is one");
    assert_eq!(code(reads(&named)), None);
    assert!(rights.pass_of("bob").is_none());
    let refusals = guard.refusals();
    assert_eq!((refusals.denied(), refusals.unauthenticated()), (0, 0));
}

#[test]
fn no_debug_output_has_a_token_or_its_hash() {
    let token = Token::random();
    let guard = Arc::new(Guard::without_limit(of_ada(1, &[&token])));
    let caller = Caller::with_token(Arc::clone(&guard), &token);
    let shown = format!("{guard:?} {caller:?} {:?}", caller.pass());
    assert!(shown.contains("ada"));
    assert!(!shown.contains(&token.to_string()["flaredb_".len()..]));
    let hash = format!("{:?}", token.hash());
    assert!(!shown.contains(hash.trim_matches(['[', ']'])), "{shown}");
}
