//! Rights in messages: which are accepted, and that they are enforced to the letter.

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::super::BadGrant;
use super::super::limits::PREFIX_BYTES_MAX;
use super::super::tests::{everywhere, grant, rights, user};
use super::super::token::Token;
use super::*;

const ALL: authpb::Keyspace = authpb::Keyspace::All;

/// What is wrong with rights whose first user is made of a good one so.
fn problem(change: impl FnOnce(&mut authpb::User)) -> BadUser {
    let mut user = user("ada", &[&Token::random()], &[everywhere(Role::Reader)]);
    change(&mut user);
    let message = authpb::Rights {
        version: 1,
        users: vec![user],
    };
    match Rights::of(&message) {
        Err(BadRights::User { number: 1, problem }) => problem,
        other => panic!("{other:?}"),
    }
}

fn problem_of_grant(grant: authpb::Grant) -> BadGrant {
    assert!(super::super::check_grant(&grant).is_err());
    match problem(|user| user.grants.push(grant)) {
        BadUser::Grant(problem) => problem,
        other => panic!("{other:?}"),
    }
}

/// What is wrong with the second of two users.
fn problem_of_second(first: authpb::User, second: authpb::User) -> BadUser {
    let message = authpb::Rights {
        version: 1,
        users: vec![first, second],
    };
    match Rights::of(&message) {
        Err(BadRights::User { number: 2, problem }) => problem,
        other => panic!("{other:?}"),
    }
}

fn named(name: &str) -> authpb::User {
    user(name, &[], &[])
}

#[test]
fn rights_without_a_version_or_beyond_a_limit_are_refused() {
    let of = |version, users| Rights::of(&authpb::Rights { version, users }).map(drop);
    assert_eq!(of(0, Vec::new()), Err(BadRights::NoVersion));
    let many = |count| (0..count).map(|number| named(&format!("u{number:04}")));
    assert_eq!(of(1, many(USERS_MAX).collect()), Ok(()));
    let count = USERS_MAX + 1;
    let too_many = Err(BadRights::TooManyUsers { count });
    assert_eq!(of(1, many(count).collect()), too_many);
    let long = |mut user: authpb::User| {
        let prefixes = (0..GRANTS_MAX).map(|number| vec![number as u8; PREFIX_BYTES_MAX]);
        let grants = prefixes.map(|prefix| grant(Role::Reader, ALL, &prefix));
        user.grants = grants.collect();
        user
    };
    assert_eq!(of(1, many(3).map(long).collect()), Ok(()));
    let too_long = of(1, many(5).map(long).collect());
    assert!(matches!(too_long, Err(BadRights::TooLong { .. })));
}

#[test]
fn users_have_names_in_order_each_once() {
    for name in ["a", "ada.lovelace_2-x", &"a".repeat(NAME_BYTES_MAX)] {
        assert!(is_user_name(name), "{name}");
    }
    for name in [
        "",
        "1a",
        ".a",
        "-a",
        "_a",
        "Ada",
        "a b",
        "a\n",
        "a/",
        "ä",
        "a\0",
        "aä",
        &"a".repeat(NAME_BYTES_MAX + 1),
    ] {
        assert!(!is_user_name(name), "{name}");
        assert_eq!(problem(|user| user.name = name.to_owned()), BadUser::Name);
    }
    for second in ["ada", "abe"] {
        let problem = problem_of_second(named("ada"), named(second));
        assert_eq!(problem, BadUser::Order);
    }
}

#[test]
fn tokens_are_whole_hashes_of_one_user_and_few() {
    let [first, second, third] = [Token::random(), Token::random(), Token::random()];
    for bytes in [0, TOKEN_BYTES - 1, TOKEN_BYTES + 1] {
        let hash = vec![0; bytes].into();
        let problem = problem(|user| user.token_hashes.push(hash));
        assert_eq!(problem, BadUser::TokenHash { bytes });
    }
    let twice = user("ada", &[&first, &first], &[]);
    let found = problem(|user| user.token_hashes = twice.token_hashes.clone());
    assert_eq!(found, BadUser::TokenTaken);
    let ada = user("ada", &[&first, &second], &[]);
    let bob = user("bob", &[&third, &second], &[]);
    assert_eq!(problem_of_second(ada, bob), BadUser::TokenTaken);
    let three = user("ada", &[&first, &second, &third], &[]);
    let found = problem(|user| user.token_hashes = three.token_hashes.clone());
    assert_eq!(found, BadUser::TooManyTokens { count: 3 });
}

