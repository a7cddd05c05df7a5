use std::time::Duration;

use proptest::prelude::*;
use rdb_proto::auth::BadGrant;
use rdb_proto::auth::limits::PREFIX_BYTES_MAX;
use rdb_proto::transport::limits::CONNECTION_BYTES_IN_FLIGHT_MAX;

use super::*;

/// The hash of a token that no other number has.
fn hash(number: u64) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    hash
}

fn grant(role: Role, keyspace: Keyspace, prefix: &[u8]) -> Grant {
    Grant {
        role: role.into(),
        keyspace: keyspace.into(),
        prefix: Bytes::copy_from_slice(prefix),
    }
}

fn admin() -> Grant {
    grant(Role::Admin, Keyspace::All, b"")
}

fn enable(name: &str) -> Change {
    Change::Enable {
        name: name.to_owned(),
        token_hash: hash(1),
    }
}

/// Adds a user with a subject, a token, or both.
fn add(name: &str, subject: &str, token: Option<u64>) -> Change {
    Change::AddUser {
        name: name.to_owned(),
        subject: subject.to_owned(),
        token_hash: token.map(hash),
    }
}

fn remove(name: &str) -> Change {
    Change::RemoveUser {
        name: name.to_owned(),
    }
}

fn add_token(name: &str, token: u64) -> Change {
    Change::AddToken {
        name: name.to_owned(),
        token_hash: hash(token),
    }
}

fn drop_old(name: &str) -> Change {
    Change::DropOldToken {
        name: name.to_owned(),
    }
}

fn drop_new(name: &str) -> Change {
    Change::DropNewToken {
        name: name.to_owned(),
    }
}

fn replace(name: &str, token: u64) -> Change {
    Change::ReplaceTokens {
        name: name.to_owned(),
        token_hash: hash(token),
    }
}

fn give(name: &str, grant: Grant) -> Change {
    Change::Grant {
        name: name.to_owned(),
        grant,
    }
}

fn take(name: &str, grant: Grant) -> Change {
    Change::Revoke {
        name: name.to_owned(),
        grant,
    }
}

/// The users after changes that are all made.
fn after(changes: &[Change]) -> Users {
    changes.iter().fold(Users::none(), |users, change| {
        let changed = users.changed(change);
        changed.expect("it is not refused").expect("it changes")
    })
}

fn refusal(users: &Users, change: &Change) -> Refusal {
    users.changed(change).expect_err("it is refused")
}

fn tokens(users: &Users, name: &str) -> Vec<Bytes> {
    let at = users.existing(name).expect("there is such a user");
    users.message.users[at].token_hashes.clone()
}

#[test]
fn the_first_admin_is_made_once() {
    let users = after(&[add("ada", "CN=ada", None), enable("root")]);
    assert!(users.has_admin());
    assert_eq!(refusal(&users, &enable("other")), Refusal::AdminExists);
    let without = after(&[add("ada", "CN=ada", None)]);
    assert!(!without.has_admin());
    let taken = Refusal::UserExists {
        name: "ada".to_owned(),
    };
    assert_eq!(refusal(&without, &enable("ada")), taken);
}

#[test]
fn the_last_admin_stays_and_another_one_may_go() {
    let users = after(&[enable("ada"), add("bob", "", Some(2))]);
    let last = Refusal::LastAdmin {
        name: "ada".to_owned(),
    };
    assert_eq!(refusal(&users, &remove("ada")), last);
    assert_eq!(refusal(&users, &take("ada", admin())), last);
    for drop_token in [drop_old("ada"), drop_new("ada")] {
        let only = Refusal::NoOtherToken {
            name: "ada".to_owned(),
        };
        assert_eq!(refusal(&users, &drop_token), only);
    }
    let two = users.changed(&give("bob", admin())).unwrap().unwrap();
    for change in [remove("ada"), take("ada", admin())] {
        let one = two.changed(&change).unwrap().unwrap();
        assert!(one.has_admin());
        let last = Refusal::LastAdmin {
            name: "bob".to_owned(),
        };
        assert_eq!(refusal(&one, &remove("bob")), last);
    }
}

