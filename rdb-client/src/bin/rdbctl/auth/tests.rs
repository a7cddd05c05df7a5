//! What can be typed on the command line.

use clap::Parser;
use rdb_client::auth::{Grant, Keyspace, Role};

use super::*;
use crate::arguments::{Arguments, Command};

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(line.split(' '))
}

fn command(line: &str) -> (AuthCommand, Session) {
    let Arguments { global, command } = parse(line).expect(line);
    let Command::Auth(command) = command else {
        panic!("{line}");
    };
    (command, Session::new(&global).expect("plain text"))
}

/// What a line grants or revokes.
fn granted(line: &str) -> Result<(String, Grant), Failure> {
    match command(line) {
        (AuthCommand::Grant(arguments) | AuthCommand::Revoke(arguments), session) => {
            arguments.grant(&session)
        }
        other => panic!("{:?}", other.0),
    }
}

#[test]
fn every_form_of_a_command_is_accepted() {
    for (line, may_write) in [
        ("rdbctl auth enable", true),
        ("rdbctl auth enable --user root --token-out f", true),
        ("rdbctl auth user add ada", true),
        (
            "rdbctl auth user add ada --subject CN=ada --token-out f",
            true,
        ),
        (
            "rdbctl auth user add ada --subject CN=ada --without-token",
            true,
        ),
        ("rdbctl auth user remove ada", true),
        ("rdbctl auth user list -o json", false),
        ("rdbctl auth user token ada", true),
        ("rdbctl auth user token ada --add --token-out f", true),
        ("rdbctl auth user token ada --drop-old", true),
        ("rdbctl auth user token ada --drop-new", true),
        ("rdbctl auth user token ada --replace", true),
        ("rdbctl auth role list", false),
        ("rdbctl auth grant ada admin", true),
        ("rdbctl auth revoke ada reader --prefix a", true),
        ("rdbctl auth check read", false),
        ("rdbctl auth check write k --user ada --keyspace raw", false),
        ("rdbctl auth check write --start a --end b", false),
    ] {
        assert_eq!(command(line).0.may_write(), may_write, "{line}");
    }
}

#[test]
fn wrong_usage_is_refused_with_exit_code_2() {
    for line in [
        "rdbctl auth",
        "rdbctl auth user add",
        "rdbctl auth user add ada --without-token",
        "rdbctl auth user add ada --subject CN=ada --without-token --token-out f",
        "rdbctl auth user token",
        "rdbctl auth user token ada --add --replace",
        "rdbctl auth user token ada --drop-old --token-out f",
        "rdbctl auth user token ada --drop-new --token-out f",
        "rdbctl auth user token ada --drop-new --drop-old",
        "rdbctl auth grant ada",
        "rdbctl auth grant ada owner",
        "rdbctl auth grant ada reader --keyspace all",
        "rdbctl auth check",
        "rdbctl auth check delete k",
        "rdbctl auth check read k --prefix k",
        "rdbctl auth check read k --start k",
        "rdbctl --token flaredb_00 health",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn a_grant_is_over_all_keys_only_if_nothing_narrows_it() {
    let expected = [
        ("rdbctl auth grant ada reader", Grant::new(Role::Reader)),
        ("rdbctl auth revoke ada admin", Grant::new(Role::Admin)),
        (
            "rdbctl auth grant ada writer --keyspace versioned -p 6162 --key-encoding hex",
            Grant::new(Role::Writer)
                .in_keyspace(Keyspace::Versioned)
                .with_prefix("ab"),
        ),
    ];
    for (line, grant) in expected {
        let granted = granted(line).expect(line);
        assert_eq!(granted, ("ada".to_owned(), grant), "{line}");
    }
    for (line, told) in [
        (
            "rdbctl auth grant ada reader --prefix ",
            "the prefix is empty",
        ),
        ("rdbctl auth grant ada admin --prefix a", "takes no keys"),
        (
            "rdbctl auth grant ada store --keyspace raw",
            "takes no keys",
        ),
    ] {
        let refused = granted(line).expect_err(line);
        assert!(matches!(refused, Failure::Usage(_)), "{line}");
        assert!(refused.to_string().contains(told), "{line}: {refused}");
    }
}

/// A token whose answer got lost is got rid of without harm to the one in use.
#[test]
fn a_change_without_an_answer_says_what_to_do_about_the_token_that_it_may_have_made() {
    for (line, look, remedy) in [
        ("rdbctl auth enable", "run it again; if", "without --auth"),
        (
            "rdbctl auth user add ada",
            "user list`; if",
            "token ada --replace`",
        ),
        (
            "rdbctl auth user token ada --replace",
            "run it again; if",
            "token ada --replace`",
        ),
        (
            "rdbctl auth user token stores --add",
            "user list`; if",
            "token stores --drop-new`",
        ),
        (
            "rdbctl auth user token stores",
            "user list`; if",
            "token stores --drop-new`",
        ),
    ] {
        let lost = Failure::Undetermined("lost".to_owned());
        let told = or_look(lost, command(line).0.new_token().as_ref()).to_string();
        assert!(
            told.contains(look) && told.contains(remedy),
            "{line}: {told}"
        );
        if remedy.contains("--drop-new") {
            let (_, otherwise) = told
                .split_once("--replace")
                .expect("a user may have had none");
            assert!(
                told.contains("If it is the only one, --replace"),
                "{line}: {told}"
            );
            assert!(!otherwise.contains("--drop-new"), "{line}: {told}");
        }
    }
    for line in [
        "rdbctl auth user token ada --drop-old",
        "rdbctl auth user token ada --drop-new",
        "rdbctl auth user add ada --subject CN=ada --without-token",
        "rdbctl auth user remove ada",
        "rdbctl auth grant ada reader",
    ] {
        let lost = Failure::Undetermined("lost".to_owned());
        let told = or_look(lost, command(line).0.new_token().as_ref()).to_string();
        assert!(told.ends_with(LOOK), "{line}: {told}");
    }
}

#[test]
fn all_roles_are_listed() {
    use crate::output::{Format, printed};
    let text = printed(Format::Text, |output| {
        let roles = RoleName::ALL.map(RoleLine::from);
        output.table(&roles).expect("printed");
    });
    let roles = text.lines().map(|line| line.split(' ').next());
    let roles: Vec<_> = roles.flatten().collect();
    assert_eq!(roles, ["ROLE", "reader", "writer", "admin", "store"]);
}

#[test]
fn what_comes_next_says_whether_rights_are_enforced() {
    let told = |enforced| Next { enforced }.to_string();
    assert!(told(false).contains("NOT enforced") && told(false).contains("rdb-pd --auth"));
    assert!(told(true).contains("Rights are enforced."));
}
