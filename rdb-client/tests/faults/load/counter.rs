//! Clients that count together: each adds 1 by compare-and-swap.

use std::fmt::Write as _;

use rdb_client::{Client, Error};

use super::{Worker, answered, may_be_applied};

const KEY: &str = "counter";

/// What one client was told of its additions.
#[derive(Default)]
pub(super) struct Counted {
    acknowledged: u64,
    pub(super) unknown: usize,
}

/// Begins to count.
pub(super) async fn open(client: &Client) {
    let opened = client.cas_put(KEY, 0, "0").await;
    assert_eq!(opened, Ok(1), "no fault has begun");
}

pub(super) async fn run(mut worker: Worker) -> Counted {
    let mut counted = Counted::default();
    while worker.goes_on().await {
        let (version, count) = match read(&worker.client).await {
            Ok(found) => found,
            Err(error) => {
                assert!(!may_be_applied(&error), "a read");
                continue;
            }
        };
        match worker
            .client
            .cas_put(KEY, version, (count + 1).to_string())
            .await
        {
            Ok(_) => counted.acknowledged += 1,
            Err(Error::Conflict { .. }) => {}
            Err(error) => {
                counted.unknown += usize::from(may_be_applied(&error));
                continue;
            }
        }
        worker.done();
    }
    counted
}

/// What does not hold at the end.
pub(super) async fn problems(client: &Client, counted: &[Counted]) -> String {
    let (version, count) = answered(async || read(client).await).await;
    let acknowledged: u64 = counted.iter().map(|counted| counted.acknowledged).sum();
    let unknown: usize = counted.iter().map(|counted| counted.unknown).sum();
    let mut problems = String::new();
    if !(acknowledged..=acknowledged + unknown as u64).contains(&count) || version != count + 1 {
        let _ = writeln!(
            problems,
            "the counter is {count} in version {version}; {acknowledged} additions were acknowledged, and of {unknown} the \
             fate is not known"
        );
    }
    problems
}

/// The version and the count.
async fn read(client: &Client) -> Result<(u64, u64), Error> {
    let found = client.get(KEY).await?;
    let found = found.unwrap_or_else(|| panic!("VIOLATION: the counter is gone"));
    let count = str::from_utf8(&found.value).expect("digits");
    Ok((found.version, count.parse().expect("a number")))
}