#[test]
fn names_and_subjects_are_of_one_user_each() {
    let users = after(&[add("ada", "CN=ada,O=Example", Some(1))]);
    let exists = Refusal::UserExists {
        name: "ada".to_owned(),
    };
    assert_eq!(refusal(&users, &add("ada", "", Some(2))), exists);
    let taken = Refusal::SubjectTaken {
        name: "ada".to_owned(),
    };
    assert_eq!(
        refusal(&users, &add("bob", "CN=ada,O=Example", None)),
        taken
    );
    // Users without a subject share none.
    let three = after(&[
        add("ada", "", Some(1)),
        add("bob", "", Some(2)),
        add("cy", "CN=cy", None),
    ]);
    assert_eq!(three.count(), 3);
}

#[test]
fn what_is_no_name_no_subject_or_no_credential_is_refused() {
    let users = Users::none();
    for name in [
        "",
        "1a",
        ".a",
        "Ada",
        "a b",
        "a\n",
        "ä",
        "a/b",
        &"a".repeat(65),
    ] {
        assert_eq!(refusal(&users, &add(name, "", Some(1))), Refusal::BadName);
        assert_eq!(refusal(&users, &remove(name)), Refusal::BadName);
    }
    for subject in [
        "ada",
        " CN=ada",
        "CN=a\nda",
        "CN=a\u{0}",
        // As `openssl x509 -subject` writes it.
        "CN = ada, O = Example",
        "CN=ada, O=Example",
    ] {
        let refused = refusal(&users, &add("ada", subject, Some(1)));
        assert_eq!(
            refused,
            Refusal::BadSubject { canonical: None },
            "{subject:?}"
        );
    }
    let long_value = format!("cn={}", "a".repeat(SHOWN_SUBJECT_BYTES_MAX));
    for (subject, canonical) in [
        ("cn=ada", Some("CN=ada")),
        ("CN=ada ", Some(r"CN=ada\ ")),
        (&long_value, None),
    ] {
        let canonical = canonical.map(str::to_owned);
        let told = canonical.clone().unwrap_or_default();
        let refused = refusal(&users, &add("ada", subject, Some(1)));
        assert!(refused.to_string().ends_with(&told), "{refused}");
        assert_eq!(refused, Refusal::BadSubject { canonical });
    }
    let long = format!("CN={}", "a".repeat(SUBJECT_BYTES_MAX));
    let bytes = long.len();
    assert_eq!(
        refusal(&users, &add("ada", &long, Some(1))),
        Refusal::LongSubject { bytes }
    );
    assert_eq!(
        refusal(&users, &add("ada", "", None)),
        Refusal::NoCredential
    );
    assert!(users.changed(&add(&"a".repeat(64), "CN=ada", None)).is_ok());
}

#[test]
fn a_token_is_replaced_with_both_good_for_a_while() {
    let users = after(&[add("ada", "", Some(1)), add_token("ada", 2)]);
    assert_eq!(tokens(&users, "ada"), [token(&hash(1)), token(&hash(2))]);
    assert_eq!(
        refusal(&users, &add_token("ada", 3)),
        Refusal::TokensFull {
            name: "ada".to_owned()
        }
    );
    let new = users.changed(&drop_old("ada")).unwrap().unwrap();
    assert_eq!(tokens(&new, "ada"), [token(&hash(2))]);
    let old = users.changed(&drop_new("ada")).unwrap().unwrap();
    assert_eq!(tokens(&old, "ada"), [token(&hash(1))]);
    let replaced = users.changed(&replace("ada", 3)).unwrap().unwrap();
    assert_eq!(tokens(&replaced, "ada"), [token(&hash(3))]);
    // A user known by a certificate alone gets a token, too.
    let first = after(&[add("ada", "CN=ada", None), replace("ada", 1)]);
    assert_eq!(tokens(&first, "ada"), [token(&hash(1))]);
}

