//! The command line: global options, and the subcommands that the other files define.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ContextKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use rdb_client::{Config, Tls, TokenSource};
use rdb_proto::transport::Connector;
use rdb_proto::transport::tls::ClientTls;
use tracing::level_filters::LevelFilter;

use crate::auth::AuthCommand;
use crate::bench::BenchCommand;
use crate::cas::CasCommand;
use crate::cert::CertCommand;
use crate::encoding::KeyEncoding;
use crate::failure::Failure;
use crate::operator::OperatorCommand;
use crate::output::Format;
use crate::playground::PlaygroundArguments;
use crate::raw::RawCommand;
use crate::region::RegionCommand;
use crate::shell_support::{CompletionsArguments, ManualArguments};
use crate::status::StatusArguments;
use crate::store::StoreCommand;
use crate::tso::TsoArguments;

const GLOBAL: &str = "Global options";

/// The variable that holds a token itself.
const TOKEN_VARIABLE: &str = "RDBCTL_TOKEN";

/// What a token looks like.
const TOKEN_FORM: &str = "flaredb_ and 64 digits of 0-9 and a-f";

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed: a write was certainly not applied, unless it is standard output
     that failed; for `health`: something is not serving; for `status`: there is
     an alarm; for `auth check`: it is not allowed; a right or a token is missing
  2  usage: an argument is wrong or over a limit; nothing was done
  3  not found: the key does not exist, or there is no such region, store,
     operator, user or grant
  4  conflict: the key has another version; nothing was changed
  5  undetermined: the write may or may not have been applied, and may be yet,
     after a read that does not see it; `cas put` and `cas del` again with the
     same --expect of at least 1 are applied at most once

Keys (--key-encoding):
  text     as they are, byte for byte; printed like `escaped`
  escaped  \\xHH is a byte; \\n, \\r, \\t line feed, carriage return, tab; \\\\ a backslash
  hex      two hexadecimal digits per byte
  base64   standard alphabet, padded
  Keys are typed and printed in the same encoding: what a scan prints in
  `escaped`, `hex` or `base64` can be typed again.

Values:
  `raw get` and `cas get --value-only` write exactly the value's bytes, and a
  line feed behind them only to a terminal. Where a line has several columns,
  tabs separate them and values are escaped.

