//! Settings of both servers from flags, variables and a file, as their processes take them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::harness::{Cluster, Node, binary};

const PROGRAMS: [(&str, &str); 2] = [("rdb-server", "RDB_SERVER"), ("rdb-pd", "RDB_PD")];

/// A program with no settings but those that the test gives it.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(binary(name));
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"RDB_") {
            command.env_remove(variable);
        }
    }
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn a_flag_wins_over_a_variable_over_a_file_over_the_default() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let file = directory.path().join("file.toml");
    let lines = "connections-max = 11\nidle-timeout-s = 12\nlog-level = \"warn\"\n";
    fs::write(&file, lines).expect("it can be written");
    for (name, variables) in PROGRAMS {
        let mut command = program(name);
        let output = run(command
            .env(format!("{variables}_CONFIG"), &file)
            .env(format!("{variables}_CONNECTIONS_MAX"), "21")
            .env(format!("{variables}_IDLE_TIMEOUT_S"), "22")
            .args(["--connections-max", "31", "--print-config"]));
        let printed = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        for told in [
            "# From the flag --connections-max\nconnections-max = 31\n".to_owned(),
            format!("# From the variable {variables}_IDLE_TIMEOUT_S\nidle-timeout-s = 22\n"),
            format!("# From the file {}\nlog-level = \"warn\"\n", file.display()),
            "# Not set\n# connections-per-address-max = COUNT\n".to_owned(),
            "# The default\nbytes-in-flight-mib = ".to_owned(),
        ] {
            assert!(printed.contains(&told), "{told}: {printed}");
        }
        assert!(!printed.contains("raft-"), "{printed}");

        let again = directory.path().join("again.toml");
        fs::write(&again, &printed).expect("it can be written");
        let output = run(program(name)
            .arg("--config")
            .arg(&again)
            .arg("--print-config"));
        let settings = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(settings(&text(&output.stdout)), settings(&printed));
    }
}

#[test]
fn each_server_prints_its_manual_page() {
    for (name, variables) in PROGRAMS {
        let output = run(program(name).arg("--manual"));
        let page = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        for told in [
            format!("\n.TH {name} 8 "),
            format!("{variables}_DATA_DIR"),
            "Exit codes:".to_owned(),
        ] {
            assert!(page.contains(&told), "{told}: {page}");
        }
    }
}

/// The program starts anew to set up its allocator, and a pipe can be read only once.
#[test]
fn a_file_may_be_a_pipe() {
    for (name, _) in PROGRAMS {
        let mut process = program(name)
            .args(["--config", "/dev/stdin", "--print-config"])
            .env_remove("GLIBC_TUNABLES")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let mut stdin = process.stdin.take().expect("it is piped");
        let written = stdin.write_all(b"connections-max = 11\n");
        written.expect("it reads");
        drop(stdin);
        let output = process.wait_with_output().expect("it ends");
        let printed = text(&output.stdout);
        let told = "# From the file /dev/stdin\nconnections-max = 11\n";
        assert!(
            output.status.success() && printed.contains(told),
            "{printed}"
        );
    }
}

