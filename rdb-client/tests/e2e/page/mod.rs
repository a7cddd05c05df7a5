//! The pages of both servers in a real browser. Pictures of them are in `tmp/page` of the target directory, for a person to look at.

mod browser;
mod made_up;

use std::time::{Duration, Instant};

use rdb_client::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic_health::pb::health_check_response::ServingStatus;

use self::browser::{Browser, END, ENTER, HOME, LEFT, RIGHT, SHIFT, TAB};
use self::made_up::MadeUp;
use crate::harness::{Cluster, Node, Port, found};

/// Most updates of a page that it takes to show what has happened: one may be under way, and figures are read once a second.
const UPDATES_MAX: u64 = 3;

/// More often than Tab has to be pressed to go through a page.
const TABS_MAX: usize = 30;

/// The text of what has this id; empty where it is hidden.
fn text_of(id: &str) -> String {
    format!("const it = document.getElementById('{id}'); return it.hidden ? '' : it.textContent")
}

/// How many updates the page has shown.
const UPDATES: &str = "return Number(document.body.dataset.updates ?? 0)";

/// Whether the page says nothing of a server that it lost.
const HAS_SERVER: &str = "return document.getElementById('lost').hidden && \
                          document.getElementById('verdict').textContent !== 'Server lost'";

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

#[tokio::test]
async fn both_pages_load_without_a_complaint_and_ask_nobody_else() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (_cluster, pd, store) = one_store().await;
    for (url, title) in [(&pd, "FlareDB cluster"), (&store, "FlareDB store 1")] {
        browser.open(url).await;
        browser
            .find(
                "it shows updates",
                "return document.body.dataset.updates >= 3",
            )
            .await;
        let shown = browser.run("return document.title").await;
        assert!(shown.as_str().is_some_and(|shown| shown.ends_with(title)));
        assert_quiet(&browser, url).await;
    }
}

/// The page asks for an update every second, so three of them are three seconds unless the machine is busy.
#[tokio::test]
async fn a_write_is_on_the_page_of_its_store_within_three_updates() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (cluster, _, store) = one_store().await;
    let client = cluster.client().await;
    browser.open(&store).await;
    let count = browser
        .find("it shows a count", &format!("{WRITES} return shown"))
        .await;
    assert_eq!(count, "0");
    note_updates(&browser, WRITES).await;
    for count in 1..=3 {
        client.raw_put("k", "v").await.expect("written");
        let began = Instant::now();
        let before = browser.run("return window.seen.length").await;
        // A put that was sent again is counted twice.
        let first =
            format!("return window.seen.findIndex((shown) => Number(shown) >= {count}) + 1");
        let first = browser.find("the write is shown", &first).await;
        println!(
            "shown after {:?}: update {first}, of {before} before",
            began.elapsed()
        );
        let number = |value: Value| value.as_u64().expect("a number");
        assert!(number(first) <= number(before) + UPDATES_MAX);
    }
    found("its rate and its latency are shown", async || {
        client.raw_put("k", "v").await.expect("written");
        let shown = "const text = (id) => document.getElementById(id).textContent; \
                     const charted = [...document.querySelectorAll('#charts li')].find((item) => item.textContent.startsWith('writes ')); \
                     return parseFloat(text('tile-writes')) > 0 && /s$/.test(text('tile-write-p99')) \
                     && parseFloat(charted.lastChild.textContent) > 0";
        (browser.run(shown).await == true).then_some(())
    })
    .await;
}

