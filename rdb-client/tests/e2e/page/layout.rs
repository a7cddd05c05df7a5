//! Pages fit a screen and a phone, in light and dark: also with a store that is dead, and with more than fits.

use std::time::Duration;

use rdb_client::Client;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic_health::pb::health_check_response::ServingStatus;

use super::browser::{Browser, ENTER, SHIFT, TAB};
use super::made_up::MadeUp;
use super::{TABS_MAX, UPDATES, as_text, assert_quiet, shown_updates, text_of};
use crate::harness::Node;

/// How wide the page is laid out, and how much wider what stands in it is. A phone that has to show something wider zooms out, so the size
/// of its window tells nothing.
const WIDTHS: &str = "const it = document.documentElement; \
                      return [it.clientWidth, it.scrollWidth - it.clientWidth]";

/// What stands in the page fits a window of this width.
async fn assert_fits(browser: &Browser, width: u32, what: &str) {
    let widths = browser.run(WIDTHS).await;
    let laid_out = widths[0].as_u64().expect("a number");
    // A window that is no phone's may have a bar for scrolling.
    let is_as_wide = match width {
        ..500 => laid_out == u64::from(width),
        _ => (u64::from(width) - 20..=u64::from(width)).contains(&laid_out),
    };
    assert!(is_as_wide, "{what}: {widths}");
    assert_eq!(widths[1], 0, "{what}");
}

/// Three stores with a replica each, and the pages of the placement driver and of the first store.
struct Three {
    stores: Vec<Node>,
    pd_url: String,
    store_url: String,
    pd: Node,
    _directory: TempDir,
}

impl Three {
    /// Reads and writes until the answer is dropped, so that there is something to see. What fails, fails.
    async fn load(&self) -> JoinSet<()> {
        let client = Client::connect([self.pd.address()]).await;
        let client = client.expect("the placement driver serves");
        let mut tasks = JoinSet::new();
        for task in 0..4 {
            let client = client.clone();
            tasks.spawn(async move {
                for number in 0_u64.. {
                    let key = format!("{task}-{}", number % 1000);
                    let _ = client.raw_put(&key, key.clone()).await;
                    let _ = client.raw_get(&key).await;
                    // Others use this machine, too.
                    sleep(Duration::from_millis(2)).await;
                }
            });
        }
        tasks
    }

    async fn start() -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let pd = Node::placement_driver(directory.path().join("pd"));
        let mut pd = pd.with_flag("--initial-replicas", "3").with_status();
        pd.start_serving().await;
        let mut stores = Vec::new();
        for number in 1..=3 {
            let directory = directory.path().join(format!("store-{number}"));
            let mut store = Node::store(directory, &pd.address()).with_status();
            store.start();
            stores.push(store);
        }
        for store in &mut stores {
            store.wait_for_health(ServingStatus::Serving).await;
        }
        Self {
            pd_url: format!("http://{}/", pd.status_address().await),
            store_url: format!("http://{}/", stores[0].status_address().await),
            stores,
            pd,
            _directory: directory,
        }
    }
}