JSON (--output json):
  One object per line. Keys and values are strings, or {\"base64\": \"…\"} when they
  are not UTF-8, whatever --key-encoding says. Timestamps are strings, since
  they exceed 53 bits. A failure is an object, too:
  {\"error\": {\"kind\": \"not_found\", \"message\": \"…\"}}, of kind failed, usage,
  not_found, conflict (with current_version and current_value), undetermined,
  permission_denied (the user lacks a right) or unauthenticated (the cluster
  does not know who it is); in words it is on standard error. There alone is a
  command line that cannot be parsed, and what the object of `status` or
  `auth check` has said: that there are alarms, that it is not allowed.

Who it is (--token-file):
  A file with a token and nothing else, for a cluster that runs with --auth.
  RDBCTL_TOKEN_FILE names one, too, and RDBCTL_TOKEN may hold a token itself,
  where there is no file; there is no option for that, since others see command
  lines. `rdbctl auth --help` has the rest.

Examples:
  rdbctl raw put k1 v1
  rdbctl raw get k1
  rdbctl raw scan --prefix user/ --limit 10
  rdbctl cas put counter 1 --expect 0
  rdbctl --pd db1:2379,db2:2379 health";

/// FlareDB from the command line
#[derive(Debug, Parser)]
#[command(name = "rdbctl", version, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArguments {
    /// Addresses of the placement drivers
    #[arg(long, global = true, help_heading = GLOBAL, env = "RDBCTL_PD", value_name = "ADDR[,ADDR…]")]
    #[arg(value_delimiter = ',', num_args = 1, value_parser = parse_address, default_value = "127.0.0.1:2379")]
    pub(crate) pd: Vec<String>,

    /// How long a call may take, retries included: 500ms, 10s, 2m, 1h; without a unit, seconds. A scan has it for each page
    #[arg(long, global = true, help_heading = GLOBAL, env = "RDBCTL_TIMEOUT", value_name = "TIME")]
    #[arg(value_parser = parse_timeout, default_value = "10s")]
    pub(crate) timeout: Duration,

    /// Connect over TLS, to servers whose certificates a CA in this file has signed
    #[arg(long, global = true, help_heading = GLOBAL, env = "RDBCTL_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// The certificate for servers that ask for one. With --key
    #[arg(long = "cert", global = true, help_heading = GLOBAL, env = "RDBCTL_CERT", value_name = "FILE")]
    pub(crate) client_cert: Option<PathBuf>,

    /// The key of --cert
    #[arg(long = "key", global = true, help_heading = GLOBAL, env = "RDBCTL_KEY", value_name = "FILE")]
    pub(crate) client_key: Option<PathBuf>,

    /// Who it is: a file with a token, for a cluster where users have rights
    #[arg(long, global = true, help_heading = GLOBAL, env = "RDBCTL_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// For people or for programs
    #[arg(short, long, global = true, help_heading = GLOBAL, value_name = "FORMAT")]
    #[arg(value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,

    /// How keys are typed and printed
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "ENCODING")]
    #[arg(value_enum, default_value_t = KeyEncoding::Text)]
    pub(crate) key_encoding: KeyEncoding,

    /// What to log to stderr: off, error, warn, info, debug, trace. Of other libraries at most warnings
    #[arg(long, global = true, help_heading = GLOBAL, env = "RDBCTL_LOG_LEVEL", value_name = "LEVEL")]
    #[arg(default_value = "warn")]
    pub(crate) log_level: LevelFilter,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The raw keyspace: last write wins
    #[command(subcommand)]
    Raw(RawCommand),
    /// The versioned keyspace: written by compare-and-swap only
    #[command(subcommand)]
    Cas(CasCommand),
    /// Take timestamps
    Tso(TsoArguments),
    /// The processes that hold data
    #[command(subcommand)]
    Store(StoreCommand),
    /// The key ranges and who serves them
    #[command(subcommand)]
    Region(RegionCommand),
    /// Changes of single regions that you have the cluster make
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Users, and what they may do
    #[command(subcommand, after_help = crate::auth::AFTER_HELP)]
    Auth(AuthCommand),
    /// Measure how much the cluster does, and how fast
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Certificates for development
    #[command(subcommand)]
    Cert(CertCommand),
    /// Run a cluster on this machine until Ctrl-C, for trying things out
    Playground(PlaygroundArguments),
    /// Ask every placement driver and store whether it is serving
    #[command(after_help = crate::health::AFTER_HELP)]
    Health,
    /// Show the state of the cluster on one screen, what is wrong with it, and what to do
    Status(StatusArguments),
    /// Type commands one after the other, over one connection
    #[command(after_help = crate::shell::AFTER_HELP)]
    Shell,
    /// Print completions for a shell
    #[command(after_help = crate::shell_support::COMPLETIONS_AFTER_HELP)]
    Completions(CompletionsArguments),
    /// Write manual pages
    #[command(after_help = crate::shell_support::MANUAL_AFTER_HELP)]
    Manual(ManualArguments),
}

impl Command {
    /// Whether it reads standard input, which in a script holds the lines behind it.
    pub(crate) fn reads_standard_input(&self) -> bool {
        match self {
            Self::Raw(RawCommand::Import(arguments)) => arguments.is_standard_input(),
            Self::Raw(RawCommand::Put { value, .. }) | Self::Cas(CasCommand::Put { value, .. }) => {
                value.is_standard_input()
            }
            _ => false,
        }
    }
}