#[test]
fn the_same_grant_again_changes_nothing_and_only_the_same_is_revoked() {
    let reader = grant(Role::Reader, Keyspace::Raw, b"p/");
    let users = after(&[add("ada", "", Some(1)), give("ada", reader.clone())]);
    assert_eq!(users.changed(&give("ada", reader.clone())), Ok(None));
    for other in [
        grant(Role::Writer, Keyspace::Raw, b"p/"),
        grant(Role::Reader, Keyspace::All, b"p/"),
        grant(Role::Reader, Keyspace::Raw, b"p"),
    ] {
        let refused = refusal(&users, &take("ada", other.clone()));
        assert!(matches!(refused, Refusal::NoGrant { .. }), "{refused}");
        assert!(users.changed(&give("ada", other)).unwrap().is_some());
    }
    let none = users.changed(&take("ada", reader)).unwrap().unwrap();
    assert!(none.infos()[0].grants.is_empty());
    assert_eq!(none.version(), users.version() + 1);
}

#[test]
fn a_grant_that_means_nothing_is_refused() {
    let users = after(&[add("ada", "", Some(1))]);
    let unknown_keyspace = Grant {
        keyspace: 7,
        ..grant(Role::Reader, Keyspace::All, b"")
    };
    let unknown_role = Grant {
        role: 7,
        ..grant(Role::Reader, Keyspace::All, b"")
    };
    for (wrong, problem) in [
        (grant(Role::Unspecified, Keyspace::All, b""), BadGrant::Role),
        (unknown_role, BadGrant::Role),
        (unknown_keyspace, BadGrant::Keyspace),
        (
            grant(Role::Reader, Keyspace::All, &[0; PREFIX_BYTES_MAX + 1]),
            BadGrant::PrefixTooLong {
                bytes: PREFIX_BYTES_MAX + 1,
            },
        ),
        (
            grant(Role::Admin, Keyspace::Raw, b""),
            BadGrant::Narrowed {
                role: rdb_proto::auth::Role::Admin,
            },
        ),
        (
            grant(Role::Store, Keyspace::All, b"p"),
            BadGrant::Narrowed {
                role: rdb_proto::auth::Role::Store,
            },
        ),
    ] {
        let refused = refusal(&users, &give("ada", wrong));
        assert_eq!(refused, Refusal::Grant(problem));
    }
}

#[test]
fn whoever_is_not_there_is_named() {
    let no_user = Refusal::NoUser {
        name: "ada".to_owned(),
    };
    for change in [
        remove("ada"),
        add_token("ada", 1),
        drop_old("ada"),
        drop_new("ada"),
        replace("ada", 1),
        give("ada", admin()),
        take("ada", admin()),
    ] {
        assert_eq!(refusal(&Users::none(), &change), no_user);
    }
    assert!(no_user.to_string().contains("user ada"));
}

#[test]
fn there_is_a_limit_on_users_and_on_grants_of_one() {
    let mut users = Users::none();
    for number in 0..USERS_MAX as u64 {
        let change = add(&format!("u{number}"), "", Some(number));
        users = users.changed(&change).unwrap().unwrap();
    }
    assert_eq!(
        refusal(&users, &add("one-more", "", Some(1))),
        Refusal::UsersFull
    );
    assert!(users.compile().is_ok());

    let mut one = after(&[add("ada", "", Some(1))]);
    for number in 0..GRANTS_MAX {
        let grant = grant(Role::Reader, Keyspace::Raw, format!("{number}/").as_bytes());
        one = one.changed(&give("ada", grant)).unwrap().unwrap();
    }
    let more = give("ada", grant(Role::Reader, Keyspace::Raw, b"more"));
    assert!(matches!(refusal(&one, &more), Refusal::GrantsFull { .. }));
}