#[test]
fn a_file_that_cannot_work_is_refused_as_a_setting() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let file = directory.path().join("file.toml");
    // A release has no export of spans.
    let endpoint_told = if cfg!(feature = "otlp") {
        "`otlp-endpoint` is \"collector:4317\": \"collector:4317\" is no endpoint"
    } else {
        "`otlp-endpoint` is \"collector:4317\": this program was built without the export of spans"
    };
    for (name, lines, told) in [
        (
            "rdb-server",
            "data_dir = \"d\"",
            "there is no setting `data_dir`; the nearest is `data-dir`, and --print-config shows all",
        ),
        (
            "rdb-pd",
            "cache = 1",
            "there is no setting `cache`; the nearest is `",
        ),
        (
            "rdb-server",
            "durability = \"most\"",
            "`durability` is \"most\": ",
        ),
        (
            "rdb-server",
            "block-cache-mib = \"1\"",
            "takes a whole number",
        ),
        (
            "rdb-server",
            "repair-wal = true",
            "only be given as a flag: --repair-wal",
        ),
        ("rdb-server", "raft-heartbeat-ms = 1", "heartbeat_ms"),
        ("rdb-server", "addr = \"0.0.0.0:1\"", "--advertise-addr"),
        (
            "rdb-pd",
            "tso-advance-ms = 1",
            "only be given as a flag: --tso-advance-ms",
        ),
        ("rdb-pd", "replicas = 9", "--replicas"),
        (
            "rdb-pd",
            "otlp-endpoint = \"collector:4317\"",
            endpoint_told,
        ),
    ] {
        fs::write(&file, lines).expect("it can be written");
        let mut command = program(name);
        command
            .current_dir(directory.path())
            .args(["--config", "file.toml"]);
        for printing in [false, true] {
            if printing {
                command.arg("--print-config");
            }
            let output = run(&mut command);
            let refusal = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{lines}: {refusal}");
            assert!(refusal.contains(told), "{lines}: {refusal}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_and_a_placement_driver_run_with_what_their_files_say() {
    let mut cluster = Cluster::prepare();
    let directory = cluster.directory.path().to_owned();
    let pd_file = directory.join("pd.toml");
    fs::write(&pd_file, "replicas = 4\n").expect("it can be written");
    let store_file = directory.join("store.toml");
    // Also a setting that the help does not show.
    let lines = "durability = \"os\"\nraft-log-mib-max = 32\n";
    fs::write(&store_file, lines).expect("it can be written");
    let with = |node: Node, file: &std::path::Path| {
        node.with_flag("--config", file.to_str().expect("text"))
    };
    cluster.pd = with(cluster.pd, &pd_file);
    cluster.store = with(cluster.store, &store_file);
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let (pd_log, store_log) = (cluster.pd.log(), cluster.store.log());
    assert!(pd_log.contains("--replicas is 4"), "{pd_log}");
    assert!(store_log.contains("--durability=os"), "{store_log}");
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("it serves");
}

/// A setting or a flag: its variable and its default.
type Described = BTreeMap<String, (String, Option<String>)>;

#[test]
fn all_settings_are_documented_with_their_variables_and_defaults() {
    let page = include_str!("../../../docs/configuration.md");
    for (name, _) in PROGRAMS {
        let output = run(program(name).arg("--help"));
        let helped = helped(&text(&output.stdout));
        assert!(helped.len() > 10, "{helped:?}");
        let documented = documented(page, name);
        let names = |described: &Described| described.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&documented), names(&helped), "{name}");
        for (setting, (variable, default)) in helped {
            let (told_variable, told_default) = &documented[&setting];
            assert_eq!(told_variable, &variable, "{setting}");
            // `--replicas` has none that would be a value; that of a flag for one start is that it is not given.
            if let (Some(told), Some(default)) = (told_default, default) {
                assert_eq!(told, &default, "{setting}");
            }
        }
    }
}

/// What the help says. Each entry begins with the flag, and its texts are indented further.
fn helped(help: &str) -> Described {
    let mut entries: Vec<String> = Vec::new();
    for line in help.lines() {
        if line.starts_with("      --") {
            entries.push(line.trim().to_owned());
        } else if let Some(entry) = entries.last_mut()
            && line.starts_with("       ")
        {
            entry.push(' ');
            entry.push_str(line.trim());
        }
    }
    let bracketed = |entry: &str, what: &str| {
        let (_, rest) = entry.rsplit_once(what)?;
        let (value, _) = rest.split_once(']')?;
        Some(value.to_owned())
    };
    let described = entries.iter().map(|entry| {
        let flag = entry.split_whitespace().next().unwrap_or_default();
        let variable = bracketed(entry, "[env: ").unwrap_or_default();
        let variable = variable.trim_end_matches('=').to_owned();
        let default = bracketed(entry, "[default: ");
        let name = flag.trim_start_matches('-').to_owned();
        (name, (variable, default))
    });
    described.collect()
}

/// What the tables of a program on the page say: those of settings have a column for the default.
fn documented(page: &str, program: &str) -> Described {
    let heading = format!("\n## `{program}`\n");
    let (_, section) = page.split_once(&heading).expect("there is such a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let described = rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        let cells: Vec<_> = cells.map(|cell| cell.replace('`', "")).collect();
        let cell = |index: usize| cells[index].trim().to_owned();
        let name = cell(0);
        let default = (!name.starts_with("--")).then(|| cell(2));
        let name = name.trim_start_matches('-').to_owned();
        (name, (cell(1), default))
    });
    described.collect()
}