impl Arguments {
    /// Parses the line that the process was started with. One that is wrong, or asks for help, ends the process.
    pub(crate) fn of_process() -> Self {
        let parsed = matches(std::env::args_os());
        let parsed = parsed.and_then(|matches| Self::from_arg_matches(&matches));
        parsed.unwrap_or_else(|error| error.exit())
    }

    /// Parses a line that was typed where the global options `outer` hold already. Those on the line go before them.
    pub(crate) fn parse_within(
        line: impl IntoIterator<Item = OsString>,
        outer: &GlobalArguments,
    ) -> Result<Self, clap::Error> {
        let name = OsString::from("rdbctl");
        let matches = matches(std::iter::once(name).chain(line))?;
        let mut arguments = Self::from_arg_matches(&matches)?;
        arguments.global.complete(&matches, outer);
        Ok(arguments)
    }
}

/// What a line says, and variables beside it. An error shows the usage without those: clap takes what they set for typed, and would show
/// it as if it were required.
fn matches(line: impl IntoIterator<Item = OsString>) -> Result<ArgMatches, clap::Error> {
    let line: Vec<OsString> = line.into_iter().collect();
    let parsed = Arguments::command().try_get_matches_from(&line);
    parsed.map_err(|error| {
        if error.get(ContextKind::Usage).is_none() {
            return error;
        }
        let typed = Arguments::command().mut_args(|argument| argument.env(None::<&str>));
        typed.try_get_matches_from(&line).err().unwrap_or(error)
    })
}

impl GlobalArguments {
    /// Takes what was not typed from `outer`.
    fn complete(&mut self, typed: &ArgMatches, outer: &Self) {
        let is_typed = |name| typed.value_source(name) == Some(ValueSource::CommandLine);
        if !is_typed("pd") {
            self.pd.clone_from(&outer.pd);
        }
        if !is_typed("ca") {
            self.ca.clone_from(&outer.ca);
        }
        if !is_typed("client_cert") {
            self.client_cert.clone_from(&outer.client_cert);
        }
        if !is_typed("client_key") {
            self.client_key.clone_from(&outer.client_key);
        }
        if !is_typed("token_file") {
            self.token_file.clone_from(&outer.token_file);
        }
        if !is_typed("timeout") {
            self.timeout = outer.timeout;
        }
        if !is_typed("output") {
            self.output = outer.output;
        }
        if !is_typed("key_encoding") {
            self.key_encoding = outer.key_encoding;
        }
        // What is logged was decided at the start of the process.
        self.log_level = outer.log_level;
    }

    /// How connections are encrypted. `None`: they are plain text.
    pub(crate) fn tls(&self) -> Result<Option<Tls>, Failure> {
        let tls = self.ca.as_ref().map(Tls::with_ca_file);
        match (tls, &self.client_cert, &self.client_key) {
            (Some(tls), Some(cert), Some(key)) => Ok(Some(tls.with_identity_files(cert, key))),
            (tls, None, None) => Ok(tls),
            (None, ..) => Err(Failure::usage(
                "--cert and --key are for TLS, and --ca is missing: the CA that servers are trusted by",
            )),
            (_, Some(_), None) => Err(Failure::usage("--cert needs --key, the key of it")),
            (_, None, Some(_)) => Err(Failure::usage("--key needs --cert, its certificate")),
        }
    }

    /// Where the token is. `None`: there is none.
    ///
    /// A token itself comes by a variable alone. A file that is named goes before it.
    pub(crate) fn token(&self) -> Result<Option<TokenSource>, Failure> {
        self.token_beside(std::env::var_os(TOKEN_VARIABLE))
    }

    fn token_beside(&self, variable: Option<OsString>) -> Result<Option<TokenSource>, Failure> {
        if let Some(file) = &self.token_file {
            return Ok(Some(TokenSource::File(file.clone())));
        }
        let Some(value) = variable.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let token = value.to_str().and_then(|value| value.trim().parse().ok());
        // The invalid text is not shown: it may be a token with a typing error.
        let wrong = || {
            Failure::usage(format!(
                "{TOKEN_VARIABLE} holds no token; one is {TOKEN_FORM}"
            ))
        };
        token.map(TokenSource::Given).map(Some).ok_or_else(wrong)
    }