#[test]
fn a_subject_is_of_one_user_and_no_subject_is_of_nobody() {
    let with_subject = |name, subject: &str| authpb::User {
        subject: subject.to_owned(),
        ..named(name)
    };
    let taken = problem_of_second(with_subject("ada", "CN=a"), with_subject("bob", "CN=a"));
    assert_eq!(taken, BadUser::SubjectTaken);
    let bytes = SUBJECT_BYTES_MAX + 1;
    let long = problem(|user| user.subject = "x".repeat(bytes));
    assert_eq!(long, BadUser::SubjectTooLong { bytes });
    let none = rights(1, &[with_subject("ada", ""), with_subject("bob", "")]);
    assert_eq!(none.user_of_subject(""), None);
}

#[test]
fn grants_are_known_and_each_is_there_once() {
    let too_many = |user: &mut authpb::User| {
        let prefixes = 0..=GRANTS_MAX as u8;
        let grants = prefixes.map(|prefix| grant(Role::Reader, ALL, &[prefix]));
        user.grants = grants.collect();
    };
    let count = GRANTS_MAX + 1;
    assert_eq!(problem(too_many), BadUser::TooManyGrants { count });
    let twice = |user: &mut authpb::User| user.grants.push(everywhere(Role::Reader));
    assert_eq!(problem(twice), BadUser::GrantTwice);
    for role in [0, 5, -1, i32::MAX] {
        let unknown = authpb::Grant {
            role,
            ..everywhere(Role::Reader)
        };
        assert_eq!(problem_of_grant(unknown), BadGrant::Role);
    }
    for keyspace in [3, -1, i32::MAX] {
        let unknown = authpb::Grant {
            keyspace,
            ..everywhere(Role::Reader)
        };
        assert_eq!(problem_of_grant(unknown), BadGrant::Keyspace);
    }
    let bytes = PREFIX_BYTES_MAX + 1;
    let long = grant(Role::Reader, ALL, &vec![0; bytes]);
    assert_eq!(problem_of_grant(long), BadGrant::PrefixTooLong { bytes });
    for role in [Role::Admin, Role::Store] {
        for narrowed in [
            grant(role, ALL, b"a"),
            grant(role, authpb::Keyspace::Raw, b""),
        ] {
            assert_eq!(problem_of_grant(narrowed), BadGrant::Narrowed { role });
        }
    }
}

#[test]
fn an_admin_may_do_everything_and_a_store_only_what_stores_do() {
    let rights = rights(
        1,
        &[
            user("admin", &[], &[everywhere(Role::Admin)]),
            user("reader", &[], &[everywhere(Role::Reader)]),
            user("store", &[], &[everywhere(Role::Store)]),
        ],
    );
    assert!(rights.has_admin());
    let (read, write) = (Permission::Read, Permission::Write);
    let may = |name: &str| {
        let pass = rights.pass_of(name).expect("there is one");
        let checks = [
            pass.check_admin(),
            pass.check_store(),
            pass.check_signed_in(),
            pass.check_range(read, Keyspace::Raw, b"", b""),
            pass.check_key(write, Keyspace::Versioned, b"a"),
        ];
        checks.map(|checked| checked.is_ok())
    };
    assert_eq!(may("admin"), [true; 5]);
    assert_eq!(may("reader"), [false, false, true, true, false]);
    assert_eq!(may("store"), [false, true, true, false, false]);
}

fn any_role() -> impl Strategy<Value = Role> {
    prop::sample::select(&[Role::Reader, Role::Writer, Role::Admin, Role::Store][..])
}

fn any_keyspace() -> impl Strategy<Value = authpb::Keyspace> {
    let all = [
        authpb::Keyspace::All,
        authpb::Keyspace::Raw,
        authpb::Keyspace::Versioned,
    ];
    prop::sample::select(all.to_vec())
}

/// Short keys of few bytes, so that prefixes hit.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&[0_u8, 1, 255][..]), 0..3)
}

fn good_grant() -> impl Strategy<Value = authpb::Grant> {
    (any_role(), any_keyspace(), any_key()).prop_map(|(role, keyspace, prefix)| {
        if role.is_over_everything() {
            everywhere(role)
        } else {
            grant(role, keyspace, &prefix)
        }
    })
}

