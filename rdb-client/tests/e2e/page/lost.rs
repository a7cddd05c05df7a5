//! Pages whose server is gone, or answers nothing.

use super::browser::Browser;
use super::{UPDATES, as_text, shown_updates, text_of};
use crate::harness::{Cluster, Node, Port};

/// Whether the page says nothing of a server that it lost.
const HAS_SERVER: &str = "return document.getElementById('lost').hidden && \
                          document.getElementById('verdict').textContent !== 'Server lost'";

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
    assert!(as_text(&told).contains("does not answer since"), "{told}");
    let role = browser
        .run("return document.getElementById('lost').getAttribute('role')")
        .await;
    assert_eq!(role, "alert", "it is read out");
    browser.picture(&format!("{name}-lost")).await;
    let seen = shown_updates(browser).await;
    node.start_serving().await;
    browser
        .find("it goes on", &format!("{UPDATES} > {seen}"))
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
