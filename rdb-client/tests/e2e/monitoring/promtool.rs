//! Prometheus's own tool about the alert rules and the queries of the dashboard.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use super::files::{dashboard, list, panels, text};
use crate::harness::skipped;

/// Fails with what `promtool` objects to. False: it is not installed.
fn accepts(directory: &Path, arguments: &[&str]) -> bool {
    if Command::new("promtool").arg("--version").output().is_err() {
        skipped("promtool, of the package prometheus, is not installed");
        return false;
    }
    let mut tool = Command::new("promtool");
    let judged = tool.args(arguments).current_dir(directory).output();
    let judged = judged.expect("it can be started");
    let told = [judged.stdout, judged.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(judged.status.success(), "{arguments:?}: {told}");
    true
}

#[test]
fn promtool_accepts_the_rules_and_each_fires_when_it_is_to_and_only_then() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring");
    let _ = accepts(&directory, &["check", "rules", "alerts.yaml"])
        && accepts(&directory, &["test", "rules", "alerts_test.yaml"]);
}

/// As the queries of rules. Any interval does for Grafana's.
#[test]
fn promtool_accepts_the_queries_of_the_dashboard() {
    let dashboard = dashboard();
    let targets = panels(&dashboard).flat_map(|panel| list(panel, "targets"));
    let rules: Vec<_> = targets
        .enumerate()
        .map(|(number, target)| {
            let query = text(target, "expr").replace("$__rate_interval", "5m");
            json!({ "record": format!("panel:{number}"), "expr": query })
        })
        .collect();
    assert!(rules.len() > 50, "they are found");
    let directory = TempDir::new().expect("the temporary directory can be written");
    // JSON is YAML, too.
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let file = directory.path().join("dashboard.yaml");
    fs::write(file, rules.to_string()).expect("it can be written");
    accepts(directory.path(), &["check", "rules", "dashboard.yaml"]);
}
