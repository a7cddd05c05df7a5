use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use tempfile::NamedTempFile;

use super::{Settings, print};

/// Settings of each form. No variable of these names is set.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "rdb-test")]
struct Config {
    /// Where to listen.
    #[arg(
        long,
        env = "RDB_TEST_ADDR",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:1"
    )]
    addr: SocketAddr,
    #[arg(
        long,
        env = "RDB_TEST_PD",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "a:1"
    )]
    pd: Vec<String>,
    #[arg(
        long,
        env = "RDB_TEST_DATA_DIR",
        value_name = "DIR",
        default_value = "./data"
    )]
    data_dir: PathBuf,
    #[arg(long, env = "RDB_TEST_COUNT_MAX", value_name = "COUNT")]
    count_max: Option<usize>,
    /// How often.
    #[arg(
        long,
        env = "RDB_TEST_BEAT_MS",
        value_name = "MS",
        hide = true,
        default_value_t = 7
    )]
    beat_ms: u64,
    #[arg(long, env = "RDB_TEST_GUARDED")]
    guarded: bool,
    #[arg(long)]
    repair: bool,
}

/// Settings of these flags and of a file with this text.
fn parse(text: &str, flags: &[&str]) -> Result<Settings<Config>, String> {
    let file = NamedTempFile::new().expect("the temporary directory can be written");
    fs::write(file.path(), text).expect("it can be written");
    let mut arguments = vec![
        OsString::from("rdb-test"),
        "--config".into(),
        file.path().into(),
    ];
    arguments.extend(flags.iter().map(OsString::from));
    Settings::parse(&arguments).map_err(|error| {
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    })
}

fn config(text: &str, flags: &[&str]) -> Config {
    parse(text, flags)
        .unwrap_or_else(|error| panic!("{error}"))
        .config
}

fn printed(settings: &Settings<Config>) -> String {
    let text = print::text(&settings.command, &settings.matches, settings.file.as_ref());
    text.expect("all is UTF-8")
}

#[test]
fn an_empty_file_changes_nothing() {
    assert_eq!(config("", &[]), Config::parse_from(["rdb-test"]));
}

#[test]
fn a_file_sets_what_no_flag_sets() {
    let text = "addr = \"127.0.0.1:2\"\npd = [\"b:1\", \"c:1\"]\ndata-dir = \"d\"\ncount-max = 3\nbeat-ms = 4";
    let same = [
        "rdb-test",
        "--addr",
        "127.0.0.1:2",
        "--pd",
        "b:1,c:1",
        "--data-dir",
        "d",
    ];
    let same = same
        .into_iter()
        .chain(["--count-max", "3", "--beat-ms", "4"]);
    assert_eq!(config(text, &[]), Config::parse_from(same));
    let flagged = config(text, &["--pd", "x:1", "--count-max=9"]);
    assert_eq!(
        (flagged.pd, flagged.count_max),
        (vec!["x:1".to_owned()], Some(9))
    );
    assert_eq!(flagged.data_dir, PathBuf::from("d"));
    assert_eq!(config("pd = \"b:1,c:1\"", &[]).pd, ["b:1", "c:1"]);
    assert!(config("pd = []", &[]).pd.is_empty());
}

#[test]
fn a_file_switches_on_what_has_a_flag_without_a_value() {
    assert!(config("guarded = true", &[]).guarded);
    assert!(!config("guarded = false", &[]).guarded);
    assert!(config("guarded = false", &["--guarded"]).guarded);
    for (text, flags, told) in [
        ("guarded = true", &[][..], "\nguarded = true\n"),
        ("", &["--guarded"][..], "\nguarded = true\n"),
        ("", &[][..], "\nguarded = false\n"),
    ] {
        let settings = parse(text, flags).unwrap_or_else(|error| panic!("{error}"));
        let text = printed(&settings);
        assert!(text.contains(told), "{text}");
        assert_eq!(config(&text, &[]), settings.config);
    }
}

#[test]
fn what_a_file_cannot_say_is_refused_with_what_would_be_right() {
    for (text, told) in [
        (
            "adr = \"127.0.0.1:2\"",
            "there is no setting `adr`; the nearest is `addr`, and --print-config shows all",
        ),
        ("data_dir = \"d\"", "the nearest is `data-dir`"),
        ("zone = 1", "there is no setting `zone`; the nearest is `"),
        (
            "[server]\naddr = \"127.0.0.1:2\"",
            "there is no setting `server`; the nearest is `",
        ),
        ("repair = true", "can only be given as a flag: --repair"),
        ("print-config = true", "can only be given as a flag"),
        ("config = \"other\"", "can only be given as a flag"),
        (
            "count-max = \"3\"",
            "`count-max` is \"3\", but takes a whole number without quotes: count-max = COUNT",
        ),
        (
            "count-max = 3.0",
            "`count-max` is 3.0, but takes a whole number",
        ),
        ("count-max = -3", "`count-max` is -3: "),
        (
            "data-dir = 3",
            "`data-dir` is 3, but takes text in quotes: data-dir = \"DIR\"",
        ),
        (
            "pd = [1]",
            "`pd` is [1], but takes a list of texts in quotes: pd = [\"HOST:PORT\", …]",
        ),
        (
            "guarded = \"true\"",
            "`guarded` is \"true\", but takes true or false without quotes: guarded = true",
        ),
        (
            "addr = \"here\"",
            "`addr` is \"here\": invalid socket address syntax",
        ),
        ("addr = ", "line 1"),
        ("count-max = 1\ncount-max = 2", "duplicate key"),
    ] {
        let refused = parse(text, &[]).err().unwrap_or_default();
        assert!(refused.contains(told), "{text}: {refused}");
    }
    let displaced = parse("addr = \"here\"", &["--addr", "127.0.0.1:2"]);
    assert!(
        displaced.is_err(),
        "a value is checked though a flag displaces it"
    );
    let missing = ["rdb-test", "--config", "/nonexistent/file"].map(OsString::from);
    let missing = Settings::<Config>::parse(&missing).expect_err("no such file");
    assert!(
        missing.to_string().contains("/nonexistent/file"),
        "{missing}"
    );
}

#[test]
fn what_is_printed_says_where_it_came_from_and_is_a_file_with_the_same_settings() {
    let settings = parse("pd = [\"b:1\", \"c:1\"]", &["--data-dir", "d\"e"]);
    let settings = settings.unwrap_or_else(|error| panic!("{error}"));
    let text = printed(&settings);
    for told in [
        "# Where to listen\n# The default\naddr = \"127.0.0.1:1\"\n",
        "/.tmp",
        "\npd = [\"b:1\", \"c:1\"]\n",
        "# From the flag --data-dir\ndata-dir = ",
        "# Not set\n# count-max = COUNT\n",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let told = "# From the file /";
    assert_eq!(text.matches(told).count(), 1, "{text}");
    let (_, of_list) = text.split_once(told).expect("it was found");
    let (_, after) = of_list.split_once('\n').expect("a line");
    assert!(after.starts_with("pd = "), "{text}");
    for hidden in ["beat", "repair", "config ="] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    assert_eq!(config(&text, &[]), settings.config);
    for (lines, flags) in [("beat-ms = 4", &[][..]), ("", &["--beat-ms", "4"])] {
        let hidden = parse(lines, flags).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config(&printed(&hidden), &[]), hidden.config, "{lines}");
    }
    let odd = parse("", &["--count-max", "+007"]).unwrap_or_else(|error| panic!("{error}"));
    assert!(printed(&odd).contains("\ncount-max = 7\n"));
}