/// The names of columns stand in the script, too. A line with another name would stay empty.
#[tokio::test]
async fn each_line_of_a_chart_shows_a_column_that_its_server_sends() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (_cluster, pd, store) = one_store().await;
    // From now on each column has a value, though nothing happens.
    let fill = "const theirs = window.fetch; \
                window.filled = 0; \
                window.fetch = async (...asked) => { \
                  const update = await (await theirs(...asked)).json(); \
                  update.history.now = update.history.columns.map(() => 1); \
                  if (update.history.now.length > 0) window.filled += 1; \
                  return { ok: true, json: () => update }; \
                }";
    let texts =
        "return [...document.querySelectorAll('#charts li')].map((line) => line.textContent)";
    for url in [&pd, &store] {
        browser.open(url).await;
        browser.run(fill).await;
        browser
            .find("one of two is shown", "return window.filled >= 2")
            .await;
        let lines = browser.run(texts).await;
        let lines = lines.as_array().expect("a list").iter();
        let lines: Vec<_> = lines.map(|line| line.as_str().expect("text")).collect();
        assert!(lines.len() >= 8, "{lines:?}");
        for line in &lines {
            assert!(line.contains('1'), "{line:?} of {url}: {lines:?}");
        }
    }
}

/// From now on `window.seen` has what each update of the page shows: what `show` makes `shown`.
async fn note_updates(browser: &Browser, show: &str) {
    let note = format!(
        "window.seen = []; \
         const note = () => {{ {show} window.seen.push(shown) }}; \
         new MutationObserver(note).observe(document.body, {{ attributeFilter: ['data-updates'] }})"
    );
    browser.run(&note).await;
}

/// Has `shown` be the number of writes on the page of a store.
const WRITES: &str = "const facts = [...document.querySelectorAll('#facts > div')]; \
                      const fact = facts.find((fact) => fact.firstChild.textContent === 'Writes since start'); \
                      const shown = fact?.lastChild.textContent ?? null;";

const UPDATES_OF: &str = "Number(document.body.dataset.updates)";

#[tokio::test]
async fn writes_are_on_the_page_of_the_cluster_and_in_the_list_of_stores() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (cluster, pd, _) = one_store().await;
    let client = cluster.client().await;
    browser.open(&pd).await;
    browser.find("it shows updates", UPDATES).await;
    let began = Instant::now();
    // Heartbeats tell it, and come every second while somebody looks.
    found("the rate of writes is shown", async || {
        client.raw_put("k", "v").await.expect("written");
        let rate = "const cell = document.querySelector('#stores [data-label=\"Writes/s\"]'); return Number(cell?.textContent)";
        let rate = browser.run(rate).await.as_f64()?;
        (rate > 0.0).then_some(())
    })
    .await;
    println!("shown after {:?}", began.elapsed());
    // Each heartbeat tells of the time since the one before.
    found("the list of stores has them", async || {
        client.raw_put("k", "v").await.expect("written");
        let stores = client.stores().await.expect("they are known");
        let load = stores[0].load?;
        (load.writes > 0 && load.write_p99.is_some()).then_some(())
    })
    .await;
}

/// How soon it knows of a write by heartbeats is a matter of its own tests.
#[tokio::test]
async fn what_a_placement_driver_knows_is_on_its_page_within_two_updates() {
    const RATE: &str =
        "const shown = document.querySelector('#stores [data-label=\"Writes/s\"]')?.textContent;";
    let Some(browser) = Browser::start().await else {
        return;
    };
    let cluster = MadeUp::start(1, 1, "store.example.org:20160").await;
    browser.open(cluster.url()).await;
    browser
        .find(
            "it shows a rate",
            &format!("{RATE} return shown === '2,000'"),
        )
        .await;
    note_updates(&browser, RATE).await;
    cluster.set_writes_per_s(12);
    let before = browser.run("return window.seen.length").await;
    let first = browser
        .find(
            "it shows the new one",
            "return window.seen.indexOf('12') + 1",
        )
        .await;
    let number = |value: Value| value.as_u64().expect("a number");
    // One update may be under way.
    assert!(number(first) <= number(before) + 2);
}

