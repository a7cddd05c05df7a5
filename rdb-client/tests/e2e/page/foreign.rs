//! Nothing foreign gets into a page: neither what others serve, nor markup in what it shows.

use super::browser::Browser;
use super::made_up::MadeUp;
use super::{as_text, assert_quiet, one_store};

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
        assert!(as_text(&shown).ends_with(title));
        assert_quiet(&browser, url).await;
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
        assert!(as_text(&shown).contains(part), "{of}: {shown}");
    }
    let made = "return document.querySelectorAll('main img, main script, header script').length + Number(window.hacked ?? 0)";
    assert_eq!(browser.run(made).await, 0);
    assert_quiet(&browser, cluster.url()).await;
}
