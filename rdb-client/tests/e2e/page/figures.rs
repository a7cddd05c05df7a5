//! What the pages show of what happens, and how soon.

use std::time::Instant;

use serde_json::{Value, json};

use super::browser::Browser;
use super::made_up::MadeUp;
use super::{UPDATES, one_store, text_of};
use crate::harness::found;

/// Most updates of a page that it takes to show what has happened: one may be under way, and figures are read once a second.
const UPDATES_MAX: u64 = 3;

/// Has `shown` be the number of writes on the page of a store.
const WRITES: &str = "const facts = [...document.querySelectorAll('#facts > div')]; \
                      const fact = facts.find((fact) => fact.firstChild.textContent === 'Writes since start'); \
                      const shown = fact?.lastChild.textContent ?? null;";

/// From now on `window.seen` has what each update of the page shows: what `show` makes `shown`.
async fn note_updates(browser: &Browser, show: &str) {
    let note = format!(
        "window.seen = []; \
         const note = () => {{ {show} window.seen.push(shown) }}; \
         new MutationObserver(note).observe(document.body, {{ attributeFilter: ['data-updates'] }})"
    );
    browser.run(&note).await;
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
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
        assert!(number(&first) <= number(&before) + UPDATES_MAX);
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
    // One update may be under way.
    assert!(number(&first) <= number(&before) + 2);
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