#[tokio::test]
async fn what_a_placement_driver_sends_is_in_the_cells_and_tiles_of_its_name() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let cluster = MadeUp::start(3, 6, "store.example.org:20160").await;
    browser.open(cluster.url()).await;
    browser
        .find(
            "there are figures",
            &format!("{UPDATES} && document.getElementById('tile-reads').textContent !== '– /s'"),
        )
        .await;
    let cells = "const row = document.querySelector('#stores tr'); \
                 return [...row.children].map((cell) => [cell.dataset.label, cell.textContent])";
    let mut cells = browser.run(cells).await;
    let cells = cells.as_array_mut().expect("a list");
    let uptime = cells.pop().expect("there are cells");
    assert_eq!(uptime[0], "Up for");
    let days = uptime[1].as_str().and_then(|told| told.strip_suffix('d'));
    assert!(
        days.is_some_and(|days| days.parse::<u64>().is_ok()),
        "{uptime}"
    );
    let expected = json!([
        ["Store", "1store.example.org:20160"],
        ["State", "up"],
        ["Heartbeat", "1s ago"],
        ["Regions", "6"],
        ["Leads", "1"],
        ["Reads/s", "6,013"],
        ["Writes/s", "2,000"],
        ["Read p99", "210 µs"],
        ["Write p99", "4.1 ms"],
        ["Queue", "117 KiB"],
        ["Disk used", "16 % of 512 GiB"],
        ["Data", "31.0 GiB"],
        ["Keys", "120M"],
    ]);
    assert_eq!(Value::from(cells.clone()), expected);
    for (tile, expected) in [
        ("stores", "2 of 3"),
        ("reads", "18,010 /s"),
        ("writes", "6,004 /s"),
        ("read-p99", "210 µs"),
        ("write-p99", "4.1 ms"),
        ("timestamps", "901 /s"),
        ("bound", "2.6 s"),
        ("clock", "−1.2 s"),
    ] {
        let shown = browser.run(&text_of(&format!("tile-{tile}"))).await;
        assert_eq!(shown, expected, "{tile}");
    }
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
    assert!(
        verdict.as_str().is_some_and(|told| told.contains("alarm")),
        "{verdict}"
    );
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
                .find("it shows more", &format!("return {UPDATES_OF} > {seen}"))
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
async fn a_page_that_lost_its_server_says_so_and_recovers_by_itself() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let mut cluster = Cluster::prepare();
    let ports = [Port::reserve(), Port::reserve()];
    let [pd, store] = ports
        .each_ref()
        .map(|port| format!("127.0.0.1:{}", port.number()));
    cluster.pd = cluster.pd.with_flag("--status-addr", &pd);
    cluster.store = cluster.store.with_flag("--status-addr", &store);
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    assert_loses_and_finds(&browser, &mut cluster.pd, &pd, "cluster").await;
    assert_loses_and_finds(&browser, &mut cluster.store, &store, "store").await;
}

/// The page at `at` is that of `node`.
async fn assert_loses_and_finds(browser: &Browser, node: &mut Node, at: &str, name: &str) {
    browser.open(&format!("http://{at}/")).await;
    browser.find("it shows updates", UPDATES).await;
    browser.find("it has a server", HAS_SERVER).await;
    node.kill();
    let told = browser
        .find("it says that it lost the server", &text_of("lost"))
        .await;
    assert!(
        told.as_str()
            .is_some_and(|told| told.contains("does not answer since")),
        "{told}"
    );
    let role = browser
        .run("return document.getElementById('lost').getAttribute('role')")
        .await;
    assert_eq!(role, "alert", "it is read out");
    browser.picture(&format!("{name}-lost")).await;
    let seen = shown_updates(browser).await;
    node.start_serving().await;
    browser
        .find("it goes on", &format!("return {UPDATES_OF} > {seen}"))
        .await;
    browser.find("it has a server", HAS_SERVER).await;
    // Connections are taken by the system, and nothing is answered.
    node.pause();
    browser
        .find("it says that it lost the server", &text_of("lost"))
        .await;
    node.resume();
    browser.find("it has a server", HAS_SERVER).await;
}

#[tokio::test]
async fn all_of_a_page_is_reached_with_the_keyboard() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (_cluster, pd, store) = one_store().await;
    browser.open(&pd).await;
    browser
        .find(
            "it shows regions",
            "return document.querySelectorAll('#keyline button').length === 1",
        )
        .await;
    let stops = assert_charts_are_reached(&browser).await;
    assert!(
        stops.iter().any(|stop| stop.contains("keyline")),
        "{stops:?}"
    );
    let detail = browser.run(&text_of("region-detail")).await;
    assert!(
        detail
            .as_str()
            .is_some_and(|told| told.starts_with("Region 1 · led by store 1")),
        "{detail}"
    );
    browser.open(&store).await;
    browser.find("it shows updates", UPDATES).await;
    assert_charts_are_reached(&browser).await;
}