    /// How endpoints past the client are connected to. `None`: as plain text.
    pub(crate) fn connector(&self) -> Result<Option<Connector>, Failure> {
        let tls = self.tls()?.map(ClientTls::new).transpose();
        let tls = tls.map_err(|error| Failure::usage(error.to_string()))?;
        Ok(tls.map(|tls| tls.connector()))
    }

    /// How long making a connection may take: longer than the default if `--timeout` is long.
    pub(crate) fn connect_timeout(&self) -> Duration {
        let patience = Config::default().connect_timeout.max(self.timeout / 3);
        patience.min(self.timeout)
    }
}

/// Addresses in a list may have spaces around them. The client checks them, with all others.
fn parse_address(text: &str) -> Result<String, Infallible> {
    Ok(text.trim().to_owned())
}

/// Parses a whole number that lies in `range`.
pub(crate) fn whole<N>(
    range: impl RangeBounds<N> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: FromStr + PartialOrd + Display,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| match (range.start_bound(), range.end_bound()) {
            (Bound::Included(least), Bound::Included(most)) => {
                format!("expected a whole number from {least} to {most}")
            }
            (Bound::Included(least), _) => format!("expected a whole number, {least} or more"),
            _ => "expected a whole number".to_owned(),
        })
    }
}

pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str =
        "expected a whole number above 0, of seconds or with a unit: 500ms, 10s, 2m, 1h";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
    let timeout = match unit {
        "ms" => Duration::from_millis(number),
        "s" | "" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        "h" => Duration::from_secs(number.saturating_mul(60 * 60)),
        _ => return Err(EXPECTED.to_owned()),
    };
    // Far beyond anyone's patience, and well within what clocks can add.
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    match timeout {
        Duration::ZERO => Err(EXPECTED.to_owned()),
        timeout if timeout > LONGEST => Err("at most 24h are allowed".to_owned()),
        timeout => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_behind_the_subcommand() {
        for line in [
            "rdbctl --pd a:1,b:2 --timeout 2s -o json health",
            "rdbctl health --pd a:1,b:2 --timeout 2000ms --output json",
        ] {
            let global = parse(line).expect(line).global;
            assert_eq!(global.pd, ["a:1", "b:2"], "{line}");
            assert_eq!(global.timeout, Duration::from_secs(2), "{line}");
            assert_eq!(global.output, Format::Json, "{line}");
        }
    }

    #[test]
    fn what_is_typed_in_a_shell_goes_before_the_options_that_it_was_started_with() {
        let outer = parse("rdbctl --pd a:1,b:2 --timeout 2s --key-encoding hex shell");
        let outer = outer.expect("usage").global;
        let parse = |line: &str| {
            let words = line.split(' ').map(OsString::from);
            Arguments::parse_within(words, &outer).expect(line).global
        };
        let global = parse("health");
        assert_eq!(global.pd, ["a:1", "b:2"]);
        assert_eq!(global.timeout, Duration::from_secs(2));
        assert_eq!(global.output, Format::Text);
        assert_eq!(global.key_encoding, KeyEncoding::Hex);
        for line in ["-o json --pd c:1 health", "health --pd c:1 -o json"] {
            let global = parse(line);
            assert_eq!(global.pd, ["c:1"], "{line}");
            assert_eq!(global.output, Format::Json, "{line}");
            assert_eq!(global.timeout, Duration::from_secs(2), "{line}");
        }
    }

    #[test]
    fn half_of_what_tls_needs_is_refused_with_what_is_missing() {
        for (flags, missing) in [
            ("--ca ca.pem --cert c.pem", "--key"),
            ("--ca ca.pem --key c.key", "--cert"),
            ("--cert c.pem --key c.key", "--ca"),
        ] {
            let global = parse(&format!("rdbctl {flags} health"))
                .expect(flags)
                .global;
            let refused = global.tls().expect_err(flags).to_string();
            assert!(refused.contains(missing), "{refused}");
        }
        for flags in ["--ca ca.pem", "--ca ca.pem --cert c.pem --key c.key"] {
            let global = parse(&format!("rdbctl health {flags}"))
                .expect(flags)
                .global;
            assert!(global.tls().expect(flags).is_some(), "{flags}");
        }
    }

    #[test]
    fn a_token_comes_from_a_file_or_a_variable_and_a_wrong_one_is_not_repeated() {
        let global = |line: &str| parse(line).expect(line).global;
        let text = format!("flaredb_{}", "0f".repeat(32));
        let variable = Some(OsString::from(format!("{text}\n")));
        let given = TokenSource::Given(text.parse().expect("it is one"));
        let none = global("rdbctl health");
        assert_eq!(none.token_beside(None).expect("none"), None);
        assert_eq!(
            none.token_beside(Some(OsString::new())).expect("none"),
            None
        );
        assert_eq!(
            none.token_beside(variable.clone()).expect("one"),
            Some(given)
        );
        let named = global("rdbctl health --token-file f");
        let file = Some(TokenSource::File("f".into()));
        assert_eq!(named.token_beside(variable).expect("a file"), file);
        let wrong = none.token_beside(Some(OsString::from(&text[1..])));
        let wrong = wrong.expect_err("it is none").to_string();
        assert!(!wrong.contains("0f0f"), "{wrong}");
    }

    #[test]
    fn wrong_usage_is_refused_with_exit_code_2() {
        for line in [
            "rdbctl",
            "rdbctl raw",
            "rdbctl raw put k",
            "rdbctl raw del",
            "rdbctl raw put k v --file f",
            "rdbctl raw scan a b --prefix c",
            "rdbctl raw scan --limit 0",
            "rdbctl raw delete-range",
            "rdbctl raw delete-range a",
            "rdbctl raw delete-range a b --all",
            "rdbctl raw delete-range --prefix a --all",
            "rdbctl cas put k v",
            "rdbctl cas put k v --expect -1",
            "rdbctl cas del k",
            "rdbctl cas del k --expect 0",
            "rdbctl tso --count 0",
            "rdbctl health --timeout 0s",
            "rdbctl status --interval 1s",
            "rdbctl status --wait 0s",
            "rdbctl playground --stores 0",
            "rdbctl operator transfer-leader 1",
            "rdbctl operator transfer-leader --region 1 --to 2",
            "rdbctl operator add-peer 1",
            "rdbctl operator move-peer 1 2",
            "rdbctl operator cancel",
            "rdbctl store remove",
            "rdbctl store remove 0",
            "rdbctl health --log-level loud",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn every_form_of_a_write_is_accepted() {
        for line in [
            "rdbctl raw put k v",
            "rdbctl raw put k -1",
            "rdbctl raw put k -",
            "rdbctl raw put k -- --v",
            "rdbctl raw put k --file f",
            "rdbctl raw del k",
            "rdbctl raw del k1 k2",
            "rdbctl raw delete-range a b",
            "rdbctl raw delete-range --prefix a",
            "rdbctl raw delete-range --all",
            "rdbctl cas put k v --expect 0",
            "rdbctl cas put --expect 0 k v",
            "rdbctl cas del k --expect 1",
        ] {
            parse(line).expect(line);
        }
    }

    #[test]
    fn a_timeout_has_a_unit_and_is_never_zero_or_absurd() {
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("3"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_timeout("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_timeout("24h"), Ok(Duration::from_secs(24 * 60 * 60)));
        for wrong in [
            "",
            "s",
            "0",
            "0ms",
            "-1s",
            "1d",
            "25h",
            "1.5s",
            "1441m",
            "99999999999999999999s",
        ] {
            assert!(parse_timeout(wrong).is_err(), "{wrong}");
        }
    }
}