/// As many of the longest grants as there is room for. What takes away can be written then, too.
#[test]
fn all_together_have_a_limit_that_holds_up_no_revocation() {
    let long = |number: usize| {
        let mut prefix = vec![b'p'; PREFIX_BYTES_MAX];
        prefix[..8].copy_from_slice(&number.to_be_bytes());
        grant(Role::Reader, Keyspace::Raw, &prefix)
    };
    let mut users = Users::none();
    // The next version takes a byte more.
    users.message.version = (1 << 14) - 500;
    users = users
        .changed(&add("last", "", Some(u64::MAX - 1)))
        .unwrap()
        .unwrap();
    let mut full = None;
    'users: for user in 0..USERS_MAX {
        let name = format!("u{user}");
        let added = add(&name, "", Some(user as u64));
        users = users.changed(&added).unwrap().unwrap();
        for number in 0..GRANTS_MAX {
            match users.changed(&give(&name, long(number))) {
                Ok(next) => users = next.expect("it is new"),
                Err(refused) => {
                    full = Some((name, refused));
                    break 'users;
                }
            }
        }
    }
    let (name, refused) = full.expect("there is a limit");
    assert_eq!(refused, Refusal::RightsFull);
    // The longest grant that there is room for takes the rest.
    let last = |bytes: usize| {
        give(
            "last",
            grant(Role::Reader, Keyspace::Raw, &vec![b'q'; bytes]),
        )
    };
    let mut lengths = (0..PREFIX_BYTES_MAX).rev();
    let fitting = lengths.find_map(|bytes| users.changed(&last(bytes)).ok());
    users = fitting.flatten().expect("there is room for an empty one");
    assert!(users.encoded_bytes() <= RIGHTS_BYTES_MAX - SPARE_BYTES);
    // A byte more of a prefix may take more of the lengths before it.
    assert!(users.encoded_bytes() + 3 >= RIGHTS_BYTES_MAX - SPARE_BYTES);
    users.message.version = (1 << 14) - 1;
    for change in [replace(&name, u64::MAX), remove(&name), take("u0", long(0))] {
        let next = users.changed(&change).expect("it is not refused");
        let next = next.expect("it changes");
        assert!(next.compile().is_ok());
        assert_eq!(Users::decode(&next.encode()).unwrap(), next);
    }
}

#[test]
fn a_damaged_record_is_refused_with_what_is_wrong() {
    let users = after(&[enable("ada"), add("bob", "CN=bob", None)]);
    let damaged = |change: fn(&mut authpb::Rights)| {
        let mut message = users.message.clone();
        change(&mut message);
        let damage = Users::decode(&message.encode_to_vec());
        damage.expect_err("it is damaged").to_string()
    };
    assert!(damaged(|message| message.version = 0).contains("version 0"));
    assert!(damaged(|message| message.version = u64::MAX).contains("version"));
    assert!(damaged(|message| message.users.swap(0, 1)).contains("user 2"));
    let nobody = damaged(|message| message.users[1].subject.clear());
    assert!(nobody.contains("user bob has neither"), "{nobody}");
    let hash = damaged(|message| message.users[0].token_hashes[0] = Bytes::from_static(b"short"));
    assert!(hash.contains("user 1"), "{hash}");
    assert!(Users::decode(b"\xff").is_err());
    assert!(Users::decode(b"").is_err(), "it has no version");
    assert_eq!(Users::decode(&users.encode()).unwrap(), users);
}

#[test]
fn a_directory_that_may_be_an_older_copy_has_a_version_that_no_store_has_seen() {
    let users = after(&[enable("ada")]);
    // The clock may be behind, or far ahead.
    let day = Duration::from_secs(86_400);
    for now in [
        UNIX_EPOCH - day,
        UNIX_EPOCH,
        UNIX_EPOCH + 20_000 * day,
        UNIX_EPOCH + 20_001 * day,
    ] {
        let restored = users.restored(now);
        assert!(restored.version() > users.version() + 100_000);
        assert_eq!(restored.message.users, users.message.users);
        assert_eq!(Users::decode(&restored.encode()).unwrap(), restored);
        // It is used a second time, a second later.
        let again = users.restored(now + Duration::from_secs(1));
        assert!(now < UNIX_EPOCH + day || again.version() > restored.version() + 100_000);
        let twice = restored.restored(now);
        assert!(twice.version() > restored.version() + 100_000);
    }
    let mut last = users;
    last.message.version = VERSION_MAX;
    let restored = last.restored(UNIX_EPOCH);
    assert_eq!(Users::decode(&restored.encode()).unwrap(), restored);
}

