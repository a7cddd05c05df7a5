//! What is there for people who watch a cluster: the client's figures, the dashboard and the alert rules, and that Prometheus takes
//! in what the servers show.

mod client;
mod exposed;
mod files;
mod promtool;
mod queries;
// What a recorder keeps.
#[allow(dead_code, reason = "the example writes it, the tests look at it")]
#[path = "../../../examples/client_metrics/recorder.rs"]
mod recorder;
mod scraping;