/// A user that may be wrong in any way.
fn any_user() -> impl Strategy<Value = authpb::User> {
    let grant = (-1..6, -1..4, any_key()).prop_map(|(role, keyspace, prefix)| authpb::Grant {
        role,
        keyspace,
        prefix: prefix.into(),
    });
    (
        prop_oneof!["[ab]", ".{0,3}"],
        // Few, so that two users may have the same one.
        prop::collection::vec(
            (0..3_u8, 31..33_usize).prop_map(|(byte, bytes)| vec![byte; bytes]),
            0..3,
        ),
        prop_oneof!["", "CN=[ab]"],
        prop::collection::vec(prop_oneof![grant, good_grant()], 0..4),
    )
        .prop_map(|(name, hashes, subject, grants)| authpb::User {
            name,
            token_hashes: hashes.into_iter().map(Into::into).collect(),
            subject,
            grants,
        })
}

/// Every user of accepted rights is found by its token and subject, and by nothing else.
fn check_accepted(message: &authpb::Rights, rights: &Rights) -> TestCaseResult {
    let mut names = Vec::new();
    for (position, user) in message.users.iter().enumerate() {
        names.push(&user.name);
        for hash in &user.token_hashes {
            let hash = <[u8; TOKEN_BYTES]>::try_from(&**hash);
            let found = rights.user_of_token(&hash.expect("a whole hash"));
            prop_assert_eq!(found, Some(position));
        }
        let of_subject = rights.user_of_subject(&user.subject);
        prop_assert_eq!(of_subject, (!user.subject.is_empty()).then_some(position));
    }
    prop_assert!(names.is_sorted_by(|before, behind| before < behind));
    Ok(())
}

proptest! {
    #[test]
    fn whatever_arrives_is_refused_or_kept_to(version in 0..3_u64, users in prop::collection::vec(any_user(), 0..4)) {
        let message = authpb::Rights { version, users };
        if let Ok(rights) = Rights::of(&message) {
            check_accepted(&message, &rights)?;
        }
    }

    /// Good rights in which some bytes are changed, missing or repeated.
    #[test]
    fn garbage_does_not_panic(
        grants in prop::collection::vec(good_grant(), 0..3),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, any::<u8>()), 0..4),
    ) {
        let users = ["ada", "bob"].map(|name| user(name, &[&Token::random()], &grants));
        let good = authpb::Rights { version: 7, users: users.to_vec() };
        let mut bytes = good.encode_to_vec();
        for (index, change, byte) in changes {
            let index = index.index(bytes.len());
            match change {
                0 => bytes[index] = byte,
                1 => bytes.insert(index, byte),
                _ => bytes.truncate(index.max(1)),
            }
        }
        if let Ok(message) = authpb::Rights::decode(&*bytes)
            && let Ok(rights) = Rights::of(&message)
        {
            check_accepted(&message, &rights)?;
        }
    }

    #[test]
    fn a_user_may_do_what_one_of_its_grants_says(
        grants in prop::collection::vec(good_grant(), 0..5),
        key in any_key(),
        write: bool,
        versioned: bool,
    ) {
        let mut once = Vec::new();
        for grant in grants {
            if !once.contains(&grant) {
                once.push(grant);
            }
        }
        let rights = rights(1, &[user("ada", &[], &once)]);
        let pass = rights.pass_of("ada").expect("there is one");
        let permission = if write { Permission::Write } else { Permission::Read };
        let keyspace = if versioned { Keyspace::Versioned } else { Keyspace::Raw };
        let expected = once.iter().any(|grant| {
            let of_role = match grant.role() {
                authpb::Role::Admin | authpb::Role::Writer => true,
                authpb::Role::Reader => !write,
                _ => false,
            };
            let of_keyspace = match grant.keyspace() {
                authpb::Keyspace::All => true,
                authpb::Keyspace::Raw => !versioned,
                authpb::Keyspace::Versioned => versioned,
            };
            of_role && of_keyspace && key.starts_with(&grant.prefix)
        });
        prop_assert_eq!(pass.check_key(permission, keyspace, &key).is_ok(), expected);
        let behind = [&key[..], &[0]].concat();
        prop_assert_eq!(pass.check_range(permission, keyspace, &key, &behind).is_ok(), expected);
    }
}
