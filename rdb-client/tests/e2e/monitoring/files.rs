//! The dashboard and the alert rules in `docs/monitoring`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::exposed::Exposed;
use super::queries::Query;

const DASHBOARD: &str = include_str!("../../../../docs/monitoring/dashboard.json");
const ALERTS: &str = include_str!("../../../../docs/monitoring/alerts.yaml");
const ALERTS_TEST: &str = include_str!("../../../../docs/monitoring/alerts_test.yaml");
const PAGE: &str = include_str!("../../../../docs/monitoring.md");

/// The server that the tests of alerts are about, and the one that is well.
const FIRES: &str = "instance=\"bad:1\"";
const FIRES_NOT: &str = "instance=\"good:1\"";

pub(super) fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).expect("the dashboard is JSON")
}

fn yaml(text: &str) -> Value {
    serde_norway::from_str(text).expect("it is YAML")
}

pub(super) fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    let text = value[member].as_str();
    text.unwrap_or_else(|| panic!("no {member} in {value:#}"))
}

pub(super) fn list<'v>(value: &'v Value, member: &str) -> &'v [Value] {
    let list = value[member].as_array();
    list.unwrap_or_else(|| panic!("no {member} in {value:#}"))
}

/// The panels that are no titles of rows.
pub(super) fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = list(dashboard, "panels").iter();
    panels.filter(|panel| panel["type"] != "row")
}

fn rules(alerts: &Value) -> impl Iterator<Item = &Value> {
    let groups = list(alerts, "groups").iter();
    groups.flat_map(|group| list(group, "rules"))
}