/// Tab goes to each chart of the page, and arrow keys through the first. Returns where Tab went.
async fn assert_charts_are_reached(browser: &Browser) -> Vec<String> {
    let focused = "const it = document.activeElement; return it.className + ' ' + it.parentElement.id + ' ' + it.getAttribute('role')";
    let charts = "return document.querySelectorAll('#charts [role=slider]').length";
    let charts = browser.run(charts).await.as_u64().expect("a number") as usize;
    let mut stops: Vec<String> = Vec::new();
    let reached = |stops: &[String]| stops.iter().filter(|stop| stop.contains("slider")).count();
    while reached(&stops) < charts && stops.len() < TABS_MAX {
        browser.press(TAB).await;
        let stop = browser.run(focused).await;
        stops.push(stop.as_str().expect("text").to_owned());
    }
    assert!(stops[0].starts_with("skip"), "{stops:?}");
    assert!(charts >= 6 && reached(&stops) == charts, "{stops:?}");
    browser
        .find(
            "there is a row",
            "return document.activeElement.getAttribute('aria-valuemax') > 0",
        )
        .await;
    browser
        .run("document.querySelector('#charts [role=slider]').focus()")
        .await;
    let value = "return document.activeElement.getAttribute('aria-valuetext')";
    let now = browser.run(value).await;
    assert!(
        now.as_str()
            .is_some_and(|told| told.starts_with("now: reads ")),
        "{now}"
    );
    for key in [LEFT, HOME] {
        browser.press(key).await;
        let then = browser.run(value).await;
        assert!(
            then.as_str()
                .is_some_and(|told| told.contains(": reads ") && !told.starts_with("now")),
            "{then}"
        );
    }
    stops
}

#[tokio::test]
async fn arrow_keys_move_along_the_regions() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let cluster = MadeUp::start(3, 6, "store.example.org:20160").await;
    browser.open(cluster.url()).await;
    browser
        .find(
            "it shows regions",
            "return document.querySelectorAll('#keyline button').length === 6",
        )
        .await;
    browser
        .run("document.querySelector('#keyline button').focus()")
        .await;
    for (key, region) in [
        (RIGHT, 2),
        (RIGHT, 3),
        (LEFT, 2),
        (END, 6),
        (RIGHT, 6),
        (HOME, 1),
        (LEFT, 1),
    ] {
        browser.press(key).await;
        let told = browser.run(&text_of("region-detail")).await;
        let expected = format!("Region {region} · led by store {}", 1 + (region - 1) % 3);
        assert!(
            told.as_str()
                .is_some_and(|told| told.starts_with(&expected)),
            "{expected}: {told}"
        );
    }
}

/// No store gets in under such a name, and no cause has one. If one did, it would be text.
#[tokio::test]
async fn markup_in_what_is_shown_stays_text() {
    const MARKUP: &str = "<img src=/x onerror=window.hacked=1><script>window.hacked=1</script>";
    let Some(browser) = Browser::start().await else {
        return;
    };
    let cluster = MadeUp::start(2, 2, MARKUP).await;
    browser.open(cluster.url()).await;
    for (of, part) in [
        ("#stores .address", MARKUP),
        ("#findings .what .text", MARKUP),
        ("#findings .to-do code", MARKUP),
        ("#who", MARKUP),
    ] {
        let shown = format!("return document.querySelector('{of}')?.textContent ?? null");
        let shown = browser.find(of, &shown).await;
        assert!(
            shown.as_str().is_some_and(|shown| shown.contains(part)),
            "{of}: {shown}"
        );
    }
    let made = "return document.querySelectorAll('main img, main script, header script').length + Number(window.hacked ?? 0)";
    assert_eq!(browser.run(made).await, 0);
    assert_quiet(&browser, cluster.url()).await;
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
