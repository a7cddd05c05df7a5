//! Pages without a mouse.

use super::browser::{Browser, END, HOME, LEFT, RIGHT, TAB};
use super::made_up::MadeUp;
use super::{TABS_MAX, UPDATES, as_text, one_store, text_of};

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
        as_text(&detail).starts_with("Region 1 · led by store 1"),
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
    assert!(as_text(&now).starts_with("now: reads "), "{now}");
    for key in [LEFT, HOME] {
        browser.press(key).await;
        let then = browser.run(value).await;
        let told = as_text(&then);
        assert!(
            told.contains(": reads ") && !told.starts_with("now"),
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
        assert!(as_text(&told).starts_with(&expected), "{expected}: {told}");
    }
}