/// The labels that a legend or a text shows.
fn shown_labels(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split("{{").skip(1);
    parts.filter_map(|part| part.split("}}").next().map(str::trim))
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_name_only_what_servers_and_clients_show() {
    let exposed = Exposed::of_a_cluster().await;
    let dashboard = dashboard();
    let mut unknown = BTreeMap::<String, Vec<String>>::new();
    for panel in panels(&dashboard) {
        for target in list(panel, "targets") {
            let query = Query::read(text(target, "expr"));
            let absent = unknown.entry(text(panel, "title").to_owned());
            let absent = absent.or_default();
            absent.extend(query.unknown(&exposed));
            let legend = shown_labels(text(target, "legendFormat"));
            let legend = legend.filter(|label| !query.has(label, &exposed));
            absent.extend(legend.map(str::to_owned));
        }
    }
    for variable in list(&dashboard["templating"], "list") {
        if text(variable, "type") != "query" {
            continue;
        }
        let asked = text(variable, "definition");
        // Grafana asks this, and shows the other.
        assert_eq!(text(&variable["query"], "query"), asked);
        let asked = asked.strip_prefix("label_values(").expect("values");
        let (metric, label) = asked.rsplit_once(", ").expect("of a label");
        let (query, label) = (Query::read(metric), label.trim_end_matches(')'));
        let mut absent = query.unknown(&exposed);
        absent.extend((!query.has(label, &exposed)).then(|| label.to_owned()));
        unknown.insert(text(variable, "name").to_owned(), absent);
    }
    let alerts = yaml(ALERTS);
    for rule in rules(&alerts) {
        let query = Query::read(text(rule, "expr"));
        let mut absent = query.unknown(&exposed);
        for told in ["summary", "description"] {
            let labels = shown_labels(text(&rule["annotations"], told));
            let labels = labels.filter_map(|label| label.strip_prefix("$labels."));
            let labels = labels.filter(|label| !query.has(label, &exposed));
            absent.extend(labels.map(str::to_owned));
        }
        unknown.insert(text(rule, "alert").to_owned(), absent);
    }
    unknown.retain(|_, absent| !absent.is_empty());
    assert_eq!(unknown, BTreeMap::new());
}

#[test]
fn the_dashboard_takes_its_data_source_from_a_variable_and_has_a_row_for_each_subject() {
    let dashboard = dashboard();
    let mut sources = panels(&dashboard).flat_map(|panel| {
        let targets = list(panel, "targets").iter();
        targets
            .chain([panel])
            .map(|from| &from["datasource"]["uid"])
    });
    assert!(sources.all(|source| source == "${datasource}"));
    let rows = list(&dashboard, "panels").iter();
    let rows = rows.filter(|panel| panel["type"] == "row");
    let rows: Vec<_> = rows.map(|row| text(row, "title")).collect();
    let subjects = [
        "Overview",
        "Latency of writes",
        "Throughput",
        "Limits and queues",
        "Raft",
        "RocksDB",
        "Placement driver and timestamps",
        "Processes",
        "Clients",
    ];
    assert_eq!(rows, subjects);
}

#[test]
fn every_panel_has_its_own_place_and_number_and_says_what_it_shows() {
    let dashboard = dashboard();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard, "panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("a number")));
        let edge = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
        let (left, top) = (edge("x"), edge("y"));
        assert!(left + edge("w") <= 24, "{panel:#}");
        for x in left..left + edge("w") {
            for y in top..top + edge("h") {
                assert!(taken.insert((x, y)), "two panels at {x}, {y}: {panel:#}");
            }
        }
    }
    for panel in panels(&dashboard) {
        assert!(text(panel, "description").ends_with('.'), "{panel:#}");
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do_and_leads_to_a_section() {
    let headings = PAGE.lines().filter_map(|line| {
        let heading = line.trim_start_matches('#').strip_prefix(' ')?;
        line.starts_with('#').then(|| heading.to_lowercase())
    });
    let headings: BTreeSet<_> = headings.collect();
    let alerts = yaml(ALERTS);
    let mut names = BTreeSet::new();
    for rule in rules(&alerts) {
        let name = text(rule, "alert");
        assert!(name.starts_with("FlareDB") && names.insert(name), "{name}");
        let severity = text(&rule["labels"], "severity");
        assert!(["critical", "warning"].contains(&severity), "{name}");
        let annotations = &rule["annotations"];
        assert!(!text(annotations, "summary").is_empty(), "{name}");
        let description = text(annotations, "description");
        assert!(
            description.len() > 60 && description.ends_with('.'),
            "{name}"
        );
        let section = text(annotations, "runbook_url").strip_prefix("docs/monitoring.md#");
        let section = section.unwrap_or_else(|| panic!("{name} leads elsewhere"));
        assert_eq!(section, name.to_lowercase());
        assert!(headings.contains(section), "{name} has no section");
    }
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_in_which_it_does_not() {
    let alerts = yaml(ALERTS);
    let tests = yaml(ALERTS_TEST);
    // What is absent is of no instance: such an alert has a test for each.
    let about_absence = rules(&alerts).filter(|rule| text(rule, "expr").starts_with("absent("));
    let about_absence: BTreeSet<_> = about_absence.map(|rule| text(rule, "alert")).collect();
    let mut tested = BTreeSet::new();
    let mut absences = BTreeSet::new();
    for test in list(&tests, "tests") {
        let series = list(test, "input_series").iter();
        let series: Vec<_> = series.map(|series| text(series, "series")).collect();
        for expected in list(test, "promql_expr_test") {
            let asked = text(expected, "expr");
            let alert = asked.strip_prefix("ALERTS{alertname=\"");
            let alert = alert.and_then(|alert| alert.split('"').next());
            let alert = alert.unwrap_or_else(|| panic!("{asked} asks for no alert"));
            let fired = list(expected, "exp_samples").iter();
            let fired: Vec<_> = fired.map(|sample| text(sample, "labels")).collect();
            tested.insert(alert.to_owned());
            if about_absence.contains(alert) {
                absences.insert((alert.to_owned(), fired.is_empty()));
                continue;
            }
            for instance in [FIRES, FIRES_NOT] {
                assert!(
                    series.iter().any(|series| series.contains(instance)),
                    "{test:#}"
                );
            }
            assert!(fired.iter().any(|labels| labels.contains(FIRES)), "{alert}");
            assert!(
                fired.iter().all(|labels| !labels.contains(FIRES_NOT)),
                "{alert}"
            );
        }
    }
    assert_eq!(absences.len(), 2 * about_absence.len(), "{absences:?}");
    let named: BTreeSet<_> = rules(&alerts)
        .map(|rule| text(rule, "alert").to_owned())
        .collect();
    assert_eq!(named, tested);
}