#[test]
fn an_answer_has_room_for_the_list_and_for_what_is_sent() {
    let mut users = after(&[add("ada", "CN=ada", Some(1))]);
    for number in 0..GRANTS_MAX {
        let grant = grant(Role::Reader, Keyspace::Raw, &[number as u8]);
        users = users.changed(&give("ada", grant)).unwrap().unwrap();
    }
    let listed_bytes = size_of::<User>() + GRANTS_MAX * size_of::<Grant>();
    let bytes_max = users.answer_bytes_max();
    assert!(
        bytes_max >= users.encoded_bytes() + listed_bytes,
        "{bytes_max}"
    );
    // No list is so long that no connection has room for it.
    let most_bytes = USERS_MAX * size_of::<User>() + USERS_MAX * GRANTS_MAX * size_of::<Grant>();
    assert!(most_bytes + 2 * RIGHTS_BYTES_MAX < CONNECTION_BYTES_IN_FLIGHT_MAX);
}

/// Changes of few users with few tokens, subjects and grants, so that they meet.
fn any_change() -> impl Strategy<Value = Change> {
    let name = || prop::sample::select(vec!["ada", "bob", "cy", "Dan", ""]).prop_map(str::to_owned);
    let subject = prop::sample::select(vec!["", "CN=a", "CN=b", "none"]).prop_map(str::to_owned);
    let token_hash = || any::<[u8; 32]>();
    let role = prop::sample::select(vec![
        Role::Unspecified,
        Role::Reader,
        Role::Writer,
        Role::Admin,
        Role::Admin,
        Role::Store,
    ]);
    let keyspace = prop::sample::select(vec![
        Keyspace::All,
        Keyspace::All,
        Keyspace::Raw,
        Keyspace::Versioned,
    ]);
    let prefix = prop::sample::select(vec![&b""[..], b"", b"p", b"p/"]);
    let grants =
        (role, keyspace, prefix).prop_map(|(role, keyspace, prefix)| grant(role, keyspace, prefix));
    let grants = grants.boxed();
    prop_oneof![
        (name(), token_hash()).prop_map(|(name, token_hash)| Change::Enable { name, token_hash }),
        (name(), subject, prop::option::of(token_hash())).prop_map(
            |(name, subject, token_hash)| {
                Change::AddUser {
                    name,
                    subject,
                    token_hash,
                }
            }
        ),
        name().prop_map(|name| Change::RemoveUser { name }),
        (name(), token_hash()).prop_map(|(name, token_hash)| Change::AddToken { name, token_hash }),
        name().prop_map(|name| Change::DropOldToken { name }),
        name().prop_map(|name| Change::DropNewToken { name }),
        (name(), token_hash())
            .prop_map(|(name, token_hash)| Change::ReplaceTokens { name, token_hash }),
        (name(), grants.clone()).prop_map(|(name, grant)| Change::Grant { name, grant }),
        (name(), grants).prop_map(|(name, grant)| Change::Revoke { name, grant }),
    ]
}

proptest! {
    #[test]
    fn whatever_is_done_the_rights_can_be_used_and_an_admin_stays(
        changes in prop::collection::vec(any_change(), 0..60),
    ) {
        let mut users = Users::none();
        for change in &changes {
            let Ok(Some(next)) = users.changed(change) else {
                continue;
            };
            // Names, tokens and subjects that are there twice, and grants that are none, it would not take.
            let rights = next.compile();
            prop_assert!(rights.is_ok(), "{:?} of {:?}", rights, change);
            prop_assert!(next.message.users.iter().all(has_credential));
            prop_assert!(next.version() > users.version());
            prop_assert!(next.has_admin() || !users.has_admin());
            prop_assert_eq!(next.has_admin(), rights.is_ok_and(|rights| rights.has_admin()));
            prop_assert_eq!(&Users::decode(&next.encode()).unwrap(), &next);
            users = next;
        }
    }

    #[test]
    fn a_record_of_any_bytes_is_read_without_a_panic(record: Vec<u8>) {
        let _ = Users::decode(&record);
    }
}
