//! The pages of both servers in a real browser. Pictures of them are in `tmp/page` of the target directory, for a person to look at.

mod browser;
mod figures;
mod foreign;
mod keyboard;
mod layout;
mod lost;
mod made_up;

use serde_json::Value;

use self::browser::Browser;
use crate::harness::Cluster;

/// More often than Tab has to be pressed to go through a page.
const TABS_MAX: usize = 30;

/// The text of what has this id; empty where it is hidden.
fn text_of(id: &str) -> String {
    format!("const it = document.getElementById('{id}'); return it.hidden ? '' : it.textContent")
}

/// How many updates the page has shown.
const UPDATES: &str = "return Number(document.body.dataset.updates ?? 0)";

/// What a script has returned, if that is text.
fn as_text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What goes wrong in the page itself goes to a log, and so does what it asks for: only from `origin`, since the last such look. Leaves
/// the page.
async fn assert_quiet(browser: &Browser, origin: &str) {
    let complaints = browser.log("browser").await;
    let complaints = complaints.iter().filter(|entry| entry["level"] != "INFO");
    let complaints: Vec<_> = complaints.collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let mut asked = 0;
    for entry in browser.log("performance").await {
        let event: Value =
            serde_json::from_str(entry["message"].as_str().expect("text")).expect("JSON");
        let event = &event["message"];
        if event["method"] == "Network.requestWillBeSent" {
            let url = event["params"]["request"]["url"].as_str().expect("text");
            let is_ours = url.starts_with(origin);
            // The browser's own start page is no part of ours.
            assert!(
                is_ours || url.starts_with("chrome:") || url.starts_with("data:"),
                "{url}"
            );
            asked += usize::from(is_ours);
        }
    }
    assert!(asked >= 6, "its files, and an update: {asked}");
    // What this page asked for since is not asked by the next one.
    browser.open("about:blank").await;
    browser.log("performance").await;
}

async fn shown_updates(browser: &Browser) -> u64 {
    browser.run(UPDATES).await.as_u64().expect("a number")
}

/// A cluster of one store, with pages.
async fn one_store() -> (Cluster, String, String) {
    let mut cluster = Cluster::prepare();
    cluster.pd = cluster.pd.with_status();
    cluster.store = cluster.store.with_status();
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let pd = format!("http://{}/", cluster.pd.status_address().await);
    let store = format!("http://{}/", cluster.store.status_address().await);
    (cluster, pd, store)
}