#[tokio::test]
async fn a_killed_store_is_disconnected_and_named_and_the_pages_fit_a_phone() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let mut three = Three::start().await;
    let _load = three.load().await;
    browser.resemble(1280, 900, false).await;
    browser.open(&three.pd_url).await;
    browser
        .find(
            "three stores are up",
            "return document.querySelectorAll('#stores [data-state=up]').length === 3",
        )
        .await;
    let calm = "const level = document.getElementById('verdict').dataset.level; return level === 'good' || level === 'notice'";
    browser.find("there is no alarm", calm).await;
    browser.picture("cluster-well-light").await;
    three.stores[2].kill();
    let address = three.stores[2].address();
    let alarm = browser
        .find(
            "the store is disconnected",
            "if (!document.querySelector('#stores [data-state=disconnected]')) return null; \
             return document.querySelector('#findings-list .is-alarm')?.textContent ?? null",
        )
        .await;
    let alarm = alarm.as_str().expect("text");
    assert!(alarm.contains("is disconnected"), "{alarm}");
    assert!(
        alarm.contains(&format!("start rdb-server at {address} again")),
        "{alarm}"
    );
    let state = browser
        .run("return document.querySelector('#stores [data-state=disconnected]').textContent")
        .await;
    assert_eq!(state, "disconnected", "in words, too");
    let verdict = browser.run(&text_of("verdict")).await;
    assert!(as_text(&verdict).contains("alarm"), "{verdict}");
    for (url, name) in [
        (&three.pd_url, "cluster-dead-store"),
        (&three.store_url, "store-beside-dead-store"),
    ] {
        browser.open(url).await;
        browser.find("it shows updates", UPDATES).await;
        let mut grounds = Vec::new();
        for (width, is_dark, look) in [
            (1280, false, "light"),
            (1280, true, "dark"),
            (360, false, "phone"),
        ] {
            browser.resemble(width, 900, is_dark).await;
            let seen = shown_updates(&browser).await;
            browser
                .find("it shows more", &format!("{UPDATES} > {seen}"))
                .await;
            assert_fits(&browser, width, &format!("{name} {look}")).await;
            browser.picture(&format!("{name}-{look}")).await;
            let ground = "return getComputedStyle(document.body).backgroundColor";
            grounds.push(browser.run(ground).await);
        }
        assert_ne!(grounds[0], grounds[1], "{name}: light and dark");
        assert_eq!(grounds[0], grounds[2], "{name}: light again");
        assert_quiet(&browser, url).await;
    }
}

#[tokio::test]
async fn a_large_cluster_is_shown_in_parts_which_fit_a_phone() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let cluster = MadeUp::start(200, 1000, "long.host.name.of.a.store.example.org:20160").await;
    browser.open(cluster.url()).await;
    browser
        .find(
            "it shows stores",
            "return document.querySelectorAll('#stores tr').length",
        )
        .await;
    for (width, look) in [(1280, "desktop"), (360, "phone")] {
        browser.resemble(width, 900, false).await;
        assert_fits(&browser, width, look).await;
        browser.picture(&format!("cluster-large-{look}")).await;
    }
    let wide = "const wide = document.createElement('div'); wide.style.width = '500px'; wide.style.height = '9px'; \
                wide.id = 'wide'; document.getElementById('main').append(wide)";
    browser.run(wide).await;
    let widths = browser.run(WIDTHS).await;
    assert_ne!(widths[1], 0, "it is noticed: {widths}");
    browser
        .run("document.getElementById('wide').remove()")
        .await;
    let first = "return document.querySelector('#stores .id').textContent";
    assert_eq!(browser.run(first).await, "1");
    tab_to(&browser, "stores-after").await;
    // The button is pressed while an update is on its way that does not know of it.
    let hold = "window.held = []; window.theirs = window.fetch; \
                window.fetch = (...asked) => new Promise((go) => window.held.push(go)).then(() => window.theirs(...asked))";
    browser.run(hold).await;
    browser
        .find("an update is under way", "return window.held.length")
        .await;
    browser.press(ENTER).await;
    browser
        .run("window.fetch = window.theirs; window.held.forEach((go) => go())")
        .await;
    browser
        .find("the page is turned", &format!("{first} === '21'"))
        .await;
    let part = browser.run(&text_of("stores-part")).await;
    assert_eq!(part, "21 to 40 of 200");
    browser.press(ENTER).await;
    browser
        .find("the page is turned", &format!("{first} === '41'"))
        .await;
    browser.press_together(&[SHIFT, TAB]).await;
    for id in [21, 1] {
        browser.press(ENTER).await;
        browser
            .find("the page is turned back", &format!("{first} === '{id}'"))
            .await;
    }
    assert_quiet(&browser, cluster.url()).await;
}

/// Tab goes to what has this id, from where the focus is.
async fn tab_to(browser: &Browser, id: &str) {
    for _ in 0..TABS_MAX {
        browser.press(TAB).await;
        if browser.run("return document.activeElement.id").await == id {
            return;
        }
    }
    panic!("Tab does not lead to {id}");
}
